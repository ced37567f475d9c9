//! What keeps the log small, and its content good, over years: told here, done by the writer thread.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use tokio::sync::watch;

use super::LogStore;
use super::brought::Placed;
use super::index::Place;
use super::owner::{Identity, Vote};
use super::queue::{Command, Done, Repair, Swept};
use super::reading::INLINE;
use super::recover::{self, OpenError};
use super::repair;
use crate::record::{Body, LogId};
use crate::shape;

impl LogStore {
    /// The first index that is not purged, durably. When it grows, the segments below it are deleted already.
    pub fn purged(&self) -> watch::Receiver<u64> {
        self.shared().purged.subscribe()
    }

    /// Nothing has come for a while: payloads that are durable leave the memory. Whoever still asks for one has it read.
    pub fn rest(&self) {
        self.shared().index().rest();
    }

    /// Bytes of all WAL segments on disk.
    pub fn wal_bytes(&self) -> u64 {
        self.shared().wal_bytes.load(Ordering::Relaxed)
    }

    /// Moves the staging folders of `attempts` to `trash/`, except those that an entry of the log, written or
    /// queued, names. Done by the writer thread, so that no payload lands meanwhile. An entry counts until its purge
    /// is durable. When the disk refuses, `done` is told and the log goes on.
    pub fn sweep(&self, attempts: Vec<u64>, done: Swept) {
        self.shared().queue.push(Command::Sweep { attempts, done });
    }

    /// Writes bytes of open attempts that a catch-up brought, and syncs them; the writer thread does it. When
    /// there is no room, `done` is told at once and the log goes on: it may be tried again.
    pub fn place(&self, ranges: Vec<Placed>, done: Done) {
        self.shared().queue.push(Command::Place { ranges, done });
    }

    /// Entries whose payload does not verify and that somebody waits to read, or had to do without.
    pub fn rotten(&self) -> watch::Receiver<BTreeSet<u64>> {
        self.shared().rotten.indexes()
    }

    /// Nobody has the payload of the entry at `index`: until it is repaired, whoever [reads](LogStore::read) it gets it
    /// without its payload. Nothing happens when it is not shown as [rotten](LogStore::rotten).
    pub fn give_up(&self, index: u64) {
        let shared = self.shared();
        let held = shared.index().slots(index..index + 1).pop();
        if let Some(slot) = held.filter(|_| shared.rotten.is_shown(index)) {
            shared.rotten.give_up(slot.id);
        }
    }

    /// Puts a good payload of the entry at `index` in place of one that does not verify: a staged chunk becomes a
    /// new inode (a copy of the file with the range replaced, renamed over it). Blocks for as long as the copy
    /// takes; appends, votes and flushes go on meanwhile. One repair at a time. A blob or a published file that shared the old inode still has the damaged bytes. One that lies inline
    /// in the WAL stays as it is there, which is damage of the log: the good one is served from memory instead.
    ///
    /// # Errors
    /// The payload is not the one that the header names, or the disk refuses.
    pub fn repair(&self, index: u64, payload: &Bytes) -> io::Result<()> {
        let slot = self.slot(index)?;
        let (id, place, payload_len) = (slot.id, slot.place, slot.payload_len);
        let Body::Record(record) = self.header(slot)?.body else {
            return Err(refusal(format!("entry {id} has no payload")));
        };
        shape::check_shape(&record.header, Some(payload))
            .map_err(|why| refusal(format!("not the payload of {id}: {why}")))?;
        match place {
            _ if payload_len == 0 => return Err(refusal(format!("entry {id} has no payload"))),
            Place::Pending => return Err(refusal(format!("the payload of {id} is still being written"))),
            Place::Inline { .. } => {
                tracing::error!(position = %id, "a good payload is served from memory; the one on disk stays damaged: {INLINE}");
                let first = self.shared().index().first();
                self.shared().rotten.keep(id, payload.clone(), first);
                self.shared().rotten.remove(index);
                return Ok(());
            }
            Place::Staged | Place::Aside => {}
        }
        let repair = Repair { id, place, header: record.header, payload: payload.clone() };
        repair::repair(self.shared(), &Arc::new(repair))?;
        self.shared().rotten.remove(index);
        Ok(())
    }

    /// Why the writer waits for space, while it does. Writes that find no room are tried again, and nothing is
    /// acknowledged meanwhile; a failed fsync is final all the same.
    pub fn stalled(&self) -> watch::Receiver<Option<String>> {
        self.shared().room.stalled()
    }

    /// The vote that the damaged log of `owner` still binds this node to.
    ///
    /// # Errors
    /// When the vote is not certain (the newest slot of the mark may be lost): such a node must be replaced.
    pub fn certain_vote(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        owner: Identity,
    ) -> Result<Option<Vote>, OpenError> {
        recover::certain_vote(disk, layout, owner)
    }

    /// Replaces a damaged log by an empty one that starts after `position` with this vote. The damaged one is kept
    /// as `log.damaged.<n>`. Stopped anywhere, one of the two is found at the next start.
    ///
    /// # Errors
    /// The vote that binds this node is not certain, or higher than this one; the disk refuses.
    pub fn replace_damaged(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        owner: Identity,
        position: LogId,
        vote: Vote,
    ) -> Result<(), OpenError> {
        recover::replace_damaged(disk, layout, owner, position, vote)
    }
}

fn refusal(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

//! The durable mark: how far the WAL was durable for certain, and the vote, in two slots.
//!
//! `log/mark` holds two slots of 4096 bytes, written in turn, each followed by an fdatasync. Damage
//! in the WAL below the mark is corruption, never a torn tail. One bad slot is a torn write of the
//! mark itself and the other one serves; with both bad the node refuses to start, because absence
//! of a promise never means that none was given.
//!
//! **When is the vote certain, without the WAL?** A vote is answered only after its frame in the WAL and then a slot
//! with it are fsynced, and slots are written in turn: write `n` goes where `n - 2` was. So when both slots
//! are whole and hold `n - 1` and `n`, no later write was ever finished (it would have replaced `n - 1`), and the vote
//! in `n` is at least every vote that was answered. With one slot bad, or with numbers further apart, a
//! write `n + 1` may have been answered and lost: then only a WAL that is whole to its end tells the vote,
//! because it was fsynced there first. A tail of the WAL that had to be cut does not count as whole: one
//! power cut tears the WAL or the mark, never both, since one is synced before the other is written.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use checkpoint::digest;
use checkpoint::disk::{Disk, DiskFile, Open};

use super::frame::{get_optional_log_id, get_vote, put_optional_log_id, put_vote};
use super::owner::{Identity, Vote};
use super::room::Room;
use crate::record::LogId;

const MAGIC: &[u8; 8] = b"ELMARK01";
const SLOT_BYTES: u64 = 4096;
const USED_BYTES: usize = 8 + 8 + 8 + 16 + 8 + 18 + 25 + 16;

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Counts writes; the higher valid slot counts, and `sequence % 2` is its place.
    pub sequence: u64,
    /// Who owns the log.
    pub owner: Identity,
    /// Everything in the WAL below this offset is durable.
    pub durable: u64,
    /// The vote.
    pub vote: Option<Vote>,
    /// The purge point.
    pub purged: Option<LogId>,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLOT_BYTES as usize);
        out.put_slice(MAGIC);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.owner.node);
        out.put_slice(&self.owner.incarnation);
        out.put_u64_le(self.durable);
        put_vote(&mut out, self.vote);
        put_optional_log_id(&mut out, self.purged);
        let checksum = digest::checksum(&[&out]);
        out.put_slice(&checksum);
        out.resize(SLOT_BYTES as usize, 0);
        out
    }

    fn decode(slot: &[u8]) -> Option<Mark> {
        let used = slot.get(..USED_BYTES)?;
        let (body, checksum) = used.split_at(USED_BYTES - 16);
        if digest::checksum(&[body]) != checksum || &body[..8] != MAGIC {
            return None;
        }
        let mut b = &body[8..];
        let sequence = b.get_u64_le();
        let node = b.get_u64_le();
        let mut incarnation = [0; 16];
        b.copy_to_slice(&mut incarnation);
        let durable = b.get_u64_le();
        let vote = get_vote(&mut b)?;
        let purged = get_optional_log_id(&mut b)?;
        Some(Mark { sequence, owner: Identity { node, incarnation }, durable, vote, purged })
    }
}

/// The open mark file.
pub struct MarkFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    last: Mark,
    certain: bool,
}

/// Why there is no mark.
#[derive(Debug)]
pub enum MarkError {
    /// Both slots are damaged.
    Damaged,
    /// It could not be read.
    Io(io::Error),
}

impl MarkFile {
    /// Makes the file with both slots filled; the caller fsyncs the directory.
    pub fn create(
        disk: &Arc<dyn Disk>,
        path: PathBuf,
        owner: Identity,
        vote: Option<Vote>,
        purged: Option<LogId>,
    ) -> io::Result<()> {
        let file = disk.open(&path, Open::CreateNew)?;
        for sequence in 0..2 {
            let mark = Mark { sequence, owner, durable: 0, vote, purged };
            file.write_at(&mark.encode(), sequence * SLOT_BYTES)?;
        }
        file.sync_all()
    }

    /// Opens the file and takes the newest valid slot.
    pub fn open(disk: &Arc<dyn Disk>, path: PathBuf) -> Result<MarkFile, MarkError> {
        let file = disk.open(&path, Open::Write).map_err(MarkError::Io)?;
        // After a failed fsync the page cache may show a slot that the device does not have.
        file.sync_data().and_then(|()| file.drop_cache()).map_err(MarkError::Io)?;
        let mut found: Vec<Mark> = Vec::with_capacity(2);
        for slot in 0..2u64 {
            let mut bytes = vec![0; SLOT_BYTES as usize];
            let mut got = 0;
            while got < bytes.len() {
                let n =
                    file.read_at(&mut bytes[got..], slot * SLOT_BYTES + got as u64).map_err(MarkError::Io)?;
                if n == 0 {
                    break;
                }
                got += n;
            }
            if let Some(mark) = Mark::decode(&bytes)
                && mark.sequence % 2 == slot
            {
                found.push(mark);
            }
        }
        let last = *found.iter().max_by_key(|mark| mark.sequence).ok_or(MarkError::Damaged)?;
        let certain = found.iter().any(|mark| mark.sequence + 1 == last.sequence);
        Ok(MarkFile { path, file, last, certain })
    }

    /// Both slots were whole when the file was opened: no newer mark is lost.
    pub fn is_certain(&self) -> bool {
        self.certain
    }

    /// What was written last.
    pub fn last(&self) -> Mark {
        self.last
    }

    /// Writes a slot and fdatasyncs it. `durable` must be durable already.
    pub fn write(
        &mut self,
        room: &Room,
        durable: u64,
        vote: Option<Vote>,
        purged: Option<LogId>,
    ) -> io::Result<()> {
        let next = Mark { sequence: self.last.sequence + 1, owner: self.last.owner, durable, vote, purged };
        let (slot, offset) = (next.encode(), next.sequence % 2 * SLOT_BYTES);
        room.wait_for("write", &self.path, || self.file.write_at(&slot, offset))?;
        self.file.sync_data()?;
        self.last = next;
        Ok(())
    }
}

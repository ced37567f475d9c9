//! Snapshots of this replica, and how far the log may be purged.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::state::{Machine, lock};
use crate::dues::{Known, Pin};
use crate::ledger::Ledger;
use crate::record::LogId;
use crate::snapshot::{Capture, Frozen, SnapshotError, SnapshotMeta};

impl Machine {
    /// The ledger as it is applied now. `membership` is the newest one at that very position. `None` before
    /// anything is applied. Cheap enough for the consensus to wait; writes nothing.
    pub fn freeze(&self, membership: Option<(LogId, Bytes)>) -> Option<Frozen> {
        let ledger = self.ledger();
        let position = ledger.applied()?;
        let meta = SnapshotMeta { position, membership };
        Some(Frozen { meta, ledger: ledger.freeze() })
    }

    /// The same, encoded. Blocks: for a large ledger on no thread that others wait for.
    pub fn capture(&self, membership: Option<(LogId, Bytes)>) -> Option<Capture> {
        self.freeze(membership).map(Frozen::capture)
    }

    /// Waits until the effects of the entry at `index` are done on this disk.
    pub async fn wait_performed(&self, index: u64) {
        // The sender lives as long as this machine.
        let _ = self.performer.performed().wait_for(|performed| *performed > index).await;
    }

    /// Makes a capture durable: waits until everything up to it is performed, writes the pages of open plans that are
    /// only in the log, and the trees that are only in memory, syncs, writes the file, and drops all but the two newest. When a newer one is kept meanwhile, or both kept ones stand there, nothing is
    /// written. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError`]; what is on disk before stays.
    pub fn keep(&self, capture: Capture) -> Result<SnapshotMeta, SnapshotError> {
        let position = capture.meta.position;
        if !self.performer.wait_performed(position.index) {
            return Err(SnapshotError::NotNow("the node stops".into()));
        }
        let mut snapshots = lock(&self.snapshots);
        let (newest, older) = (snapshots.folder.newest(), snapshots.folder.older());
        if let Some(newest) = newest
            && (newest.position.index > position.index
                || older.is_some_and(|older| older.position == position))
        {
            return Ok(newest.clone());
        }
        // What the newest snapshot stands above is in its file since then; the log has the rest.
        let above = newest.map_or(0, |newest| newest.position.index + 1);
        let fresh = capture.pages.iter().filter(|page| page.index >= above);
        let wrote = self.plans.write(fresh).map_err(|source| {
            let what = format!("write plans below {}", self.store.layout().staging_dir().display());
            SnapshotError::Io { what, source }
        })?;
        self.ground().file_trees(position.index).map_err(|source| {
            let what = format!("write trees below {}", self.store.layout().staging_dir().display());
            SnapshotError::Io { what, source }
        })?;
        self.dues.forget_recent_tree();
        let left_over = snapshots.expected.left_over(&self.pins);
        self.dues.owe(position.index, left_over, []);
        let debts = self.dues.debts(position.index);
        // After the debts: a tree that is not among them by now was unpacked before it is synced.
        self.sync_unsynced(wrote).map_err(|source| {
            let what = format!("sync the file system of {}", self.store.layout().data_dir().display());
            SnapshotError::Io { what, source }
        })?;
        let kept = snapshots.folder.keep(&capture, &debts);
        self.show_kept(&snapshots.folder);
        kept?;
        snapshots.expected.written_down(&**self.store.disk());
        Ok(capture.meta)
    }

    /// Files of open attempts that were unpacked and not synced: nothing else syncs them before they are published. Trees of
    /// epochs that could not be, and pages that were just written.
    fn sync_unsynced(&self, pages: bool) -> io::Result<()> {
        let unpackings = self.dues.unsynced();
        if unpackings.is_some() || pages {
            self.store.disk().sync_fs(self.store.layout().data_dir())?;
            unpackings.into_iter().for_each(|unpackings| self.dues.synced(unpackings));
        }
        Ok(())
    }

    /// Reads the newest durable snapshot, checked. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when it has rotted since.
    pub fn read_snapshot(&self) -> Result<Option<Capture>, SnapshotError> {
        let mut snapshots = lock(&self.snapshots);
        let read = snapshots.folder.read();
        self.show_kept(&snapshots.folder);
        Ok(read?.map(|(capture, _)| capture))
    }

    /// What cannot be unpacked or published here (a name that this file system cannot hold, say) holds the log for its
    /// packs, but no more than `bytes_max` of it: then these are copied into files, and it holds no log. Blocks.
    ///
    /// # Errors
    /// The disk refuses, for want of room perhaps. What is not copied holds the log on, and may be tried again.
    pub fn let_go_of_log(&self, bytes_max: u64) -> io::Result<()> {
        if self.log.wal_bytes() > bytes_max { self.ground().set_aside() } else { Ok(()) }
    }

    /// The position up to which the log may be purged now: the older of the two kept snapshots, below every
    /// pin, and below the first pack that is still needed here and nowhere else. `None` when nothing may go that
    /// is not gone already.
    pub fn purge_limit(&self) -> Option<LogId> {
        let older = self.kept.borrow().1.as_ref()?.position;
        self.purge_limit_below(self.pins.lower(older)?)
    }

    /// The same when the log that is kept for pins has become too dear: whoever goes by one gets another snapshot, of
    /// which it has most.
    pub fn purge_limit_beyond_pins(&self) -> Option<LogId> {
        let older = self.kept.borrow().1.as_ref()?.position;
        self.purge_limit_below(older)
    }

    fn purge_limit_below(&self, mut limit: LogId) -> Option<LogId> {
        if let Some(pack) = self.dues.needs_log_from(&self.log)
            && pack <= limit.index
        {
            limit = self.log.log_id_at(pack.checked_sub(1)?)?;
        }
        let (purged, _) = self.log.log_state();
        purged.is_none_or(|purged| purged.index < limit.index).then_some(limit)
    }

    /// Keeps everything that the ledgers from the newest snapshot up to now refer to (payloads, blobs, staged files)
    /// until the pin is dropped, and the log behind that snapshot while it can be afforded. Blocks: on no thread that
    /// others wait for.
    pub fn pin(self: &Arc<Self>) -> Pin {
        self.pins.take(|| {
            let log = self.newest_snapshot().map(|newest| newest.position);
            // In parts, between which records are applied. What one of them lets go of is asked for below, and is still
            // here: nothing is unlinked while a pin is taken. Nor does another ledger take over.
            let mut known = Known::of(|| self.ledger());
            // What has ended since that snapshot is in its ledger, or younger than it. First what is not performed yet:
            // when it is meanwhile, the dues have it.
            let (contents, attempts) = self.performer.lets_go();
            known.add(contents, attempts);
            let (contents, attempts) = self.dues.let_go_since(log.map(|log| log.index));
            known.add(contents, attempts);
            (log, known)
        })
    }

    /// Keeps what `coming` refers to, as far as it is here already.
    pub(super) fn pin_for(&self, coming: &Ledger) -> Pin {
        let known = Known::of(|| coming);
        self.pins.take(|| (self.newest_snapshot().map(|newest| newest.position), known))
    }
}

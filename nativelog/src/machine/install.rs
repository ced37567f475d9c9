//! A snapshot from elsewhere takes the place of everything before it.
//!
//! Whoever calls has brought all that it refers to, checked and fsynced. What is left to do is to find out what
//! this node has that the new ledger does not want any more. That is written as *debts* into the very files that
//! hold the new ledger: from the moment they are durable, whatever happens, the next start goes on from there.

use std::io;
use std::sync::Arc;

use super::avoid::{avoid_quarantined, to_avoid};
use super::plant::{checked, keep_twice, sync_everything, unlisted};
use super::{Machine, lock};
use crate::dues::{Book, Overview, Pin, out_of_quarantine, succession};
use crate::ledger::Ledger;
use crate::snapshot::{Capture, SnapshotError};

impl Machine {
    /// Says what a catch-up to `ledger` is about to bring, before the first blob of it is made: if the catch-up never
    /// ends, all that is given back like any other content that nobody holds. Holds a pin, so that nothing it counts
    /// on is unlinked; keep it until the snapshot is installed or given up. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn expect(&self, ledger: &Ledger) -> io::Result<Pin> {
        let pin = self.pin_for(ledger);
        let mut snapshots = lock(&self.snapshots);
        let own = self.ledger();
        snapshots.expected.more(&**self.store.disk(), &own, ledger, &pin)?;
        drop(own);
        Ok(pin)
    }

    /// Takes over a snapshot from elsewhere: the ledger, and what it says of this node's disk. Everything that it
    /// refers to must be here, checked and fsynced. The file is durable when this returns. One that is not above
    /// what is applied here changes nothing. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError`]; the machine is as before then.
    pub fn install(self: &Arc<Self>, capture: &Capture) -> Result<(), SnapshotError> {
        let mut ledger = checked(capture)?;
        let position = capture.meta.position;
        let mut snapshots = lock(&self.snapshots);
        let paused = self.performer.pause();
        let (mut debts, there) = {
            let old = self.ledger();
            if old.applied().is_some_and(|applied| applied.index >= position.index) {
                return Ok(());
            }
            drop(old);
            // The log that holds them is about to go.
            self.ground().set_aside().map_err(|source| {
                let what = format!("write in {}", self.store.layout().staging_dir().display());
                SnapshotError::Io { what, source }
            })?;
            succession(&self.store, self.dues.debts(u64::MAX), &ledger).map_err(unlisted)?
        };
        debts.healing.extend(out_of_quarantine(&self.ledger(), &ledger));
        // Ranges and files of open attempts may have been here before, and not been synced.
        sync_everything(&self.store)?;
        let kept = keep_twice(&mut snapshots.folder, capture, &debts);
        self.show_kept(&snapshots.folder);
        kept?;
        snapshots.expected.superseded(&**self.store.disk());
        let avoid = to_avoid(&ledger, &self.ledger());
        avoid_quarantined(&self.store, avoid);
        let overview = Overview::of(&ledger);
        let book = Book::new(position.index + 1, debts, &ledger);
        let before;
        {
            let mut own = self.write();
            ledger.succeeds(&own);
            *own = ledger;
            before = self.dues.begin_anew(book);
            self.performer.reset(&paused, position.index + 1);
        }
        self.applied.send_replace(position.index + 1);
        drop((paused, before));
        self.ground().note_absent(&overview, &there);
        self.dues.looked();
        Ok(())
    }
}

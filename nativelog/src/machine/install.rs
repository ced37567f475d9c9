//! A snapshot from elsewhere takes the place of everything before it.
//!
//! Whoever calls has brought all that it refers to, checked and fsynced. What is left to do is to find out what
//! this node has that the new ledger does not want any more. That is written as *debts* into the very files that
//! hold the new ledger: from the moment they are durable, whatever happens, the next start goes on from there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use checkpoint::Digest;

use super::avoid::{avoid_quarantined, to_avoid, to_avoid_no_more};
use super::plant::{checked, keep_twice, sync_everything, unlisted};
use super::state::{Machine, lock};
use crate::dues::{Book, Debts, Directories, Overview, Pin, out_of_quarantine, succession};
use crate::ledger::Ledger;
use crate::snapshot::{Capture, SnapshotError};

/// So many contents are looked up while the ledger is held.
const CONTENTS_MAX: usize = 4096;

impl Machine {
    /// Says what a catch-up to `ledger` is about to bring, before the first blob of it is made: if the catch-up never
    /// ends, all that is given back like any other content that nobody holds. Holds a pin, so that nothing it counts
    /// on is unlinked; keep it until the snapshot is installed or given up. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn expect(&self, ledger: &Ledger) -> io::Result<Pin> {
        let pin = self.expect_nothing(ledger);
        // Held from here on: the own ledger moves by records alone, and no other takes its place.
        let mut snapshots = lock(&self.snapshots);
        let new = self.not_held(ledger);
        snapshots.expected.more(&**self.store.disk(), new, &pin)?;
        Ok(pin)
    }

    /// The same for a catch-up that is not going to bring any content, because there is no room even for that list.
    pub fn expect_nothing(&self, ledger: &Ledger) -> Pin {
        let pin = self.pin_for(ledger);
        self.distrust_quarantined(ledger);
        self.distrust_brought_anew(ledger);
        pin
    }

    /// As the records would have told the performer that put content in quarantine, and that no log brings any more: that
    /// a copy of it was read here and found good says nothing now.
    fn distrust_quarantined(&self, coming: &Ledger) {
        let over = out_of_quarantine(&self.ledger(), coming).into_keys();
        let doubted: Vec<Digest> = coming.quarantine().map(|there| there.digest).chain(over).collect();
        doubted.into_iter().for_each(|digest| self.store.distrust(digest));
    }

    /// The same of content that somebody has brought again: its quarantine may have begun and ended above what is applied
    /// here. Asked before a blob of it is taken for what comes.
    fn distrust_brought_anew(&self, coming: &Ledger) {
        let mut contents = coming.contents();
        loop {
            let mut part: Vec<(Digest, u64)> = contents.by_ref().take(CONTENTS_MAX).collect();
            if part.is_empty() {
                return;
            }
            {
                let own = self.ledger();
                part.retain(|(digest, _)| {
                    own.brought(digest).is_some_and(|at| coming.brought(digest) > Some(at))
                });
            }
            part.into_iter().for_each(|(digest, _)| self.store.distrust(digest));
        }
    }

    /// Does before an install what would need room in it: copies what only the log has that is about to go, and keeps
    /// blocks for the snapshot and what this node will owe below it. What fails here has cost nothing, and may be tried
    /// again. What is applied between this and the install may owe a little more: that is what the spare's room for growth
    /// is for, and where there was none for that either, the install waits. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError`]: there is no room.
    pub fn make_ready(&self, capture: &Capture) -> Result<(), SnapshotError> {
        let ledger = checked(capture)?;
        let snapshots = lock(&self.snapshots);
        let _paused = self.performer.pause();
        self.let_go_of_whole_log()?;
        let (debts, _) = self.debts_below(&ledger)?;
        snapshots.folder.make_ready(capture, &debts).map_err(|source| {
            let what = format!("keep room for a snapshot in {}", self.store.layout().group_dir().display());
            SnapshotError::Io { what, source }
        })
    }

    /// What this node owes once `new` is its ledger, and the directories that are there.
    fn debts_below(&self, new: &Ledger) -> Result<(Debts, Directories), SnapshotError> {
        let (mut debts, there) = succession(&self.store, self.dues.debts(u64::MAX), new).map_err(unlisted)?;
        debts.healing.extend(out_of_quarantine(&self.ledger(), new));
        Ok((debts, there))
    }

    /// The log that holds them is about to go.
    fn let_go_of_whole_log(&self) -> Result<(), SnapshotError> {
        let ground = self.ground();
        ground.set_aside().and_then(|()| ground.file_trees(u64::MAX)).map_err(|source| {
            let what = format!("write in {}", self.store.layout().staging_dir().display());
            SnapshotError::Io { what, source }
        })
    }

    /// Content of `coming` that the own ledger has not; looked up in parts, between which it moves on. What it lets go of
    /// after it was looked up is owed by the record that did so, and not unlinked before, for the pin knows it. What it
    /// takes up stays as long as it holds it, listed or not.
    fn not_held(&self, coming: &Ledger) -> Vec<(Digest, u64)> {
        let (mut contents, mut new) = (coming.contents(), Vec::new());
        loop {
            let mut part: Vec<(Digest, u64)> = contents.by_ref().take(CONTENTS_MAX).collect();
            if part.is_empty() {
                return new;
            }
            {
                let own = self.ledger();
                part.retain(|(digest, _)| own.content(digest).is_none());
            }
            new.append(&mut part);
        }
    }

    /// Takes over a snapshot from elsewhere: the ledger, and what it says of this node's disk. Everything that it
    /// refers to must be here, checked and fsynced. The file is durable when this returns. One that is not above
    /// what is applied here changes nothing. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError`]; the machine is as before then. Where it [lacks room](SnapshotError::lacks_room) the same may be
    /// tried again: what was copied or listed by then is found, and nothing was swapped.
    pub fn install(self: &Arc<Self>, capture: &Capture) -> Result<(), SnapshotError> {
        let mut ledger = checked(capture)?;
        let position = capture.meta.position;
        let mut snapshots = lock(&self.snapshots);
        let paused = self.performer.pause();
        let (debts, there) = {
            let old = self.ledger();
            if old.applied().is_some_and(|applied| applied.index >= position.index) {
                return Ok(());
            }
            drop(old);
            self.let_go_of_whole_log()?;
            self.debts_below(&ledger)?
        };
        // Ranges and files of open attempts may have been here before, and not been synced.
        sync_everything(&self.store)?;
        let kept = keep_twice(&mut snapshots.folder, capture, &debts);
        self.show_kept(&snapshots.folder);
        kept?;
        snapshots.expected.superseded(&**self.store.disk());
        let avoid = to_avoid(&ledger);
        avoid_quarantined(&self.store, &avoid);
        // The performer stands still: what it publishes next may find a blob of such content by its name.
        self.distrust_quarantined(&ledger);
        let overview = Overview::of(&ledger);
        // What has expired here is not sealed there, and owed no more.
        let book = Book::new(position.index + 1, debts, BTreeMap::new(), &ledger);
        ledger.list_anew([]);
        // All that takes long was made before, and what is replaced goes afterwards: apply waits for this lock.
        let (before, owed, forgotten) = {
            // A pin counts on one ledger, and on what is let go of behind it: none is taken in between.
            let _pins = self.pins.held();
            let mut own = self.write();
            ledger.counts_on_from(&own);
            let before = std::mem::replace(&mut *own, ledger);
            let owed = self.dues.begin_anew(book);
            (before, owed, self.performer.reset(&paused, position.index + 1))
        };
        self.applied.send_replace(position.index + 1);
        // The performer stands still: no newer record has moved `latest` yet.
        avoid_quarantined(&self.store, &to_avoid_no_more(&before, &avoid));
        drop(paused);
        self.ground().note_absent(&overview, &there);
        self.dues.looked();
        self.list_left_behind(&before);
        drop((before, owed, forgotten));
        Ok(())
    }
}

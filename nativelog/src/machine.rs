//! The machine of one replica: the ledger that decides and the performer that obeys.
//!
//! `apply` computes verdicts and answers and writes no file: an entry may be applied before it is
//! flushed here. For a seal it reads the plan, from the log or from files (`crate::plans`). Four marks tell how far this
//! replica is: `snapshot <= performed <= applied`, and `performed <= flushed`.
//!
//! Rooms: `state` what it is made of, which all others build on, `start` what is made of the folders found, `look` what it
//! would find, `keep` snapshots and how far the log may be purged, `prepare` (with `turns`) what a seal will be compared
//! with, `install` and `plant` a snapshot from elsewhere, `lacking`, `missing` and `bring` what has to be brought from
//! peers, `staged` what came and is no directory yet, `project` the catalog that follows. Here is what needs several of
//! them; none imports this file. What is owed, and what is given back, is the matter of [`crate::dues`].
//! `docs/snapshot.md` tells them together.

mod avoid;
mod bring;
mod install;
mod keep;
mod lacking;
mod look;
mod missing;
mod plant;
mod prepare;
mod project;
mod staged;
mod start;
mod start_error;
mod state;
mod turns;

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::store::Reclaimed;
use checkpoint::{Digest, JobName, RelPath};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ledger::{Accepted, Holding, Ledger, LedgerFault, Page, Paging, PlanPages, Verdict};
use crate::performer::Publication;
use crate::record::{Body, Entry, LogId};

use state::lock;

pub use crate::dues::{Garbage, Owed, Pin};
pub use crate::performer::Reader;
pub use crate::plans::write_page;
pub use lacking::{AttemptLacks, PackedFile, lacking_of_attempts, lacking_pages};
pub use look::membership_on_disk;
pub use missing::{Missing, adopt};
pub use plant::plant;
pub use prepare::Early;
pub use staged::StagedCopies;
pub use start_error::StartError;
pub use state::Machine;

/// How far a replica is, as counts of entries: everything below the number is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// In a durable ledger snapshot.
    pub snapshot: u64,
    /// All effects are on disk, but for what this node still owes them.
    pub performed: u64,
    /// In the ledger.
    pub applied: u64,
    /// In this node's log, fsynced.
    pub flushed: u64,
}

/// What a record takes to work out is logged from here on.
const LONG: Duration = Duration::from_millis(10);

impl Machine {
    /// Applies the next entry: [`Machine::ahead`] and [`Machine::step`].
    ///
    /// # Errors
    /// As of both.
    pub fn apply(&self, entry: &Entry) -> Result<Verdict, LedgerFault> {
        self.ahead(entry)?;
        self.step(entry)
    }

    /// Works out what takes long of the next entry, with the ledger locked for moments only. See [`Ledger::takes_long`] for
    /// when not to call this on a thread that others wait for.
    ///
    /// # Errors
    /// The plan of what it seals is lost here: this replica must stop.
    pub fn ahead(&self, entry: &Entry) -> Result<(), LedgerFault> {
        let Body::Record(record) = &entry.body else { return Ok(()) };
        let begun = Instant::now();
        self.prepare(&record.header)?;
        let prepared = begun.elapsed();
        let (paging, holding) = {
            let ledger = self.ledger();
            (ledger.paging(&record.header), ledger.holding(&record.header))
        };
        if let Some(paged) = paging.map(Paging::read) {
            self.write().keep_paged(paged);
        }
        if let Some(held) = holding.and_then(Holding::hold) {
            self.write().keep_held(held);
        }
        let all = begun.elapsed();
        if all >= LONG {
            tracing::debug!(index = entry.id.index, ?prepared, ?all, "a record took long to work out");
        }
        Ok(())
    }

    /// Applies the next entry, of which nothing is left that takes long.
    ///
    /// # Errors
    /// [`LedgerFault`] when this binary cannot judge the record (it is older than the cluster's
    /// rules), or nobody has read the plan of what it seals: this replica must stop.
    pub fn step(&self, entry: &Entry) -> Result<Verdict, LedgerFault> {
        let mut ledger = self.write();
        let (verdict, effects) = match &entry.body {
            Body::Blank | Body::Membership(_) => {
                ledger.advance(entry.id);
                (Verdict::Accepted(Accepted::Done), Vec::new())
            }
            Body::Record(record) => {
                let step = ledger.step(entry.id, &record.header)?;
                (step.verdict, step.effects)
            }
        };
        let gone = ledger.take_gone();
        self.performer.submit(entry.id.index, effects);
        drop(ledger);
        drop(gone);
        self.applied.send_replace(entry.id.index + 1);
        Ok(verdict)
    }

    /// About how much is applied and not performed, in bytes: of content to write, and of what tells of it.
    pub fn behind(&self) -> u64 {
        self.performer.behind()
    }

    /// Where a file of an open attempt lies in its tree; `None` when the attempt is not open, or has no such entry, or
    /// its plan cannot be read. Reads the disk.
    pub fn planned_path(&self, attempt: u64, file: u32) -> Option<RelPath> {
        let page = self.ledger().page_with(attempt, file)?;
        self.plans.path(&page, file).ok().flatten()
    }

    /// The bytes of a page of a plan, checked.
    ///
    /// # Errors
    /// They are not here.
    pub fn page(&self, page: &Page) -> io::Result<Bytes> {
        let bytes = self.plans.read(page)?;
        if !page.is(&bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the page does not verify"));
        }
        Ok(bytes)
    }

    /// The newest membership up to the last applied entry: from the log, or from the snapshot when the log does not
    /// go back that far.
    ///
    /// # Errors
    /// When its header cannot be read back.
    pub fn last_membership(&self) -> std::io::Result<Option<(LogId, Bytes)>> {
        let Some(applied) = self.ledger().applied() else { return Ok(None) };
        let in_log = self.log.last_membership(applied.index)?;
        let newest = self.newest_snapshot().filter(|newest| newest.position.index <= applied.index);
        let in_snapshot = newest.and_then(|newest| newest.membership);
        let index = |membership: &Option<(LogId, Bytes)>| membership.as_ref().map(|(id, _)| id.index);
        Ok(if index(&in_snapshot) > index(&in_log) { in_snapshot } else { in_log })
    }

    /// The number of applied entries, as it grows.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// What became of a sealed epoch here; `None` when the ledger has no such epoch.
    pub fn publication(&self, job: &JobName, epoch: u64) -> Option<Publication> {
        self.ledger().epoch(job, epoch)?;
        Some(self.dues.publication(job, epoch))
    }

    /// Content that is out of quarantine: what was published here with a bad copy of it is to be linked to the
    /// good one.
    pub fn to_heal(&self) -> Vec<(Digest, Owed)> {
        self.dues.to_heal()
    }

    /// That is done for this content.
    pub fn healed(&self, digest: &Digest, owed: Owed) {
        self.dues.healed(digest, owed);
    }

    /// Changes whenever an epoch was published here or could not be, and when something is to be healed.
    pub fn publications(&self) -> watch::Receiver<u64> {
        self.dues.changes()
    }

    /// What waits to be given back, and would be after a snapshot and a purge.
    pub fn garbage(&self) -> Garbage {
        self.dues.garbage()
    }

    /// Gives back what the fsynced purge point allows: folders of ended attempts, blobs without references.
    /// Blocks; call it after the log was purged.
    ///
    /// # Errors
    /// The disk refuses. What was not given back is tried again next time.
    pub fn reclaim(&self) -> io::Result<Reclaimed> {
        self.ground().reclaim()
    }

    /// Whether something made way for what is still to come: the room that shows is spoken for.
    pub fn gives_way(&self) -> bool {
        self.ledger().applied().map_or(0, |applied| applied.index) < self.gave_way_to.load(Ordering::Relaxed)
    }

    /// Removes the epochs that `coming`, a ledger that is about to be brought here, has let expire, and the content
    /// that it does not know any more. Does nothing while something is pinned, or for a ledger that is not above
    /// what is applied here. Blocks.
    ///
    /// # Errors
    /// The disk refuses; what was removed stays removed.
    pub fn give_way(&self, coming: &Ledger) -> io::Result<Reclaimed> {
        let index = coming.applied().map_or(0, |applied| applied.index);
        self.ground().give_way(coming, || self.gave_way_to.store(index, Ordering::Relaxed))
    }

    /// How far this replica is.
    pub fn marks(&self) -> Marks {
        Marks {
            snapshot: self.newest_snapshot().map_or(0, |newest| newest.position.index + 1),
            performed: *self.performer.performed().borrow(),
            applied: *self.applied.borrow(),
            flushed: *self.log.flushed().borrow(),
        }
    }

    /// Ends the performer and the log. The catalog is brought up to date for whoever lists a node that stands still.
    pub fn shutdown(&self) {
        self.performer.shutdown();
        self.log.shutdown();
        self.project();
        if let Some(catalog) = lock(&self.catalog).take()
            && let Err(error) = catalog.flush()
        {
            tracing::warn!(%error, "the catalog was not closed");
        }
    }
}

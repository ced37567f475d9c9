//! The machine of one replica: the ledger that decides and the performer that obeys.
//!
//! `apply` computes verdicts and answers and touches no file: an entry may be applied before it is
//! flushed here. Four marks tell how far this replica is: `snapshot <= performed <= applied`, and
//! `performed <= flushed`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use checkpoint::JobName;
use checkpoint::store::Store;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::catalog::Catalog;
use crate::ledger::{Accepted, Ledger, LedgerFault, Verdict};
use crate::performer::{Performer, Publication};
use crate::record::{Body, Entry, LogId};
use crate::store::LogStore;

/// The catalog follows the ledger at least this often while something changes.
const PROJECT_EVERY: Duration = Duration::from_secs(1);

/// How far a replica is, as counts of entries: everything below the number is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// In a durable ledger snapshot (none are taken in this version: 0).
    pub snapshot: u64,
    /// All effects are on disk.
    pub performed: u64,
    /// In the ledger.
    pub applied: u64,
    /// In this node's log, fsynced.
    pub flushed: u64,
}

/// Ledger, performer and catalog of one replica.
pub struct Machine {
    ledger: RwLock<Ledger>,
    applied: watch::Sender<u64>,
    performer: Performer,
    store: Arc<Store>,
    log: LogStore,
    catalog: Mutex<Option<Catalog>>,
}

impl Machine {
    /// Starts the machine over `log`; the catalog in `catalog_dir` gives a fast start when it is
    /// clean and agrees with the log, and is made anew otherwise.
    ///
    /// # Errors
    /// When a thread cannot be started. A catalog that does not open is left out, with a warning:
    /// it carries no promise.
    pub fn start(store: Arc<Store>, log: LogStore, catalog_dir: &Path) -> std::io::Result<Arc<Machine>> {
        let catalog = match Catalog::open(catalog_dir, log.owner()) {
            Ok(catalog) => Some(catalog),
            Err(error) => {
                tracing::warn!(%error, "the catalog does not open; the ledger is rebuilt from the log");
                None
            }
        };
        let (_, last) = log.log_state();
        let loaded = catalog.as_ref().and_then(|catalog| catalog.load(&|index| log.log_id_at(index), last));
        let ledger = loaded.unwrap_or_default();
        let next = ledger.applied().map_or(0, |id| id.index + 1);
        tracing::info!(applied = next, "the ledger starts");
        let performer = Performer::start(store.clone(), log.clone(), next)?;
        let machine = Arc::new(Machine {
            ledger: RwLock::new(ledger),
            applied: watch::Sender::new(next),
            performer,
            store,
            log,
            catalog: Mutex::new(catalog),
        });
        let follower = Arc::downgrade(&machine);
        std::thread::Builder::new().name("catalog".into()).spawn(move || {
            loop {
                std::thread::sleep(PROJECT_EVERY);
                let Some(machine) = follower.upgrade() else { return };
                machine.project();
            }
        })?;
        Ok(machine)
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// [`LedgerFault`] when this binary cannot judge the record (it is older than the cluster's
    /// rules): this replica must stop.
    pub fn apply(&self, entry: &Entry) -> Result<Verdict, LedgerFault> {
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
        self.performer.submit(entry.id.index, effects);
        drop(ledger);
        self.applied.send_replace(entry.id.index + 1);
        Ok(verdict)
    }

    /// Waits until the performer's backlog is small enough to apply more. It depends on this node's own
    /// flushes only, so that this always ends.
    pub async fn room(&self) {
        self.performer.room().await;
    }

    fn write(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger as of what is applied here. Hold it briefly: apply waits.
    pub fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log.
    pub fn log(&self) -> &LogStore {
        &self.log
    }

    /// The shelves that epochs are published on.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The newest membership up to the last applied entry.
    ///
    /// # Errors
    /// When its header cannot be read back.
    pub fn last_membership(&self) -> std::io::Result<Option<(LogId, Bytes)>> {
        let applied = self.ledger().applied();
        applied.map_or(Ok(None), |id| self.log.last_membership(id.index))
    }

    /// The number of applied entries, as it grows.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// What became of a sealed epoch here; `None` when the ledger has no such epoch.
    pub fn publication(&self, job: &JobName, epoch: u64) -> Option<Publication> {
        self.ledger().epoch(job, epoch)?;
        Some(self.performer.publication(job, epoch))
    }

    /// Changes whenever an epoch was published here or could not be.
    pub fn publications(&self) -> watch::Receiver<u64> {
        self.performer.changes()
    }

    /// How far this replica is.
    pub fn marks(&self) -> Marks {
        Marks {
            snapshot: 0,
            performed: *self.performer.performed().borrow(),
            applied: *self.applied.borrow(),
            flushed: *self.log.flushed().borrow(),
        }
    }

    fn project(&self) {
        let mut catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.write().drain_changes();
        if let Some(open) = catalog.as_ref() {
            let result = open.project(&self.ledger(), &changes);
            if let Err(error) = result {
                tracing::warn!(%error, "the catalog cannot follow the ledger; it is made anew at the next start");
                *catalog = None;
            }
        }
    }

    /// Ends the performer and the log, and leaves a clean catalog when the disk shows everything.
    pub fn shutdown(&self) {
        self.performer.shutdown();
        self.log.shutdown();
        self.project();
        let idle = self.performer.is_idle() && *self.performer.performed().borrow() == *self.applied.borrow();
        let catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(catalog) = catalog
            && idle
            && let Err(error) = catalog.close_clean(&self.ledger())
        {
            tracing::warn!(%error, "the catalog was not closed; it is made anew at the next start");
        }
    }
}

//! What a machine makes of the folders it finds.
//!
//! | catalog | snapshots | the log | done |
//! |---|---|---|---|
//! | clean, this node's, its position in the log and not below the newest snapshot | any | any | it is the ledger |
//! | anything else, or none | a good one | reaches back to it | the newest good one is the ledger; the log is replayed from there |
//! | anything else, or none | a good one | ends below it, or differs there | an install was cut short: the log is purged up to it |
//! | anything else, or none | none good | not purged | all of the log is replayed |
//! | anything else, or none | none good, or all below the purge point | purged | refused: what lies between is not here |
//!
//! A catalog that does not count is emptied and filled again in the background. A damaged snapshot is renamed to
//! `*.damaged`; temporary files go. Nothing else is deleted, and nothing is reported as applied above the log's
//! last entry.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use checkpoint::store::Store;
use tokio::sync::watch;

use super::{Machine, Projection, Snapshots, lock};
use crate::catalog::Catalog;
use crate::dues::{Debts, Dues, Expected, Overview};
use crate::ledger::Ledger;
use crate::performer::Performer;
use crate::record::LogId;
use crate::snapshot::{Folder, FoundSnapshot, OpenFault};
use crate::store::LogStore;

/// The catalog follows the ledger at least this often while something changes.
const PROJECT_EVERY: Duration = Duration::from_secs(1);

/// Why a machine cannot start. What is on disk stays as it is, but for damaged snapshots, which were renamed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing here covers what the log has forgotten.
    #[error(
        "the log in {dir} begins after {purged}, and no snapshot here reaches that far ({found}): what lies \
         between is on the other nodes only; with a majority of them up, run `epochlog repair` on this one"
    )]
    NotCovered {
        /// The log's folder.
        dir: PathBuf,
        /// Up to where the log was purged.
        purged: LogId,
        /// What was found of snapshots.
        found: String,
    },
    /// A snapshot that this program cannot read.
    #[error("{path} was made by a later version of this program: start that version, or a newer one")]
    Version {
        /// The file.
        path: String,
    },
    /// A read or write failed, or the system gives no thread.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl From<OpenFault> for StartError {
    fn from(fault: OpenFault) -> StartError {
        match fault {
            OpenFault::Version(path) => StartError::Version { path },
            OpenFault::Io { what, source } => StartError::Io { what, source },
        }
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::Io { what, source }
}

/// Where a machine starts.
#[derive(Default)]
struct Beginning {
    ledger: Ledger,
    debts: Debts,
    /// What the catalog has to be filled with first.
    whole: Option<bytes::Bytes>,
}

impl Machine {
    /// Starts the machine over `log`, by the table in the module; `catalog_dir` is the catalog's alone. Blocks.
    ///
    /// # Errors
    /// [`StartError`]. A catalog that does not open is left out, with a warning: it carries no promise.
    pub fn start(store: Arc<Store>, log: LogStore, catalog_dir: &Path) -> Result<Arc<Machine>, StartError> {
        let dir = store.layout().snapshots_dir();
        let (folder, found, damaged) = Folder::open(store.disk().clone(), dir.clone())?;
        let expected = Expected::read(&**store.disk(), &dir).map_err(io_error("read what was expected"))?;
        let catalog = match Catalog::open(catalog_dir, log.owner()) {
            Ok(catalog) => Some(catalog),
            Err(error) => {
                tracing::warn!(%error, "the catalog does not open; the ledger is rebuilt from snapshot and log");
                None
            }
        };
        let Beginning { ledger, debts, whole } = begin(&store, &log, catalog.as_ref(), found, &damaged)?;
        let next = ledger.applied().map_or(0, |id| id.index + 1);
        tracing::info!(applied = next, "the ledger starts");
        avoid_quarantined(&store, &ledger, &Ledger::default());
        let overview = Overview::of(&ledger);
        let dues = Arc::new(Dues::new(next, debts, &ledger));
        let performer = Performer::start(store.clone(), log.clone(), next, dues.clone())
            .map_err(io_error("start the performer's thread"))?;
        let machine = Arc::new(Machine {
            ledger: RwLock::new(ledger),
            applied: watch::Sender::new(next),
            performer,
            dues,
            store,
            log,
            kept: watch::Sender::new((folder.newest().cloned(), folder.older().cloned())),
            snapshots: Mutex::new(Snapshots { folder, expected, unsure: false }),
            catalog: Mutex::new(Projection { catalog, whole, encoded: u64::MAX }),
            pins: Arc::default(),
            gave_way_to: AtomicU64::new(0),
        });
        machine.ground().note_staging().map_err(io_error("list the staging folder"))?;
        machine.follow().map_err(io_error("start the catalog's thread"))?;
        if next > 0 {
            machine.look_for_missing(overview).map_err(io_error("start a thread"))?;
        }
        Ok(machine)
    }

    fn follow(self: &Arc<Self>) -> io::Result<()> {
        let follower = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("catalog".into());
        thread.spawn(move || {
            loop {
                std::thread::sleep(PROJECT_EVERY);
                let Some(machine) = follower.upgrade() else { return };
                machine.project();
            }
        })?;
        Ok(())
    }

    fn look_for_missing(self: &Arc<Self>, overview: Overview) -> io::Result<()> {
        let machine = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("missing-epochs".into());
        thread.spawn(move || {
            let Some(machine) = machine.upgrade() else { return };
            match machine.ground().compare_with_disk(&overview) {
                Ok(true) => machine.performer.retry_now(),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot list the published epochs: missing ones stay unnoticed until the next start");
                }
            }
        })?;
        Ok(())
    }
}

/// `latest` points to no epoch with content in quarantine; `before`: what it may have been told by another ledger.
pub(super) fn avoid_quarantined(store: &Store, ledger: &Ledger, before: &Ledger) {
    if ledger.quarantine().next().is_none() && before.quarantine().next().is_none() {
        return;
    }
    for job in ledger.jobs() {
        let avoid = ledger.quarantined_epochs(job);
        if (!avoid.is_empty() || !before.quarantined_epochs(job).is_empty())
            && let Err(error) = store.avoid(job, avoid)
        {
            tracing::warn!(%job, %error, "`latest` cannot be moved");
        }
    }
}

/// The table.
fn begin(
    store: &Store,
    log: &LogStore,
    catalog: Option<&Catalog>,
    found: Option<FoundSnapshot>,
    damaged: &[String],
) -> Result<Beginning, StartError> {
    let (purged, last) = log.log_state();
    let position = found.as_ref().map(|found| found.capture.meta.position);
    let known = |index| log.log_id_at(index);
    let projected =
        catalog.and_then(|catalog| catalog.load(&known, last, position.map(|position| position.index)));
    if let Some((ledger, debts)) = projected {
        return Ok(Beginning { ledger, debts, whole: None });
    }
    let covered = match (position, purged) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(position), Some(purged)) => purged.index <= position.index,
    };
    if let (false, Some(purged)) = (covered, purged) {
        let newest = position.map(|position| format!("the newest good one is of {position}"));
        let found: Vec<String> = newest.into_iter().chain(damaged.iter().cloned()).collect();
        let found = if found.is_empty() { "there is none".to_owned() } else { found.join("; ") };
        return Err(StartError::NotCovered { dir: store.layout().log_dir(), purged, found });
    }
    let Some(FoundSnapshot { capture, debts, ledger }) = found else { return Ok(Beginning::default()) };
    settle_log(log, capture.meta.position)?;
    Ok(Beginning { ledger, debts, whole: Some(capture.ledger) })
}

/// A snapshot was installed here and the log could not follow any more: everything up to it is here, and whatever the
/// log holds instead was never committed. Durable when this returns.
fn settle_log(log: &LogStore, position: LogId) -> Result<(), StartError> {
    if log.log_id_at(position.index) == Some(position) {
        return Ok(());
    }
    let (_, last) = log.log_state();
    tracing::warn!(%position, ?last, "the log ends below the snapshot or differs from it: it goes on behind the snapshot");
    if log.log_id_at(position.index).is_some() {
        let before = position.index.checked_sub(1).and_then(|index| log.log_id_at(index));
        log.truncate_after(before);
    }
    log.purge(position);
    // The writer serves in order: when this is answered, the purge is durable.
    let (answer, answered) = mpsc::channel();
    log.append(Vec::new(), Box::new(move |result| drop(answer.send(result))));
    let result = answered.recv().unwrap_or_else(|_| Err(io::Error::other("the log has stopped")));
    result.map_err(io_error("purge the log up to the snapshot"))
}

impl Machine {
    /// The catalog, filled anew from a whole ledger; what it holds now is of another history.
    pub(super) fn project_anew(&self, whole: bytes::Bytes) {
        lock(&self.catalog).whole = Some(whole);
    }
}

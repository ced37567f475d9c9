//! What a machine makes of the folders it finds.
//!
//! | snapshots | the log | done |
//! |---|---|---|
//! | a good one | reaches back to it | the newest good one is the ledger; the log is replayed from there |
//! | a good one | ends below it, or differs there | an install was cut short: the log is purged up to it |
//! | none good | not purged | all of the log is replayed |
//! | none good, or all below the purge point | purged | refused: what lies between is not here |
//!
//! Nothing else is asked: what a snapshot holds (the ledger, the membership, what this node owes) survives in two of them
//! and in the log above the older one, and nowhere else. A damaged snapshot is renamed to `*.damaged`; temporary files
//! go. Nothing else is deleted, and nothing is reported as applied above the log's last entry.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use checkpoint::store::Store;
use tokio::sync::watch;

use super::avoid::to_avoid;
use super::project;
use super::start_error::{StartError, io_error};
use super::state::{Machine, Snapshots};
use super::turns::Gatherings;
use crate::dues::{Debts, Dues, Expected, Overview, Replay, tree_file};
use crate::ledger::Ledger;
use crate::performer::Performer;
use crate::plans::Plans;
use crate::record::LogId;
use crate::snapshot::{Folder, FoundSnapshot};
use crate::store::LogStore;

/// Directories that could not be listed are listed again after this long.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Where a machine starts.
#[derive(Default)]
struct Beginning {
    ledger: Ledger,
    debts: Debts,
}

impl Machine {
    /// Starts the machine over `log`, by the table in the module; `catalog_dir` is the catalog's alone. Blocks.
    ///
    /// # Errors
    /// [`StartError`]. A catalog that does not open is left out, with a warning: it carries no promise.
    pub fn start(store: Arc<Store>, log: LogStore, catalog_dir: &Path) -> Result<Arc<Machine>, StartError> {
        // One sink for every failed sync of this node: what watches the log stops it.
        store.fault().tell({
            let log = log.clone();
            move |why| log.fail(why)
        });
        let dir = store.layout().snapshots_dir();
        let (folder, found, damaged) =
            Folder::open(store.disk().clone(), dir.clone(), store.layout().spare_snapshot())?;
        let expected = Expected::read(&**store.disk(), &dir).map_err(io_error("read what was expected"))?;
        let Beginning { mut ledger, debts } = begin(&store, &log, found, &damaged)?;
        let catalog = project::open(catalog_dir, &mut ledger);
        let next = ledger.applied().map_or(0, |id| id.index + 1);
        tracing::info!(applied = next, "the ledger starts");
        store.heal_latest(to_avoid(&ledger));
        let overview = Overview::of(&ledger);
        let earlier = overview.published_above(&store);
        let replay = Replay::of(&log, earlier.values().copied());
        let earlier = earlier.into_keys().collect();
        let needed = tree_file::needed(&store, &debts, &ledger);
        let dues = Arc::new(Dues::new(next, debts, needed, &ledger));
        let plans = Arc::new(Plans::new(log.clone(), store.clone()));
        let ledger = Arc::new(RwLock::new(ledger));
        let performer = Performer::start(
            store.clone(),
            log.clone(),
            plans.clone(),
            ledger.clone(),
            next,
            dues.clone(),
            earlier,
        )
        .map_err(io_error("start the performer's thread"))?;
        let machine = Arc::new(Machine {
            ledger,
            applied: watch::Sender::new(next),
            performer,
            dues,
            store,
            log,
            plans,
            gatherings: Arc::new(Gatherings::default()),
            kept: watch::Sender::new((folder.newest().cloned(), folder.older().cloned())),
            snapshots: Mutex::new(Snapshots { folder, expected }),
            catalog: Mutex::new(catalog),
            pins: Arc::default(),
            gave_way_to: AtomicU64::new(0),
            replay,
        });
        machine.ground().note_staging().map_err(io_error("list the staging folder"))?;
        machine.follow().map_err(io_error("start the catalog's thread"))?;
        if next > 0 {
            machine.look_for_missing(overview).map_err(io_error("start a thread"))?;
        }
        Ok(machine)
    }

    /// In the background, until it has succeeded: before that nobody knows which of these epochs are here.
    fn look_for_missing(self: &Arc<Self>, overview: Overview) -> io::Result<()> {
        let machine = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("missing-epochs".into());
        thread.spawn(move || {
            while let Some(machine) = machine.upgrade() {
                match machine.ground().compare_with_disk(&overview) {
                    Ok(true) => return machine.performer.retry_now(),
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(%error, "cannot list the published epochs; it is tried again")
                    }
                }
                drop(machine);
                std::thread::sleep(LOOK_AGAIN_AFTER);
            }
        })?;
        Ok(())
    }
}

/// The table.
fn begin(
    store: &Store,
    log: &LogStore,
    found: Option<FoundSnapshot>,
    damaged: &[String],
) -> Result<Beginning, StartError> {
    let (purged, _) = log.log_state();
    let position = found.as_ref().map(|found| found.capture.meta.position);
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
    Ok(Beginning { ledger, debts })
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

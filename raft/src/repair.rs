//! What is missing or damaged here, refetched from peers.
//!
//! In the background: epochs that are sealed and no directory here, and payloads of log entries that do not
//! verify while somebody waits to read them. On request: one epoch, read again as a whole. One thing at a
//! time, and a snapshot that comes goes first. What cannot be mended now is said once, tried again later, each
//! time after twice as long.
//!
//! **Never.** A damaged copy is not deleted for being damaged: the good one is renamed over it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::store::{Content, Store, StoreError, VerifyReport};
use checkpoint::{Envelope, JobName, Manifest};
use nativelog::machine::{Machine, Missing};
use nativelog::record::Body;
use nativelog::store::LogStore;
use tokio::sync::watch;

use crate::intake::Intake;
use crate::life::Life;
use crate::transfer::anywhere::{Found, Wanted};
use crate::transfer::gather::Gather;
use crate::transfer::{Stage, TransferError, Transfers, blocking, receive};

/// Pause between looks when nothing happened.
const LOOK: Duration = Duration::from_secs(2);
/// First pause after something could not be mended; doubles up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What the repair of an epoch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Contents that were refetched.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Names in published trees that now lead to good content.
    pub names: u64,
}

/// Why an epoch could not be repaired. Nothing was lost by trying.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The ledger here has no such epoch.
    #[error("{0}@{1} is not sealed")]
    NotSealed(JobName, u64),
    /// The content could not be brought.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The shelves refuse.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It still does not verify.
    #[error("it still does not verify: {0}")]
    StillDamaged(String),
}

/// Refetches what is missing or damaged on one replica.
pub(crate) struct Mender {
    node: u64,
    machine: Arc<Machine>,
    log: LogStore,
    transfers: Arc<Transfers>,
    intake: Arc<Intake>,
    life: Arc<Life>,
}

impl Mender {
    /// A mender of this machine and log.
    pub fn new(
        node: u64,
        machine: Arc<Machine>,
        log: LogStore,
        transfers: Arc<Transfers>,
        intake: Arc<Intake>,
        life: Arc<Life>,
    ) -> Arc<Mender> {
        Arc::new(Mender { node, machine, log, transfers, intake, life })
    }

    /// See [`Replica::repair_epoch`](crate::Replica::repair_epoch).
    pub async fn epoch(&self, job: &JobName, epoch: u64) -> Result<RepairReport, RepairError> {
        let (stop, stopped) = watch::channel(false);
        let _turn = self.transfers.turn().wait(stop.clone()).await;
        self.transfers.progress().begin(Stage::Repair, None);
        let gather = self.transfers.gather(stopped);
        let done = mend(self, &gather, job, epoch).await;
        self.transfers.progress().end(false);
        drop(stop);
        let left = leave_nothing_of_expired(self, job, epoch).await;
        done.and_then(|report| left.map(|()| report))
    }

    /// Mends in the background until this node stops.
    pub async fn run(self: Arc<Self>) {
        let (mut rotten, mut published) = (self.log.rotten(), self.machine.publications());
        let mut mending = Mending::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = rotten.changed() => if changed.is_err() { return },
                changed = published.changed() => if changed.is_err() { return },
            }
            published.borrow_and_update();
            let bad: Vec<u64> = rotten.borrow_and_update().iter().copied().collect();
            if self.life.is_closing() {
                return;
            }
            mending.payloads.keep_only(|index| bad.contains(index));
            for index in bad {
                mending.payload(&self, index).await;
            }
            mending.epochs(&self).await;
        }
    }
}

async fn mend(
    mender: &Mender,
    gather: &Gather,
    job: &JobName,
    epoch: u64,
) -> Result<RepairReport, RepairError> {
    if mender.machine.ledger().epoch(job, epoch).is_none() {
        return Err(RepairError::NotSealed(job.clone(), epoch));
    }
    let store = mender.machine.store().clone();
    let report = match verify(&store, job, epoch).await? {
        Ok(report) => report,
        Err(StoreError::NotPublished { .. } | StoreError::Manifest { .. }) => {
            let Some((envelope, manifest)) = manifest_of(mender, gather, job, epoch).await? else {
                return Err(RepairError::NotSealed(job.clone(), epoch));
            };
            return publish(mender, gather, envelope, Arc::new(manifest)).await;
        }
        Err(error) => return Err(error.into()),
    };
    if report.is_good() {
        return Ok(RepairReport::default());
    }
    let contents = {
        let (store, job) = (store.clone(), job.clone());
        blocking(move || store.damaged_contents(&job, epoch, &report)).await??
    };
    let mut done = counted(&contents);
    gather.progress().lacks(done.bytes);
    gather.bring(contents.clone()).await?;
    let healing = store.clone();
    done.names = blocking(move || healing.heal_all(&contents)).await??;
    proven(&store, job, epoch).await?;
    Ok(done)
}

fn counted(contents: &[Content]) -> RepairReport {
    RepairReport {
        files: contents.len() as u64,
        bytes: contents.iter().map(|content| content.size).sum(),
        names: 0,
    }
}

async fn verify(
    store: &Arc<Store>,
    job: &JobName,
    epoch: u64,
) -> Result<Result<VerifyReport, StoreError>, TransferError> {
    let (store, job) = (store.clone(), job.clone());
    blocking(move || store.verify(&job, epoch)).await
}

async fn proven(store: &Arc<Store>, job: &JobName, epoch: u64) -> Result<(), RepairError> {
    let report = verify(store, job, epoch).await??;
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(RepairError::StillDamaged(format!("{}: {}", problem.path, problem.why))),
    }
}

/// The manifest of an epoch, from a peer; `None` when the ledger here has no such epoch (any more).
async fn manifest_of(
    mender: &Mender,
    gather: &Gather,
    job: &JobName,
    epoch: u64,
) -> Result<Option<(Envelope, Manifest)>, RepairError> {
    let (info, at) = {
        let ledger = mender.machine.ledger();
        let Some(info) = ledger.epoch(job, epoch) else { return Ok(None) };
        (info, ledger.applied().map_or(0, |id| id.index))
    };
    let wanted = Wanted { job: job.clone(), epoch, root: info.sealed.root, at };
    match gather.manifest(&wanted).await? {
        Found::Ended => Ok(None),
        Found::Here((envelope, manifest)) => {
            receive::agrees(&envelope, &info)?;
            Ok(Some((envelope, manifest)))
        }
    }
}

/// Publishes an epoch that is no directory here.
async fn publish(
    mender: &Mender,
    gather: &Gather,
    envelope: Envelope,
    manifest: Arc<Manifest>,
) -> Result<RepairReport, RepairError> {
    let (job, epoch) = (envelope.job.clone(), envelope.epoch);
    let (store, looking) = (mender.machine.store().clone(), manifest.clone());
    let looked = store.clone();
    let mut done = counted(&blocking(move || looked.lacking(&looking)).await??);
    receive::epoch(gather, &Arc::new(mender.machine.clone()), envelope, manifest.clone()).await?;
    proven(&store, &job, epoch).await?;
    done.names = manifest.files();
    Ok(done)
}

/// What could not be mended, and when it is tried again.
struct Later<K> {
    due: HashMap<K, (Instant, Duration)>,
}

impl<K> Default for Later<K> {
    fn default() -> Self {
        Later { due: HashMap::new() }
    }
}

impl<K: std::hash::Hash + Eq + Clone> Later<K> {
    fn is_due(&self, key: &K) -> bool {
        self.due.get(key).is_none_or(|(at, _)| Instant::now() >= *at)
    }

    fn failed(&mut self, key: &K) {
        let pause = self.due.get(key).map_or(AGAIN, |(_, pause)| (*pause * 2).min(AGAIN_MAX));
        self.due.insert(key.clone(), (Instant::now() + pause, pause));
    }

    fn keep_only(&mut self, mut those: impl FnMut(&K) -> bool) {
        self.due.retain(|key, _| those(key));
    }
}

#[derive(Default)]
struct Mending {
    epochs: Later<(JobName, u64)>,
    payloads: Later<u64>,
}

impl Mending {
    /// Refetches the payload of a log entry.
    async fn payload(&mut self, mender: &Mender, index: u64) {
        if !self.payloads.is_due(&index) {
            return;
        }
        match payload(mender, index).await {
            Ok(()) => {
                tracing::info!(
                    node = mender.node,
                    index,
                    "the payload of a log entry was refetched and put in place"
                )
            }
            Err(why) => {
                tracing::error!(
                    node = mender.node,
                    index,
                    why,
                    "the payload of a log entry does not verify and cannot be refetched yet; it is tried again"
                );
                self.payloads.failed(&index);
            }
        }
    }

    /// Publishes what is missing, one epoch after the other.
    async fn epochs(&mut self, mender: &Mender) {
        // What could not be published for want of space is not brought once more.
        if mender.intake.takes_no_content().is_some() {
            return;
        }
        let missing = mender.machine.missing();
        self.epochs.keep_only(|(job, epoch)| missing.iter().any(|m| m.job == *job && m.epoch == *epoch));
        for missing in missing {
            let key = (missing.job.clone(), missing.epoch);
            if !self.epochs.is_due(&key) || mender.life.is_closing() {
                continue;
            }
            let (job, epoch, why) = (&missing.job, missing.epoch, &missing.why);
            tracing::info!(node = mender.node, %job, epoch, why, "a sealed epoch is no directory here; what it lacks is fetched");
            match epoch_from_peers(mender, &missing).await {
                Ok(true) => {
                    tracing::info!(node = mender.node, %job, epoch, "the epoch is published here")
                }
                Ok(false) => {
                    tracing::info!(node = mender.node, %job, epoch, "the peers say that it has expired");
                    self.epochs.failed(&key);
                }
                Err(error) => {
                    tracing::warn!(node = mender.node, %job, epoch, %error, "the epoch cannot be published here yet; it is tried again");
                    self.epochs.failed(&key);
                }
            }
        }
    }
}

async fn payload(mender: &Mender, index: u64) -> Result<(), String> {
    let header = mender.log.headers(index..index + 1).map_err(|e| e.to_string())?.pop();
    let entry = header.ok_or("the entry is gone from the log")?;
    let Body::Record(record) = &entry.body else { return Err("the entry carries no payload".into()) };
    let (stop, stopped) = watch::channel(false);
    let gather = mender.transfers.gather(stopped);
    let payload = gather.payload(entry.id, record.header.payload_bytes).await.map_err(|e| e.to_string())?;
    drop(stop);
    let log = mender.log.clone();
    let repaired = tokio::task::spawn_blocking(move || log.repair(index, &payload)).await;
    repaired.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// False when it has expired since it was listed.
async fn epoch_from_peers(mender: &Mender, missing: &Missing) -> Result<bool, RepairError> {
    let (stop, stopped) = watch::channel(false);
    let _turn = mender.transfers.turn().wait(stop.clone()).await;
    mender.transfers.progress().begin(Stage::Repair, None);
    let gather = mender.transfers.gather(stopped);
    let done = bring(mender, &gather, missing).await;
    mender.transfers.progress().end(false);
    drop(stop);
    let left = leave_nothing_of_expired(mender, &missing.job, missing.epoch).await;
    done.and_then(|published| left.map(|()| published))
}

/// What was brought for an epoch that expired meanwhile is nobody's: no record will release it. What a transfer has
/// begun goes too, and is begun anew.
async fn leave_nothing_of_expired(mender: &Mender, job: &JobName, epoch: u64) -> Result<(), RepairError> {
    if mender.machine.ledger().epoch(job, epoch).is_some() {
        return Ok(());
    }
    let (machine, store) = (mender.machine.clone(), mender.machine.store().clone());
    blocking(move || machine.owe_surplus().and_then(|()| store.clear_incoming())).await??;
    Ok(())
}

async fn bring(mender: &Mender, gather: &Gather, missing: &Missing) -> Result<bool, RepairError> {
    match missing.manifest.clone() {
        Some((envelope, manifest)) => {
            receive::epoch(gather, &Arc::new(mender.machine.clone()), envelope, manifest).await?;
        }
        None => match mend(mender, gather, &missing.job, missing.epoch).await {
            Ok(_) => {}
            Err(RepairError::NotSealed(..)) => return Ok(false),
            Err(error) => return Err(error),
        },
    }
    mender.machine.publish_again();
    Ok(true)
}

//! What is missing or damaged here, refetched from peers.
//!
//! In the background: epochs that are sealed and no directory here, and payloads of log entries that do not
//! verify while somebody waits to read them. On request: one epoch, read again as a whole. One thing at a
//! time, and a snapshot that comes goes first. What cannot be mended now is said once, tried again later, each
//! time after twice as long.
//!
//! **Never.** A damaged copy is not deleted for being damaged: the good one is renamed over it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use checkpoint::store::{Content, Store, StoreError, VerifyReport};
use checkpoint::{Envelope, JobName, Manifest};
use nativelog::machine::Missing;
use nativelog::record::Body;
use tokio::sync::watch;

use crate::replica::{Inner, Replica};
use crate::transfer::anywhere::{Found, Wanted};
use crate::transfer::gather::Gather;
use crate::transfer::{Stage, TransferError, blocking, receive};

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

impl Replica {
    /// Reads an epoch that is published here and compares it with its manifest; what does not verify is
    /// refetched from peers and put in place. An epoch that is missing here is published.
    ///
    /// # Errors
    /// [`RepairError`].
    pub async fn repair_epoch(&self, job: &JobName, epoch: u64) -> Result<RepairReport, RepairError> {
        let inner = &self.inner;
        let (stop, stopped) = watch::channel(false);
        let _turn = inner.transfer_turn.wait(stop.clone()).await;
        inner.transfer.begin(Stage::Repair, None);
        let gather = inner.gather(stopped);
        let done = mend(inner, &gather, job, epoch).await;
        inner.transfer.end(false);
        drop(stop);
        let left = leave_nothing_of_expired(inner, job, epoch).await;
        done.and_then(|report| left.map(|()| report))
    }
}

async fn mend(
    inner: &Arc<Inner>,
    gather: &Gather,
    job: &JobName,
    epoch: u64,
) -> Result<RepairReport, RepairError> {
    if inner.machine.ledger().epoch(job, epoch).is_none() {
        return Err(RepairError::NotSealed(job.clone(), epoch));
    }
    let store = inner.machine.store().clone();
    let report = match verify(&store, job, epoch).await? {
        Ok(report) => report,
        Err(StoreError::NotPublished { .. } | StoreError::Manifest { .. }) => {
            let Some((envelope, manifest)) = manifest_of(inner, gather, job, epoch).await? else {
                return Err(RepairError::NotSealed(job.clone(), epoch));
            };
            return publish(inner, gather, envelope, Arc::new(manifest)).await;
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
    inner: &Inner,
    gather: &Gather,
    job: &JobName,
    epoch: u64,
) -> Result<Option<(Envelope, Manifest)>, RepairError> {
    let (info, at) = {
        let ledger = inner.machine.ledger();
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
    inner: &Arc<Inner>,
    gather: &Gather,
    envelope: Envelope,
    manifest: Arc<Manifest>,
) -> Result<RepairReport, RepairError> {
    let (job, epoch) = (envelope.job.clone(), envelope.epoch);
    let (store, looking) = (inner.machine.store().clone(), manifest.clone());
    let looked = store.clone();
    let mut done = counted(&blocking(move || looked.lacking(&looking)).await??);
    receive::epoch(gather, &Arc::new(inner.machine.clone()), envelope, manifest.clone()).await?;
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

pub(crate) async fn run(inner: Weak<Inner>) {
    let Some((mut rotten, mut published)) =
        inner.upgrade().map(|inner| (inner.log.rotten(), inner.machine.publications()))
    else {
        return;
    };
    let mut mending = Mending::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = rotten.changed() => if changed.is_err() { return },
            changed = published.changed() => if changed.is_err() { return },
        }
        published.borrow_and_update();
        let bad: Vec<u64> = rotten.borrow_and_update().iter().copied().collect();
        let Some(inner) = inner.upgrade() else { return };
        if inner.is_closing() {
            return;
        }
        mending.payloads.keep_only(|index| bad.contains(index));
        for index in bad {
            mending.payload(&inner, index).await;
        }
        mending.epochs(&inner).await;
    }
}

impl Mending {
    /// Refetches the payload of a log entry.
    async fn payload(&mut self, inner: &Arc<Inner>, index: u64) {
        if !self.payloads.is_due(&index) {
            return;
        }
        match payload(inner, index).await {
            Ok(()) => {
                tracing::info!(
                    node = inner.config.node,
                    index,
                    "the payload of a log entry was refetched and put in place"
                )
            }
            Err(why) => {
                tracing::error!(
                    node = inner.config.node,
                    index,
                    why,
                    "the payload of a log entry does not verify and cannot be refetched yet; it is tried again"
                );
                self.payloads.failed(&index);
            }
        }
    }

    /// Publishes what is missing, one epoch after the other.
    async fn epochs(&mut self, inner: &Arc<Inner>) {
        // What could not be published for want of space is not brought once more.
        if inner.takes_no_content().is_some() {
            return;
        }
        let missing = inner.machine.missing();
        self.epochs.keep_only(|(job, epoch)| missing.iter().any(|m| m.job == *job && m.epoch == *epoch));
        for missing in missing {
            let key = (missing.job.clone(), missing.epoch);
            if !self.epochs.is_due(&key) || inner.is_closing() {
                continue;
            }
            let (job, epoch, why) = (&missing.job, missing.epoch, &missing.why);
            tracing::info!(node = inner.config.node, %job, epoch, why, "a sealed epoch is no directory here; what it lacks is fetched");
            match epoch_from_peers(inner, &missing).await {
                Ok(true) => {
                    tracing::info!(node = inner.config.node, %job, epoch, "the epoch is published here")
                }
                Ok(false) => {
                    tracing::info!(node = inner.config.node, %job, epoch, "the peers say that it has expired");
                    self.epochs.failed(&key);
                }
                Err(error) => {
                    tracing::warn!(node = inner.config.node, %job, epoch, %error, "the epoch cannot be published here yet; it is tried again");
                    self.epochs.failed(&key);
                }
            }
        }
    }
}

async fn payload(inner: &Arc<Inner>, index: u64) -> Result<(), String> {
    let header = inner.log.headers(index..index + 1).map_err(|e| e.to_string())?.pop();
    let entry = header.ok_or("the entry is gone from the log")?;
    let Body::Record(record) = &entry.body else { return Err("the entry carries no payload".into()) };
    let (stop, stopped) = watch::channel(false);
    let gather = inner.gather(stopped);
    let payload = gather.payload(entry.id, record.header.payload_bytes).await.map_err(|e| e.to_string())?;
    drop(stop);
    let log = inner.log.clone();
    let repaired = tokio::task::spawn_blocking(move || log.repair(index, &payload)).await;
    repaired.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// False when it has expired since it was listed.
async fn epoch_from_peers(inner: &Arc<Inner>, missing: &Missing) -> Result<bool, RepairError> {
    let (stop, stopped) = watch::channel(false);
    let _turn = inner.transfer_turn.wait(stop.clone()).await;
    inner.transfer.begin(Stage::Repair, None);
    let gather = inner.gather(stopped);
    let done = bring(inner, &gather, missing).await;
    inner.transfer.end(false);
    drop(stop);
    let left = leave_nothing_of_expired(inner, &missing.job, missing.epoch).await;
    done.and_then(|published| left.map(|()| published))
}

/// What was brought for an epoch that expired meanwhile is nobody's: no record will release it. What a transfer has
/// begun goes too, and is begun anew.
async fn leave_nothing_of_expired(inner: &Inner, job: &JobName, epoch: u64) -> Result<(), RepairError> {
    if inner.machine.ledger().epoch(job, epoch).is_some() {
        return Ok(());
    }
    let (machine, store) = (inner.machine.clone(), inner.machine.store().clone());
    blocking(move || machine.owe_surplus().and_then(|()| store.clear_incoming())).await??;
    Ok(())
}

async fn bring(inner: &Arc<Inner>, gather: &Gather, missing: &Missing) -> Result<bool, RepairError> {
    match missing.manifest.clone() {
        Some((envelope, manifest)) => {
            receive::epoch(gather, &Arc::new(inner.machine.clone()), envelope, manifest).await?;
        }
        None => match mend(inner, gather, &missing.job, missing.epoch).await {
            Ok(_) => {}
            Err(RepairError::NotSealed(..)) => return Ok(false),
            Err(error) => return Err(error),
        },
    }
    inner.machine.publish_again();
    Ok(true)
}

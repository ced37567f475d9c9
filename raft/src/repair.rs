//! What is missing or damaged here, refetched from peers.
//!
//! In the background: epochs that are sealed and no directory here, content in quarantine or that open attempts lean on
//! (`contents`), and, beside these, payloads of log entries that do not verify while somebody waits to read them. On
//! request: one epoch, read again as a whole. One of a kind at a time, and a snapshot that comes goes first. What
//! cannot be mended now is said once, tried again later, each time after twice as long.
//!
//! **Never.** A damaged copy is not deleted for being damaged: the good one is renamed over it.

mod contents;
mod later;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::store::{Content, Store, StoreError, VerifyReport};
use checkpoint::{Envelope, JobName, Manifest};
use nativelog::machine::{Machine, Missing};
use nativelog::record::Body;
use nativelog::shape::check_shape;
use nativelog::store::LogStore;
use tokio::sync::watch;

use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::keeper::Keeper;
use crate::life::Life;
use crate::quarantine::Quarantine;
use crate::transfer::anywhere::{Found, Wanted};
use crate::transfer::gather::Gather;
use crate::transfer::{Stage, TransferError, Transfers, blocking, receive};
use contents::Contents;
use later::Later;

/// Pause between looks when nothing happened.
const LOOK: Duration = Duration::from_secs(2);

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

/// Refetches what is missing or damaged on one replica; made of the rooms that it needs.
pub(crate) struct Mender {
    pub node: u64,
    pub machine: Arc<Machine>,
    pub log: LogStore,
    pub transfers: Arc<Transfers>,
    pub consensus: Consensus,
    pub intake: Arc<Intake>,
    pub life: Arc<Life>,
    pub keeper: Arc<Keeper>,
    pub quarantine: Quarantine,
}

impl Mender {
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
        if let Err(error) = &done {
            self.report(error).await;
        }
        done.and_then(|report| left.map(|()| report))
    }

    /// What was found nowhere may have to be put in quarantine.
    async fn report(&self, error: &RepairError) {
        if let RepairError::Transfer(TransferError::Nowhere { lost, .. }) = error {
            self.quarantine.report(lost).await;
        }
    }

    /// Mends in the background until this node stops. A payload that somebody waits for never waits for an epoch.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.payloads(), self.epochs());
    }

    async fn payloads(&self) {
        let mut rotten = self.log.rotten();
        let mut payloads = Later::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = rotten.changed() => if changed.is_err() { return },
            }
            let bad: Vec<u64> = rotten.borrow_and_update().iter().copied().collect();
            if self.life.is_closing() {
                return;
            }
            self.doubt_own_entry().await;
            payloads.keep_only(|index| bad.contains(index));
            for index in bad {
                self.payload(&mut payloads, index).await;
            }
        }
    }

    async fn epochs(&self) {
        let mut published = self.machine.publications();
        let mut mending = Mending::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = published.changed() => if changed.is_err() { return },
            }
            published.borrow_and_update();
            if self.life.is_closing() {
                return;
            }
            if mending.contents.mend(self).await {
                // What could not be published for want of it is tried at once.
                mending.epochs.keep_only(|_| false);
            }
            mending.epochs(self).await;
        }
    }

    /// Refetches the payload of a log entry.
    async fn payload(&self, later: &mut Later<u64>, index: u64) {
        if !later.is_due(&index) {
            return;
        }
        let node = self.node;
        let why = match payload(self, index).await {
            Ok(()) => {
                tracing::info!(node, index, "the payload of a log entry was refetched and put in place");
                return;
            }
            Err(why) => why,
        };
        tracing::error!(
            node,
            index,
            why = why.to_string(),
            "the payload of a log entry does not verify and cannot be refetched yet; it is tried again"
        );
        later.failed(&index);
        // Whoever needs the entry would wait for ever: a snapshot goes around it, in which the content is owed.
        if let Unmended::Nowhere(_) = why {
            self.log.give_up(index);
            if let Err(error) = self.keeper.reclaim_now().await {
                tracing::warn!(node, index, %error, "the entry cannot be purged yet");
            }
        }
    }

    /// A majority refuses an entry of this node's for what it is. When it does not pass here either, it has changed in
    /// this node's memory or on its disk since it was checked: a log that says something else than what was proposed
    /// can promise nothing, and whoever leads next goes on without that entry.
    async fn doubt_own_entry(&self) {
        let Some((index, why)) = self.intake.heard().refused_by_majority(&self.consensus.view().voters)
        else {
            return;
        };
        let log = self.log.clone();
        let own = blocking(move || -> io::Result<Option<String>> {
            let Some(entry) = log.headers(index..index + 1)?.pop() else { return Ok(None) };
            let Body::Record(record) = entry.body else { return Ok(None) };
            let payload = log.payload(index)?;
            Ok(check_shape(&record.header, Some(&payload)).err().map(|why| why.to_string()))
        });
        let own = match own.await {
            Ok(own) => own,
            Err(error) => return tracing::warn!(index, %error, "a refused entry is not looked at yet"),
        };
        match own {
            Ok(None) => {
                tracing::error!(
                    node = self.node,
                    index,
                    why,
                    "a majority refuses an entry that is right here"
                )
            }
            Ok(Some(own)) => {
                self.life.fail(&format!("entry {index} of this node's log is not what was proposed: {own}"))
            }
            Err(error) => {
                tracing::error!(node = self.node, index, why, %error, "a majority refuses an entry that cannot be read here")
            }
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
    // A good copy may lie on the shelves already: put back by hand.
    let (looking, wanted) = (store.clone(), contents.clone());
    let lacking = blocking(move || looking.lacking_of(wanted.into_iter())).await??;
    gather.progress().lacks(lacking.iter().map(|content| content.size).sum());
    gather.bring(lacking).await?;
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

#[derive(Default)]
struct Mending {
    epochs: Later<(JobName, u64)>,
    contents: Contents,
}

impl Mending {
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
                    if missing.manifest.is_none() {
                        mender.machine.note_missing(job, epoch, &error.to_string());
                    }
                    mender.report(&error).await;
                    self.epochs.failed(&key);
                }
            }
        }
    }
}

/// Why a payload is not mended.
#[derive(Debug, thiserror::Error)]
enum Unmended {
    /// Every live peer says that it has no good copy.
    #[error("{0}")]
    Nowhere(TransferError),
    /// Anything else.
    #[error("{0}")]
    NotYet(String),
}

fn not_yet(why: impl std::fmt::Display) -> Unmended {
    Unmended::NotYet(why.to_string())
}

async fn payload(mender: &Mender, index: u64) -> Result<(), Unmended> {
    let header = mender.log.headers(index..index + 1).map_err(not_yet)?.pop();
    let entry = header.ok_or_else(|| not_yet("the entry is gone from the log"))?;
    let Body::Record(record) = &entry.body else { return Err(not_yet("the entry carries no payload")) };
    let (stop, stopped) = watch::channel(false);
    let gather = mender.transfers.gather(stopped);
    let payload = match gather.payload(entry.id, record.header.payload_bytes).await {
        Ok(payload) => payload,
        Err(error @ TransferError::Nowhere { .. }) => return Err(Unmended::Nowhere(error)),
        Err(error) => return Err(not_yet(error)),
    };
    drop(stop);
    let log = mender.log.clone();
    let repaired = tokio::task::spawn_blocking(move || log.repair(index, &payload)).await;
    repaired.map_err(not_yet)?.map_err(not_yet)
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

//! What is missing or damaged here, refetched from peers.
//!
//! In the background: epochs that are sealed and no directory here, content in quarantine or that open attempts lean on
//! (`contents`), and, beside these, payloads of log entries that do not verify while somebody waits to read them
//! (`payloads`). On request: one epoch, read again as a whole. One of a kind at a time, and a snapshot that comes goes
//! first. What cannot be mended now is said once, tried again later, each time after twice as long.
//!
//! **Never.** A damaged copy is not deleted for being damaged: the good one is renamed over it.

mod contents;
mod later;
mod payloads;

use std::sync::Arc;
use std::time::Duration;

use checkpoint::store::{Content, Store, StoreError, VerifyReport};
use checkpoint::{Envelope, JobName, Manifest};
use nativelog::ledger::EpochInfo;
use nativelog::machine::{Machine, Missing};
use tokio::sync::watch;

use crate::intake::Intake;
use crate::life::Life;
use crate::transfer::anywhere::{Found, Wanted};
use crate::transfer::gather::Gather;
use crate::transfer::source::agrees;
use crate::transfer::{Stage, TransferError, Transfers, blocking, receive};
use contents::Due;
use later::Later;

pub(crate) use contents::Contents;
pub(crate) use payloads::Payloads;

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
    pub payloads: Payloads,
    pub contents: Contents,
    pub transfers: Arc<Transfers>,
    pub intake: Arc<Intake>,
    pub life: Arc<Life>,
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
        if let RepairError::Transfer(error) = error {
            self.contents.report(error).await;
        }
    }

    /// Why an epoch cannot be brought from peers, in words: that it lies in a store, where it does.
    fn why(&self, job: &JobName, epoch: u64, error: &RepairError) -> String {
        let RepairError::Transfer(missed) = error else { return error.to_string() };
        match missed.in_store(&self.machine.ledger(), job, epoch) {
            Some(store) => format!("its bytes, which lie in the store {store}, are not here yet"),
            None => error.to_string(),
        }
    }

    /// Mends in the background until this node stops. A payload that somebody waits for never waits for an epoch.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.payloads.run(), self.epochs());
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
            if self.contents.mend(&mut mending.contents).await {
                // What could not be published for want of it is tried at once.
                mending.epochs.keep_only(|_| false);
            }
            mending.epochs(self).await;
        }
    }
}

async fn mend(
    mender: &Mender,
    gather: &Gather,
    job: &JobName,
    epoch: u64,
) -> Result<RepairReport, RepairError> {
    let sealed = mender.machine.ledger().epoch(job, epoch);
    let Some(info) = sealed else { return Err(RepairError::NotSealed(job.clone(), epoch)) };
    let store = mender.machine.store().clone();
    let report = match verify_sealed(&store, info.clone()).await? {
        Ok(report) => report,
        Err(StoreError::NotPublished { .. } | StoreError::Manifest { .. }) => {
            let Some((envelope, manifest)) = manifest_of(mender, gather, info).await? else {
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
    receive::bring(gather, lacking).await?;
    let healing = store.clone();
    done.names = blocking(move || healing.heal_all(&contents)).await??.names;
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

/// As [`verify`], of a directory that is not another epoch's: such a one counts as none.
async fn verify_sealed(
    store: &Arc<Store>,
    info: EpochInfo,
) -> Result<Result<VerifyReport, StoreError>, TransferError> {
    let store = store.clone();
    let verify = move || {
        let (job, epoch) = (&info.sealed.job, info.sealed.epoch);
        match store.envelope(job, epoch)? {
            Some(there) if agrees(&there, &info) => store.verify(job, epoch),
            _ => Err(StoreError::NotPublished { job: job.to_string(), epoch }),
        }
    };
    blocking(verify).await
}

async fn proven(store: &Arc<Store>, job: &JobName, epoch: u64) -> Result<(), RepairError> {
    let report = verify(store, job, epoch).await??;
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(RepairError::StillDamaged(format!("{}: {}", problem.path, problem.why))),
    }
}

/// The manifest of an epoch, from a peer; `None` when a later record has ended it.
async fn manifest_of(
    mender: &Mender,
    gather: &Gather,
    info: EpochInfo,
) -> Result<Option<(Envelope, Manifest)>, RepairError> {
    let at = mender.machine.ledger().applied().map_or(0, |id| id.index);
    match gather.manifest(&Wanted { info, at }).await? {
        Found::Ended => Ok(None),
        Found::Here(found) => Ok(Some(found)),
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
    contents: Due,
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
                    let why = mender.why(job, epoch, &error);
                    tracing::warn!(node = mender.node, %job, epoch, why, "the epoch cannot be published here yet; it is tried again");
                    if !missing.has_tree {
                        mender.machine.still_missing(job, epoch, &why);
                    }
                    mender.report(&error).await;
                    match error {
                        RepairError::Transfer(TransferError::Unfit { .. }) => self.epochs.is_stuck(&key),
                        _ => self.epochs.failed(&key),
                    }
                }
            }
        }
    }
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

/// Envelope and tree, where this node has them; else they come from a peer.
async fn tree_of(
    mender: &Mender,
    missing: &Missing,
) -> Result<Option<(Envelope, Arc<Manifest>)>, RepairError> {
    if !missing.has_tree {
        return Ok(None);
    }
    let (machine, attempt) = (mender.machine.clone(), missing.attempt);
    let read = blocking(move || machine.tree_of(attempt)).await?;
    Ok(read.unwrap_or_else(|error| {
        tracing::warn!(node = mender.node, job = %missing.job, epoch = missing.epoch, %error, "its tree cannot be read now");
        None
    }))
}

async fn bring(mender: &Mender, gather: &Gather, missing: &Missing) -> Result<bool, RepairError> {
    match tree_of(mender, missing).await? {
        Some((envelope, manifest)) => {
            receive::epoch(gather, &Arc::new(mender.machine.clone()), envelope, manifest).await?;
        }
        None => match mend(mender, gather, &missing.job, missing.epoch).await {
            // Also when it was good: nobody else would say that it is not missing.
            Ok(_) => mender.machine.mended(&missing.job, missing.epoch, missing.attempt),
            Err(RepairError::NotSealed(..)) => return Ok(false),
            Err(error) => return Err(error),
        },
    }
    mender.machine.publish_again();
    Ok(true)
}

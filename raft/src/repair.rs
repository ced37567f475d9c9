//! What is missing or damaged here, refetched from peers, and from stores where it lies in one.
//!
//! In the background: epochs that are sealed and no directory here, content in quarantine or that open attempts lean on
//! (`contents`), and, beside these, payloads of log entries that do not verify while somebody waits to read them
//! (`payloads`), and epochs that lie in a store (`hydrator`), for which nobody else waits. On request: one epoch, read again as a whole. One of a kind at a time, and a snapshot that comes goes
//! first. What cannot be mended now is said once, tried again later, each time after twice as long.
//!
//! **Never.** A damaged copy is not deleted for being damaged: the good one is renamed over it.

mod contents;
mod counted;
mod epoch;
mod hydrator;
mod later;
mod payloads;

use std::sync::Arc;
use std::time::Duration;

use checkpoint::JobName;
use nativelog::machine::Missing;
use tokio::sync::watch;

use crate::intake::Intake;
use crate::life::Life;
use crate::transfer::{Stage, TransferError, Transfers};
use contents::Due;
use later::Later;

pub(crate) use contents::Contents;
pub(crate) use epoch::Site;
pub use epoch::{RepairError, RepairReport};
pub use hydrator::Hydration;
pub(crate) use hydrator::Hydrator;
pub(crate) use payloads::Payloads;

/// Pause between looks when nothing happened.
const LOOK: Duration = Duration::from_secs(2);

/// Refetches what is missing or damaged on one replica; made of the rooms that it needs.
pub(crate) struct Mender {
    pub site: Site,
    pub payloads: Payloads,
    pub contents: Arc<Contents>,
    pub hydrator: Hydrator,
    pub transfers: Arc<Transfers>,
    pub intake: Arc<Intake>,
    pub life: Arc<Life>,
}

impl Mender {
    /// See [`Replica::repair_epoch`](crate::Replica::repair_epoch).
    pub async fn epoch(&self, job: &JobName, epoch: u64) -> Result<RepairReport, RepairError> {
        let stored = self.site.machine.ledger().store_of(job, epoch);
        let is_stored = stored.is_some();
        let done = match stored {
            Some(store) => self.hydrator.repair(store.id, job, epoch).await,
            None => {
                let (stop, stopped) = watch::channel(false);
                let _turn = self.transfers.turn().wait(stop.clone()).await;
                self.transfers.progress().begin(Stage::Repair, None);
                let gather = self.transfers.gather(stopped);
                let done = self.site.mend(&gather, job, epoch).await;
                self.transfers.progress().end(false);
                drop(stop);
                done
            }
        };
        let left = self.site.leave_nothing_of_expired(job, epoch).await;
        match &done {
            Err(RepairError::Transfer(error)) if is_stored => self.contents.report_once(error).await,
            Err(error) => self.report(error).await,
            Ok(_) => {}
        }
        done.and_then(|report| left.map(|()| report))
    }

    /// What was found nowhere may have to be put in quarantine.
    async fn report(&self, error: &RepairError) {
        if let RepairError::Transfer(error) = error {
            self.contents.report(error).await;
        }
    }

    /// Mends in the background until this node stops. A payload that somebody waits for never waits for an epoch, and
    /// nothing at all for a store.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.payloads.run(), self.epochs(), self.hydrator.run());
    }

    async fn epochs(&self) {
        let mut published = self.site.machine.publications();
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
        let mut missing = mender.site.machine.missing();
        {
            // The hydrator brings these.
            let ledger = mender.site.machine.ledger();
            missing.retain(|missing| ledger.store_of(&missing.job, missing.epoch).is_none());
        }
        mender.site.leave_verifying(&mut missing);
        self.epochs.keep_only(|(job, epoch)| missing.iter().any(|m| m.job == *job && m.epoch == *epoch));
        for missing in missing {
            let key = (missing.job.clone(), missing.epoch);
            if !self.epochs.is_due(&key) || mender.life.is_closing() {
                continue;
            }
            let (job, epoch, why) = (&missing.job, missing.epoch, &missing.why);
            tracing::info!(node = mender.site.node, %job, epoch, why, "a sealed epoch is no directory here; what it lacks is fetched");
            match epoch_from_peers(mender, &missing).await {
                Ok(true) => {
                    tracing::info!(node = mender.site.node, %job, epoch, "the epoch is published here")
                }
                Ok(false) => {
                    tracing::info!(node = mender.site.node, %job, epoch, "the peers say that it has expired");
                    self.epochs.failed(&key);
                }
                Err(error) => {
                    tracing::warn!(node = mender.site.node, %job, epoch, %error, "the epoch cannot be published here yet; it is tried again");
                    if !missing.has_tree {
                        mender.site.machine.still_missing(job, epoch, &error.to_string());
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
    let done = mender.site.bring(&gather, missing).await;
    mender.transfers.progress().end(false);
    drop(stop);
    let left = mender.site.leave_nothing_of_expired(&missing.job, missing.epoch).await;
    done.and_then(|published| left.map(|()| published))
}

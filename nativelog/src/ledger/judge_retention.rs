//! Judges what keeps and ends sealed epochs: pins and expiry.
//!
//! Never expired, whatever is asked: a pinned epoch and the base of an open attempt. The newest
//! committed epoch goes only by hand. Local conditions (open readers, who has published) are not
//! ours: they are the proposer's, or those of the unlink.

use std::collections::BTreeSet;

use checkpoint::JobName;

use super::change::{Change, repeat};
use super::fields::{job_name, malformed};
use super::job::{EpochRecord, Job, PinRecord};
use super::rules::Rules;
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected};
use crate::record::proto;

impl Ledger {
    pub(super) fn judge_pin(&self, pin: &proto::Pin) -> Result<Change, Rejected> {
        let name = job_name(&pin.job)?;
        judge_owner(&pin.owner, self.limits())?;
        if pin.reason.len() > self.limits().reason_bytes_max {
            return Err(malformed("a reason has at most 1024 bytes"));
        }
        let epoch = self.sealed_epoch(&name, pin.epoch)?;
        let until_ms = (pin.for_ms > 0).then(|| self.log_ms.saturating_add(pin.for_ms));
        let pinned = PinRecord { reason: pin.reason.clone(), until_ms };
        if epoch.pins.get(&pin.owner) == Some(&pinned) {
            return Ok(repeat(Accepted::Done));
        }
        let others = epoch.holding(self.log_ms).filter(|owner| *owner != pin.owner);
        if others.count() >= self.limits().pins_max {
            return Err(Rejected::new(Reason::Quota, "the epoch has 64 pins"));
        }
        Ok(Change::Pin {
            job: name,
            epoch: pin.epoch,
            owner: pin.owner.clone(),
            reason: pinned.reason,
            until_ms,
        })
    }

    pub(super) fn judge_unpin(&self, unpin: &proto::Unpin) -> Result<Change, Rejected> {
        let name = job_name(&unpin.job)?;
        judge_owner(&unpin.owner, self.limits())?;
        let epoch = self.sealed_epoch(&name, unpin.epoch)?;
        if !epoch.pins.contains_key(&unpin.owner) {
            return Ok(repeat(Accepted::Done));
        }
        Ok(Change::Unpin { job: name, epoch: unpin.epoch, owner: unpin.owner.clone() })
    }

    pub(super) fn judge_expire(&self, expire: &proto::Expire) -> Result<Change, Rejected> {
        let name = job_name(&expire.job)?;
        let rules = self.limits();
        if expire.epochs.is_empty() || expire.epochs.len() > rules.expire_epochs_max {
            return Err(malformed("a record expires 1 to 4096 epochs"));
        }
        if expire.reason.len() > rules.reason_bytes_max || expire.published_on.len() > rules.published_on_max
        {
            return Err(malformed("a reason has at most 1024 bytes, a list of nodes at most 1024"));
        }
        let job = self.jobs.get(&name).ok_or_else(|| no_job(&name))?;
        let asked: BTreeSet<u64> = expire.epochs.iter().copied().collect();
        let mut epochs = Vec::new();
        for epoch in asked.iter().copied() {
            match job.epochs.get(&epoch) {
                Some(record) => {
                    self.judge_expiry(job, epoch, record, expire.by_hand, &asked)?;
                    epochs.push(epoch);
                }
                // At or below the mark and not there: gone before, whatever it was.
                None if job.mark.is_some_and(|mark| epoch <= mark) => {}
                None => return Err(no_epoch(&name, epoch)),
            }
        }
        if epochs.is_empty() {
            return Ok(repeat(Accepted::Done));
        }
        Ok(Change::Expire { job: name, epochs })
    }

    /// Only what has nothing left is forgotten. Its writers' tokens are log indexes: no later one equals them.
    pub(super) fn judge_remove_job(&self, remove: &proto::RemoveJob) -> Result<Change, Rejected> {
        let name = job_name(&remove.job)?;
        if remove.reason.len() > self.limits().reason_bytes_max {
            return Err(malformed("a reason has at most 1024 bytes"));
        }
        let job = self.jobs.get(&name).ok_or_else(|| no_job(&name))?;
        let protected = |why: String, number: u64| Err(Rejected::new(Reason::Protected, why).current(number));
        match (job.epochs.last_key_value(), job.open.first()) {
            (Some((newest, _)), _) => protected(format!("{name} has {} epochs", job.epochs.len()), *newest),
            (None, Some(attempt)) => protected(format!("attempt {attempt} of {name} is open"), *attempt),
            (None, None) => Ok(Change::RemoveJob { job: name }),
        }
    }

    fn judge_expiry(
        &self,
        job: &Job,
        epoch: u64,
        record: &EpochRecord,
        by_hand: bool,
        asked: &BTreeSet<u64>,
    ) -> Result<(), Rejected> {
        let protected = |why: String| Err(Rejected::new(Reason::Protected, why).current(epoch));
        if let Some(owner) = record.pinned_by(self.log_ms) {
            return protected(format!("epoch {epoch} is pinned by {owner}"));
        }
        if let Some(id) = job.open.iter().find(|id| self.open[*id].terms.base == Some(epoch)) {
            return protected(format!("epoch {epoch} is the base of open attempt {id}"));
        }
        let newest = job.epochs.last_key_value().map(|(newest, _)| *newest);
        if newest == Some(epoch) && !by_hand {
            return protected(format!("epoch {epoch} is the newest committed"));
        }
        // By hand too: beside it there would be only what nobody can serve.
        let good = self.newest_of(job).map(|(good, _)| good) == Some(epoch);
        if good && job.epochs.range(epoch + 1..).any(|(later, _)| !asked.contains(later)) {
            return protected(format!("epoch {epoch} is the newest that is not in quarantine"));
        }
        Ok(())
    }

    fn sealed_epoch(&self, name: &JobName, epoch: u64) -> Result<&EpochRecord, Rejected> {
        let job = self.jobs.get(name).ok_or_else(|| no_job(name))?;
        job.epochs.get(&epoch).map(|record| &**record).ok_or_else(|| no_epoch(name, epoch))
    }
}

fn judge_owner(owner: &str, rules: &Rules) -> Result<(), Rejected> {
    if owner.is_empty() || owner.len() > rules.owner_bytes_max || owner.chars().any(char::is_control) {
        return Err(malformed("a pin's owner has 1 to 128 bytes and no control characters"));
    }
    Ok(())
}

fn no_job(name: &JobName) -> Rejected {
    Rejected::new(Reason::NotFound, format!("no job {name}"))
}

fn no_epoch(name: &JobName, epoch: u64) -> Rejected {
    Rejected::new(Reason::NotFound, format!("no sealed epoch {name}@{epoch}")).current(epoch)
}

//! Log time: what depends on it, and what it brings to an end.
//!
//! It moves by ticks alone, which are records; who writes them asks [`Ledger::time_need`]. What it ends is
//! bounded for each tick, so that none stops the log for long: the next one goes on.

use checkpoint::JobName;

use super::job::PinRecord;
use super::key::RowKey;
use super::tables::Ledger;

/// How closely log time has to follow real time just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeNeed {
    /// Nothing depends on it: it may stand still.
    Nothing,
    /// Only what is kept for a day: a tick a minute will do.
    Minutes,
    /// Open attempts grow old, or a pin ends.
    Seconds,
}

impl Ledger {
    /// What log time is needed for.
    pub fn time_need(&self) -> TimeNeed {
        if !self.open.is_empty() || !self.ending_pins.is_empty() {
            TimeNeed::Seconds
        } else if !self.outcomes.is_empty() {
            TimeNeed::Minutes
        } else {
            TimeNeed::Nothing
        }
    }

    pub(super) fn tick(&mut self, elapsed_ms: u64) {
        self.log_ms = self.log_ms.saturating_add(elapsed_ms);
        let (kept_ms, ended_max) = (self.limits().outcome_kept_ms, self.limits().ended_per_tick_max);
        if let Some(until_ms) = self.log_ms.checked_sub(kept_ms) {
            for _ in 0..ended_max {
                if !self.forget_outcome(usize::MAX, Some(until_ms)) {
                    break;
                }
            }
        }
        for _ in 0..ended_max {
            let ended = self.ending_pins.first().filter(|(end_ms, ..)| *end_ms <= self.log_ms);
            let Some((_, job, epoch, owner)) = ended.cloned() else { break };
            self.drop_pin(job, epoch, owner);
        }
        self.drop_idle_trees();
    }

    pub(super) fn put_pin(&mut self, job: JobName, epoch: u64, owner: String, pin: PinRecord) {
        self.drop_pin(job.clone(), epoch, owner.clone());
        if let Some(end_ms) = pin.until_ms {
            self.ending_pins.insert((end_ms, job.clone(), epoch, owner.clone()));
        }
        self.epoch_mut(&job, epoch).pins.insert(owner, pin);
    }

    pub(super) fn drop_pin(&mut self, job: JobName, epoch: u64, owner: String) {
        self.touch(RowKey::Pin(job.clone(), epoch, owner.clone()));
        let gone = self.epoch_mut(&job, epoch).pins.remove(&owner);
        if let Some(end_ms) = gone.and_then(|pin| pin.until_ms) {
            self.ending_pins.remove(&(end_ms, job, epoch, owner));
        }
    }
}

//! What a change names, to be changed: an open attempt, a job, a sealed epoch. Every change of one goes through here or
//! says itself which row it touches.

use std::sync::Arc;

use checkpoint::JobName;

use super::attempt::Attempt;
use super::job::{EpochRecord, Job};
use super::key::RowKey;
use super::tables::Ledger;
use crate::record::LogId;

impl Ledger {
    /// An accepted record named this attempt.
    pub(super) fn named(&mut self, id: u64, bytes: u64) -> &mut Attempt {
        self.touch(RowKey::Attempt(id));
        let attempt = self.open.get_mut(&id).expect("judged open");
        attempt.log_bytes += bytes;
        attempt.last_ms = self.log_ms;
        attempt
    }

    pub(super) fn job_mut(&mut self, name: &JobName) -> &mut Job {
        self.touch(RowKey::Job(name.clone()));
        self.jobs.get_mut(name).expect("judged to be there")
    }

    /// The job, made by the record at `id` when it is not there.
    pub(super) fn job_made(&mut self, name: &JobName, id: LogId) -> &mut Job {
        if !self.jobs.contains_key(name) {
            self.touch(RowKey::Job(name.clone()));
            self.jobs.insert(name.clone(), Job { number: id.index, ..Job::default() });
            self.names.insert(id.index, name.clone());
        }
        self.job_mut(name)
    }

    pub(super) fn epoch_mut(&mut self, name: &JobName, epoch: u64) -> &mut EpochRecord {
        let job = self.jobs.get_mut(name).expect("judged to be there");
        Arc::make_mut(job.epochs.get_mut(&epoch).expect("judged sealed"))
    }
}

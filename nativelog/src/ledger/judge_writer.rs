//! Judges who opens a writer, and whether a job may be made.

use super::change::{Change, repeat};
use super::fields::{commit_id, job_name};
use super::found::{Found, job_removed};
use super::tables::Ledger;
use super::verdict::{Accepted, Reason, Rejected};
use crate::record::proto;

impl Ledger {
    pub(super) fn judge_open_writer(&self, open: &proto::OpenWriter) -> Result<Change, Rejected> {
        let job = job_name(&open.job)?;
        let commit = commit_id(&open.commit_id)?;
        match self.found(&job, &commit, open.born)? {
            Some(Found::Writer { token }) => return Ok(repeat(Accepted::Opened { token })),
            Some(Found::JobRemoved) => return Err(job_removed()),
            Some(Found::Open(..) | Found::Sealed { .. } | Found::Lapsed) => {
                return Err(Rejected::new(Reason::Conflict, "this commit id belongs to an attempt"));
            }
            None => {}
        }
        if !self.jobs.contains_key(&job) {
            self.judge_new_job()?;
        }
        Ok(Change::OpenWriter { job, commit })
    }

    pub(super) fn judge_new_job(&self) -> Result<(), Rejected> {
        if self.jobs.len() >= self.limits().jobs_max {
            return Err(Rejected::new(Reason::Quota, "the cluster has 1,000,000 jobs"));
        }
        Ok(())
    }
}

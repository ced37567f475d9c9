//! Rows of a job: its number, token and mark.

use crate::ledger::codec::{DecodeError, Reader, Writer};
use crate::ledger::job::Job;

pub(super) fn put(value: &mut Writer, job: &Job) {
    value.u64(job.number).u64(job.token).option(job.mark);
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<Job, DecodeError> {
    Ok(Job { number: value.u64()?, token: value.u64()?, mark: value.option()?, ..Job::default() })
}

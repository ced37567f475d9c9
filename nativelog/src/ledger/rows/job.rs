//! Rows of a job: its token and mark, and each commit id that it remembers.

use checkpoint::CommitId;

use super::codec::{DecodeError, Reader, Writer};
use crate::ledger::job::{Job, Outcome};

pub(super) fn put(value: &mut Writer, job: &Job) {
    value.u64(job.token).option(job.mark);
}

pub(super) fn take(value: &mut Reader<'_>) -> Result<Job, DecodeError> {
    Ok(Job { token: value.u64()?, mark: value.option()?, ..Job::default() })
}

pub(super) fn put_commit(value: &mut Writer, at: u64, outcome: Outcome) {
    value.u64(at);
    match outcome {
        Outcome::Writer { token } => value.u8(1).u64(token),
        Outcome::Attempt { id } => value.u8(2).u64(id),
    };
}

pub(super) fn take_commit(
    job: &mut Job,
    commit: CommitId,
    value: &mut Reader<'_>,
) -> Result<(), DecodeError> {
    let at = value.u64()?;
    let outcome = match value.u8()? {
        1 => Outcome::Writer { token: value.u64()? },
        2 => Outcome::Attempt { id: value.u64()? },
        _ => return Err(DecodeError("an outcome that is none")),
    };
    if job.commits.knows_age(at) || job.commits.remember(commit, at, outcome).is_some() {
        return Err(DecodeError("commit ids that cannot stand together"));
    }
    Ok(())
}

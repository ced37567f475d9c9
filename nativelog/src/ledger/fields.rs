//! Fields of records, read: what does not have the form it must have is malformed. Knows no ledger.

use checkpoint::{CommitId, Digest, JobName};

use super::verdict::{Reason, Rejected};

pub(super) fn malformed(detail: impl Into<String>) -> Rejected {
    Rejected::new(Reason::Malformed, detail)
}

pub(super) fn job_name(name: &str) -> Result<JobName, Rejected> {
    JobName::try_from(name).map_err(|error| malformed(error.to_string()))
}

pub(super) fn commit_id(bytes: &[u8]) -> Result<CommitId, Rejected> {
    CommitId::from_slice(bytes).ok_or_else(|| malformed("a commit id is 16 bytes"))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, Rejected> {
    Digest::from_slice(bytes).ok_or_else(|| malformed("a digest is 32 bytes"))
}

pub(super) fn sixteen(bytes: &[u8], why: &str) -> Result<[u8; 16], Rejected> {
    bytes.try_into().map_err(|_| malformed(why))
}

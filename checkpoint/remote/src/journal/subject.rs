//! What a journal says of an object and of its parts.

use checkpoint::Digest;
use uuid::Uuid;

use crate::content::Sums;
use crate::name::ObjectName;

/// A part that the store has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartDone {
    pub id: String,
    pub sums: Sums,
}

/// What an object is, as its journal knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub cluster: Uuid,
    pub digest: Digest,
    pub attempt: u64,
    pub len: u64,
}

impl Subject {
    pub(crate) fn name(&self, nonce: u64) -> ObjectName {
        ObjectName { cluster: self.cluster, digest: self.digest, attempt: self.attempt, nonce }
    }
}

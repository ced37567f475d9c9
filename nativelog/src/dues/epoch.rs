//! How an epoch is named where something is owed for it.

use checkpoint::{Digest, Envelope, JobName};

/// A job and an epoch of it.
pub type EpochKey = (JobName, u64);

/// Which epoch one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The attempt that was sealed.
    pub attempt: u64,
    /// Log index of the seal.
    pub sealed_at: u64,
    pub root: Digest,
}

impl Origin {
    pub fn of(envelope: &Envelope) -> Origin {
        Origin { attempt: envelope.attempt, sealed_at: envelope.position.index, root: envelope.root }
    }
}

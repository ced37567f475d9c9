//! What an accepted record asks the disk to do. Every effect is idempotent and a function of
//! the ledger alone; the performer carries them out in log order, after the local flush.

use std::collections::BTreeSet;
use std::sync::Arc;

use checkpoint::{Digest, Envelope, JobName, Manifest, store::Source};

use super::pages::Page;
use super::verdict::Verdict;

/// What one record brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The answer to who proposed it.
    pub verdict: Verdict,
    /// What the disk must be made to show, in order.
    pub effects: Vec<Effect>,
}

/// One thing for the performer to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Small files whose bytes lie in the WAL go into the attempt's tree.
    Unpack {
        /// The attempt.
        attempt: u64,
        /// Log index of the record whose payload holds the bytes.
        index: u64,
        /// Entry of the plan, offset in the payload in bytes, length in bytes.
        files: Vec<(u32, u32, u32)>,
        /// The pages of the plan that have these entries; none of a whole epoch, whose own record has them.
        pages: Vec<Page>,
    },
    /// A sealed epoch becomes a directory.
    Publish(PublishEpoch),
    /// An expired epoch's directory goes.
    Expire {
        /// The job.
        job: JobName,
        /// The epoch.
        epoch: u64,
        /// Content that nobody holds since this effect.
        released: Vec<Released>,
    },
    /// `latest` of a job points to its newest epoch that is none of these.
    Latest {
        /// The job.
        job: JobName,
        /// Its epochs that hold content in quarantine.
        avoid: BTreeSet<u64>,
    },
    /// No copy of this content that this node has is trusted for having been good once: each is read again before it
    /// is used again.
    Distrust {
        /// BLAKE3 of the content.
        digest: Digest,
    },
    /// This content is in quarantine no more: what was published here with a bad copy is linked to the good one.
    Heal {
        /// BLAKE3 of the content.
        digest: Digest,
        /// Its length.
        bytes: u64,
    },
    /// A job is forgotten: its folder, which is empty, goes.
    RemoveJob {
        /// The job.
        job: JobName,
    },
    /// An attempt ended without an epoch: what was derived from it goes. (What the log names stays.)
    Discard {
        /// The attempt.
        attempt: u64,
        /// Content that nobody holds since this effect.
        released: Vec<Released>,
    },
}

/// Content that nobody holds any more: its blobs may go once the log is purged past the record that did it. Lists
/// of it are sorted by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Released {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// Everything needed to publish an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishEpoch {
    /// The attempt that became the epoch.
    pub attempt: u64,
    /// The job.
    pub job: JobName,
    /// The epoch.
    pub epoch: u64,
    /// What stands in the manifest file before the tree.
    pub envelope: Envelope,
    /// The sealed tree; its root is the one in the verdict.
    pub manifest: Arc<Manifest>,
    /// For each entry of the manifest, where its bytes are.
    pub sources: Arc<Vec<Source>>,
}

//! What is to be committed, as the client ordered it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use checkpoint::{Choice, CommitId, Digest, JobName};
use client::wire;
use nativelog::record::{Kind, LogRecord, proto};

use crate::stores::Kept;

/// An epoch with at most so many bytes goes into the log as one record, whatever the mode of its job: three requests to a
/// store would cost more than its bytes, and it is on every node at once.
const TINY_IN_STORE_BYTES_MAX: u64 = 4 << 10;

/// What is to be committed.
#[derive(Debug, Clone)]
pub struct Order {
    /// The job.
    pub job: JobName,
    /// The epoch; the next one when absent.
    pub epoch: Option<u64>,
    /// The writer's token; absent joins the current writer.
    pub token: Option<u64>,
    /// Names this commit.
    pub commit_id: CommitId,
    /// A log index at which that id was not in use yet; absent until this node has found one for a new id.
    pub born: Option<u64>,
    /// Labels, for the manifest.
    pub labels: Vec<(String, String)>,
    /// Names of epochs that this one depends on.
    pub depends_on: Vec<String>,
    /// Fence all older writers first.
    pub take_over: bool,
    /// An epoch of this number that is there already is a success, whatever it holds.
    pub if_not_exists: bool,
    /// Which entries of the directory; of a stream, what is left to choose: everything.
    pub choice: Choice,
    /// Its files never change in place.
    pub immutable: bool,
    /// Time without progress after which the commit is given up.
    pub patience: Duration,
    /// Chunk size, bytes.
    pub chunk_bytes: u32,
    /// Sum of the sizes of the plan's files, bytes.
    pub declared_bytes: u64,
    /// Bytes of them that take room on a disk, at most: the rest are holes.
    pub stored_bytes: u64,
    /// Digest of the plan.
    pub plan_digest: Digest,
    /// Entries of the plan.
    pub plan_entries: u32,
    /// Pages of the plan.
    pub plan_pages: u32,
    /// The store that its content goes into; absent: into the log.
    pub store: Option<Arc<Kept>>,
    /// Its id, once the log has told it.
    pub store_id: Option<u64>,
}

impl Order {
    /// Whether the epoch travels as one record.
    pub fn is_tiny(&self) -> bool {
        wire::is_tiny_by(self.declared_bytes, self.plan_entries as usize, self.plan_pages as usize)
            && (self.store.is_none() || self.declared_bytes <= TINY_IN_STORE_BYTES_MAX)
    }

    /// Begin, or the same once more for an attempt that it has led to.
    pub(super) fn begin(&self, attempt: Option<u64>) -> proto::Begin {
        proto::Begin {
            job: self.job.to_string(),
            epoch: self.epoch,
            token: self.token,
            commit_id: Bytes::copy_from_slice(self.commit_id.as_bytes()),
            declared_bytes: self.declared_bytes,
            chunk_bytes: self.chunk_bytes,
            base: None,
            labels: self
                .labels
                .iter()
                .map(|(key, value)| proto::Label { key: key.clone(), value: value.clone() })
                .collect(),
            depends_on: self.depends_on.clone(),
            plan_digest: Bytes::copy_from_slice(self.plan_digest.as_bytes()),
            plan_pages: self.plan_pages,
            plan_entries: self.plan_entries,
            born: self.born.unwrap_or(0),
            attempt,
            stored_bytes: (self.stored_bytes < self.declared_bytes).then_some(self.stored_bytes),
            store: self.store_id,
        }
    }

    /// The record that brings out what has become of this commit.
    pub(super) fn first_record(&self) -> LogRecord {
        LogRecord::new(Kind::Begin(self.begin(None)), Bytes::new())
    }

    /// `commit job@epoch`, for people.
    pub fn name(&self) -> String {
        match self.epoch {
            Some(epoch) => format!("commit {}@{epoch}", self.job),
            None => format!("commit {}", self.job),
        }
    }
}

//! What the ledger keeps of a job: its writer, its mark, its sealed epochs, and the outcomes that
//! repeats of old commits must find again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::{CommitId, Digest, JobName};

use super::verdict::SealedEpoch;

/// Commit ids and ended attempts that a job remembers; older ones are forgotten.
pub const COMMITS_REMEMBERED: usize = 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// Log index of the newest OpenWriter; 0 when there was none.
    pub token: u64,
    /// High-water mark: the highest epoch ever sealed. Numbers at or below it are spent.
    pub mark: Option<u64>,
    /// Sealed epochs that are not expired.
    pub epochs: BTreeMap<u64, EpochRecord>,
    pub commits: Commits,
    /// Ids of the job's open attempts.
    pub open: BTreeSet<u64>,
    /// Ids of the job's ended attempts that are still remembered.
    pub ended: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EpochRecord {
    pub sealed: Arc<SealedEpoch>,
    pub base: Option<u64>,
    pub labels: Vec<(String, String)>,
    pub depends_on: Vec<String>,
    pub sealed_log_ms: u64,
    /// Ids of the content it holds, ascending.
    pub content: Box<[u32]>,
    /// By owner.
    pub pins: BTreeMap<String, PinRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PinRecord {
    pub reason: String,
    /// Log time in milliseconds at which the pin ends; `None` for never.
    pub until_ms: Option<u64>,
}

impl EpochRecord {
    /// The owner of a pin that holds at log time `now_ms`.
    pub fn pinned_by(&self, now_ms: u64) -> Option<&str> {
        let mut holding = self.pins.iter().filter(|(_, pin)| pin.until_ms.is_none_or(|end| end > now_ms));
        holding.next().map(|(owner, _)| owner.as_str())
    }
}

/// An attempt that is no longer open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub job: JobName,
    pub how: Ending,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// It became an epoch; kept beyond the epoch's expiry so that a repeat finds its outcome.
    Sealed {
        sealed: Arc<SealedEpoch>,
        plan_digest: Digest,
    },
    Aborted,
    /// A later epoch (or the same, sealed by another attempt) came first.
    Subsumed {
        by: u64,
    },
    Fenced,
    /// Its writer was silent for long, and another commit began the same epoch.
    Replaced,
}

/// What a commit id led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Writer { token: u64 },
    Attempt { id: u64 },
}

/// Commit ids and what they led to, bounded; the oldest go first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Commits {
    by_id: BTreeMap<CommitId, (u64, Outcome)>,
    by_age: BTreeMap<u64, CommitId>,
}

impl Commits {
    pub fn get(&self, id: &CommitId) -> Option<Outcome> {
        self.by_id.get(id).map(|(_, outcome)| *outcome)
    }

    /// Age (log index of the record that taught it) and outcome.
    pub fn row(&self, id: &CommitId) -> Option<(u64, Outcome)> {
        self.by_id.get(id).copied()
    }

    /// Remembers `id`, learned at log index `at`; answers with the id that is forgotten for it.
    pub fn remember(&mut self, id: CommitId, at: u64, outcome: Outcome) -> Option<CommitId> {
        if let Some((before, _)) = self.by_id.insert(id, (at, outcome)) {
            self.by_age.remove(&before);
        }
        assert!(self.by_age.insert(at, id).is_none(), "one record teaches one commit id");
        if self.by_age.len() <= COMMITS_REMEMBERED {
            return None;
        }
        let (_, oldest) = self.by_age.pop_first().expect("it is not empty");
        self.by_id.remove(&oldest);
        Some(oldest)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&CommitId, u64, Outcome)> {
        self.by_id.iter().map(|(id, (at, outcome))| (id, *at, *outcome))
    }

    pub fn knows_age(&self, at: u64) -> bool {
        self.by_age.contains_key(&at)
    }
}

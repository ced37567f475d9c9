//! What the ledger keeps of a job: its writer, its mark, its sealed epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::{CommitId, JobName};

use super::verdict::SealedEpoch;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// Log index of the record that made it: no other job ever has this number, not even one of the same name.
    pub number: u64,
    /// Log index of the newest OpenWriter; 0 when there was none.
    pub token: u64,
    /// High-water mark: the highest epoch ever sealed. Numbers at or below it are spent.
    pub mark: Option<u64>,
    /// Sealed epochs that are not expired, shared with the copies that snapshots are made of.
    pub epochs: BTreeMap<u64, Arc<EpochRecord>>,
    /// Ids of the job's open attempts.
    pub open: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EpochRecord {
    pub sealed: Arc<SealedEpoch>,
    /// The commit that sealed it: a repeat finds its outcome for as long as the epoch is there.
    pub commit: CommitId,
    /// Start of the plan's digest.
    pub plan: u64,
    pub base: Option<u64>,
    pub labels: Vec<(String, String)>,
    pub depends_on: Vec<String>,
    pub sealed_log_ms: u64,
    /// For people: the wall clock of the leader at the seal, milliseconds since 1970; 0 when it was not told.
    pub sealed_wall_ms: u64,
    /// Ids of the content it holds, ascending.
    pub content: Arc<[u32]>,
    /// By owner.
    pub pins: BTreeMap<String, PinRecord>,
    /// Of an epoch whose content lies in a store.
    pub stored: Option<StoredEpoch>,
}

/// Where an epoch lies that lies in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredEpoch {
    /// Log index of the record that named the store.
    pub store: u64,
    /// Number of the object of its manifest.
    pub manifest: u32,
    /// Some of its content was not in the store when it was sealed, but in the log.
    pub mixed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PinRecord {
    pub reason: String,
    /// Log time in milliseconds at which the pin ends; `None` for never.
    pub until_ms: Option<u64>,
}

impl EpochRecord {
    /// The owners of the pins that hold at log time `now_ms`. One that has ended may still be there for a moment.
    pub fn holding(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        let holding = self.pins.iter().filter(move |(_, pin)| pin.until_ms.is_none_or(|end| end > now_ms));
        holding.map(|(owner, _)| owner.as_str())
    }

    /// The owner of a pin that holds at log time `now_ms`.
    pub fn pinned_by(&self, now_ms: u64) -> Option<&str> {
        self.holding(now_ms).next()
    }
}

/// Pins that end, in the order in which they do: end in milliseconds of log time, job, epoch, owner.
pub(super) type EndingPins = BTreeSet<(u64, JobName, u64, String)>;

//! Which rows of the ledger changed since they were last asked for: what the catalog has to write.
//! Bookkeeping only; no verdict ever looks at it.

use std::collections::BTreeSet;

use checkpoint::JobName;

/// Names one row of the ledger, as it stands in a snapshot and in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// Position, rules, identity, members, log time.
    Meta,
    /// A job's token and mark.
    Job(JobName),
    /// A sealed epoch.
    Epoch(JobName, u64),
    /// The content that a sealed epoch holds.
    EpochContent(JobName, u64),
    /// A pin of an epoch by an owner.
    Pin(JobName, u64, String),
    /// Sealed content.
    Content(u32),
    /// An open attempt.
    Attempt(u64),
    /// A page of an open attempt's plan.
    Page(u64, u32),
    /// A file of an open attempt that was packed or reused whole.
    File(u64, u32),
    /// A covered range of a file of an open attempt, by its offset.
    Piece(u64, u32, u64),
    /// What became of a commit, by its number.
    Outcome(u64),
}

/// Rows that changed since the last drain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows to write anew, or to remove when the ledger has them no more.
    pub rows: BTreeSet<RowKey>,
    /// Attempts that ended: every row of theirs goes.
    pub attempts_gone: BTreeSet<u64>,
}

/// Changed rows, copied out of the ledger: see [`Changes`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedRows {
    /// Attempts that ended: every row of theirs goes, before the rest is written.
    pub attempts_gone: Vec<u64>,
    /// Keys and values; a key without a value goes.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Changes {
    pub(super) fn row(&mut self, key: RowKey) {
        self.rows.insert(key);
    }

    pub(super) fn attempt_gone(&mut self, id: u64) {
        self.attempts_gone.insert(id);
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.attempts_gone.is_empty()
    }
}

//! Which rows of the ledger changed since they were last asked for: what the catalog has to write.
//! Bookkeeping only; no verdict ever looks at it.

use std::collections::BTreeSet;

use super::rows::RowKey;

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

//! Which rows that people list have changed since the catalog was last written. Bookkeeping only; no verdict ever looks
//! at it.
//!
//! **Never** a row for every content, page, file or range: an epoch has up to a million of them, and nobody lists them.

use std::collections::BTreeSet;

use super::key::RowKey;

impl RowKey {
    /// Whether people list it: the catalog has these rows and no others.
    pub fn is_listed(&self) -> bool {
        matches!(self, RowKey::Meta | RowKey::Job(_) | RowKey::Epoch(..) | RowKey::Attempt(_))
    }
}

/// Listed rows that changed since they were last taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes(pub BTreeSet<RowKey>);

impl Changes {
    pub fn row(&mut self, key: RowKey) {
        if key.is_listed() {
            self.0.insert(key);
        }
    }
}

//! A store that a commit goes into.

use std::sync::Arc;

use uuid::Uuid;

use super::kept::Kept;

/// A store, as the log knows it.
#[derive(Debug, Clone)]
pub struct Bound {
    /// The store.
    pub kept: Arc<Kept>,
    /// Its id: log index of the record that named it.
    pub id: u64,
    /// The cluster, in its keys.
    pub cluster: Uuid,
}

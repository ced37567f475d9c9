//! Sizes of a log store.

use std::time::Duration;

/// Sizes of a log store.
#[derive(Debug, Clone)]
pub struct Options {
    /// A WAL segment is closed when it reaches this many bytes.
    pub segment_bytes: u64,
    /// Durable payloads kept in memory for replication, in bytes.
    pub cache_bytes: usize,
    /// The durable mark is written at least this often while there are writes.
    pub mark_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: 64 << 20, cache_bytes: 32 << 20, mark_interval: Duration::from_secs(1) }
    }
}

//! Sizes of a log store.

use std::time::Duration;

/// Sizes of a log store.
#[derive(Debug, Clone)]
pub struct Options {
    /// A WAL segment is closed when it reaches this many bytes.
    pub segment_bytes: u64,
    /// Durable payloads kept in memory for replication, in bytes.
    pub cache_bytes: usize,
    /// So far ahead of what is written a segment is filled with zeros, in bytes: an fsync of what is then written over them
    /// waits for no journal of the file system, nor for what others have there.
    pub ahead_bytes: u64,
    /// So much of that, in bytes, and as much in a spare segment, is kept for records that bring no content: they are
    /// written when the disk is full to the last byte.
    pub kept_bytes: u64,
    /// The durable mark is written at least this often while there are writes.
    pub mark_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            ahead_bytes: 512 << 10,
            kept_bytes: 256 << 10,
            mark_interval: Duration::from_secs(1),
        }
    }
}

//! Who owns a log, and how it has voted: what must never be forgotten.

use serde::{Deserialize, Serialize};

/// Who owns a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Node id.
    pub node: u64,
    /// Random, made once when the data folder was made.
    pub incarnation: [u8; 16],
}

/// A Raft vote, in this crate's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Vote {
    /// Term.
    pub term: u64,
    /// The candidate that was voted for.
    pub node: u64,
    /// A quorum granted it.
    pub committed: bool,
}

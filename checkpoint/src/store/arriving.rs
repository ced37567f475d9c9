//! What this process knows of files in `incoming/`.

use std::collections::HashMap;

use crate::digest::{Digest, FileHasher};

/// By digest: only one of each is brought at a time.
pub(super) type Arrivals = HashMap<Digest, Arriving>;

#[derive(Debug)]
pub(super) enum Arriving {
    /// Somebody is writing it.
    Open,
    Paused(Box<Pause>),
}

/// Where to go on.
#[derive(Debug)]
pub(super) struct Pause {
    /// So many bytes were written, and this is what they hash to.
    pub(super) written: u64,
    pub(super) hasher: FileHasher,
    /// The file's name was synced.
    pub(super) named: bool,
}

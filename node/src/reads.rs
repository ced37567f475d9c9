//! What all Fetch calls of a node share: which files were found intact lately.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::Digest;

/// Files that are remembered.
const FILES_MAX: usize = 4096;
/// For how long.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Reads of content on one node.
#[derive(Debug, Default)]
pub struct Reads {
    intact: Mutex<HashMap<State, (Digest, Instant)>>,
}

/// A file as it was when it was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    dev: u64,
    inode: u64,
    len: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl State {
    /// The state that `meta` tells.
    pub fn of(meta: &Metadata) -> State {
        State {
            dev: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Reads {
    /// Whether a file in this state had this content a short while ago: a client that comes back for the rest of
    /// a large file need not wait for its hash again.
    pub fn was_intact(&self, state: &State, digest: &Digest) -> bool {
        let intact = self.intact.lock().unwrap_or_else(PoisonError::into_inner);
        intact.get(state).is_some_and(|(known, when)| known == digest && when.elapsed() < REMEMBERED)
    }

    /// Remembers that a file in this state has this content.
    pub fn is_intact(&self, state: State, digest: Digest) {
        let mut intact = self.intact.lock().unwrap_or_else(PoisonError::into_inner);
        if intact.len() >= FILES_MAX {
            intact.retain(|_, (_, when)| when.elapsed() < REMEMBERED);
        }
        if intact.len() >= FILES_MAX {
            intact.clear();
        }
        intact.insert(state, (digest, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_remembered_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        let state = || State::of(&std::fs::metadata(&path).unwrap());
        let digest = checkpoint::digest::content(b"content");
        let reads = Reads::default();
        assert!(!reads.was_intact(&state(), &digest));
        reads.is_intact(state(), digest);
        assert!(reads.was_intact(&state(), &digest));
        assert!(!reads.was_intact(&state(), &checkpoint::digest::content(b"other")));
        std::fs::write(&path, b"longer content").unwrap();
        assert!(!reads.was_intact(&state(), &digest));
    }
}

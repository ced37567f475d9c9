//! Which blobs this process has read and found good. As long as name, inode, length and time of change stay, they are not
//! read again before they are used again.
//!
//! **Never** kept over a start. What was read here may have been in memory alone: after a power cut only what the device
//! returns exists, and after months at rest nobody knows. A start is when content that is reused has to be read once more;
//! that nobody waits for it is for `verifying` to see to.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};

use crate::digest::Digest;
use crate::disk::Stat;

// Marks of a generation; the last two are kept. So much was verified lately at least, and an epoch's million contents,
// read one after the other, are all known in the end. 10 bytes each.
const GENERATION_MAX: usize = 1 << 19;
// Digests that were found bad somewhere, before everything is forgotten. About 12 MiB; what is merely removed is none.
const FORGOTTEN_MAX: usize = 256 << 10;

/// Which inode of a content: digest, mode, number.
pub(super) type Key = (Digest, u32, u32);

/// What this process knows of blobs.
#[derive(Debug, Default)]
pub(super) struct Known {
    marks: Mutex<Marks>,
    // What stands for a blob in its state is 64 bits that nobody outside can aim at.
    secret: RandomState,
}

#[derive(Debug, Default)]
struct Marks {
    young: HashSet<u64>,
    old: HashSet<u64>,
    // How often a content was forgotten: marks made before do not fit any more.
    forgotten: BTreeMap<Digest, u32>,
    // How often everything was.
    cleared: u64,
}

impl Marks {
    fn token(&self, digest: &Digest) -> Token {
        Token { times: self.forgotten.get(digest).copied().unwrap_or_default(), cleared: self.cleared }
    }
}

/// How often a content was forgotten when somebody began to look at it. What was read before a copy was found bad says
/// nothing after it: such a read is not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    times: u32,
    cleared: u64,
}

impl Known {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().expect("a thread panicked while it remembered a blob")
    }

    fn mark(&self, key: &Key, stat: &Stat, times: u32) -> u64 {
        self.secret.hash_one((key, stat.ino, stat.len, stat.mtime_ns, times))
    }

    /// For [`Known::remember`]: taken before the blob is looked at.
    pub(super) fn token(&self, digest: &Digest) -> Token {
        self.marks().token(digest)
    }

    /// Notes what was read and found good, unless its content was forgotten since the token was taken.
    pub(super) fn remember(&self, key: Key, stat: &Stat, token: Token) {
        let mut marks = self.marks();
        if marks.token(&key.0) != token {
            return;
        }
        if marks.young.len() >= GENERATION_MAX {
            marks.old = std::mem::take(&mut marks.young);
        }
        let mark = self.mark(&key, stat, token.times);
        marks.young.insert(mark);
    }

    /// Every inode of this content is read again before it is used again.
    pub(super) fn forget(&self, digest: Digest) {
        let mut marks = self.marks();
        if marks.forgotten.len() >= FORGOTTEN_MAX && !marks.forgotten.contains_key(&digest) {
            *marks = Marks { cleared: marks.cleared + 1, ..Marks::default() };
        }
        *marks.forgotten.entry(digest).or_default() += 1;
    }

    /// This inode is about to lose its name. Nothing is wrong with the content: that takes no room among what was found bad.
    pub(super) fn leaves(&self, key: &Key, stat: &Stat) {
        let mut marks = self.marks();
        let mark = self.mark(key, stat, marks.token(&key.0).times);
        marks.young.remove(&mark);
        marks.old.remove(&mark);
    }

    /// Contents that were found bad.
    #[cfg(test)]
    pub(super) fn doubted(&self) -> usize {
        self.marks().forgotten.len()
    }

    pub(super) fn knows(&self, key: &Key, stat: &Stat) -> bool {
        let marks = self.marks();
        let mark = self.mark(key, stat, marks.token(&key.0).times);
        marks.young.contains(&mark) || marks.old.contains(&mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileKind;

    fn stat(ino: u64) -> Stat {
        Stat { kind: FileKind::File, mode: 0o644, len: 9, ino, links: 1, blocks: 8, mtime_ns: 5 }
    }

    fn key(n: u64) -> Key {
        (crate::digest::content(&n.to_le_bytes()), 0o644, 0)
    }

    /// As `key`, quickly.
    fn many(n: u64) -> Key {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        (Digest::from_bytes(bytes), 0o644, 0)
    }

    fn read(known: &Known, n: u64, ino: u64) {
        known.remember(key(n), &stat(ino), known.token(&key(n).0));
    }

    #[test]
    fn a_blob_is_known_in_the_state_in_which_it_was_read_until_its_content_is_forgotten() {
        let known = Known::default();
        read(&known, 1, 7);
        read(&known, 2, 8);
        // Another name of it changes nothing.
        assert!(known.knows(&key(1), &Stat { links: 2, ..stat(7) }));
        assert!(!known.knows(&key(1), &stat(8)), "another inode");
        assert!(!known.knows(&key(1), &Stat { len: 10, ..stat(7) }), "another length");
        assert!(!known.knows(&key(1), &Stat { mtime_ns: 6, ..stat(7) }), "written since");
        assert!(!known.knows(&(key(1).0, 0o600, 0), &stat(7)), "another mode");
        known.forget(key(1).0);
        assert!(!known.knows(&key(1), &stat(7)) && known.knows(&key(2), &stat(8)));
        read(&known, 1, 7);
        assert!(known.knows(&key(1), &stat(7)), "it was read again");
        // Also when everything is forgotten, nothing old is good again.
        for n in 0..FORGOTTEN_MAX as u64 {
            known.forget(many(n).0);
        }
        assert!(!known.knows(&key(1), &stat(7)) && !known.knows(&key(2), &stat(8)));
        assert!(known.marks().forgotten.len() <= FORGOTTEN_MAX);
    }

    #[test]
    fn what_loses_its_name_is_not_known_and_costs_the_others_nothing() {
        let known = Known::default();
        read(&known, 1, 7);
        read(&known, 1, 8);
        read(&known, 2, 9);
        known.leaves(&key(1), &stat(7));
        assert!(!known.knows(&key(1), &stat(7)));
        assert!(known.knows(&key(1), &stat(8)), "another inode of this content stays");
        for n in 0..10 + FORGOTTEN_MAX as u64 {
            known.leaves(&many(n), &stat(n));
        }
        assert!(known.knows(&key(2), &stat(9)), "however many go, the others stay known");
        assert!(known.marks().forgotten.is_empty());
    }

    #[test]
    fn a_read_that_began_before_a_copy_was_found_bad_is_not_remembered() {
        let known = Known::default();
        let token = known.token(&key(1).0);
        known.forget(key(1).0);
        known.remember(key(1), &stat(7), token);
        assert!(!known.knows(&key(1), &stat(7)));
        // Nor where everything was forgotten meanwhile, and with it how often this was.
        let token = known.token(&key(2).0);
        for n in 0..FORGOTTEN_MAX as u64 {
            known.forget(many(n).0);
        }
        assert!(known.token(&key(2).0) != token);
        known.remember(key(2), &stat(8), token);
        assert!(!known.knows(&key(2), &stat(8)));
        read(&known, 2, 8);
        assert!(known.knows(&key(2), &stat(8)));
    }

    #[test]
    fn the_contents_of_a_largest_epoch_are_all_known_once_they_were_read() {
        let known = Known::default();
        let read = |n: u64, ino| known.remember(many(n), &stat(ino), known.token(&many(n).0));
        for n in 0..crate::limits::FILES_MAX_DEFAULT {
            read(n, n);
        }
        assert!((0..crate::limits::FILES_MAX_DEFAULT).all(|n| known.knows(&many(n), &stat(n))));
        for n in 0..3 * GENERATION_MAX as u64 {
            read(1 << 40 | n, n);
        }
        assert!(!known.knows(&many(0), &stat(0)), "and there is an end to it");
        let marks = known.marks();
        assert!(marks.young.len() + marks.old.len() <= 2 * GENERATION_MAX);
    }
}

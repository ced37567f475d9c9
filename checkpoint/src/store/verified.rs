//! Which blobs this process has read and found good. As long as name, inode, length and time of change stay, they are not
//! read again before they are used again.
//!
//! **Never** kept over a start. What was read here may have been in memory alone: after a power cut only what the device
//! returns exists, and after months at rest nobody knows. A start is when content that is reused has to be read once more;
//! that nobody waits for it is for [`super::verifying`] to see to.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};

use super::blobs::Key;
use crate::digest::Digest;
use crate::disk::Stat;

// Marks of a generation; the last two are kept. So much was verified lately at least, and an epoch's million contents,
// read one after the other, are all known in the end. 10 bytes each.
const GENERATION_MAX: usize = 1 << 19;
// Digests that were forgotten, before everything is.
const FORGOTTEN_MAX: usize = 4096;

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
}

impl Known {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().expect("a thread panicked while it remembered a blob")
    }

    fn mark(&self, marks: &Marks, key: &Key, stat: &Stat) -> u64 {
        let times = marks.forgotten.get(&key.0).copied().unwrap_or_default();
        self.secret.hash_one((key, stat.ino, stat.len, stat.mtime_ns, times))
    }

    pub(super) fn remember(&self, key: Key, stat: &Stat) {
        let mut marks = self.marks();
        if marks.young.len() >= GENERATION_MAX {
            marks.old = std::mem::take(&mut marks.young);
        }
        let mark = self.mark(&marks, &key, stat);
        marks.young.insert(mark);
    }

    /// Every inode of this content is read again before it is used again.
    pub(super) fn forget(&self, digest: Digest) {
        let mut marks = self.marks();
        if marks.forgotten.len() >= FORGOTTEN_MAX {
            *marks = Marks::default();
        }
        *marks.forgotten.entry(digest).or_default() += 1;
    }

    pub(super) fn knows(&self, key: &Key, stat: &Stat) -> bool {
        let marks = self.marks();
        let mark = self.mark(&marks, key, stat);
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

    #[test]
    fn a_blob_is_known_in_the_state_in_which_it_was_read_until_its_content_is_forgotten() {
        let known = Known::default();
        known.remember(key(1), &stat(7));
        known.remember(key(2), &stat(8));
        // Another name of it changes nothing.
        assert!(known.knows(&key(1), &Stat { links: 2, ..stat(7) }));
        assert!(!known.knows(&key(1), &stat(8)), "another inode");
        assert!(!known.knows(&key(1), &Stat { len: 10, ..stat(7) }), "another length");
        assert!(!known.knows(&key(1), &Stat { mtime_ns: 6, ..stat(7) }), "written since");
        assert!(!known.knows(&(key(1).0, 0o600, 0), &stat(7)), "another mode");
        known.forget(key(1).0);
        assert!(!known.knows(&key(1), &stat(7)) && known.knows(&key(2), &stat(8)));
        known.remember(key(1), &stat(7));
        assert!(known.knows(&key(1), &stat(7)), "it was read again");
        // Also when everything is forgotten, nothing old is good again.
        for n in 0..FORGOTTEN_MAX as u64 {
            known.forget(key(100 + n).0);
        }
        assert!(!known.knows(&key(1), &stat(7)) && !known.knows(&key(2), &stat(8)));
        assert!(known.marks().forgotten.len() <= FORGOTTEN_MAX);
    }

    #[test]
    fn the_contents_of_a_largest_epoch_are_all_known_once_they_were_read() {
        let known = Known::default();
        let key = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            (Digest::from_bytes(bytes), 0o644, 0)
        };
        for n in 0..crate::limits::FILES_MAX_DEFAULT {
            known.remember(key(n), &stat(n));
        }
        assert!((0..crate::limits::FILES_MAX_DEFAULT).all(|n| known.knows(&key(n), &stat(n))));
        for n in 0..3 * GENERATION_MAX as u64 {
            known.remember(key(1 << 40 | n), &stat(n));
        }
        assert!(!known.knows(&key(0), &stat(0)), "and there is an end to it");
        let marks = known.marks();
        assert!(marks.young.len() + marks.old.len() <= 2 * GENERATION_MAX);
    }
}

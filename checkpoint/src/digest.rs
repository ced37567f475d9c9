//! Digests: BLAKE3 and its tree. A piece of a file carries the value of its
//! subtree, and the subtree values of all pieces merge into the file's real
//! BLAKE3, the one that `b3sum` prints. Nothing else in the project hashes.
//!
//! Zeros are not hashed run by run: `zeros` knows the values of long ones, and [`FileHasher`] takes them by their
//! length, so that a file costs what its data cost and not what its holes do.

#[cfg(any(test, feature = "testing"))]
mod counted;
mod file;
mod zeros;

#[cfg(any(test, feature = "testing"))]
pub use counted::hashed_bytes;
pub use file::FileHasher;
pub use zeros::zeros;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{self, HasherExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::epoch::unhex;

/// 32 bytes of BLAKE3: of a whole content, or of one subtree of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct DigestError;

impl Digest {
    /// What entries without content carry: all zero bytes.
    pub const NONE: Digest = Digest([0; 32]);

    /// A digest of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// A digest of 32 bytes; `None` for another length.
    pub fn from_slice(bytes: &[u8]) -> Option<Digest> {
        bytes.try_into().ok().map(Digest)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        unhex(text).map(Digest).ok_or(DigestError)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The BLAKE3 of a whole content.
pub fn content(data: &[u8]) -> Digest {
    count(data);
    Digest(*blake3::hash(data).as_bytes())
}

/// Tests ask how much was hashed.
fn count(_data: &[u8]) {
    #[cfg(any(test, feature = "testing"))]
    counted::count(_data.len());
}

/// First half of the BLAKE3 of the parts end to end: the checksum of frames.
pub fn checksum(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sum
}

/// Whether `[offset, offset + len)` of a file of `file_len` bytes is one
/// subtree of its BLAKE3 tree: a power-of-two run aligned to its own length, or
/// what such a run holds at the end of the file.
pub fn is_subtree(file_len: u64, offset: u64, len: u64) -> bool {
    let Some(end) = offset.checked_add(len) else { return false };
    if len == 0 || end > file_len || !offset.is_multiple_of(blake3::CHUNK_LEN as u64) {
        return len == 0 && file_len == 0 && offset == 0;
    }
    if end == file_len {
        return offset == 0 || len <= 1 << offset.trailing_zeros();
    }
    len.is_power_of_two() && len >= blake3::CHUNK_LEN as u64 && offset.is_multiple_of(len)
}

/// The value of the subtree `data` at `offset` of a file of `file_len` bytes;
/// the file's digest when it covers the whole file.
///
/// # Panics
/// When the range is no subtree (see [`is_subtree`]).
pub fn subtree(file_len: u64, offset: u64, data: &[u8]) -> Digest {
    let len = data.len() as u64;
    assert!(is_subtree(file_len, offset, len), "{offset}+{len} of {file_len} is no subtree");
    if offset == 0 && len == file_len {
        return content(data);
    }
    count(data);
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(data);
    Digest(hasher.finalize_non_root())
}

/// Whether every byte is zero.
pub fn is_zero(data: &[u8]) -> bool {
    // In lanes of 64 bytes, so that the compiler makes wide compares of it.
    let mut lanes = data.chunks_exact(64);
    lanes.all(|lane| lane.iter().fold(0, |seen, b| seen | b) == 0) && {
        lanes.remainder().iter().all(|b| *b == 0)
    }
}

/// An incremental hash of a content that is no file, or a small one: [`FileHasher`] is for what may have holes.
#[derive(Clone, Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// An empty one.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of everything taken so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Why a subtree value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The range is no subtree of the file at this chunk size.
    #[error("the range is no aligned run of chunks of this file")]
    NoSubtree,
    /// Part of the range was there before.
    #[error("the range overlaps one that is there already")]
    Overlap,
}

/// Merges the subtree values of one file, in any order, into the file's digest.
/// Holds one value per gap-free run: a few when they come in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestTree {
    file_len: u64,
    chunk_bytes: u64,
    // By offset: length and value of subtrees that do not merge yet.
    runs: BTreeMap<u64, (u64, Digest)>,
}

impl DigestTree {
    /// A tree of a file of `file_len` bytes whose pieces are runs of chunks of
    /// `chunk_bytes` (a power of two from 1024 on).
    ///
    /// # Panics
    /// When `chunk_bytes` is no such power of two.
    pub fn new(file_len: u64, chunk_bytes: u32) -> DigestTree {
        assert!(chunk_bytes.is_power_of_two() && chunk_bytes as usize >= blake3::CHUNK_LEN);
        let mut runs = BTreeMap::new();
        if file_len == 0 {
            runs.insert(0, (0, content(&[])));
        }
        DigestTree { file_len, chunk_bytes: u64::from(chunk_bytes), runs }
    }

    /// Takes the value of `[offset, offset + len)`, as [`subtree`] makes it.
    pub fn insert(&mut self, offset: u64, len: u64, digest: Digest) -> Result<(), TreeError> {
        let aligned = offset.is_multiple_of(self.chunk_bytes)
            && (len.is_multiple_of(self.chunk_bytes) || offset.checked_add(len) == Some(self.file_len));
        if len == 0 || !aligned || !is_subtree(self.file_len, offset, len) {
            return Err(TreeError::NoSubtree);
        }
        let before = self.runs.range(..offset + len).next_back();
        if before.is_some_and(|(at, (run, _))| at + run > offset) {
            return Err(TreeError::Overlap);
        }
        self.put(offset, len, digest);
        Ok(())
    }

    // Adds a run and merges it with its sibling as long as that is there.
    fn put(&mut self, mut offset: u64, mut len: u64, mut digest: Digest) {
        loop {
            if offset == 0 && len == self.file_len {
                break;
            }
            // The span of the full subtree that this run is, or would be but for the end of the file.
            let span = len.next_power_of_two().max(self.chunk_bytes);
            if offset & span != 0 {
                // A right child: its left sibling is a full span, and this one must be whole to merge.
                let left_at = offset - span;
                match self.runs.get(&left_at) {
                    Some((left, value)) if *left == span => {
                        let value = *value;
                        self.runs.remove(&left_at);
                        digest = self.merge(left_at, span + len, value, digest);
                        (offset, len) = (left_at, span + len);
                    }
                    // At the end of the file the sibling may be wider than this run's own span.
                    _ => match self.wider_left(offset, len) {
                        Some((left_at, value)) => {
                            self.runs.remove(&left_at);
                            let whole = offset - left_at + len;
                            digest = self.merge(left_at, whole, value, digest);
                            (offset, len) = (left_at, whole);
                        }
                        None => break,
                    },
                }
            } else if let Some((left_at, value)) = self.wider_left(offset, len) {
                self.runs.remove(&left_at);
                let whole = offset - left_at + len;
                digest = self.merge(left_at, whole, value, digest);
                (offset, len) = (left_at, whole);
            } else {
                // A left child: the right sibling is a full span or reaches the end of the file.
                let right_at = offset + len;
                match self.runs.get(&right_at) {
                    Some((right, value))
                        if len == span
                            && (*right == span || (*right < span && right_at + right == self.file_len)) =>
                    {
                        let (right, value) = (*right, *value);
                        self.runs.remove(&right_at);
                        digest = self.merge(offset, len + right, digest, value);
                        len += right;
                    }
                    _ => break,
                }
            }
        }
        self.runs.insert(offset, (len, digest));
    }

    // The left sibling of a run that reaches the end of the file, when it is
    // there: the run before it, full, aligned to twice its length, not shorter.
    fn wider_left(&self, offset: u64, len: u64) -> Option<(u64, Digest)> {
        if offset + len != self.file_len {
            return None;
        }
        let (at, (left, value)) = self.runs.range(..offset).next_back()?;
        let sibling =
            at + left == offset && left.is_power_of_two() && at.is_multiple_of(2 * left) && len <= *left;
        sibling.then_some((*at, *value))
    }

    fn merge(&self, offset: u64, len: u64, left: Digest, right: Digest) -> Digest {
        if offset == 0 && len == self.file_len {
            return Digest(*hazmat::merge_subtrees_root(&left.0, &right.0, hazmat::Mode::Hash).as_bytes());
        }
        Digest(hazmat::merge_subtrees_non_root(&left.0, &right.0, hazmat::Mode::Hash))
    }

    /// The file's digest once everything is there.
    pub fn finish(&self) -> Option<Digest> {
        self.runs.get(&0).filter(|(len, _)| *len == self.file_len).map(|(_, digest)| *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn subtrees_in_any_order_make_the_whole(
            len in 0usize..40_000,
            chunk_log in 10u32..14,
            order in proptest::collection::vec(any::<u32>(), 64),
            runs in proptest::collection::vec(0u32..4, 64),
        ) {
            let data = pattern(len);
            let chunk = 1usize << chunk_log;
            let mut tree = DigestTree::new(len as u64, chunk as u32);
            let mut pieces = Vec::new();
            let (mut at, mut turn) = (0, 0);
            while at < len {
                let mut run = chunk << runs[turn % runs.len()];
                while !at.is_multiple_of(run) {
                    run /= 2;
                }
                let run = run.min(len - at);
                pieces.push((order[turn % order.len()], at, run));
                at += run;
                turn += 1;
            }
            pieces.sort();
            for (_, at, run) in &pieces {
                let value = subtree(len as u64, *at as u64, &data[*at..at + run]);
                prop_assert_eq!(tree.insert(*at as u64, *run as u64, value), Ok(()));
                prop_assert!(tree.insert(*at as u64, *run as u64, value).is_err());
            }
            prop_assert_eq!(tree.finish(), Some(content(&data)));
            prop_assert_eq!(tree.runs.len(), 1);
        }
    }

    #[test]
    fn in_order_it_stays_small() {
        let mut tree = DigestTree::new(1000 * 1024, 1024);
        for chunk in 0..1000 {
            tree.insert(chunk * 1024, 1024, zeros(1000 * 1024, chunk * 1024, 1024)).unwrap();
            assert!(tree.runs.len() <= 11);
        }
        assert_eq!(tree.finish(), Some(content(&vec![0; 1000 * 1024])));
    }

    #[test]
    fn ranges_that_are_no_subtrees_are_refused() {
        let mut tree = DigestTree::new(10_000, 1024);
        for (offset, len) in [
            (0, 0),
            (1, 1024),
            (0, 1000),
            (0, 3072),
            (1024, 2048),
            (9216, 785),
            (1 << 60, 1024),
            (u64::MAX, 2),
        ] {
            assert_eq!(tree.insert(offset, len, Digest::NONE), Err(TreeError::NoSubtree), "{offset}+{len}");
        }
        assert_eq!(tree.finish(), None);
        assert_eq!(zeros(100, 0, 100), content(&[0; 100]));
        assert_eq!(DigestTree::new(0, 1024).finish(), Some(content(&[])));
        assert!(is_zero(&[0; 1000]) && !is_zero(&[&[0u8; 999][..], &[1]].concat()) && is_zero(&[]));
    }
}

//! What an object holds: where its bytes come from, and the values by which every range of them is known again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::Digest;
use checkpoint::digest::{self, DigestTree};
use crc_fast::CrcAlgorithm;

use crate::limits::{LEAF_BYTES, OBJECT_BYTES_MAX};

/// Where the bytes of an object come from. They must stay the same from the plan to the end of the upload: each leaf
/// is compared with the plan before it is sent. The calls may block; they are made on blocking threads.
pub trait Source: Send + Sync + 'static {
    /// Length, bytes.
    fn len_bytes(&self) -> u64;
    /// Exactly the bytes `[offset, offset + len)`.
    fn read(&self, offset: u64, len: u64) -> io::Result<Bytes>;
}

impl Source for Bytes {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len_bytes());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.slice(offset as usize..end as usize))
    }
}

/// An object before it is written and after: its length, its digest and the values of its leaves. A reader takes the
/// leaves from a manifest; they are checked against the digest once, and each leaf of bytes against its value then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPlan {
    len: u64,
    digest: Digest,
    leaf_bytes: u64,
    leaves: Arc<[Digest]>,
}

/// Leaves that do not make the digest, or more bytes than an object may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the leaves do not make an object of this length and digest")]
pub struct NoObject;

impl ObjectPlan {
    /// Reads all of `source` once. Blocks.
    ///
    /// # Errors
    /// Those of the source, and `InvalidInput` when it is longer than [`OBJECT_BYTES_MAX`].
    pub fn of(source: &dyn Source) -> io::Result<ObjectPlan> {
        ObjectPlan::by_leaves_of(source, LEAF_BYTES)
    }

    /// With smaller leaves than [`LEAF_BYTES`] (a power of two of at least 1024), for tests.
    #[doc(hidden)]
    pub fn by_leaves_of(source: &dyn Source, leaf_bytes: u64) -> io::Result<ObjectPlan> {
        let len = source.len_bytes();
        if len > OBJECT_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{len} bytes are more than one object holds ({OBJECT_BYTES_MAX})"),
            ));
        }
        let mut leaves = Vec::with_capacity(leaf_count(len, leaf_bytes));
        for offset in (0..len).step_by(leaf_bytes as usize) {
            let take = leaf_bytes.min(len - offset);
            leaves.push(digest::subtree(len, offset, &source.read(offset, take)?));
        }
        let digest = root(len, leaf_bytes, &leaves).expect("leaves of the whole length make a root");
        Ok(ObjectPlan { len, digest, leaf_bytes, leaves: leaves.into() })
    }

    /// Of what somebody else says.
    ///
    /// # Errors
    /// When the leaves do not make this digest.
    pub fn from_leaves(len: u64, digest: Digest, leaves: Vec<Digest>) -> Result<ObjectPlan, NoObject> {
        let fits = len <= OBJECT_BYTES_MAX && leaves.len() == leaf_count(len, LEAF_BYTES);
        if !fits || root(len, LEAF_BYTES, &leaves) != Some(digest) {
            return Err(NoObject);
        }
        Ok(ObjectPlan { len, digest, leaf_bytes: LEAF_BYTES, leaves: leaves.into() })
    }

    /// The values of the leaves end to end: with length and digest all that a reader must know.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.leaves.iter().flat_map(|leaf| *leaf.as_bytes()).collect()
    }

    /// Of what [`ObjectPlan::to_bytes`] gave.
    ///
    /// # Errors
    /// When the leaves do not make this digest.
    pub fn from_bytes(len: u64, digest: Digest, leaves: &[u8]) -> Result<ObjectPlan, NoObject> {
        let (leaves, rest) = leaves.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(NoObject);
        }
        ObjectPlan::from_leaves(len, digest, leaves.iter().copied().map(Digest::from_bytes).collect())
    }

    /// Length, bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// BLAKE3 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The values of the leaves, in order; none of an empty object.
    pub fn leaves(&self) -> &[Digest] {
        &self.leaves
    }

    /// Where leaf `index` lies: offset and length, bytes.
    pub fn leaf_range(&self, index: usize) -> (u64, u64) {
        let offset = index as u64 * self.leaf_bytes;
        (offset, self.leaf_bytes.min(self.len - offset))
    }

    /// The leaf that holds the byte at `offset`.
    pub fn leaf_at(&self, offset: u64) -> usize {
        (offset / self.leaf_bytes) as usize
    }

    /// Whether these are the bytes of leaf `index`.
    pub fn is_leaf(&self, index: usize, data: &[u8]) -> bool {
        let (offset, len) = self.leaf_range(index);
        data.len() as u64 == len && digest::subtree(self.len, offset, data) == self.leaves[index]
    }
}

fn leaf_count(len: u64, leaf_bytes: u64) -> usize {
    len.div_ceil(leaf_bytes) as usize
}

fn root(len: u64, leaf_bytes: u64, leaves: &[Digest]) -> Option<Digest> {
    let mut tree = DigestTree::new(len, leaf_bytes as u32);
    for (index, leaf) in leaves.iter().enumerate() {
        let offset = index as u64 * leaf_bytes;
        tree.insert(offset, leaf_bytes.min(len.checked_sub(offset)?), *leaf).ok()?;
    }
    tree.finish()
}

/// The checksums that stores report of whole objects, made leaf by leaf and combined: CRC-64/NVME (S3) and CRC-32C
/// (Google). Both are linear, so the value of a concatenation follows from those of its parts and their lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub crc64: u64,
    pub crc32c: u32,
}

impl Sums {
    pub(crate) fn of(data: &[u8]) -> Sums {
        Sums {
            crc64: crc_fast::checksum(CrcAlgorithm::Crc64Nvme, data),
            crc32c: crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, data) as u32,
        }
    }

    /// Of the bytes so far followed by `next_len` bytes whose sums are `next`.
    pub(crate) fn then(self, next: Sums, next_len: u64) -> Sums {
        let crc64 = crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, self.crc64, next.crc64, next_len);
        let crc32c = crc_fast::checksum_combine(
            CrcAlgorithm::Crc32Iscsi,
            u64::from(self.crc32c),
            u64::from(next.crc32c),
            next_len,
        );
        Sums { crc64, crc32c: crc32c as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(len: usize) -> Bytes {
        (0..len).map(|i| (i * 31 + i / 251) as u8).collect::<Vec<u8>>().into()
    }

    #[test]
    fn a_plan_knows_every_leaf_and_the_whole() {
        for len in [0, 1, 1023, 1024, 1025, 2048, 3000, 3 * 1024 + 1] {
            let data = pattern(len);
            let plan = ObjectPlan::by_leaves_of(&data, 1024).unwrap();
            assert_eq!(plan.digest(), digest::content(&data), "{len}");
            assert_eq!(plan.leaves().len(), len.div_ceil(1024));
            for index in 0..plan.leaves().len() {
                let (offset, take) = plan.leaf_range(index);
                let mut leaf = data[offset as usize..(offset + take) as usize].to_vec();
                assert!(plan.is_leaf(index, &leaf));
                assert_eq!(plan.leaf_at(offset + take - 1), index);
                assert!(!plan.is_leaf(index, &leaf[1..]));
                leaf[0] ^= 1;
                assert!(!plan.is_leaf(index, &leaf));
            }
        }
    }

    #[test]
    fn leaves_of_something_else_make_no_object() {
        let data = pattern(5000);
        let plan = ObjectPlan::of(&data).unwrap();
        let leaves = plan.leaves().to_vec();
        assert_eq!(ObjectPlan::from_leaves(5000, plan.digest(), leaves.clone()), Ok(plan.clone()));
        assert_eq!(ObjectPlan::from_leaves(4999, Digest::NONE, leaves.clone()), Err(NoObject));
        assert_eq!(ObjectPlan::from_leaves(5000, plan.digest(), vec![]), Err(NoObject));
        assert_eq!(ObjectPlan::from_leaves(u64::MAX, plan.digest(), leaves), Err(NoObject));
        assert!(ObjectPlan::from_leaves(0, digest::content(&[]), vec![]).is_ok());
        let long = pattern(LEAF_BYTES as usize + 5);
        let plan = ObjectPlan::of(&long).unwrap();
        let bytes = plan.to_bytes();
        assert_eq!(bytes.len(), 2 * 32);
        assert_eq!(ObjectPlan::from_bytes(plan.len_bytes(), plan.digest(), &bytes), Ok(plan.clone()));
        assert_eq!(ObjectPlan::from_bytes(plan.len_bytes(), plan.digest(), &bytes[1..]), Err(NoObject));
        assert_eq!(ObjectPlan::from_bytes(plan.len_bytes() - 5, plan.digest(), &bytes[..32]), Err(NoObject));
        // Values know no lengths: one that is wrong within the last leaf is found by that leaf's bytes.
        let short = ObjectPlan::from_bytes(plan.len_bytes() - 1, plan.digest(), &bytes).unwrap();
        let (at, len) = short.leaf_range(1);
        assert!(!short.is_leaf(1, &long[at as usize..(at + len) as usize]));
    }

    #[test]
    fn sums_of_parts_make_the_sum_of_the_whole() {
        assert_eq!(Sums::of(b"123456789"), Sums { crc64: 0xae8b_1486_0a79_9888, crc32c: 0xe306_9283 });
        let data = pattern(10_000);
        let mut sums = Sums::of(&[]);
        for part in data.chunks(999) {
            sums = sums.then(Sums::of(part), part.len() as u64);
        }
        assert_eq!(sums, Sums::of(&data));
    }
}

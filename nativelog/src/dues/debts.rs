//! What this node still owes the records up to a position: never replicated, different on every node.
//!
//! A snapshot stands for all records below it, so whatever of their effects is not on this disk must be
//! written down with it, or a start from it would forget the rest. Encoded inside a snapshot file, which has a digest
//! over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::{Digest, JobName};

use super::epoch::{EpochKey, Origin};
use crate::ledger::PublishEpoch;

const VERSION: u8 = 4;

/// Content that nobody holds and whose blobs may lie here, or that is out of quarantine and may have names here that lead to
/// a bad copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// Log index of the record that released it or ended its quarantine, the newest if there were several.
    pub index: u64,
    /// Its length.
    pub bytes: u64,
}

/// A payload in the log that holds small files of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Log index of the record.
    pub index: u64,
    /// Entry of the plan, offset in the payload in bytes, length in bytes.
    pub files: Vec<(u32, u32, u32)>,
}

/// A sealed epoch that could not be published here so far. Its tree lies in a file (`trees`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpublished {
    /// The job.
    pub job: JobName,
    /// The epoch.
    pub epoch: u64,
    /// Which epoch of that number.
    pub origin: Origin,
    /// Why not.
    pub why: String,
    /// Log index of the record that expired it since.
    pub expired: Option<u64>,
}

impl Unpublished {
    /// This epoch, and why it could not be published.
    pub fn of(epoch: &PublishEpoch, why: String) -> Unpublished {
        let origin = Origin::of(&epoch.envelope);
        Unpublished { job: epoch.job.clone(), epoch: epoch.epoch, origin, why, expired: None }
    }

    /// Job and epoch.
    pub fn key(&self) -> EpochKey {
        (self.job.clone(), self.epoch)
    }
}

/// Everything that is owed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Debts {
    /// Content to unlink.
    pub released: BTreeMap<Digest, Owed>,
    /// Epochs to publish, by attempt.
    pub unpublished: Vec<Unpublished>,
    /// Attempts whose tree lacks files, and the packs that hold them.
    pub half_unpacked: BTreeMap<u64, Vec<Arc<Pack>>>,
    /// Expired epochs whose folder could not be removed, with the index of the record.
    pub expiring: BTreeMap<(JobName, u64), u64>,
    /// Content whose names here have to lead to a good copy.
    pub healing: BTreeMap<Digest, Owed>,
}

impl Debts {
    /// The bytes; big-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Put(vec![VERSION]);
        out.contents(&self.released);
        out.u64(self.unpublished.len() as u64);
        for Unpublished { job, epoch, origin, why, expired } in &self.unpublished {
            out.bytes(job.as_str().as_bytes()).u64(*epoch);
            out.u64(origin.attempt).u64(origin.sealed_at).raw(origin.root.as_bytes());
            out.bytes(why.as_bytes()).u64(expired.map_or(0, |index| index + 1));
        }
        out.u64(self.half_unpacked.len() as u64);
        for (attempt, packs) in &self.half_unpacked {
            out.u64(*attempt).u64(packs.len() as u64);
            for pack in packs {
                out.u64(pack.index).u64(pack.files.len() as u64);
                for (file, offset, len) in &pack.files {
                    out.u32(*file).u32(*offset).u32(*len);
                }
            }
        }
        out.u64(self.expiring.len() as u64);
        for ((job, epoch), index) in &self.expiring {
            out.bytes(job.as_str().as_bytes()).u64(*epoch).u64(*index);
        }
        out.contents(&self.healing);
        out.0
    }

    /// Reads what [`Debts::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Debts> {
        let mut read = Take(bytes);
        if read.array::<1>()? != [VERSION] {
            return None;
        }
        let mut debts = Debts { released: read.contents()?, ..Debts::default() };
        for _ in 0..read.u64()? {
            debts.unpublished.push(read.unpublished()?);
        }
        for _ in 0..read.u64()? {
            let attempt = read.u64()?;
            let packs = (0..read.u64()?).map(|_| read.pack().map(Arc::new)).collect::<Option<_>>()?;
            debts.half_unpacked.insert(attempt, packs);
        }
        for _ in 0..read.u64()? {
            debts.expiring.insert((read.job()?, read.u64()?), read.u64()?);
        }
        debts.healing = read.contents()?;
        read.0.is_empty().then_some(debts)
    }
}

/// Bytes that are put together; big-endian.
pub(super) struct Put(pub Vec<u8>);

impl Put {
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u64(bytes.len() as u64).raw(bytes)
    }
    fn contents(&mut self, contents: &BTreeMap<Digest, Owed>) {
        self.u64(contents.len() as u64);
        for (digest, owed) in contents {
            self.raw(digest.as_bytes()).u64(owed.index).u64(owed.bytes);
        }
    }
}

/// The rest of what [`Put`] made.
pub(super) struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u64()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
    fn job(&mut self) -> Option<JobName> {
        JobName::try_from(self.text()?).ok()
    }
    fn contents(&mut self) -> Option<BTreeMap<Digest, Owed>> {
        let mut contents = BTreeMap::new();
        for _ in 0..self.u64()? {
            let digest = Digest::from_bytes(self.array()?);
            contents.insert(digest, Owed { index: self.u64()?, bytes: self.u64()? });
        }
        Some(contents)
    }
    fn pack(&mut self) -> Option<Pack> {
        let index = self.u64()?;
        let mut files = Vec::new();
        for _ in 0..self.u64()? {
            files.push((self.u32()?, self.u32()?, self.u32()?));
        }
        Some(Pack { index, files })
    }
    fn unpublished(&mut self) -> Option<Unpublished> {
        let (job, epoch) = (self.job()?, self.u64()?);
        let (attempt, sealed_at) = (self.u64()?, self.u64()?);
        let origin = Origin { attempt, sealed_at, root: Digest::from_bytes(self.array()?) };
        let why = self.text()?.to_owned();
        Some(Unpublished { job, epoch, origin, why, expired: self.u64()?.checked_sub(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Debts {
        let job = JobName::try_from("job").unwrap();
        let digest = checkpoint::digest::content(b"abc");
        let origin = Origin { attempt: 7, sealed_at: 9, root: digest };
        let (why, expired) = ("no room".to_owned(), Some(0));
        Debts {
            released: BTreeMap::from([(digest, Owed { index: 5, bytes: 3 })]),
            unpublished: vec![Unpublished { job: job.clone(), epoch: 3, origin, why, expired }],
            half_unpacked: BTreeMap::from([(7, vec![Arc::new(Pack { index: 8, files: vec![(1, 0, 3)] })])]),
            expiring: BTreeMap::from([((job, 2), 11)]),
            healing: BTreeMap::from([(digest, Owed { index: 10, bytes: 3 })]),
        }
    }

    #[test]
    fn debts_come_back_as_they_were() {
        for debts in [Debts::default(), example()] {
            assert_eq!(Debts::decode(&debts.encode()), Some(debts));
        }
    }

    #[test]
    fn debts_that_are_cut_or_longer_are_none() {
        let whole = example().encode();
        for len in 0..whole.len() {
            assert_eq!(Debts::decode(&whole[..len]), None, "{len}");
        }
        assert_eq!(Debts::decode(&[&whole[..], &[0]].concat()), None);
    }
}

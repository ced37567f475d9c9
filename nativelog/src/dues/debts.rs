//! What this node still owes the records up to a position: never replicated, different on every node.
//!
//! A snapshot stands for all records below it, so whatever of their effects is not on this disk must be
//! written down with it, or a start from it would forget the rest. Encoded inside a snapshot file, which has a digest
//! over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use checkpoint::store::Source;
use checkpoint::{Digest, Envelope, JobName, Manifest};

use crate::ledger::PublishEpoch;

const VERSION: u8 = 3;

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

/// A sealed epoch that could not be published here so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpublished {
    /// The epoch.
    pub epoch: PublishEpoch,
    /// Why not.
    pub why: String,
    /// Log index of the record that expired it since.
    pub expired: Option<u64>,
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
        for Unpublished { epoch, why, expired } in &self.unpublished {
            out.u64(epoch.attempt).u64(expired.map_or(0, |index| index + 1)).bytes(why.as_bytes());
            out.bytes(&epoch.envelope.encode()).bytes(&epoch.manifest.encode());
            let sources: Vec<u8> = epoch.sources.iter().map(|source| source_tag(*source)).collect();
            out.bytes(&sources);
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

fn source_tag(source: Source) -> u8 {
    match source {
        Source::None => 0,
        Source::Staged => 1,
        Source::Unpacked => 2,
        Source::Reused => 3,
    }
}

struct Put(Vec<u8>);

impl Put {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    fn u64(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_be_bytes())
    }
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u64(bytes.len() as u64).raw(bytes)
    }
    fn contents(&mut self, contents: &BTreeMap<Digest, Owed>) {
        self.u64(contents.len() as u64);
        for (digest, owed) in contents {
            self.raw(digest.as_bytes()).u64(owed.index).u64(owed.bytes);
        }
    }
}

struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
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
    fn bytes(&mut self) -> Option<&'a [u8]> {
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
        let attempt = self.u64()?;
        let expired = self.u64()?.checked_sub(1);
        let why = self.text()?.to_owned();
        let (envelope, _) = Envelope::decode(self.bytes()?).ok()?;
        let manifest = Manifest::decode(self.bytes()?).ok()?;
        let source = |tag: &u8| {
            [Source::None, Source::Staged, Source::Unpacked, Source::Reused].get(usize::from(*tag)).copied()
        };
        let sources: Vec<Source> = self.bytes()?.iter().map(source).collect::<Option<_>>()?;
        if sources.len() != manifest.entries.len() {
            return None;
        }
        let (job, epoch) = (envelope.job.clone(), envelope.epoch);
        let (manifest, sources) = (Arc::new(manifest), Arc::new(sources));
        Some(Unpublished {
            epoch: PublishEpoch { attempt, job, epoch, envelope, manifest, sources },
            why,
            expired,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::{EntryKind, ManifestEntry, Position, RelPath};

    fn example() -> Debts {
        let job = JobName::try_from("job").unwrap();
        let root = ManifestEntry {
            path: RelPath::root(),
            kind: EntryKind::Directory,
            mode: 0o755,
            size: 0,
            digest: Digest::NONE,
            target: Vec::new(),
        };
        let path = RelPath::parse(b"a").unwrap();
        let digest = checkpoint::digest::content(b"abc");
        let file = ManifestEntry { path, kind: EntryKind::File, size: 3, digest, ..root.clone() };
        let manifest = Manifest { entries: vec![root, file] };
        let envelope = Envelope {
            job: job.clone(),
            epoch: 3,
            attempt: 7,
            position: Position { term: 1, node: 1, index: 9 },
            root: manifest.root(),
            labels: Vec::new(),
            depends_on: Vec::new(),
            base: None,
            sealed_log_ms: 0,
        };
        let epoch = PublishEpoch {
            attempt: 7,
            job: job.clone(),
            epoch: 3,
            envelope,
            manifest: Arc::new(manifest),
            sources: Arc::new(vec![Source::None, Source::Unpacked]),
        };
        Debts {
            released: BTreeMap::from([(digest, Owed { index: 5, bytes: 3 })]),
            unpublished: vec![Unpublished { epoch, why: "no room".into(), expired: Some(0) }],
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

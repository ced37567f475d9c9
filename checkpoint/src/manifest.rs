//! The manifest: the sealed truth of an epoch. Its tree is canonical, so equal
//! directories have equal bytes and equal roots; what an epoch is called and
//! where it came from stands before it, in the envelope, and is not part of the
//! root. Format: `docs/format.md`. Decoding takes only what encoding makes, and
//! never a tree that could be written outside its directory.

mod envelope;
mod error;
mod stream;
mod tree;

pub(crate) use envelope::ENVELOPE_BYTES_MAX;
pub use envelope::{Envelope, Position};
pub use error::ManifestError;
pub use stream::{FileCollector, TreeCollector, TreeDecoder, write_file};
pub(crate) use stream::{is_whole, one};

use crate::digest::{Digest, content};
use crate::encoding::Reader;
use crate::entry::{EntryRef, PlanEntry};
use crate::epoch::{EntryKind, RelPath};
use tree::{any_tree, hashed, put_entry, put_magic, take_count, take_entry};

/// One entry of a sealed directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    /// Where; empty for the root directory.
    pub path: RelPath,
    /// What.
    pub kind: EntryKind,
    /// Permission bits, 0 to 0o777; 0o777 for symlinks.
    pub mode: u32,
    /// Length, bytes; 0 for what is no file.
    pub size: u64,
    /// BLAKE3 of a file's content; [`Digest::NONE`] for the rest.
    pub digest: Digest,
    /// A symlink's target, verbatim; empty for the rest.
    pub target: Vec<u8>,
}

impl ManifestEntry {
    /// A planned entry with its content's digest ([`Digest::NONE`] for what is no file).
    pub fn new(entry: &PlanEntry, digest: Digest) -> ManifestEntry {
        let PlanEntry { path, kind, mode, size, target } = entry.clone();
        ManifestEntry { path, kind, mode, size, digest, target }
    }

    /// A copy of an entry that lies elsewhere, with its content's digest.
    pub fn copied(entry: EntryRef<'_>, digest: Digest) -> ManifestEntry {
        let EntryRef { path, kind, mode, size, target } = entry;
        ManifestEntry { path: path.to_rel_path(), kind, mode, size, digest, target: target.to_vec() }
    }

    fn borrowed(&self) -> EntryRef<'_> {
        let ManifestEntry { path, kind, mode, size, target, .. } = self;
        EntryRef { path: path.borrowed(), kind: *kind, mode: *mode, size: *size, target }
    }

    /// The entry without its digest.
    pub fn plan_entry(&self) -> PlanEntry {
        let ManifestEntry { path, kind, mode, size, target, .. } = self.clone();
        PlanEntry { path, kind, mode, size, target }
    }
}

/// The root of the directory that a plan describes, with the digest of each entry's content ([`Digest::NONE`] for what is
/// no file): the same as of its manifest, which takes a copy of the plan in memory.
///
/// # Panics
/// When there are fewer or more digests than entries.
pub fn root_of(entries: &[PlanEntry], digests: &[Digest]) -> Digest {
    assert_eq!(entries.len(), digests.len(), "one digest an entry");
    hashed(entries.len(), entries.iter().map(PlanEntry::borrowed).zip(digests))
}

/// The canonical bytes of `count` entries, each with its content's digest ([`Digest::NONE`] for what is no file): those of
/// [`Manifest::encode`], without a manifest in memory.
pub fn encode_entries<'a>(
    count: usize,
    entries: impl Iterator<Item = (EntryRef<'a>, &'a Digest)>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + count * 80);
    put_magic(&mut bytes, count);
    entries.for_each(|(entry, digest)| put_entry(&mut bytes, entry, digest));
    bytes
}

/// A sealed directory. Entry 0 is the root; sorted bytewise by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The entries.
    pub entries: Vec<ManifestEntry>,
}

impl Manifest {
    /// The digest of the canonical bytes: equal roots, identical directories.
    pub fn root(&self) -> Digest {
        hashed(self.entries.len(), self.borrowed())
    }

    fn borrowed(&self) -> impl Iterator<Item = (EntryRef<'_>, &Digest)> {
        self.entries.iter().map(|entry| (entry.borrowed(), &entry.digest))
    }

    /// The number of regular files.
    pub fn files(&self) -> u64 {
        self.entries.iter().filter(|e| e.kind == EntryKind::File).count() as u64
    }

    /// Sum of the files' sizes, bytes.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.size).sum()
    }

    /// The entry at this path.
    pub fn find(&self, path: &RelPath) -> Option<&ManifestEntry> {
        let at = self.entries.binary_search_by(|e| e.path.cmp(path)).ok()?;
        Some(&self.entries[at])
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_entries(self.entries.len(), self.borrowed())
    }

    /// Reads canonical bytes; refuses every other form and every hostile tree.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut read = Reader::new(bytes, 0);
        let count = take_count(&mut read)?;
        let mut checker = any_tree();
        // An entry takes at least five bytes: a false count reserves no more than the input's size.
        let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / 5));
        for _ in 0..count {
            let (entry, digest) = take_entry(&mut read)?;
            checker.push(entry)?;
            entries.push(ManifestEntry::copied(entry, digest));
        }
        read.end()?;
        checker.finish()?;
        Ok(Manifest { entries })
    }
}

/// The bytes of an epoch's manifest file: envelope, then tree.
pub fn encode_file(envelope: &Envelope, tree: &[u8]) -> Vec<u8> {
    let mut bytes = envelope.encode();
    bytes.extend_from_slice(tree);
    bytes
}

/// Reads a manifest file and checks the tree against the root in its envelope.
pub fn decode_file(bytes: &[u8]) -> Result<(Envelope, Manifest), ManifestError> {
    let (envelope, used) = Envelope::decode(bytes)?;
    let tree = &bytes[used..];
    if content(tree) != envelope.root {
        return Err(ManifestError::Damaged("the tree is not the one that the root names"));
    }
    Ok((envelope, Manifest::decode(tree)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_many_entries_is_the_digest_of_the_canonical_bytes() {
        for count in [0, 1, 20_000] {
            let file = |n: u32| ManifestEntry {
                path: RelPath::parse(format!("f{n:08}").as_bytes()).unwrap(),
                kind: EntryKind::File,
                mode: 0o644,
                size: u64::from(n),
                digest: content(&n.to_le_bytes()),
                target: Vec::new(),
            };
            let manifest = Manifest { entries: (0..count).map(file).collect() };
            assert_eq!(manifest.root(), content(&manifest.encode()), "{count}");
        }
    }
}

//! The manifest: the sealed truth of an epoch. Its tree is canonical, so equal
//! directories have equal bytes and equal roots; what an epoch is called and
//! where it came from stands before it, in the envelope, and is not part of the
//! root. Format: `docs/format.md`. Decoding takes only what encoding makes, and
//! never a tree that could be written outside its directory.

mod envelope;
mod stream;

pub use crate::error::ManifestError;
pub use envelope::{Envelope, Position};
pub use stream::{FileCollector, TreeCollector, TreeDecoder, write_file};
pub(crate) use stream::{is_whole, one};

use std::convert::Infallible;

use crate::digest::{Digest, Hasher, content};
use crate::epoch::{EntryKind, PathRef, RelPath};
use crate::limits::Limits;
use crate::plan::{EntryRef, PlanChecker, PlanEntry, put_head, put_short};

// Largest envelope, bytes.
pub(crate) const ENVELOPE_BYTES_MAX: usize = 8 << 20;
/// The bytes a canonical tree starts with.
const TREE_MAGIC: &[u8] = b"epochlog tree 1\n";
// A tree is hashed, written and read in runs of about this many bytes: a million entries would take 80 MB at once.
const RUN_BYTES: usize = 256 << 10;

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

// The digest of the canonical bytes of these entries.
fn hashed<'a>(count: usize, entries: impl Iterator<Item = (EntryRef<'a>, &'a Digest)>) -> Digest {
    let mut hasher = Hasher::new();
    let update = |run: &[u8]| {
        hasher.update(run);
        Ok::<_, Infallible>(())
    };
    let Ok(()) = runs(Vec::with_capacity(2 * RUN_BYTES), count, entries, update);
    hasher.finish()
}

// The canonical bytes in runs of about `RUN_BYTES`; the first begins with what `bytes` holds already.
fn runs<'a, E>(
    mut bytes: Vec<u8>,
    count: usize,
    entries: impl Iterator<Item = (EntryRef<'a>, &'a Digest)>,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    put_magic(&mut bytes, count);
    for (entry, digest) in entries {
        put_entry(&mut bytes, entry, digest);
        if bytes.len() >= RUN_BYTES {
            each(&bytes)?;
            bytes.clear();
        }
    }
    each(&bytes)
}

fn put_magic(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(TREE_MAGIC);
    bytes.extend_from_slice(&(count as u32).to_le_bytes());
}

fn put_entry(bytes: &mut Vec<u8>, entry: EntryRef<'_>, digest: &Digest) {
    put_head(bytes, entry.path, entry.kind, entry.mode);
    match entry.kind {
        EntryKind::File => {
            bytes.extend_from_slice(&entry.size.to_le_bytes());
            bytes.extend_from_slice(digest.as_bytes());
        }
        EntryKind::Directory => {}
        EntryKind::Symlink => put_short(bytes, entry.target),
    }
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
        let mut bytes = Vec::with_capacity(32 + self.entries.len() * 80);
        put_magic(&mut bytes, self.entries.len());
        self.borrowed().for_each(|(entry, digest)| put_entry(&mut bytes, entry, digest));
        bytes
    }

    /// Reads canonical bytes; refuses every other form and every hostile tree.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut read = Reader { bytes, at: 0 };
        let count = read.count()?;
        let mut checker = any_tree();
        // An entry takes at least five bytes: a false count reserves no more than the input's size.
        let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / 5));
        for _ in 0..count {
            let (entry, digest) = read.entry()?;
            checker.push(entry)?;
            entries.push(ManifestEntry::copied(entry, digest));
        }
        read.end()?;
        checker.finish()?;
        Ok(Manifest { entries })
    }
}

// What no plan was too large for was sealed.
fn any_tree() -> PlanChecker {
    PlanChecker::new(Limits { files_max: u64::from(u32::MAX), bytes_max: u64::MAX, ..Limits::default() })
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

// Reads numbers and short byte strings, never past the end.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, why: &'static str) -> ManifestError {
        ManifestError::Malformed { at: self.at, why }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ManifestError> {
        let rest = &self.bytes[self.at..];
        if rest.len() < len {
            return Err(self.wrong("it ends too early"));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were taken"))
    }

    fn u16(&mut self) -> Result<u16, ManifestError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, ManifestError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ManifestError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn short(&mut self) -> Result<&'a [u8], ManifestError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    fn text(&mut self) -> Result<String, ManifestError> {
        let bytes = self.short()?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.wrong("a text is no UTF-8"))?;
        Ok(text.to_owned())
    }

    fn end(&self) -> Result<(), ManifestError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.wrong("there is more than there should be"))
        }
    }

    // The number of entries, behind the magic.
    fn count(&mut self) -> Result<u32, ManifestError> {
        if self.take(TREE_MAGIC.len())? != TREE_MAGIC {
            return Err(ManifestError::Malformed { at: 0, why: "not a tree of version 1" });
        }
        self.u32()
    }

    fn entry(&mut self) -> Result<(EntryRef<'a>, Digest), ManifestError> {
        let kind = match self.take(1)? {
            b"f" => EntryKind::File,
            b"d" => EntryKind::Directory,
            b"l" => EntryKind::Symlink,
            _ => return Err(self.wrong("an entry of unknown kind")),
        };
        let mode = u32::from(self.u16()?);
        let path = PathRef::parse(self.short()?).map_err(|e| {
            ManifestError::Entries(crate::plan::PlanError::Refused { path: e.path, why: e.why.into() })
        })?;
        let (mut size, mut digest, mut target) = (0, Digest::NONE, &[][..]);
        match kind {
            EntryKind::File => {
                size = self.u64()?;
                digest = Digest::from_bytes(self.array()?);
                if size == 0 && digest != content(&[]) {
                    return Err(self.wrong("an empty file with the digest of something"));
                }
            }
            EntryKind::Directory => {}
            EntryKind::Symlink => target = self.short()?,
        }
        Ok((EntryRef { path, kind, mode, size, target }, digest))
    }
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

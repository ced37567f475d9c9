//! Trees that pass by in runs, read and written: in memory is one run, never the whole, which takes 80 bytes and more an
//! entry. What is taken and what is made is the same as with [`Manifest::decode`] and [`super::encode_file`].

use std::io;

use super::tree::{RUN_BYTES, TREE_MAGIC, any_tree, runs, take_count, take_entry};
use super::{ENVELOPE_BYTES_MAX, Envelope, Manifest, ManifestEntry, ManifestError};
use crate::digest::{Digest, Hasher};
use crate::disk::DiskFile;
use crate::encoding::{Reader, SHORT};
use crate::entry::EntryRef;
use crate::tree_rules::PlanChecker;

// Bytes of magic and count.
const HEAD_BYTES: usize = TREE_MAGIC.len() + 4;

/// Reads a tree as its bytes come, in pieces of any size.
#[derive(Debug)]
pub struct TreeDecoder {
    // What has come of an entry that is not whole yet; and how many bytes came before it.
    rest: Vec<u8>,
    before: u64,
    // Entries that are still to come, once their number has.
    left: Option<u32>,
    checker: PlanChecker,
    hasher: Hasher,
}

impl Default for TreeDecoder {
    fn default() -> Self {
        TreeDecoder { rest: Vec::new(), before: 0, left: None, checker: any_tree(), hasher: Hasher::new() }
    }
}

impl TreeDecoder {
    /// Takes the next bytes. `each` is given every entry that is whole with them, and the byte of the tree at which it
    /// begins.
    ///
    /// # Errors
    /// Those of [`Manifest::decode`]: nothing more of the tree may be used then.
    pub fn push(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(u64, EntryRef<'_>, Digest),
    ) -> Result<(), ManifestError> {
        self.hasher.update(bytes);
        if self.rest.is_empty() {
            let used = self.read(bytes, each)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let used = self.read(&all, each)?;
        self.rest = all.split_off(used);
        Ok(())
    }

    // Reads what is whole; answers with how many bytes that is.
    fn read(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(u64, EntryRef<'_>, Digest),
    ) -> Result<usize, ManifestError> {
        let mut read = Reader::new(bytes, 0);
        let from = self.before;
        let further = |error| match error {
            ManifestError::Malformed { at, why } => ManifestError::Malformed { at: at + from as usize, why },
            other => other,
        };
        let mut left = match self.left {
            Some(left) => left,
            None if bytes.len() < HEAD_BYTES => return Ok(0),
            None => take_count(&mut read).map_err(further)?,
        };
        while left > 0 && is_whole(read.rest()) {
            let at = from + read.at() as u64;
            let (entry, digest) = take_entry(&mut read).map_err(further)?;
            self.checker.push(entry)?;
            each(at, entry, digest);
            left -= 1;
        }
        if left == 0 {
            read.end().map_err(|wrong| further(wrong.into()))?;
        }
        self.left = Some(left);
        self.before += read.at() as u64;
        Ok(read.at())
    }

    /// Everything has come: the root of the tree.
    ///
    /// # Errors
    /// It is not complete.
    pub fn finish(self) -> Result<Digest, ManifestError> {
        if self.left != Some(0) {
            let at = self.before as usize + self.rest.len();
            return Err(ManifestError::Malformed { at, why: SHORT });
        }
        self.checker.finish()?;
        Ok(self.hasher.finish())
    }
}

/// Collects a tree as its bytes come. Never are the bytes in memory beside the entries.
#[derive(Debug, Default)]
pub struct TreeCollector {
    decoder: TreeDecoder,
    manifest: Manifest,
}

impl TreeCollector {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// Those of [`Manifest::decode`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ManifestError> {
        let entries = &mut self.manifest.entries;
        self.decoder.push(bytes, &mut |_, entry, digest| entries.push(ManifestEntry::copied(entry, digest)))
    }

    /// Everything has come: the manifest, and its root.
    ///
    /// # Errors
    /// It is not complete.
    pub fn finish(self) -> Result<(Manifest, Digest), ManifestError> {
        let root = self.decoder.finish()?;
        Ok((self.manifest, root))
    }
}

/// Collects a manifest file as its bytes come, as [`super::decode_file`] does when they are all there.
#[derive(Debug, Default)]
pub struct FileCollector {
    // What has come of the envelope until it is whole.
    head: Vec<u8>,
    envelope: Option<Envelope>,
    tree: TreeCollector,
}

impl FileCollector {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// It is no manifest file.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ManifestError> {
        if self.envelope.is_some() {
            return self.tree.push(bytes);
        }
        self.head.extend_from_slice(bytes);
        let Some(first) = self.head.first_chunk() else { return Ok(()) };
        let len = Envelope::encoded_len(first)?;
        if len > ENVELOPE_BYTES_MAX {
            return Err(ManifestError::Damaged("the envelope is far too long"));
        }
        if self.head.len() < len {
            return Ok(());
        }
        let head = std::mem::take(&mut self.head);
        let (envelope, used) = Envelope::decode(&head)?;
        self.envelope = Some(envelope);
        self.tree.push(&head[used..])
    }

    /// Everything has come, and the tree is the one that the envelope names.
    ///
    /// # Errors
    /// It is not so.
    pub fn finish(self) -> Result<(Envelope, Manifest), ManifestError> {
        let short = ManifestError::Malformed { at: self.head.len(), why: SHORT };
        let envelope = self.envelope.ok_or(short)?;
        let (manifest, root) = self.tree.finish()?;
        if root != envelope.root {
            return Err(ManifestError::Damaged("the tree is not the one that the root names"));
        }
        Ok((envelope, manifest))
    }
}

// Whether all bytes of the entry at the front are there. Also when what stands there is none: to read it says so.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let short = |at: usize| {
        let two = bytes.get(at..at + 2)?;
        Some(usize::from(u16::from_le_bytes([two[0], two[1]])))
    };
    // Kind and mode come before the path.
    let Some(path) = short(3) else { return false };
    let end = 5 + path;
    match bytes[0] {
        b'f' => bytes.len() >= end + 8 + 32,
        b'l' => short(end).is_some_and(|target| bytes.len() >= end + 2 + target),
        _ => bytes.len() >= end,
    }
}

// The entry at the front, which is whole, and how many bytes it takes.
pub(crate) fn one(bytes: &[u8]) -> Result<(EntryRef<'_>, Digest, usize), ManifestError> {
    let mut read = Reader::new(bytes, 0);
    let (entry, digest) = take_entry(&mut read)?;
    Ok((entry, digest, read.at()))
}

/// Writes a manifest file from its first byte on. The root of the tree that was written, whatever the envelope names.
///
/// # Errors
/// Those of the file.
pub fn write_file(file: &dyn DiskFile, envelope: &Envelope, manifest: &Manifest) -> io::Result<Digest> {
    let mut head = envelope.encode();
    let (mut at, mut skip) = (0, head.len());
    let mut hasher = Hasher::new();
    head.reserve(2 * RUN_BYTES);
    runs(head, manifest.entries.len(), manifest.borrowed(), |run| {
        hasher.update(&run[std::mem::take(&mut skip)..]);
        file.write_at(run, at)?;
        at += run.len() as u64;
        Ok::<_, io::Error>(())
    })?;
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::content;
    use crate::epoch::{EntryKind, RelPath};
    use crate::manifest::{Position, decode_file, encode_file};

    fn tree(count: u32) -> Manifest {
        let entry = |n: u32| {
            let kind = match n {
                0 => EntryKind::Directory,
                n if n % 7 == 0 => EntryKind::Symlink,
                _ => EntryKind::File,
            };
            let is_file = kind == EntryKind::File;
            ManifestEntry {
                path: if n == 0 {
                    RelPath::root()
                } else {
                    RelPath::parse(format!("f{n:08}").as_bytes()).unwrap()
                },
                kind,
                mode: if kind == EntryKind::Symlink { 0o777 } else { 0o755 },
                size: if is_file { u64::from(n) } else { 0 },
                digest: if is_file { content(&n.to_le_bytes()) } else { Digest::NONE },
                target: if kind == EntryKind::Symlink { b"../x".to_vec() } else { Vec::new() },
            }
        };
        Manifest { entries: (0..count).map(entry).collect() }
    }

    fn pushed(bytes: &[u8], step: usize) -> Result<(Vec<(u64, ManifestEntry)>, Digest), ManifestError> {
        let (mut decoder, mut found) = (TreeDecoder::default(), Vec::new());
        for piece in bytes.chunks(step) {
            decoder.push(piece, &mut |at, entry, digest| {
                found.push((at, ManifestEntry::copied(entry, digest)));
            })?;
        }
        decoder.finish().map(|root| (found, root))
    }

    #[test]
    fn a_tree_in_pieces_of_any_size_is_the_same_tree() {
        let manifest = tree(500);
        let bytes = manifest.encode();
        for step in [1, 2, 19, 20, 21, 333, bytes.len()] {
            let (found, root) = pushed(&bytes, step).unwrap();
            assert_eq!(root, manifest.root(), "{step}");
            assert!(found.iter().map(|(_, entry)| entry).eq(&manifest.entries), "{step}");
            // Each is where it is said to be.
            for (at, entry) in found {
                let (there, digest, _) = one(&bytes[at as usize..]).unwrap();
                assert_eq!(ManifestEntry::copied(there, digest), entry, "{step}");
            }
        }
    }

    #[test]
    fn a_tree_in_pieces_is_refused_where_the_whole_is() {
        let bytes = tree(20).encode();
        for len in 0..bytes.len() {
            assert!(pushed(&bytes[..len], 7).is_err(), "{len} bytes");
        }
        assert!(pushed(&[&bytes[..], b"x"].concat(), 7).is_err(), "one byte too many");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            match (Manifest::decode(&bad), pushed(&bad, 7)) {
                (Ok(whole), Ok((found, root))) => {
                    assert_eq!(root, whole.root());
                    assert!(found.into_iter().map(|(_, entry)| entry).eq(whole.entries));
                }
                (Err(_), Err(_)) => {}
                (whole, pieces) => panic!("byte {at}: {whole:?} and {pieces:?}"),
            }
        }
    }

    #[test]
    fn a_file_that_is_written_in_runs_is_the_encoded_one() {
        let dir = tempfile::tempdir().unwrap();
        for count in [1, 20_000] {
            let manifest = tree(count);
            let envelope = Envelope {
                job: "job".parse().unwrap(),
                epoch: 7,
                attempt: 3,
                position: Position { term: 1, node: 1, index: 9 },
                root: manifest.root(),
                labels: vec![("k".into(), "v".into())],
                depends_on: Vec::new(),
                base: None,
                sealed_log_ms: 1,
            };
            let path = dir.path().join(count.to_string());
            let disk: &dyn crate::disk::Disk = &crate::disk::RealDisk;
            let file = disk.open(&path, crate::disk::Open::CreateNew).unwrap();
            assert_eq!(write_file(&*file, &envelope, &manifest).unwrap(), manifest.root());
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes, encode_file(&envelope, &manifest.encode()));
            for step in [1, 100, bytes.len()].into_iter().filter(|step| count == 1 || *step > 1) {
                let mut collector = FileCollector::default();
                bytes.chunks(step).for_each(|piece| collector.push(piece).unwrap());
                assert_eq!(collector.finish().unwrap(), decode_file(&bytes).unwrap());
            }
            let mut short = FileCollector::default();
            short.push(&bytes[..bytes.len() - 1]).unwrap();
            assert!(short.finish().is_err());
            let mut other = FileCollector::default();
            other
                .push(&encode_file(&Envelope { root: Digest::NONE, ..envelope }, &manifest.encode()))
                .unwrap();
            assert!(other.finish().unwrap_err().to_string().contains("the root names"));
        }
    }
}

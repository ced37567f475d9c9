//! Manifests that are served and searched where they lie.
//!
//! A manifest file is canonical: what goes to others are ranges of it, and who looks for entries reads them one by one, in
//! a window of 64 KiB. In memory is the envelope and the place of every 256th entry: 32 KB for a million, where the
//! entries themselves take 140 MB and their bytes 80.
//!
//! **Guarantee.** The whole file was compared with its root, and its entries are such as [`Manifest`] takes,
//! at most [`TRUSTED`] before it is opened here: as long as inode, length and times stay that is not done again. What rots
//! after it is found by whoever takes the bytes, by their root.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::envelopes::{open_envelope, unread};
use super::error::StoreError;
use super::shelves::Shelves;
use crate::digest::{Digest, Hasher};
use crate::disk::{DiskFile, Open, Stat};
use crate::entry::EntryRef;
use crate::epoch::JobName;
use crate::io_error::{IoError, at};
use crate::manifest::{Envelope, Manifest, ManifestEntry, ManifestError, TreeDecoder, is_whole, one};

/// Largest manifest that is read back, bytes: a million entries of longest paths are below.
const MANIFEST_BYTES_MAX: u64 = 4 << 30;
/// For so long a manifest that was read whole is not read whole again.
pub const TRUSTED: Duration = Duration::from_secs(600);
/// The place of every so many entries is kept.
const MARK_EVERY: u32 = 256;
/// What is known of manifests takes at most so many bytes, unless it is of one alone.
const KNOWN_BYTES_MAX: usize = 4 << 20;
/// And is of at most so many.
const KNOWN_MAX: usize = 64;
/// Read at a time, in bytes: of a whole file, and of entries.
const RUN_BYTES: usize = 256 << 10;
const WINDOW_BYTES: usize = 64 << 10;

/// What is kept of a manifest file.
#[derive(Debug)]
struct Index {
    envelope: Envelope,
    /// Where the tree begins in the file, and its length, in bytes.
    tree_at: u64,
    tree_bytes: u64,
    entries: u32,
    /// Where entry 0, 256, 512 and so on begin in the tree, in bytes.
    marks: Vec<u64>,
}

impl Index {
    fn bytes(&self) -> usize {
        self.tree_at as usize + self.marks.len() * size_of::<u64>()
    }
}

/// The manifest files that were read whole lately, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Manifests(Mutex<VecDeque<Known>>);

#[derive(Debug)]
struct Known {
    path: PathBuf,
    stat: Stat,
    read: Instant,
    index: Arc<Index>,
}

impl Manifests {
    fn get(&self, path: &Path, stat: &Stat) -> Option<Arc<Index>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|known| known.path == path && known.stat == *stat)?;
        (found.read.elapsed() < TRUSTED).then(|| found.index.clone())
    }

    fn put(&self, path: &Path, stat: Stat, index: &Arc<Index>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.path != path);
        known.push_back(Known { path: path.to_owned(), stat, read: Instant::now(), index: index.clone() });
        while known.len() > 1
            && (known.len() > KNOWN_MAX
                || known.iter().map(|known| known.index.bytes()).sum::<usize>() > KNOWN_BYTES_MAX)
        {
            known.pop_front();
        }
    }

    /// Opens the manifest of a published epoch.
    pub(super) fn open(
        &self,
        shelves: &Shelves,
        job: &JobName,
        epoch: u64,
    ) -> Result<Option<ManifestFile>, StoreError> {
        let (disk, path) = (&*shelves.disk, shelves.layout.manifest_file(job, epoch));
        let stat = || match disk.stat(&path) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unread(&path)(e)),
        };
        let Some(before) = stat()? else { return Ok(None) };
        let file = match disk.open(&path, Open::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(unread(&path)(e)),
        };
        // Another file took the name meanwhile: which of them was opened is not known, so nothing is said of either.
        let is_same = stat()? == Some(before);
        if let Some(index) = self.get(&path, &before).filter(|_| is_same) {
            return Ok(Some(ManifestFile { file, path, index }));
        }
        let mut marks = Vec::new();
        let mut entries = 0;
        let (envelope, tree_at, tree_bytes) = read_whole(&*file, &path, &mut |place, _, _| {
            if entries % MARK_EVERY == 0 {
                marks.push(place);
            }
            entries += 1;
        })?;
        let index = Arc::new(Index { envelope, tree_at, tree_bytes, entries, marks });
        if is_same {
            self.put(&path, before, &index);
        }
        Ok(Some(ManifestFile { file, path, index }))
    }
}

/// A manifest file, open. It stays the same one when its epoch is removed meanwhile.
#[derive(Debug)]
pub struct ManifestFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    index: Arc<Index>,
}

/// Envelope and tree of a published epoch, checked against each other. In memory are the entries, never the bytes.
pub(super) fn read(
    shelves: &Shelves,
    job: &JobName,
    epoch: u64,
) -> Result<Option<(Envelope, Manifest)>, StoreError> {
    let path = shelves.layout.manifest_file(job, epoch);
    let file = match shelves.disk.open(&path, Open::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unread(&path)(e)),
    };
    let mut manifest = Manifest::default();
    let (envelope, ..) = read_whole(&*file, &path, &mut |_, entry, digest| {
        manifest.entries.push(ManifestEntry::copied(entry, digest));
    })?;
    Ok(Some((envelope, manifest)))
}

/// Is given where each entry begins in the tree, and what it says.
type Each<'a> = &'a mut dyn FnMut(u64, EntryRef<'_>, Digest);

// Reads all of it and compares it with the root; the envelope, where the tree begins and how long it is.
fn read_whole(file: &dyn DiskFile, path: &Path, each: Each<'_>) -> Result<(Envelope, u64, u64), StoreError> {
    let wrong = |source| StoreError::Manifest { path: path.to_owned(), source };
    let (envelope, tree_at) = open_envelope(file, path)?;
    let len = file.len().map_err(unread(path))?;
    if len > MANIFEST_BYTES_MAX {
        let why = format!("{len} bytes, more than the {MANIFEST_BYTES_MAX} that may be here");
        return Err(at("read", path)(io::Error::new(io::ErrorKind::InvalidData, why)).into());
    }
    let tree_bytes = len.saturating_sub(tree_at);
    let mut decoder = TreeDecoder::default();
    let mut decoded = Ok(());
    let read = runs(file, tree_at, len, &mut |run| {
        decoded = decoder.push(run, each);
        decoded.is_ok()
    });
    read.map_err(unread(path))?;
    let error = match decoded.and_then(|()| decoder.finish()) {
        Ok(root) if root == envelope.root => return Ok((envelope, tree_at, tree_bytes)),
        Ok(_) => None,
        Err(error) => Some(error),
    };
    // What is damaged is told so, wherever the damage makes it malformed.
    let mut hasher = Hasher::new();
    let read = runs(file, tree_at, len, &mut |run| {
        hasher.update(run);
        true
    });
    read.map_err(unread(path))?;
    let damaged = ManifestError::Damaged("the tree is not the one that the root names");
    Err(wrong(error.filter(|_| hasher.finish() == envelope.root).unwrap_or(damaged)))
}

// Reads `[from, to)` of a file in runs, until `each` answers false.
fn runs(file: &dyn DiskFile, from: u64, to: u64, each: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut room = vec![0; to.saturating_sub(from).min(RUN_BYTES as u64) as usize];
    let mut done = from;
    while done < to {
        let run = (to - done).min(room.len() as u64) as usize;
        file.read_exact_at(&mut room[..run], done)?;
        if !each(&room[..run]) {
            break;
        }
        done += run as u64;
    }
    Ok(())
}

impl ManifestFile {
    /// Name and origin of the epoch.
    pub fn envelope(&self) -> &Envelope {
        &self.index.envelope
    }

    /// Bytes of the tree, the same on every node.
    pub fn tree_bytes(&self) -> u64 {
        self.index.tree_bytes
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        self.index.tree_at + self.index.tree_bytes
    }

    /// The number of entries.
    pub fn entries(&self) -> u32 {
        self.index.entries
    }

    /// A range of the tree's canonical bytes; shorter at their end.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn tree(&self, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
        self.range(self.index.tree_at + offset.min(self.index.tree_bytes), len)
    }

    /// A range of the file; shorter at its end.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn range(&self, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
        let len = self.bytes().saturating_sub(offset).min(len as u64);
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(at("read", &self.path))?;
        Ok(bytes)
    }

    /// Its entries, one by one.
    pub fn walk(self) -> Walk {
        // Before the first entry is the head of the tree.
        let at = self.index.marks.first().copied().unwrap_or_default();
        Walk { of: self, next: 0, at, window: Vec::new(), used: 0 }
    }
}

/// Reads the entries of a manifest file in order. Takes a window of memory.
#[derive(Debug)]
pub struct Walk {
    of: ManifestFile,
    /// The entry that comes next, and where it begins in the tree.
    next: u32,
    at: u64,
    /// Bytes of the tree from `at - used` on.
    window: Vec<u8>,
    used: usize,
}

impl Walk {
    /// The manifest.
    pub fn of(&self) -> &ManifestFile {
        &self.of
    }

    /// The entry that comes next, or how many there are.
    pub fn index(&self) -> u32 {
        self.next
    }

    /// Goes to the entry with this index, or to the end.
    ///
    /// # Errors
    /// As [`Walk::step`].
    pub fn seek(&mut self, index: u32) -> Result<(), StoreError> {
        let index = index.min(self.of.entries());
        let mark = index / MARK_EVERY;
        if (index < self.next || mark > self.next / MARK_EVERY)
            && let Some(place) = self.of.index.marks.get(mark as usize)
        {
            (self.next, self.at) = (mark * MARK_EVERY, *place);
            (self.used, self.window) = (0, Vec::new());
        }
        while self.next < index {
            self.step(|_, _, _| ())?;
        }
        Ok(())
    }

    /// Gives the next entry to `take`, with its index; `None` behind the last one.
    ///
    /// # Errors
    /// The disk refuses, or the file is not any more what it was when it was read whole.
    pub fn step<T>(
        &mut self,
        take: impl FnOnce(u32, EntryRef<'_>, Digest) -> T,
    ) -> Result<Option<T>, StoreError> {
        if self.next >= self.of.entries() {
            return Ok(None);
        }
        let wrong = |source| StoreError::Manifest { path: self.of.path.clone(), source };
        while !is_whole(&self.window[self.used..]) {
            self.window.drain(..std::mem::take(&mut self.used));
            let from = self.at + self.window.len() as u64;
            let more = self.of.tree(from, WINDOW_BYTES).map_err(|e| unread(&self.of.path)(e.source))?;
            if more.is_empty() {
                let why = "it ends too early";
                return Err(wrong(ManifestError::Malformed { at: from as usize, why }));
            }
            self.window.extend_from_slice(&more);
        }
        let (entry, digest, bytes) = one(&self.window[self.used..]).map_err(wrong)?;
        let taken = take(self.next, entry, digest);
        (self.next, self.at, self.used) = (self.next + 1, self.at + bytes as u64, self.used + bytes);
        Ok(Some(taken))
    }
}

impl Iterator for Walk {
    type Item = Result<(u32, ManifestEntry), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(|index, entry, digest| (index, ManifestEntry::copied(entry, digest))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, RealDisk};
    use crate::epoch::{EntryKind, RelPath};
    use crate::manifest::{Position, encode_file};
    use crate::store::Store;

    fn manifest(count: u32) -> Manifest {
        let file = |n: u32| ManifestEntry {
            path: if n == 0 {
                RelPath::root()
            } else {
                RelPath::parse(format!("f{n:06}").as_bytes()).unwrap()
            },
            kind: if n == 0 { EntryKind::Directory } else { EntryKind::File },
            mode: 0o700,
            size: u64::from(n),
            digest: if n == 0 { Digest::NONE } else { crate::digest::content(&n.to_le_bytes()) },
            target: Vec::new(),
        };
        Manifest { entries: (0..count).map(file).collect() }
    }

    fn put(store: &Store, epoch: u64, manifest: &Manifest) -> Vec<u8> {
        let job: JobName = "job".parse().unwrap();
        let envelope = Envelope {
            job: job.clone(),
            epoch,
            attempt: 1,
            position: Position { term: 1, node: 1, index: 2 },
            root: manifest.root(),
            labels: Vec::new(),
            depends_on: Vec::new(),
            base: None,
            sealed_log_ms: 0,
        };
        let bytes = encode_file(&envelope, &manifest.encode());
        std::fs::create_dir_all(store.layout().epoch_dir(&job, epoch)).unwrap();
        std::fs::write(store.layout().manifest_file(&job, epoch), &bytes).unwrap();
        bytes
    }

    fn scene() -> (tempfile::TempDir, Store, JobName) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        (dir, store, "job".parse().unwrap())
    }

    #[test]
    fn ranges_are_the_encoded_bytes_and_a_walk_is_the_decoded_manifest() {
        let (_dir, store, job) = scene();
        let manifest = manifest(3 * MARK_EVERY + 5);
        let bytes = put(&store, 1, &manifest);
        let file = store.manifest_file(&job, 1).unwrap().unwrap();
        assert_eq!(
            (file.entries() as usize, file.envelope().root),
            (manifest.entries.len(), manifest.root())
        );
        let tree = manifest.encode();
        let ranges = (0..file.tree_bytes()).step_by(999).map(|at| file.tree(at, 999).unwrap());
        assert_eq!(ranges.collect::<Vec<_>>().concat(), tree);
        assert_eq!(file.range(0, usize::MAX).unwrap(), bytes);
        let mut walk = file.walk();
        let all: Vec<_> = walk.by_ref().map(|entry| entry.unwrap().1).collect();
        assert_eq!(all, manifest.entries);
        // Forwards, backwards, over marks and to the end.
        for index in [700, 0, 1, 255, 256, 600, 601, 3 * MARK_EVERY + 4, 5] {
            walk.seek(index).unwrap();
            let (found, entry) = walk.next().unwrap().unwrap();
            assert_eq!((found, &entry), (index, &manifest.entries[index as usize]));
        }
        walk.seek(u32::MAX).unwrap();
        assert!(walk.next().is_none());
        assert_eq!(store.manifest(&job, 1).unwrap().unwrap().1, manifest);
        assert!(store.manifest_file(&job, 2).unwrap().is_none());
    }

    #[test]
    fn what_is_kept_of_manifests_is_bounded_and_holds_for_the_file_that_was_read() {
        let (_dir, store, job) = scene();
        let count = KNOWN_MAX as u64 + 3;
        for epoch in 1..=count {
            put(&store, epoch, &manifest(2));
            store.manifest_file(&job, epoch).unwrap().unwrap();
        }
        let manifests = &store.manifests;
        let known = || manifests.0.lock().unwrap();
        assert_eq!(known().len(), KNOWN_MAX);
        let stat = RealDisk.stat(&store.layout().manifest_file(&job, count)).unwrap();
        let is_known = |epoch, stat: &Stat| {
            store.manifests.get(&store.layout().manifest_file(&job, epoch), stat).is_some()
        };
        assert!(is_known(count, &stat));
        assert!(!is_known(count, &Stat { mtime_ns: stat.mtime_ns + 1, ..stat }), "it was written since");
        assert!(!is_known(1, &stat), "the oldest goes");
        // One that takes the name of another is read itself.
        let other = manifest(9);
        put(&store, count, &other);
        assert_eq!(store.manifest_file(&job, count).unwrap().unwrap().entries(), 9);
        // A million entries fit: what is kept is far below what they take.
        let envelope = known().back().unwrap().index.envelope.clone();
        let large = Index {
            envelope,
            tree_at: 300,
            tree_bytes: 80 << 20,
            entries: 1_000_000,
            marks: vec![0; 1_000_000 / MARK_EVERY as usize],
        };
        assert!(large.bytes() < 40 << 10, "{}", large.bytes());
        // Labels may be long, too.
        for n in 0..10 {
            let (envelope, marks) = (large.envelope.clone(), large.marks.clone());
            let index = Arc::new(Index { envelope, marks, tree_at: 1 << 20, ..large });
            manifests.put(Path::new(&n.to_string()), stat, &index);
        }
        assert_eq!(known().len(), 3);
        assert!(known().iter().map(|known| known.index.bytes()).sum::<usize>() <= KNOWN_BYTES_MAX);
    }

    #[test]
    fn a_damaged_tree_is_told_as_damage_wherever_it_lies() {
        let (_dir, store, job) = scene();
        let bytes = put(&store, 1, &manifest(300));
        let path = store.layout().manifest_file(&job, 1);
        let tree = bytes.len() - manifest(300).encode().len();
        for at in [tree, tree + 17, bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            for error in [store.manifest(&job, 1).unwrap_err(), store.manifest_file(&job, 1).unwrap_err()] {
                assert!(error.to_string().contains("not the one that the root names"), "byte {at}: {error}");
            }
        }
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(store.manifest(&job, 1).is_err() && store.manifest_file(&job, 1).is_err());
    }
}

//! The iterator over the pieces of a directory.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::last_look::LastLook;
use super::read::SourceFile;
use super::unseen::Devices;
use super::{Coverage, PackedFile, Piece, SplitError};
use crate::digest::{self, Digest, DigestTree};
use crate::disk::{Lease, Pool};
use crate::epoch::EntryKind;
use crate::limits::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, PACK_BYTES_MAX, PACK_FILE_BYTES_MAX, PACK_FILES_MAX, REUSE_FILES_MAX,
    ZERO_BYTES_MAX,
};
use crate::manifest::{Manifest, ManifestEntry, root_of};
use crate::plan::{Plan, PlanEntry};

/// Reads a directory piece by piece. After the last piece, [`Splitter::finish`] gives the manifest.
pub struct Splitter<'a> {
    dir: PathBuf,
    root: Arc<OwnedFd>,
    plan: &'a Plan,
    chunk_bytes: u64,
    covered: &'a Coverage,
    previous: &'a dyn Fn(&PlanEntry) -> Option<Digest>,
    digests: Vec<Digest>,
    // Files that are read again in the end, whatever their stamps say then.
    fresh: BTreeSet<u32>,
    devices: Devices,
    next: usize,
    large: Option<Large>,
    pack: Pack,
    // What a pack may take at most: the sum over a long plan is not made for each of its files.
    pack_bytes: usize,
    reuse: Vec<(u32, Digest)>,
    ready: VecDeque<Piece>,
    ended: bool,
    bytes_read: Arc<AtomicU64>,
    // Where payloads are read to.
    buffers: Pool,
}

// A file of more than one pack's worth, being read.
struct Large {
    file: u32,
    source: SourceFile,
    tree: DigestTree,
    offset: u64,
    // Its bytes were counted when it was compared with the previous epoch.
    counted: bool,
}

#[derive(Default)]
struct Pack {
    files: Vec<PackedFile>,
    payload: Option<Lease>,
    // Where each content stands, so that equal ones stand once.
    places: HashMap<Digest, u32>,
}

impl Pack {
    fn take(&mut self) -> Option<Piece> {
        if self.files.is_empty() {
            return None;
        }
        self.places.clear();
        let files = std::mem::take(&mut self.files);
        let filled = self.payload.take()?;
        // A record is kept for a while, and one of tiny files fills little of the buffer: that is used again then.
        let payload = if filled.len() < filled.capacity() / 2 {
            let payload = Bytes::copy_from_slice(filled.as_ref());
            self.payload.insert(filled).truncate(0);
            payload
        } else {
            filled.freeze()
        };
        Some(Piece::Pack { files, payload })
    }
}

impl<'a> Splitter<'a> {
    /// Starts to read the directory that `plan` was made of (`dir` is its name, for messages), in chunks of `chunk_bytes`. `covered` is what the
    /// log has already; `previous` gives the digest of sealed content that may be equal to an entry's: a file of
    /// the same path and size in the previous epoch.
    ///
    /// # Panics
    /// When `chunk_bytes` is no power of two from 64 KiB to 4 MiB.
    pub fn new(
        dir: &Path,
        plan: &'a Plan,
        chunk_bytes: u32,
        covered: &'a Coverage,
        previous: &'a dyn Fn(&PlanEntry) -> Option<Digest>,
    ) -> Result<Splitter<'a>, SplitError> {
        assert!(chunk_bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes));
        Ok(Splitter {
            dir: dir.to_path_buf(),
            root: plan.root.clone(),
            plan,
            chunk_bytes: u64::from(chunk_bytes),
            covered,
            previous,
            digests: vec![Digest::NONE; plan.entries.len()],
            fresh: BTreeSet::new(),
            devices: Devices::default(),
            next: 0,
            large: None,
            pack: Pack::default(),
            pack_bytes: plan.bytes().min(PACK_BYTES_MAX as u64) as usize,
            reuse: Vec::new(),
            ready: VecDeque::new(),
            ended: false,
            bytes_read: Arc::default(),
            buffers: Pool::unbounded(),
        })
    }

    /// Payloads are read to these buffers, which many splitters may share. Each waits while too many of them are out, with
    /// one of 1 MiB in hand at most: those of its pieces have to get along without it.
    pub fn with_buffers(self, buffers: &Pool) -> Self {
        Splitter { buffers: buffers.clone(), ..self }
    }

    /// Bytes of the source that were read so far, of the plan's [`Plan::bytes`]; for progress, from any thread.
    pub fn progress(&self) -> Arc<AtomicU64> {
        self.bytes_read.clone()
    }

    /// After the last piece: looks at every entry once more, reads again what only its content can tell of, and gives
    /// the manifest.
    ///
    /// # Panics
    /// When pieces are left.
    pub fn finish(self) -> Result<Manifest, SplitError> {
        self.look_again()?;
        let entries = self.plan.entries.iter().zip(&self.digests);
        Ok(Manifest { entries: entries.map(|(entry, digest)| ManifestEntry::new(entry, *digest)).collect() })
    }

    /// As [`Splitter::finish`], when only the manifest's root is wanted: takes no memory for a manifest.
    ///
    /// # Panics
    /// When pieces are left.
    pub fn finish_root(self) -> Result<Digest, SplitError> {
        self.look_again()?;
        Ok(root_of(&self.plan.entries, &self.digests))
    }

    fn look_again(&self) -> Result<(), SplitError> {
        assert!(self.ended && self.next == self.plan.entries.len(), "every piece must be taken first");
        let Splitter { root, dir, plan, digests, fresh, devices, .. } = self;
        LastLook { root, dir, plan, digests, fresh, devices }.take()
    }

    fn went(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    // Goes on until a piece is ready or everything is read.
    fn advance(&mut self) -> Result<Option<Piece>, SplitError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if let Some(large) = self.large.take() {
                self.read_large(large)?;
                continue;
            }
            let Some(entry) = self.plan.entries.get(self.next) else {
                self.ready.extend(self.pack.take());
                self.flush_reuse();
                match self.ready.pop_front() {
                    Some(piece) => return Ok(Some(piece)),
                    None => return Ok(None),
                }
            };
            let file = self.next as u32;
            self.next += 1;
            match entry.kind {
                EntryKind::File if entry.size == 0 => self.digests[file as usize] = digest::content(&[]),
                EntryKind::File => self.start_file(file, entry)?,
                EntryKind::Directory | EntryKind::Symlink => {}
            }
        }
    }

    fn flush_reuse(&mut self) {
        if !self.reuse.is_empty() {
            self.ready.push_back(Piece::Reuse { files: std::mem::take(&mut self.reuse) });
        }
    }

    fn add_reuse(&mut self, file: u32, digest: Digest) {
        self.reuse.push((file, digest));
        if self.reuse.len() == REUSE_FILES_MAX {
            self.flush_reuse();
        }
    }

    fn start_file(&mut self, file: u32, entry: &PlanEntry) -> Result<(), SplitError> {
        let stamp = self.plan.stamps[file as usize];
        let mut source = SourceFile::open(&self.root, &self.dir, &entry.path, stamp, &self.devices)?;
        if source.is_fresh || source.may_be_written_since(self.plan.began) {
            self.fresh.insert(file);
        }
        if entry.size < PACK_FILE_BYTES_MAX {
            return self.read_small(file, entry, &source);
        }
        let whole = self.covered.has_file(file);
        let before = if self.covered.has_any(file) { None } else { (self.previous)(entry) };
        if whole || before.is_some() {
            let bytes_read = self.bytes_read.clone();
            let digest = source.hash(|bytes| _ = bytes_read.fetch_add(bytes, Ordering::Relaxed))?;
            self.digests[file as usize] = digest;
            if whole {
                return Ok(());
            }
            if before == Some(digest) {
                self.add_reuse(file, digest);
                return Ok(());
            }
        }
        let tree = DigestTree::new(entry.size, CHUNK_BYTES_MIN);
        self.large = Some(Large { file, source, tree, offset: 0, counted: before.is_some() });
        Ok(())
    }

    fn read_small(&mut self, file: u32, entry: &PlanEntry, source: &SourceFile) -> Result<(), SplitError> {
        let len = entry.size as usize;
        let packed = self.pack.payload.as_ref().map_or(0, Lease::len);
        if packed + len > PACK_BYTES_MAX || self.pack.files.len() == PACK_FILES_MAX {
            self.ready.extend(self.pack.take());
        }
        // Read to where it would stand in the pack; taken back when it is not needed there.
        let payload = self.pack.payload.get_or_insert_with(|| self.buffers.take(self.pack_bytes));
        let start = payload.len();
        source.read(payload.room(), 0, len)?;
        source.check()?;
        let digest = digest::content(&payload.as_ref()[start..]);
        self.digests[file as usize] = digest;
        let covered = self.covered.has_file(file);
        if covered || (self.previous)(entry) == Some(digest) {
            payload.truncate(start);
            self.went(entry.size);
            if !covered {
                self.add_reuse(file, digest);
            }
            return Ok(());
        }
        let offset = match self.pack.places.get(&digest) {
            Some(place) => {
                payload.truncate(start);
                *place
            }
            None => {
                self.pack.places.insert(digest, start as u32);
                start as u32
            }
        };
        self.went(entry.size);
        self.pack.files.push(PackedFile { file, offset, len: len as u32, digest });
        Ok(())
    }

    // One run of a large file: a hole, a chunk of zeros or a chunk.
    fn read_large(&mut self, mut large: Large) -> Result<(), SplitError> {
        let (file, size, offset) = (large.file, large.source.len(), large.offset);
        if offset == size {
            large.source.check()?;
            let digest = large.tree.finish().expect("every run of the file was added");
            self.digests[file as usize] = digest;
            return Ok(());
        }
        let chunk = self.chunk_bytes.min(size - offset);
        let hole_end = large.source.hole_end(offset)?;
        let run = zero_run(size, offset, hole_end, self.chunk_bytes);
        // A hole that the log has in part goes chunk by chunk.
        let len = match run {
            Some(run) if !self.is_torn(file, offset, run) => {
                self.zeros(&mut large, offset, run);
                run
            }
            Some(_) => {
                let zeros = Bytes::from(vec![0; chunk as usize]);
                self.pieces_of(&mut large, offset, &zeros, zeros.len());
                chunk
            }
            None => {
                let mut data = self.buffers.take(chunk as usize);
                large.source.read(data.room(), offset, chunk as usize)?;
                let data = data.freeze();
                self.pieces_of(&mut large, offset, &data, data.len());
                chunk
            }
        };
        if !large.counted {
            self.went(len);
        }
        large.offset += len;
        self.large = Some(large);
        Ok(())
    }

    // Whether the log has a part of the range, but not all of it.
    fn is_torn(&self, file: u32, offset: u64, len: u64) -> bool {
        self.covered.touches(file, offset, len) && !self.covered.has(file, offset, len)
    }

    // A chunk without zeros is one piece. One with zeros in it is halved until they stand alone, so that a small
    // island in a sparse file costs 64 KiB and not a chunk: neither in the log, nor, as a copy, in memory, where a slice
    // keeps all `whole` bytes that it is of.
    fn pieces_of(&mut self, large: &mut Large, offset: u64, data: &Bytes, whole: usize) {
        const UNIT: usize = CHUNK_BYTES_MIN as usize;
        let len = data.len() as u64;
        if digest::is_zero(data) && !self.is_torn(large.file, offset, len) {
            return self.zeros(large, offset, len);
        }
        let halves = data.chunks(UNIT).any(digest::is_zero) || self.is_torn(large.file, offset, len);
        if data.len() > UNIT && halves {
            let left = data.len().next_power_of_two() / 2;
            self.pieces_of(large, offset, &data.slice(..left), whole);
            return self.pieces_of(large, offset + left as u64, &data.slice(left..), whole);
        }
        let digest = digest::subtree(large.source.len(), offset, data);
        large.tree.insert(offset, len, digest).expect("runs follow each other in order");
        if !self.covered.has(large.file, offset, len) {
            let copies = data.len() < whole / 2;
            let payload = if copies { Bytes::copy_from_slice(data) } else { data.clone() };
            let (file, file_bytes) = (large.file, large.source.len());
            self.ready.push_back(Piece::Chunk { file, offset, digest, file_bytes, payload });
        }
    }

    fn zeros(&mut self, large: &mut Large, offset: u64, len: u64) {
        let digest = digest::zeros(large.source.len(), offset, len);
        large.tree.insert(offset, len, digest).expect("runs follow each other in order");
        if !self.covered.has(large.file, offset, len) {
            let (file, file_bytes) = (large.file, large.source.len());
            self.ready.push_back(Piece::Zero { file, offset, len, digest, file_bytes });
        }
    }
}

// The longest run of zeros from `offset` that is one subtree and at least a chunk, or ends the file.
fn zero_run(size: u64, offset: u64, hole_end: u64, chunk_bytes: u64) -> Option<u64> {
    let hole = hole_end - offset;
    let aligned = if offset == 0 { u64::MAX } else { 1 << offset.trailing_zeros() };
    if hole_end == size && hole > 0 && hole <= aligned.min(ZERO_BYTES_MAX) {
        return Some(hole);
    }
    if hole < chunk_bytes {
        return None;
    }
    let longest = hole.min(aligned).min(ZERO_BYTES_MAX);
    Some(1 << longest.ilog2())
}

impl Iterator for Splitter<'_> {
    type Item = Result<Piece, SplitError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let piece = self.advance().transpose();
        if !matches!(piece, Some(Ok(_))) {
            self.ended = true;
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::limits::{CHUNK_BYTES_DEFAULT, Limits};

    // A preallocated file with a small island a chunk must not hold as many chunks in memory as it has islands.
    #[test]
    fn small_pieces_of_a_chunk_hold_no_buffer_and_large_ones_do() {
        let chunk = CHUNK_BYTES_DEFAULT as usize;
        let dir = tempfile::tempdir().unwrap();
        let mut data = vec![0; 4 * chunk];
        data[chunk + 1] = 1;
        data[2 * chunk + 1] = 2;
        data[3 * chunk..].fill(3);
        std::fs::write(dir.path().join("a"), &data).unwrap();
        std::fs::write(dir.path().join("b"), [4; 5000]).unwrap();
        let plan = Plan::scan(dir.path(), &Limits::default()).unwrap();
        let covered = Coverage::new();
        let buffers = Pool::new(8 * chunk);
        let splitter = Splitter::new(dir.path(), &plan, CHUNK_BYTES_DEFAULT, &covered, &|_| None).unwrap();
        let pieces: Vec<Piece> = splitter.with_buffers(&buffers).map(Result::unwrap).collect();
        let small = CHUNK_BYTES_MIN as usize;
        let held = |len: usize| {
            let is = |piece: &&Piece| matches!(piece, Piece::Chunk { payload, .. } if payload.len() == len);
            pieces.iter().filter(is).count()
        };
        assert_eq!((held(small), held(chunk)), (2, 1), "{pieces:?}");
        // The whole chunk; the pack fills so little of its buffer that it was copied.
        assert_eq!(buffers.out(), chunk);
        drop(pieces);
        assert_eq!(buffers.out(), 0);
    }

    // A look at all of the plan for each file takes 20 s for 200,000 of them.
    #[test]
    fn a_small_file_takes_no_longer_in_a_long_plan() {
        let dir = tempfile::tempdir().unwrap();
        (0..2000).for_each(|n| std::fs::write(dir.path().join(format!("{n}")), [7; 100]).unwrap());
        let mut plan = Plan::scan(dir.path(), &Limits::default()).unwrap();
        // Nothing is opened for what is empty.
        let empty = PlanEntry { size: 0, ..plan.entries[1].clone() };
        let (len, stamp) = (plan.entries.len() + 400_000, plan.stamps[1]);
        plan.entries.resize(len, empty);
        plan.stamps.resize(len, stamp);
        let (covered, begun) = (Coverage::new(), Instant::now());
        let splitter = Splitter::new(dir.path(), &plan, CHUNK_BYTES_MIN, &covered, &|_| None).unwrap();
        let packed = splitter.map(|piece| match piece.unwrap() {
            Piece::Pack { files, .. } => files.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(packed.sum::<usize>(), 2000);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    // A file that was there before is hashed whole first: what is found out of its holes must not hold for the second reading.
    #[test]
    fn what_changed_between_holes_is_read_after_all_was_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(9 << 20).unwrap();
        let island = |at: u64| std::os::unix::fs::FileExt::write_all_at(&file, &[7; 5000], at).unwrap();
        for ends_in_a_hole in [true, false] {
            island(0);
            island(3 << 20);
            if !ends_in_a_hole {
                island((9 << 20) - 5000);
            }
            let plan = Plan::scan(dir.path(), &Limits::default()).unwrap();
            let (covered, previous) = (Coverage::new(), |_: &_| Some(digest::content(b"another")));
            let mut splitter =
                Splitter::new(dir.path(), &plan, CHUNK_BYTES_DEFAULT, &covered, &previous).unwrap();
            let chunks = splitter.by_ref().filter(|piece| matches!(piece, Ok(Piece::Chunk { .. }))).count();
            assert_eq!(chunks, if ends_in_a_hole { 2 } else { 3 });
            let there = crate::split::digest_dir(dir.path(), &Limits::default()).unwrap();
            assert_eq!(splitter.finish_root().unwrap(), there.root());
        }
    }

    // One write that began before the scan moves no time again: what it does must be read by reading twice.
    #[test]
    fn a_file_that_somebody_has_open_for_writing_is_read_twice() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, b"content").unwrap();
        let scan = || Plan::scan(dir.path(), &Limits::default()).unwrap();
        let is_read_twice = |plan: &Plan| {
            let covered = Coverage::new();
            let mut splitter = Splitter::new(dir.path(), plan, CHUNK_BYTES_MIN, &covered, &|_| None).unwrap();
            splitter.by_ref().for_each(|piece| drop(piece.unwrap()));
            splitter.fresh.contains(&1)
        };
        // Once its stamp alone is no reason, and no other test forks with a handle of it.
        let settles = |what: &str| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while scan().stamps[1].is_fresh_for(SystemTime::now()).is_some() || is_read_twice(&scan()) {
                assert!(Instant::now() < deadline, "{what}: it is read twice for ever");
                std::thread::yield_now();
            }
        };
        settles("written");
        let writer = std::fs::File::options().write(true).open(&file).unwrap();
        assert!(is_read_twice(&scan()));
        let mut long_ago = scan();
        long_ago.stamps[1].ctime = long_ago.stamps[1].ctime.map(|(seconds, nanos)| (seconds - 100, nanos));
        assert!(!is_read_twice(&long_ago));
        assert!(!is_read_twice(&scan().ignoring_links()));
        drop(writer);
        settles("closed");
    }
}

//! What the open attempts of a ledger lack on this disk: a snapshot may be installed only when nothing is lacking.

use std::io;

use checkpoint::digest::{Hasher, is_zero, subtree, zeros};
use checkpoint::disk::{DiskFile, Open};
use checkpoint::limits::CHUNK_BYTES_MAX;
use checkpoint::store::{Content, Store};
use checkpoint::{Digest, RelPath};

use crate::ledger::{self, Ledger, Page, PlanPages};
use crate::plans::PageFiles;

const READ_BYTES: usize = 1 << 20;

/// One packed file of an open attempt: beside the log, its bytes lie in the attempt's tree only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Entry of the plan.
    pub file: u32,
    /// Path in the tree.
    pub path: RelPath,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of its content.
    pub digest: Digest,
}

/// What an open attempt lacks here, compared with a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptLacks {
    /// The attempt.
    pub attempt: u64,
    /// Pages of its plan that are in no file, see [`lacking_pages`]: of what they name nothing can be said.
    pub pages: Vec<Page>,
    /// File, offset, bytes, subtree digest: ranges that do not verify in the staged file.
    pub ranges: Vec<(u32, u64, u64, Digest)>,
    /// Packed files that do not verify in the attempt's tree.
    pub packed: Vec<PackedFile>,
    /// Content of earlier epochs that it reuses and that has no good blob here: the epochs may have gone since.
    pub reused: Vec<Content>,
}

impl AttemptLacks {
    pub(super) fn is_nothing(&self) -> bool {
        let AttemptLacks { attempt: _, pages, ranges, packed, reused } = self;
        pages.is_empty() && ranges.is_empty() && packed.is_empty() && reused.is_empty()
    }
}

/// Pages of the plans of `ledger` that are in no file here, or do not verify: whatever else is looked for, they come
/// first. Blocks.
pub fn lacking_pages(store: &Store, ledger: &Ledger) -> Vec<Page> {
    let files = PageFiles { disk: &**store.disk(), layout: store.layout() };
    let lacks = |page: &Page| !files.read(page).is_ok_and(|bytes| page.is(&bytes));
    ledger.attempts().flat_map(|info| ledger.pages(info.id)).filter(lacks).collect()
}

/// As [`Machine::lacking_of_attempts`](super::Machine::lacking_of_attempts), where no machine runs.
///
/// # Errors
/// The disk refuses. (What cannot be read is lacking.)
pub fn lacking_of_attempts(store: &Store, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>> {
    let mut all = Vec::new();
    for info in ledger.attempts() {
        let mut lacks = AttemptLacks { attempt: info.id, ..AttemptLacks::default() };
        let mut file = StagedFile::default();
        for (entry, offset, len, digest) in ledger.staged_ranges(info.id) {
            let size = ledger.planned_bytes(info.id, entry).unwrap_or_default();
            file.turn_to(store, info.id, entry)?;
            if !file.holds(size, offset, len, &digest) {
                lacks.ranges.push((entry, offset, len, digest));
            }
        }
        let mut packed = ledger.packed_files(info.id).peekable();
        for page in ledger.pages(info.id) {
            let here = std::iter::from_fn(|| packed.next_if(|file| file.file < page.first + page.entries));
            let here: Vec<_> = here.collect();
            if here.is_empty() {
                continue;
            }
            let files = PageFiles { disk: &**store.disk(), layout: store.layout() };
            let Ok(entries) = page.read(&files) else {
                lacks.pages.push(page);
                continue;
            };
            for ledger::PackedFile { file, mode, size, digest } in here {
                let path = entries[(file - page.first) as usize].path.clone();
                let packed = PackedFile { file, path, mode, size, digest };
                if !is_unpacked(store, info.id, &packed)? {
                    lacks.packed.push(packed);
                }
            }
        }
        let reused = ledger.reused_files(info.id);
        let reused = reused.map(|(digest, mode, size)| Content { digest, mode, size });
        lacks.reused = store.lacking_of(reused).map_err(io::Error::other)?;
        if !lacks.is_nothing() {
            all.push(lacks);
        }
    }
    Ok(all)
}

/// The staged file that is looked at; ranges come file by file.
#[derive(Default)]
struct StagedFile {
    entry: Option<u32>,
    file: Option<Box<dyn DiskFile>>,
}

impl StagedFile {
    fn turn_to(&mut self, store: &Store, attempt: u64, entry: u32) -> io::Result<()> {
        if self.entry != Some(entry) {
            let path = store.layout().staged_file(attempt, entry);
            self.file = found(store.disk().open(&path, Open::Read))?;
            self.entry = Some(entry);
        }
        Ok(())
    }

    /// Whether the range is there. A file that ends before it, or is not there at all, holds zeros.
    fn holds(&self, size: u64, offset: u64, len: u64, digest: &Digest) -> bool {
        if len > u64::from(CHUNK_BYTES_MAX) {
            // No chunk is so long: it is a run of zeros, and they may be many.
            return zeros(size, offset, len) == *digest && self.is_zero(offset, len);
        }
        let mut bytes = vec![0; len as usize];
        self.read(&mut bytes, offset).is_ok() && subtree(size, offset, &bytes) == *digest
    }

    fn is_zero(&self, offset: u64, len: u64) -> bool {
        let Some(file) = &self.file else { return true };
        let (mut room, mut at, end) = (Vec::new(), offset, offset + len);
        loop {
            let (start, until) = match file.next_data(at, end) {
                Ok(Some(data)) => data,
                Ok(None) => return true,
                Err(_) => return false,
            };
            at = start;
            while at < until {
                room.clear();
                room.resize((until - at).min(READ_BYTES as u64) as usize, 0);
                if self.read(&mut room, at).is_err() || !is_zero(&room) {
                    return false;
                }
                at += room.len() as u64;
            }
        }
    }

    /// Fills what the file has; the rest stays.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => return Ok(()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether the file lies in the attempt's tree with its content. Its mode is set when it is published.
fn is_unpacked(store: &Store, attempt: u64, packed: &PackedFile) -> io::Result<bool> {
    let path = store.layout().tree_dir(attempt).join(packed.path.as_os_str());
    let Some(file) = found(store.disk().open(&path, Open::Read))? else { return Ok(false) };
    if file.len()? != packed.size {
        return Ok(false);
    }
    let mut hasher = Hasher::new();
    let mut room = vec![0; READ_BYTES.min(packed.size.max(1) as usize)];
    let mut at = 0;
    loop {
        match file.read_at(&mut room, at) {
            Ok(0) => return Ok(hasher.finish() == packed.digest),
            Ok(count) => {
                hasher.update(&room[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Rotten: it is brought again.
            Err(_) => return Ok(false),
        }
    }
}

/// `None` for a file that is not there.
fn found(opened: io::Result<Box<dyn DiskFile>>) -> io::Result<Option<Box<dyn DiskFile>>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

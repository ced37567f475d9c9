//! What the open attempts of a ledger lack on this disk: a snapshot may be installed only when nothing is lacking.

use std::io;

use checkpoint::digest::{Hasher, is_zero, subtree, zeros};
use checkpoint::disk::{DiskFile, Open};
use checkpoint::limits::CHUNK_BYTES_MAX;
use checkpoint::store::{Content, Store, StoreError, Unpacked};
use checkpoint::{Digest, EntryKind};

use super::{Machine, PackedFile};
use crate::dues::aside::leave_out;
use crate::ledger::Ledger;

const READ_BYTES: usize = 1 << 20;

/// What an open attempt lacks here, compared with a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptLacks {
    /// The attempt.
    pub attempt: u64,
    /// File, offset, bytes, subtree digest: ranges that do not verify in the staged file.
    pub ranges: Vec<(u32, u64, u64, Digest)>,
    /// Packed files that do not verify in the attempt's tree.
    pub packed: Vec<PackedFile>,
    /// Content of earlier epochs that it reuses and that has no good blob here: the epochs may have gone since.
    pub reused: Vec<Content>,
}

impl AttemptLacks {
    fn is_nothing(&self) -> bool {
        self.ranges.is_empty() && self.packed.is_empty() && self.reused.is_empty()
    }
}

impl Machine {
    /// What the open attempts of `ledger` lack on this disk. Reads and checks all that they have. Blocks.
    ///
    /// What is in their trees stays from now on. The performer may still have packs of them to unpack: the first of
    /// an attempt that began in this life clears what an earlier life left there, and that must not come after this.
    /// What could not be unpacked here is set aside and not lacking: the log, which has it, goes with the install.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn lacking_of_attempts(&self, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>> {
        {
            let _paused = self.performer.pause();
            for info in ledger.attempts() {
                if self.dues.has_old_tree(info.id) {
                    self.store.discard(info.id).map_err(io::Error::other)?;
                }
                self.dues.begin_tree(info.id);
            }
        }
        self.ground().set_aside()?;
        let mut all = lacking_of_attempts(&self.store, ledger)?;
        for lacks in &mut all {
            leave_out(&self.store, &self.dues, lacks.attempt, &mut lacks.packed);
        }
        all.retain(|lacks| !lacks.is_nothing());
        Ok(all)
    }

    /// Writes packed files of an open attempt into its tree, while the performer stands still. They are still to be
    /// synced. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError> {
        let _paused = self.performer.pause();
        self.store.unpack(attempt, files)
    }
}

/// As [`Machine::lacking_of_attempts`], where no machine runs.
///
/// # Errors
/// The disk refuses. (What cannot be read is lacking.)
pub fn lacking_of_attempts(store: &Store, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>> {
    let mut all = Vec::new();
    for info in ledger.attempts() {
        let mut lacks = AttemptLacks { attempt: info.id, ..AttemptLacks::default() };
        let plan = ledger.plan(info.id).unwrap_or_default();
        let mut file = StagedFile::default();
        for (entry, offset, len, digest) in ledger.staged_ranges(info.id) {
            let planned = plan.get(entry as usize).filter(|planned| planned.kind == EntryKind::File);
            let size = planned.map_or(0, |planned| planned.size);
            file.turn_to(store, info.id, entry)?;
            if !file.holds(size, offset, len, &digest) {
                lacks.ranges.push((entry, offset, len, digest));
            }
        }
        for packed in ledger.packed_files(info.id) {
            if !is_unpacked(store, info.id, &packed)? {
                lacks.packed.push(packed);
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
        let mut room = vec![0; READ_BYTES];
        let mut at = offset;
        while at < offset + len {
            let part = &mut room[..(offset + len - at).min(READ_BYTES as u64) as usize];
            part.fill(0);
            if self.read(part, at).is_err() || !is_zero(part) {
                return false;
            }
            at += part.len() as u64;
        }
        true
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

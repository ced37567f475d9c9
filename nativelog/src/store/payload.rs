//! Chunk payloads in place: written once, straight into the staged file at their final offset.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use checkpoint::disk::{Disk, DiskFile, Open};
use checkpoint::durable;
use checkpoint::store::layout::Layout;

use super::frame::Placed;
use super::index::Place;
use crate::record::{Kind, Record, proto};

/// Files kept open by the writer, and as many by the readers.
const OPEN_FILES_MAX: usize = 32;

fn chunk_of(header: &Record) -> io::Result<&proto::Chunk> {
    match &header.kind {
        Some(Kind::Chunk(chunk)) => Ok(chunk),
        _ => Err(io::Error::other("only chunks lie in staged files")),
    }
}

/// A bounded set of open files; the one opened longest ago goes first.
struct OpenFiles {
    files: BTreeMap<PathBuf, (u64, Arc<dyn DiskFile>)>,
    clock: u64,
}

impl OpenFiles {
    const fn new() -> Self {
        OpenFiles { files: BTreeMap::new(), clock: 0 }
    }

    fn get(
        &mut self,
        path: PathBuf,
        open: impl FnOnce(&PathBuf) -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        self.clock += 1;
        if let Some((used, file)) = self.files.get_mut(&path) {
            *used = self.clock;
            return Ok(file.clone());
        }
        if self.files.len() >= OPEN_FILES_MAX
            && let Some(oldest) =
                self.files.iter().min_by_key(|(_, (used, _))| *used).map(|(path, _)| path.clone())
        {
            self.files.remove(&oldest);
        }
        let file: Arc<dyn DiskFile> = Arc::from(open(&path)?);
        self.files.insert(path, (self.clock, file.clone()));
        Ok(file)
    }
}

/// The reading end.
pub struct PayloadFiles {
    disk: Arc<dyn Disk>,
    layout: Layout,
    open: Mutex<OpenFiles>,
}

impl PayloadFiles {
    /// A reader of the staged files below `layout`.
    pub fn new(disk: Arc<dyn Disk>, layout: Layout) -> Self {
        PayloadFiles { disk, layout, open: Mutex::new(OpenFiles::new()) }
    }

    /// Reads a chunk's payload; the caller checks its digest.
    pub fn read(&self, index: u64, place: Place, header: &Record) -> io::Result<Bytes> {
        let chunk = chunk_of(header)?;
        let (path, offset) = match place {
            Place::Aside => (self.layout.aside_file(chunk.attempt, index), 0),
            _ => (self.layout.staged_file(chunk.attempt, chunk.file), chunk.offset),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = open.get(path, |path| self.disk.open(path, Open::Read))?;
        drop(open);
        let mut bytes = vec![0; chunk.len as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}

/// The writing end. Only the writer thread has it.
pub struct PayloadWriter {
    disk: Arc<dyn Disk>,
    layout: Layout,
    open: OpenFiles,
    known_dirs: BTreeSet<PathBuf>,
    unsynced_files: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
    unsynced_dirs: BTreeSet<PathBuf>,
}

impl PayloadWriter {
    /// A writer of staged files below `layout`.
    pub fn new(disk: Arc<dyn Disk>, layout: Layout) -> Self {
        PayloadWriter {
            disk,
            layout,
            open: OpenFiles::new(),
            known_dirs: BTreeSet::new(),
            unsynced_files: BTreeMap::new(),
            unsynced_dirs: BTreeSet::new(),
        }
    }

    /// Writes a chunk's payload to its place; durable after [`PayloadWriter::sync`].
    pub fn write(&mut self, index: u64, placed: Placed, header: &Record, payload: &[u8]) -> io::Result<()> {
        let chunk = chunk_of(header)?;
        let (path, offset) = match placed {
            Placed::Aside => (self.layout.aside_file(chunk.attempt, index), 0),
            _ => (self.layout.staged_file(chunk.attempt, chunk.file), chunk.offset),
        };
        let dir = path.parent().expect("a staged file has a folder").to_path_buf();
        if !self.known_dirs.contains(&dir) {
            durable::create_dir_all(self.disk.as_ref(), &self.layout.staging_dir(), &dir)?;
            if self.known_dirs.len() >= 1024 {
                self.known_dirs.clear();
            }
            self.known_dirs.insert(dir.clone());
        }
        let (disk, unsynced_dirs) = (&self.disk, &mut self.unsynced_dirs);
        let file = self.open.get(path.clone(), |path| {
            // Whether this made the file or not, its name is durable before the header is written.
            unsynced_dirs.insert(dir);
            disk.open_direct(path, Open::Create)
        })?;
        file.write_at(payload, offset)?;
        self.unsynced_files.insert(path, file);
        Ok(())
    }

    /// Clears a run of zeros: an entry that never came to stand in the log may have left bytes there.
    pub fn clear(&mut self, zero: &proto::Zero) -> io::Result<()> {
        let path = self.layout.staged_file(zero.attempt, zero.file);
        let end = match self.disk.stat(&path) {
            Ok(stat) => stat.len.min(zero.offset.saturating_add(zero.len)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if end <= zero.offset {
            return Ok(());
        }
        let file = self.open.get(path.clone(), |path| self.disk.open_direct(path, Open::Write))?;
        let zeros = vec![0; (end - zero.offset).min(1 << 20) as usize];
        let mut at = zero.offset;
        while at < end {
            let part = (end - at).min(zeros.len() as u64);
            file.write_at(&zeros[..part as usize], at)?;
            at += part;
        }
        self.unsynced_files.insert(path, file);
        Ok(())
    }

    /// Makes everything written durable: contents first, then the names of new files.
    pub fn sync(&mut self) -> io::Result<()> {
        for file in std::mem::take(&mut self.unsynced_files).values() {
            file.sync_data()?;
        }
        for dir in std::mem::take(&mut self.unsynced_dirs) {
            self.disk.sync_dir(&dir)?;
        }
        Ok(())
    }
}

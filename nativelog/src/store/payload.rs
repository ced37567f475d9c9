//! Chunk payloads in place: written once, straight into the staged file at their final offset.
//!
//! Open files are kept, so whatever moves a file or its folder must call `forget`: the space of a deleted file is free
//! only when nobody has it open, and nothing may be written into an inode that lost its name.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use checkpoint::disk::{Disk, DiskDir, DiskFile, Open};
use checkpoint::durable::ensure_dir;
use checkpoint::store::layout::Layout;

use super::frame::Placed;
use super::index::Place;
use super::notes::Notes;
use super::room::Room;
use crate::record::{Kind, Record, proto};

/// Files kept open by the writer, and as many by the readers.
const OPEN_FILES_MAX: usize = 32;

fn chunk_of(header: &Record) -> io::Result<&proto::Chunk> {
    match &header.kind {
        Some(Kind::Chunk(chunk)) => Ok(chunk),
        _ => Err(io::Error::other("only chunks lie in staged files")),
    }
}

/// Where the payload of the entry at `index` lies: file and offset.
pub fn position(layout: &Layout, index: u64, place: Place, header: &Record) -> io::Result<(PathBuf, u64)> {
    let chunk = chunk_of(header)?;
    Ok(match place {
        Place::Aside => (layout.aside_file(chunk.attempt, index), 0),
        _ => (layout.staged_file(chunk.attempt, chunk.file), chunk.offset),
    })
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

    fn forget(&mut self, below: &Path) {
        self.files.retain(|path, _| !path.starts_with(below));
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
        let (path, offset) = position(&self.layout, index, place, header)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = open.get(path, |path| self.disk.open(path, Open::Read))?;
        drop(open);
        let mut bytes = vec![0; chunk_of(header)?.len as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }

    /// Lets go of the file at this path, or of all below this folder: it was moved.
    pub fn forget(&self, below: &Path) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).forget(below);
    }
}

/// The writing end. Only the writer thread has it.
pub struct PayloadWriter {
    disk: Arc<dyn Disk>,
    layout: Layout,
    open: OpenFiles,
    known_dirs: BTreeSet<PathBuf>,
    unsynced_files: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
    unsynced_dirs: OpenDirs,
    /// A file that is being copied, and what was written there since.
    copying: Option<(PathBuf, Notes)>,
}

/// Folders that wait for a sync. Each was opened before something in it got a name: their syncs need no handles more,
/// so that what was begun can be ended.
type OpenDirs = BTreeMap<PathBuf, Box<dyn DiskDir>>;

fn open_dir(dirs: &mut OpenDirs, disk: &dyn Disk, room: &Room, dir: &Path) -> io::Result<()> {
    if !dirs.contains_key(dir) {
        let open = room.wait_for("open", dir, || disk.open_dir(dir))?;
        dirs.insert(dir.to_owned(), open);
    }
    Ok(())
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
            unsynced_dirs: OpenDirs::new(),
            copying: None,
        }
    }

    /// Writes a chunk's payload to its place; durable after [`PayloadWriter::sync`].
    pub fn write(
        &mut self,
        room: &Room,
        index: u64,
        placed: Placed,
        header: &Record,
        payload: &[u8],
    ) -> io::Result<()> {
        let place = if placed == Placed::Aside { Place::Aside } else { Place::Staged };
        let (path, offset) = position(&self.layout, index, place, header)?;
        self.write_at(room, path, offset, payload)
    }

    /// Writes bytes of a staged or aside file; durable after [`PayloadWriter::sync`].
    pub fn write_at(&mut self, room: &Room, path: PathBuf, offset: u64, data: &[u8]) -> io::Result<()> {
        self.make_dir_of(room, &path)?;
        self.note(&path, offset..offset + data.len() as u64);
        let (disk, unsynced_dirs) = (&self.disk, &mut self.unsynced_dirs);
        let file = self.open.get(path.clone(), |path| {
            // Whether this made the file or not, its name is durable before the header is written.
            open_dir(unsynced_dirs, &**disk, room, path.parent().unwrap_or(path))?;
            room.wait_for("make", path, || disk.open_direct(path, Open::Create))
        })?;
        room.wait_for("write", &path, || file.write_at(data, offset))?;
        self.unsynced_files.insert(path, file);
        Ok(())
    }

    /// Makes the folders between `staging/` and this file; their names are durable after [`PayloadWriter::sync`],
    /// also those that were there, because an earlier process may have died before it synced them.
    pub fn make_dir_of(&mut self, room: &Room, path: &Path) -> io::Result<()> {
        let staging = self.layout.staging_dir();
        let Some(dir) = path.parent().filter(|dir| !self.known_dirs.contains(*dir)) else { return Ok(()) };
        let below = dir.strip_prefix(&staging).map_err(io::Error::other)?;
        let mut at = staging.clone();
        for name in below.components() {
            open_dir(&mut self.unsynced_dirs, &*self.disk, room, &at)?;
            at.push(name);
            room.wait_for("make", &at, || ensure_dir(self.disk.as_ref(), &at))?;
        }
        if self.known_dirs.len() >= 1024 {
            self.known_dirs.clear();
        }
        self.known_dirs.insert(at);
        Ok(())
    }

    /// Forgets the file at this path, or all below this folder: it was moved. What was written there and waits for
    /// [`PayloadWriter::sync`] is not synced any more.
    pub fn forget(&mut self, below: &Path) {
        self.open.forget(below);
        self.known_dirs.retain(|dir| !dir.starts_with(below));
        self.unsynced_files.retain(|path, _| !path.starts_with(below));
        self.unsynced_dirs.retain(|dir, _| !dir.starts_with(below));
    }

    /// From here on the ranges that are written into this file are noted, and those of no other.
    pub fn begin_notes(&mut self, path: PathBuf) {
        self.copying = Some((path, Notes::default()));
    }

    /// What was noted, unless nothing is.
    pub fn notes(&mut self) -> Option<&mut Notes> {
        self.copying.as_mut().map(|(_, notes)| notes)
    }

    /// Nothing is noted any more.
    pub fn end_notes(&mut self) {
        self.copying = None;
    }

    fn note(&mut self, path: &Path, range: Range<u64>) {
        if let Some((copied, notes)) = &mut self.copying
            && copied == path
        {
            notes.add(range);
        }
    }

    /// Makes a range of a staged file read as zeros, durably after [`PayloadWriter::sync`]: an entry that never came to
    /// stand in the log may have left bytes there. It may be as long as the file, and most of it a hole.
    pub fn clear(&mut self, room: &Room, path: PathBuf, range: Range<u64>) -> io::Result<()> {
        let end = match self.disk.stat(&path) {
            Ok(stat) => stat.len.min(range.end),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if end <= range.start {
            return Ok(());
        }
        self.note(&path, range.start..end);
        let open = || self.disk.open_direct(&path, Open::Write);
        let file = self.open.get(path.clone(), |path| room.wait_for("open", path, open))?;
        room.wait_for("clear", &path, || file.clear(range.start, end - range.start))?;
        self.unsynced_files.insert(path, file);
        Ok(())
    }

    /// Makes everything written durable: contents first, then the names of new files.
    pub fn sync(&mut self) -> io::Result<()> {
        for file in std::mem::take(&mut self.unsynced_files).values() {
            file.sync_data()?;
        }
        for dir in std::mem::take(&mut self.unsynced_dirs).values() {
            dir.sync()?;
        }
        Ok(())
    }
}

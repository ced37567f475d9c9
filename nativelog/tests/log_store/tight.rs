//! A disk that is full to the last byte: nothing grows on it, and what is freed is somebody else's at once.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use checkpoint::disk::{Disk, DiskFile, Open, Space};
use checkpoint::testing::CrashDisk;

const ENOSPC: i32 = 28;

#[derive(Debug, Default)]
struct State {
    full: AtomicBool,
    /// Whoever holds it holds up every sync of a file.
    syncs: Mutex<()>,
    /// Syncs of files that were begun.
    begun: AtomicU64,
}

/// A disk that can be filled, and emptied again.
#[derive(Debug, Clone)]
pub struct TightDisk {
    disk: CrashDisk,
    state: Arc<State>,
}

impl TightDisk {
    pub fn over(disk: &CrashDisk) -> TightDisk {
        TightDisk { disk: disk.clone(), state: Arc::default() }
    }

    pub fn set_full(&self, full: bool) {
        self.state.full.store(full, Ordering::SeqCst);
    }

    pub fn hold_syncs(&self) -> MutexGuard<'_, ()> {
        self.state.syncs.lock().unwrap()
    }

    /// Syncs of files that were begun so far.
    pub fn syncs_begun(&self) -> u64 {
        self.state.begun.load(Ordering::SeqCst)
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(TightFile { file, state: self.state.clone() })
    }

    /// There must be room for a name of this kind, if there is none yet.
    fn makes(&self, path: &Path) -> io::Result<()> {
        match self.disk.stat(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.state.makes(),
            _ => Ok(()),
        }
    }
}

impl State {
    fn sync(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.syncs.lock().unwrap());
    }

    fn makes(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }
}

impl checkpoint::disk::DiskLayer for TightDisk {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        if matches!(how, Open::Create | Open::CreateNew) {
            self.makes(path)?;
        }
        self.disk.open(path, how).map(|file| self.file(file))
    }
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Disk::open(self, path, how)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.makes(path)?;
        self.disk.create_dir(path)
    }
    fn symlink(&self, target: &[u8], at: &Path) -> io::Result<()> {
        self.makes(at)?;
        self.disk.symlink(target, at)
    }
    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.makes()?;
        self.disk.clone_file(from, to)
    }
    fn free(&self, path: &Path) -> io::Result<Space> {
        let space = self.disk.free(path)?;
        let full = self.state.full.load(Ordering::SeqCst);
        Ok(Space { free_bytes: if full { 0 } else { space.free_bytes }, ..space })
    }
}

#[derive(Debug)]
struct TightFile {
    file: Box<dyn DiskFile>,
    state: Arc<State>,
}

impl TightFile {
    /// From here on so many bytes have blocks.
    fn allocated(&self, offset: u64) -> io::Result<u64> {
        let data = self.file.next_data(offset, u64::MAX)?;
        Ok(data.filter(|(start, _)| *start == offset).map_or(0, |(_, end)| end - offset))
    }
}

impl checkpoint::disk::FileLayer for TightFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let has = self.allocated(offset)?;
        if data.len() as u64 <= has || self.state.makes().is_ok() {
            return self.file.write_at(data, offset);
        }
        // As far as there is room.
        if has > 0 {
            self.file.write_at(&data[..has as usize], offset)?;
        }
        self.state.makes()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.state.sync();
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.state.sync();
        self.file.sync_all()
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if offset + len > self.file.len()? {
            self.state.makes()?;
        }
        self.file.allocate(offset, len)
    }
}

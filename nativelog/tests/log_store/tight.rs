//! A disk that is full to the last byte: nothing grows on it, and what is freed is somebody else's at once.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use checkpoint::disk::{Disk, DiskDir, DiskFile, FileKind, Open, Space, Stat};
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

impl Disk for TightDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        if matches!(how, Open::Create | Open::CreateNew) {
            self.makes(path)?;
        }
        self.disk.open(path, how).map(|file| self.file(file))
    }
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.open(path, how)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.makes(path)?;
        self.disk.create_dir(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, FileKind)>> {
        self.disk.read_dir(path)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.disk.stat(path)
    }
    fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read_link(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn symlink(&self, target: &[u8], at: &Path) -> io::Result<()> {
        self.makes(at)?;
        self.disk.symlink(target, at)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_tree(path)
    }
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.disk.set_mode(path, mode)
    }
    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.makes()?;
        self.disk.clone_file(from, to)
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        self.disk.open_dir(path)
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

impl DiskFile for TightFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let has = self.file.len()?;
        if offset + data.len() as u64 <= has || self.state.makes().is_ok() {
            return self.file.write_at(data, offset);
        }
        // As far as there is room.
        if offset < has {
            self.file.write_at(&data[..(has - offset) as usize], offset)?;
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
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_mode(mode)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if offset + len > self.file.len()? {
            self.state.makes()?;
        }
        self.file.allocate(offset, len)
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}

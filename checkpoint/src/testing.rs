//! A disk that forgets: [`CrashDisk`] keeps volatile and durable bytes per file
//! and volatile and durable names per directory, in memory. For tests only; it
//! checks no permissions and has no clock.
//!
//! What survives [`CrashDisk::crash`]: under [`Crash::Strict`] only what was
//! synced (content by `sync_data`, mode by `sync_all`, names by `sync_dir` of
//! their directory, everything by `sync_fs`); under [`Crash::Mixed`] also any
//! part of the rest, by seed: single writes in any order, torn at sectors of 512
//! bytes, single names. A rename is kept or lost as a whole. A sync that failed
//! has lost its data for good, though later syncs succeed.

mod bytes;
mod crash;
mod failures;
mod names;
mod op;
mod world;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskDir, DiskFile, FileKind, Open, Space, Stat};
pub use crash::Crash;
pub use op::{Op, OpKind};
use world::{Body, Change, World};

/// The disk in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct CrashDisk {
    world: Arc<Mutex<World>>,
    meanwhile: Arc<Mutex<Meanwhile>>,
}

/// What a test does whenever somebody has opened a file, or has not found it.
#[derive(Clone, Default)]
struct Meanwhile(Option<Arc<Told>>);

type Told = dyn Fn(&Path) + Send + Sync;

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Default for CrashDisk {
    fn default() -> Self {
        CrashDisk::new()
    }
}

impl CrashDisk {
    /// An empty disk: `/` is there and durable.
    pub fn new() -> CrashDisk {
        CrashDisk::of(World::new())
    }

    fn of(world: World) -> CrashDisk {
        CrashDisk { world: Arc::new(Mutex::new(world)), meanwhile: Arc::default() }
    }

    /// Does this from now on whenever a file was opened, or not found, on the thread that hears of it afterwards.
    pub fn after_open(&self, meanwhile: impl Fn(&Path) + Send + Sync + 'static) {
        *self.meanwhile.lock().expect("nobody panics with it") = Meanwhile(Some(Arc::new(meanwhile)));
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("a test thread panicked inside the crash disk")
    }

    /// After `ops` more operations the power is gone: every later one fails, reads too.
    pub fn crash_after(&self, ops: u64) {
        let mut world = self.world();
        let stop = world.count + ops;
        world.stop_at = Some(stop);
    }

    /// Whether the point set by [`CrashDisk::crash_after`] was reached.
    pub fn crashed(&self) -> bool {
        self.world().down
    }

    /// The number of operations so far.
    pub fn op_count(&self) -> u64 {
        self.world().count
    }

    /// The operations so far, oldest first.
    pub fn ops(&self) -> Vec<Op> {
        self.world().log.clone()
    }

    /// Forgets the log of operations (not their number).
    pub fn clear_ops(&self) {
        self.world().log.clear();
    }

    /// The disk as it is after the power came back. This one stays as it is.
    pub fn crash(&self, how: Crash) -> CrashDisk {
        CrashDisk::of(self.world().after(how))
    }

    /// The next operation of this kind on a path that contains `path_contains` fails with this error number
    /// (rustix or libc, such as 5 for EIO, 28 for ENOSPC). A sync that fails loses its data.
    pub fn fail_next(&self, kind: OpKind, path_contains: &str, errno: i32) {
        self.fail_after(0, kind, path_contains, errno);
    }

    /// As [`CrashDisk::fail_next`], when so many of them have gone well.
    pub fn fail_after(&self, passes: u64, kind: OpKind, path_contains: &str, errno: i32) {
        self.world().failures.plan(passes, kind, path_contains, errno);
    }

    /// Forgets the failures that were planned and have not come yet.
    pub fn clear_failures(&self) {
        self.world().failures.clear();
    }

    /// Every operation of this kind on this very path fails with this error number from now on, also after a crash, as
    /// where another file system is mounted: until [`CrashDisk::allow`].
    pub fn refuse(&self, kind: OpKind, path: &Path, errno: i32) {
        self.world().failures.refuse(kind, path, errno);
    }

    /// Nothing is refused on this path any more.
    pub fn allow(&self, path: &Path) {
        self.world().failures.allow(path);
    }

    /// Links of an inode from which on `link` answers "too many links".
    pub fn limit_links(&self, links_max: u64) {
        self.world().links_max = links_max;
    }

    /// What [`Disk::free`] answers from now on.
    pub fn set_space(&self, space: Space) {
        self.world().space = space;
    }

    /// Turns one bit of a file over, on the device as in the cache. False when it is beyond the end.
    pub fn flip(&self, path: &Path, bit: u64) -> io::Result<bool> {
        let mut world = self.world();
        let ino = world.file_at(path)?;
        Ok(world.flip(ino, bit))
    }

    /// Cuts a file, on the device as in the cache, as damage.
    pub fn truncate_file(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut world = self.world();
        let ino = world.file_at(path)?;
        world.damage_len(ino, len);
        Ok(())
    }

    /// Every path that is there now, sorted, without `/`.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world().paths()
    }

    fn open_now(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.world();
        world.reading(path)?;
        let (dir, name) = world.slot(path)?;
        let ino = match (world.entry(dir, &name), how) {
            (Some(_), Open::CreateNew) => return Err(exists()),
            (Some(ino), _) => match world.kind(ino) {
                FileKind::File => {
                    world.opening(path)?;
                    ino
                }
                FileKind::Directory => return Err(rustix::io::Errno::ISDIR.into()),
                _ => return Err(rustix::io::Errno::LOOP.into()),
            },
            (None, Open::Read | Open::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, Open::Create | Open::CreateNew) => {
                world.step(OpKind::Create, path, 0, 0)?;
                let ino = world.make(Body::file(), 0o600);
                world.change_names(vec![Change::new(dir, name, None, Some(ino))]);
                ino
            }
        };
        Ok(Box::new(CrashFile {
            disk: self.clone(),
            ino,
            path: path.to_path_buf(),
            writable: how != Open::Read,
        }))
    }
}

fn exists() -> io::Error {
    io::Error::from(rustix::io::Errno::EXIST)
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let opened = self.open_now(path, how);
        let meanwhile = self.meanwhile.lock().expect("nobody panics with it").0.clone();
        if let Some(meanwhile) = meanwhile {
            meanwhile(path);
        }
        opened
    }

    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.open(path, how)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let (dir, name) = world.slot(path)?;
        if world.entry(dir, &name).is_some() {
            return Err(exists());
        }
        world.step(OpKind::CreateDir, path, 0, 0)?;
        let ino = world.make(Body::dir(), 0o700);
        world.change_names(vec![Change::new(dir, name, None, Some(ino))]);
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, FileKind)>> {
        let mut world = self.world();
        world.reading(path)?;
        let dir = world.dir_at(path)?;
        Ok(world.names(dir).into_iter().map(|(name, ino)| (name, world.kind(ino))).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let mut world = self.world();
        world.reading(path)?;
        let ino = world.at(path)?;
        Ok(world.stat(ino))
    }

    fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut world = self.world();
        world.reading(path)?;
        let ino = world.at(path)?;
        world.target(ino).ok_or_else(|| rustix::io::Errno::INVAL.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        let (from_dir, from_name) = world.slot(from)?;
        let ino = world.entry(from_dir, &from_name).ok_or(io::ErrorKind::NotFound)?;
        let (to_dir, to_name) = world.slot(to)?;
        let old = world.entry(to_dir, &to_name);
        if old == Some(ino) {
            return Ok(());
        }
        if let Some(old) = old {
            match (world.kind(ino), world.kind(old)) {
                (FileKind::Directory, FileKind::Directory) if world.names(old).is_empty() => {}
                (FileKind::Directory, FileKind::Directory) => return Err(rustix::io::Errno::NOTEMPTY.into()),
                (FileKind::Directory, _) => return Err(rustix::io::Errno::NOTDIR.into()),
                (_, FileKind::Directory) => return Err(rustix::io::Errno::ISDIR.into()),
                _ => {}
            }
        }
        world.step(OpKind::Rename, to, 0, 0)?;
        world.change_names(vec![
            Change::new(to_dir, to_name, old, Some(ino)),
            Change::new(from_dir, from_name, Some(ino), None),
        ]);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        let ino = world.at(from)?;
        let (dir, name) = world.slot(to)?;
        if world.entry(dir, &name).is_some() {
            return Err(exists());
        }
        if world.kind(ino) == FileKind::Directory {
            return Err(rustix::io::Errno::PERM.into());
        }
        if world.stat(ino).links >= world.links_max {
            return Err(rustix::io::Errno::MLINK.into());
        }
        world.step(OpKind::Link, to, 0, 0)?;
        world.change_names(vec![Change::new(dir, name, None, Some(ino))]);
        Ok(())
    }

    fn symlink(&self, target: &[u8], at: &Path) -> io::Result<()> {
        let mut world = self.world();
        let (dir, name) = world.slot(at)?;
        if world.entry(dir, &name).is_some() {
            return Err(exists());
        }
        world.step(OpKind::Symlink, at, 0, 0)?;
        let ino = world.make(Body::Symlink(target.to_vec()), 0o777);
        world.change_names(vec![Change::new(dir, name, None, Some(ino))]);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let (dir, name) = world.slot(path)?;
        let ino = world.entry(dir, &name).ok_or(io::ErrorKind::NotFound)?;
        if world.kind(ino) == FileKind::Directory {
            return Err(rustix::io::Errno::ISDIR.into());
        }
        world.step(OpKind::Unlink, path, 0, 0)?;
        world.change_names(vec![Change::new(dir, name, Some(ino), None)]);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let (dir, name) = world.slot(path)?;
        let ino = world.dir_at(path)?;
        if !world.names(ino).is_empty() {
            return Err(rustix::io::Errno::NOTEMPTY.into());
        }
        world.step(OpKind::RemoveDir, path, 0, 0)?;
        world.change_names(vec![Change::new(dir, name, Some(ino), None)]);
        Ok(())
    }

    // Name by name, each an operation of its own that the power may go at. Nobody swaps anything in here.
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        names::remove_tree(self, path)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut world = self.world();
        let ino = world.at(path)?;
        if world.kind(ino) == FileKind::Symlink {
            return Err(rustix::io::Errno::LOOP.into());
        }
        world.step(OpKind::SetMode, path, 0, 0)?;
        world.set_mode(ino, mode);
        Ok(())
    }

    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.reading(from)?;
        let source = world.file_at(from)?;
        let (dir, name) = world.slot(to)?;
        if world.entry(dir, &name).is_some() {
            return Err(exists());
        }
        world.step(OpKind::Clone, to, 0, 0)?;
        let ino = world.make(Body::file(), 0o600);
        world.clone_content(source, ino);
        world.change_names(vec![Change::new(dir, name, None, Some(ino))]);
        Ok(())
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        let mut world = self.world();
        let ino = world.dir_at(path)?;
        world.opening(path)?;
        Ok(Box::new(CrashDir { disk: self.clone(), ino, path: path.to_path_buf() }))
    }

    fn free(&self, path: &Path) -> io::Result<Space> {
        let mut world = self.world();
        world.reading(path)?;
        Ok(world.space)
    }
}

#[derive(Debug)]
struct CrashDir {
    disk: CrashDisk,
    ino: u64,
    path: PathBuf,
}

impl DiskDir for CrashDir {
    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.step(OpKind::SyncDir, &self.path, 0, 0)?;
        world.sync_dir(self.ino);
        Ok(())
    }

    fn sync_fs(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.step(OpKind::SyncFs, &self.path, 0, 0)?;
        world.sync_fs();
        Ok(())
    }
}

#[derive(Debug)]
struct CrashFile {
    disk: CrashDisk,
    ino: u64,
    path: PathBuf,
    writable: bool,
}

impl CrashFile {
    fn may_write(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(rustix::io::Errno::BADF.into()) }
    }

    fn sync(&self, kind: OpKind) -> io::Result<()> {
        let mut world = self.disk.world();
        if let Err(e) = world.step(kind, &self.path, 0, 0) {
            world.lose(self.ino);
            return Err(e);
        }
        world.sync_file(self.ino, kind == OpKind::SyncAll);
        Ok(())
    }
}

impl DiskFile for CrashFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.world();
        world.reading(&self.path)?;
        Ok(world.read(self.ino, buf, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.may_write()?;
        let mut world = self.disk.world();
        world.step(OpKind::Write, &self.path, offset, data.len() as u64)?;
        world.write(self.ino, data, offset);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(OpKind::SyncData)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(OpKind::SyncAll)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.may_write()?;
        let mut world = self.disk.world();
        world.step(OpKind::SetLen, &self.path, 0, len)?;
        world.set_len(self.ino, len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.world();
        world.reading(&self.path)?;
        Ok(world.stat(self.ino).len)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mut world = self.disk.world();
        world.step(OpKind::SetMode, &self.path, 0, 0)?;
        world.set_mode(self.ino, mode);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.may_write()?;
        let mut world = self.disk.world();
        world.step(OpKind::SetLen, &self.path, offset, len)?;
        world.reserve(self.ino, offset + len);
        Ok(())
    }

    fn next_data(&self, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        let mut world = self.disk.world();
        world.reading(&self.path)?;
        Ok(world.next_data(self.ino, at, end))
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        world.reading(&self.path)?;
        world.drop_cache(self.ino);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

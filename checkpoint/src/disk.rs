//! The disk: the few verbs through which everything that must survive a power
//! cut goes. What is written is durable only after a sync; a name is durable
//! only after `sync_dir` of its directory. Links are never followed in the last
//! component. [`RealDisk`] is the operating system's,
//! [`StrictDisk`] one on which a failed sync is final, a [`DiskLayer`] whatever changes some verbs of another one.

mod around;
mod hash;
mod layer;
mod pool;
mod real;
mod removal;
mod strict;

pub use around::data_bytes;
pub(crate) use around::write_around;
pub(crate) use hash::{hash_file, hash_range, hash_staged};
pub use layer::{DiskLayer, FileLayer};
pub use pool::{BUFFER_BYTES, Lease, Pool};
pub use real::{RealDisk, next_data};
pub(crate) use removal::remove_held;
pub use strict::{Fault, StrictDisk};

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// True for the errors that go away when somebody makes room, or closes files.
pub fn lacks_room(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | OutOfMemory) || lacks_handles(error)
}

/// True when this process or machine has too little of something now: a read that fails so says nothing of what is on
/// the disk.
pub fn says_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
    matches!(error.kind(), OutOfMemory | Interrupted | WouldBlock) || lacks_handles(error)
}

/// Whether an error of reading says that the device has lost what was written there.
pub fn is_rot(error: &io::Error) -> bool {
    let rot = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::REMOTEIO];
    error.raw_os_error().is_some_and(|raw| rot.iter().any(|errno| errno.raw_os_error() == raw))
}

/// Whether this process or machine may open no more files.
pub fn lacks_handles(error: &io::Error) -> bool {
    let handles = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| handles.contains(&number))
}

/// How a file is opened. What is made has the mode that is told here, whatever the process's umask or the folder's
/// default access list would make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// To read and write, made (0600) when missing.
    Create,
    /// To read and write, made (0600); it must not be there.
    CreateNew,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, fifo or device.
    Other,
}

/// What the disk knows of a name; links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// File, directory, symlink or other.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Length, bytes.
    pub len: u64,
    /// Inode number.
    pub ino: u64,
    /// Names of this inode.
    pub links: u64,
    /// Blocks of 512 bytes that it takes on the disk.
    pub blocks: u64,
    /// Last change of the content, nanoseconds since 1970 (0 where the disk keeps none).
    pub mtime_ns: i128,
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes altogether.
    pub total_bytes: u64,
    /// Inodes that may still be made; `u64::MAX` where they are not counted.
    pub free_inodes: u64,
}

/// The verbs. Errors are those of the operating system.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens a regular file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file whose large writes go past the page cache (`O_DIRECT`) where the file system takes that;
    /// otherwise as [`Disk::open`]. Any buffer, offset and length may be written.
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a directory, 0700, also below a set-gid folder and under any umask. `AlreadyExists` when the name is
    /// taken.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names and kinds, sorted bytewise by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, FileKind)>>;
    /// As `lstat`.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// The raw target of a symlink.
    fn read_link(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Moves a name, replacing a file, symlink or empty directory at `to`. Atomic.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Another name for the same inode. `AlreadyExists` when the name is taken, `TooManyLinks` when the inode
    /// has no room for another name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes a symlink.
    fn symlink(&self, target: &[u8], at: &Path) -> io::Result<()>;
    /// Removes a name that is no directory.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file or a whole tree; nothing there is fine. Directories that their owner may not write are opened
    /// up first, so that an ordinary user can remove what they published. Nothing is removed by way of a symlink,
    /// also of one that is put in the place of a directory meanwhile: a verb of its own, because whoever goes by
    /// names cannot promise that.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Sets the permission bits of a file or directory (never through a symlink).
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// A new file (0600) with the same content: reflink, else a copy that keeps holes. Not synced.
    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Opens a directory, to sync it. Who must not fail between a change and its sync opens it before the change.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>>;
    /// Room on the file system that holds `path`.
    fn free(&self, path: &Path) -> io::Result<Space>;

    /// Opens a directory and syncs it: its names, as they are now, are durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.open_dir(path)?.sync()
    }

    /// Opens a directory and syncs its file system.
    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.open_dir(path)?.sync_fs()
    }

    /// A new file with this content and mode, not synced.
    fn write_new(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        write_whole(self, path, data, mode)
    }

    /// The whole content of a file of at most `bytes_max` bytes (`InvalidData` beyond).
    fn read_file(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        read_whole(self, path, bytes_max)
    }
}

/// [`Disk::write_new`] by way of a file that the disk opens.
fn write_whole<D: Disk + ?Sized>(disk: &D, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
    let file = disk.open(path, Open::CreateNew)?;
    file.write_at(data, 0)?;
    if mode == 0o600 { Ok(()) } else { file.set_mode(mode) }
}

/// [`Disk::read_file`] by way of a file that the disk opens.
fn read_whole<D: Disk + ?Sized>(disk: &D, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Open::Read)?;
    let len = file.len()?;
    if len > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{len} bytes, more than the {bytes_max} that may be here"),
        ));
    }
    let mut data = vec![0; len as usize];
    file.read_exact_at(&mut data, 0)?;
    Ok(data)
}

/// An open directory. It stays the same one when it gets another name.
pub trait DiskDir: Send + Sync + Debug {
    /// fsync: its names, as they are now, are durable.
    fn sync(&self) -> io::Result<()>;
    /// syncfs of the file system that holds it: everything written so far is durable, names included.
    fn sync_fs(&self) -> io::Result<()>;
}

/// An open regular file. Several threads may use it at once.
#[expect(clippy::len_without_is_empty, reason = "a length in bytes that may fail, not a collection")]
pub trait DiskFile: Send + Sync + Debug {
    /// Reads at most `buf.len()` bytes; 0 at or beyond the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data`, growing the file when needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// fdatasync: content and length are durable.
    fn sync_data(&self) -> io::Result<()>;
    /// fsync: mode too.
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts, or extends by a hole.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length, bytes.
    fn len(&self) -> io::Result<u64>;
    /// Sets the permission bits.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// Reserves blocks for the range; the file is at least `offset + len` long afterwards, new bytes read as
    /// zeros. Where the file system cannot reserve, only the length grows.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes what lies in the range read as zeros; the length stays. Blocks go back to the disk where the file system
    /// takes that, so that a long range takes no longer than what lies in it. May be repeated.
    fn clear(&self, offset: u64, len: u64) -> io::Result<()> {
        overwrite_data(self, offset, offset.saturating_add(len).min(self.len()?))
    }
    /// The first range at or after `at`, and before `end`, that may hold anything but zeros: start and end, bytes. `None`:
    /// up to `end` there are zeros. Where the file system knows no holes, all of it is data.
    fn next_data(&self, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        let end = end.min(self.len()?);
        Ok((at < end).then_some((at, end)))
    }
    /// Forgets clean cached pages, so that the next reads come from the device.
    fn drop_cache(&self) -> io::Result<()>;

    /// Fills `buf`; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Without holes being made: what is no hole of `[at, end)` is overwritten with zeros.
fn overwrite_data<F: DiskFile + ?Sized>(file: &F, mut at: u64, end: u64) -> io::Result<()> {
    while let Some((start, until)) = file.next_data(at, end)? {
        write_zeros(file, start, until)?;
        at = until;
    }
    Ok(())
}

/// Overwrites `[at, end)`.
fn write_zeros<F: DiskFile + ?Sized>(file: &F, mut at: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; end.saturating_sub(at).min(1 << 20) as usize];
    while at < end {
        let part = (end - at).min(zeros.len() as u64);
        file.write_at(&zeros[..part as usize], at)?;
        at += part;
    }
    Ok(())
}

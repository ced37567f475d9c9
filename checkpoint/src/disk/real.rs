//! The operating system's disk. Never follows a symlink in the last component,
//! never touches the page cache more than it must in files opened directly.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    Advice, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, SeekFrom, fadvise, fallocate, fchmod,
    fstat, fsync, open, seek, statat, statvfs, syncfs,
};
use rustix::io::{Errno, retry_on_intr};

use super::pool::DIRECT_ALIGN;
use super::{Disk, DiskDir, DiskFile, FileKind, Open, Space, Stat, overwrite_data};
use crate::beneath::make_dir;

// Size of a thread's buffer for direct writes.
const BOUNCE_BYTES: usize = 1 << 20;

/// The disk of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    fn open_file(&self, path: &Path, how: Open, extra: OFlags) -> io::Result<File> {
        let flags = match how {
            Open::Read => OFlags::RDONLY,
            Open::Write => OFlags::RDWR,
            Open::Create => OFlags::RDWR | OFlags::CREATE,
            Open::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let flags = flags | extra | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
        if how == Open::CreateNew || how == Open::Create {
            let stat = fstat(&file)?;
            // Of a file that may have been there before only one without content, and without its owner's rights,
            // was made here.
            let made = how == Open::CreateNew || (stat.st_size == 0 && stat.st_mode & 0o600 != 0o600);
            if made && stat.st_mode & 0o7777 != 0o600 {
                fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            }
        }
        Ok(file)
    }
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile { file: self.open_file(path, how, OFlags::empty())?, direct: None }))
    }

    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let file = self.open_file(path, how, OFlags::empty())?;
        let direct = if how == Open::Read {
            None
        } else {
            match self.open_file(path, Open::Write, OFlags::DIRECT) {
                Ok(direct) => Some(direct),
                Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => None,
                Err(e) => return Err(e),
            }
        };
        Ok(Box::new(RealFile { file, direct }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        make_dir(CWD, path.as_os_str().as_bytes())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, FileKind)>> {
        let dir = rustix::fs::Dir::new(open_dir(path)?)?;
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.stat(&path.join(OsStr::from_bytes(name)))?.kind,
                known => kind_of(known),
            };
            names.push((OsString::from_vec(name.to_vec()), kind));
        }
        names.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        Ok(names)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        Ok(stat_of(&statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn read_link(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlink(path, Vec::new())?.into_bytes())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::rename(from, to)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())?)
    }

    fn symlink(&self, target: &[u8], at: &Path) -> io::Result<()> {
        Ok(rustix::fs::symlink(target, at)?)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlink(path)?)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::rmdir(path)?)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        super::removal::remove_tree(path)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        // chmod follows symlinks, and fchmodat cannot be told not to on every kernel.
        if self.stat(path)?.kind == FileKind::Symlink {
            return Err(Errno::LOOP.into());
        }
        Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
    }

    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        let source = self.open_file(from, Open::Read, OFlags::empty())?;
        if reflink_copy::reflink_file_to_path(&source, to).is_ok() {
            return self.set_mode(to, 0o600);
        }
        let target = self.open_file(to, Open::CreateNew, OFlags::empty())?;
        copy_sparse(&source, &target)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        Ok(Box::new(RealDir(open_dir(path)?)))
    }

    // Made with its mode: to set it is another change of the inode, for each of very many files.
    fn write_new(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode);
        let file = File::from(open(path, flags, mode)?);
        file.write_all_at(data, 0)?;
        // A umask or the folder's default access list may have taken something away.
        let made = Mode::from_raw_mode(fstat(&file)?.st_mode & 0o7777);
        if made == mode { Ok(()) } else { Ok(fchmod(&file, mode)?) }
    }

    fn free(&self, path: &Path) -> io::Result<Space> {
        let room = statvfs(path)?;
        Ok(Space {
            free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
            total_bytes: room.f_blocks.saturating_mul(room.f_frsize),
            free_inodes: if room.f_files == 0 { u64::MAX } else { room.f_favail },
        })
    }
}

/// Copies a whole file into an empty one, holes as holes.
pub(crate) fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    let len = source.metadata()?.len();
    let mut at = 0;
    while at < len {
        let (start, end) = match next_data(source, at, len)? {
            Some(range) => range,
            None => break,
        };
        let (mut from, mut to) = (start, start);
        while to < end {
            let want = (end - to).min(1 << 30) as usize;
            match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), want) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                    copy_range(source, target, to, end)?;
                    to = end;
                }
                Err(e) => return Err(e.into()),
            }
        }
        at = end;
    }
    target.set_len(len)
}

fn copy_range(source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buf = vec![0; (end - at).min(1 << 20) as usize];
    while at < end {
        let want = ((end - at) as usize).min(buf.len());
        let n = source.read_at(&mut buf[..want], at)?;
        if n == 0 {
            break;
        }
        target.write_all_at(&buf[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// The next range that holds data at or after `at`, within `len`; `None` when
/// only a hole is left. Moves the file's cursor.
///
/// # Errors
/// Those of `lseek`; a file system that cannot tell holes is none.
pub fn next_data(file: impl AsFd, at: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match seek(&file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, len))),
        Err(e) => return Err(e.into()),
    };
    if start >= len {
        return Ok(None);
    }
    let end = seek(&file, SeekFrom::Hole(start))?.min(len);
    Ok(Some((start, end)))
}

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    Stat {
        kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
        mode: stat.st_mode & 0o7777,
        len: stat.st_size as u64,
        ino: stat.st_ino,
        links: stat.st_nlink,
        blocks: stat.st_blocks as u64,
        mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
    }
}

#[derive(Debug)]
struct RealDir(OwnedFd);

// A signal that comes in between says nothing of what was written: as the standard library does for files.
impl DiskDir for RealDir {
    fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| fsync(&self.0))?)
    }

    fn sync_fs(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| syncfs(&self.0))?)
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    // The same inode again, for writes past the page cache.
    direct: Option<File>,
}

thread_local! {
    static BOUNCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

// Writes whole aligned blocks past the page cache. Data that is not aligned in
// memory goes through the thread's aligned buffer.
fn write_direct(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    if data.as_ptr().align_offset(DIRECT_ALIGN) == 0 {
        return file.write_all_at(data, offset);
    }
    BOUNCE.with_borrow_mut(|room| {
        if room.is_empty() {
            room.resize(BOUNCE_BYTES + DIRECT_ALIGN, 0);
        }
        let skip = room.as_ptr().align_offset(DIRECT_ALIGN);
        let bounce = &mut room[skip..skip + BOUNCE_BYTES];
        let mut at = offset;
        for part in data.chunks(BOUNCE_BYTES) {
            bounce[..part.len()].copy_from_slice(part);
            file.write_all_at(&bounce[..part.len()], at)?;
            at += part.len() as u64;
        }
        Ok(())
    })
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let Some(direct) = &self.direct else { return self.file.write_all_at(data, offset) };
        let align = DIRECT_ALIGN as u64;
        let head = (offset.next_multiple_of(align) - offset).min(data.len() as u64) as usize;
        let middle = (data.len() - head) / DIRECT_ALIGN * DIRECT_ALIGN;
        if middle == 0 {
            return self.file.write_all_at(data, offset);
        }
        let (head, rest) = data.split_at(head);
        let (middle, tail) = rest.split_at(middle);
        let middle_at = offset + head.len() as u64;
        if !head.is_empty() {
            self.file.write_all_at(head, offset)?;
        }
        match write_direct(direct, middle, middle_at) {
            // Some file systems take the flag at open and refuse the write.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.file.write_all_at(middle, middle_at)?;
            }
            other => other?,
        }
        if !tail.is_empty() {
            self.file.write_all_at(tail, middle_at + middle.len() as u64)?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(fstat(&self.file)?.st_size as u64)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(&self.file, Mode::from_raw_mode(mode))?)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let end = offset + len;
                if self.len()? < end { self.set_len(end) } else { Ok(()) }
            }
            Err(e) => Err(e.into()),
        }
    }

    fn clear(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.len()?);
        if end <= offset {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match fallocate(&self.file, punch, offset, end - offset) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return overwrite_data(self, offset, end),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn next_data(&self, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        if at >= end { Ok(None) } else { next_data(&self.file, at, end) }
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_writes_take_any_offset_and_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = RealDisk.open_direct(&path, Open::Create).unwrap();
        let mut expected = Vec::new();
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 + i / 255) as u8).collect();
        for (offset, from, len) in [
            (0usize, 1usize, 1 << 20),
            (1 << 20, 3, 100),
            ((1 << 20) + 100, 5, 2_500_001),
            (4096, 0, 8192),
            (5000, 17, 4096),
            (5000, 17, 3),
        ] {
            let part = &data[from..from + len];
            file.write_at(part, offset as u64).unwrap();
            if expected.len() < offset + len {
                expected.resize(offset + len, 0);
            }
            expected[offset..offset + len].copy_from_slice(part);
        }
        file.sync_data().unwrap();
        file.drop_cache().unwrap();
        let mut read = vec![0; expected.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == expected);
        assert_eq!(file.len().unwrap(), expected.len() as u64);
        assert_eq!(RealDisk.read_file(&path, 10_000_000).unwrap(), expected);
    }

    #[test]
    fn a_long_range_is_cleared_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = RealFile {
            file: RealDisk.open_file(&path, Open::Create, OFlags::empty()).unwrap(),
            direct: None,
        };
        type Clear = fn(&RealFile, u64, u64) -> io::Result<()>;
        let clears: [Clear; 2] = [
            |file, from, end| file.clear(from, end - from),
            |file, from, end| overwrite_data(file, from, end),
        ];
        for clear in clears {
            for at in [0, 5000, 1 << 38, (1 << 39) - 3] {
                file.write_at(&[7; 10], at).unwrap();
            }
            clear(&file, 5, 1 << 39).unwrap();
            let read = |at| {
                let mut bytes = [1; 7];
                file.read_exact_at(&mut bytes, at).unwrap();
                bytes
            };
            assert_eq!((read(0), read(5000), read(1 << 38)), ([7, 7, 7, 7, 7, 0, 0], [0; 7], [0; 7]));
            assert_eq!(read(1 << 39), [7; 7], "what lies behind stays");
            assert_eq!(file.len().unwrap(), (1 << 39) + 7);
            assert!(RealDisk.stat(&path).unwrap().blocks < 1024);
        }
        file.clear(0, u64::MAX).unwrap();
        assert_eq!(file.len().unwrap(), (1 << 39) + 7);
    }

    #[test]
    fn a_new_file_has_the_mode_that_was_told_and_takes_no_name() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o644, 0o444, 0o666, 0o777, 0o000] {
            let path = dir.path().join(format!("{mode:o}"));
            RealDisk.write_new(&path, b"content", mode).unwrap();
            let stat = RealDisk.stat(&path).unwrap();
            assert_eq!((stat.mode, stat.len), (mode, 7), "{mode:o}");
            let again = RealDisk.write_new(&path, b"other", mode).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        }
        RealDisk.symlink(b"nowhere", &dir.path().join("link")).unwrap();
        assert!(RealDisk.write_new(&dir.path().join("link"), b"content", 0o644).is_err());
        assert!(RealDisk.stat(&dir.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_copy_keeps_holes_and_symlinks_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        let file = RealDisk.open(&a, Open::CreateNew).unwrap();
        file.write_at(b"start", 0).unwrap();
        file.write_at(b"end", 64 << 20).unwrap();
        RealDisk.clone_file(&a, &b).unwrap();
        let stat = RealDisk.stat(&b).unwrap();
        assert_eq!((stat.len, stat.mode), ((64 << 20) + 3, 0o600));
        assert!(stat.blocks < 1024, "{stat:?}");
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
        assert_eq!(RealDisk.clone_file(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        RealDisk.symlink(b"a", &c).unwrap();
        assert!(RealDisk.open(&c, Open::Read).is_err());
        assert!(RealDisk.set_mode(&c, 0o644).is_err());
        assert_eq!(RealDisk.read_link(&c).unwrap(), b"a");
    }
}

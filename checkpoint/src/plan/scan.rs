//! The walk. Everything is reached from the root's descriptor without following
//! a symlink; only directories are opened.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, open, statat};
use rustix::io::Errno;

use super::{Plan, PlanChecker, PlanEntry, PlanError, Stamp};
use crate::beneath::open_beneath;
use crate::epoch::{EntryKind, RelPath};
use crate::error::at;
use crate::limits::{DEPTH_MAX, Limits};

impl Stamp {
    pub(crate) fn of(stat: &rustix::fs::Stat) -> Stamp {
        Stamp {
            dev: stat.st_dev,
            ino: stat.st_ino,
            len: stat.st_size as u64,
            mode: stat.st_mode,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: Some((stat.st_ctime, stat.st_ctime_nsec as i64)),
        }
    }
}

// `dir` may be a magic link of procfs, which leads to an open directory: it alone is followed.
pub(super) fn scan(dir: &Path, limits: &Limits) -> Result<Plan, PlanError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(dir, flags, Mode::empty()).map_err(|e| at("open the directory", dir)(e.into()))?;
    let stat = fstat(&root).map_err(|e| at("stat", dir)(e.into()))?;
    let mut walk = Walk { dir, limits, found: Vec::new(), left: Vec::new(), bytes: 0 };
    walk.take(RelPath::root(), &stat, None)?;
    while let Some(path) = walk.left.pop() {
        walk.list(&root, &path)?;
    }
    walk.found.sort_unstable_by(|a, b| a.0.path.cmp(&b.0.path));
    let (entries, stamps): (Vec<_>, Vec<_>) = walk.found.into_iter().unzip();
    let mut checker = PlanChecker::new(*limits);
    entries.iter().try_for_each(|entry| checker.push(entry.borrowed()))?;
    Ok(Plan { entries, stamps })
}

struct Walk<'a> {
    dir: &'a Path,
    limits: &'a Limits,
    found: Vec<(PlanEntry, Stamp)>,
    left: Vec<RelPath>,
    bytes: u64,
}

impl Walk<'_> {
    fn io(&self, what: &'static str, path: &RelPath, e: Errno) -> PlanError {
        if e == Errno::NOENT || e == Errno::NOTDIR || e == Errno::LOOP {
            let why = format!("it was there a moment ago, now: {}", std::io::Error::from(e));
            return PlanError::SourceChanged { path: path.to_string(), why };
        }
        at(what, &self.dir.join(path.as_os_str()))(e.into()).into()
    }

    fn list(&mut self, root: &OwnedFd, path: &RelPath) -> Result<(), PlanError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let fd = open_beneath(root, path, flags, Mode::empty()).map_err(|e| {
            self.io("open the directory", path, Errno::from_io_error(&e).unwrap_or(Errno::IO))
        })?;
        let names = rustix::fs::Dir::read_from(&fd).map_err(|e| self.io("list", path, e))?;
        for entry in names {
            let entry = entry.map_err(|e| self.io("list", path, e))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let inner =
                path.join(name).map_err(|e| PlanError::Refused { path: e.path, why: e.why.to_owned() })?;
            let stat =
                statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| self.io("stat", &inner, e))?;
            self.take(inner, &stat, Some((&fd, name)))?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        path: RelPath,
        stat: &rustix::fs::Stat,
        at: Option<(&OwnedFd, &[u8])>,
    ) -> Result<(), PlanError> {
        let refused = |why: String| PlanError::Refused { path: path.to_string(), why };
        let mut mode = stat.st_mode & 0o7777;
        let mut size = 0;
        let mut target = Vec::new();
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                size = stat.st_size as u64;
                EntryKind::File
            }
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => {
                mode = 0o777;
                let (fd, name) = at.expect("the root was opened as a directory");
                let read = rustix::fs::readlinkat(fd, name, Vec::new());
                target = read.map_err(|e| self.io("read the link", &path, e))?.into_bytes();
                EntryKind::Symlink
            }
            other => {
                let what = match other {
                    FileType::Socket => "a socket",
                    FileType::Fifo => "a fifo",
                    FileType::CharacterDevice => "a character device",
                    FileType::BlockDevice => "a block device",
                    _ => "of unknown kind",
                };
                return Err(refused(format!("it is {what}, which no checkpoint can hold")));
            }
        };
        if mode & 0o7000 != 0 {
            return Err(refused(format!("mode {mode:04o}: setuid, setgid and sticky bits are not kept")));
        }
        // Early, so that a walk without end ends.
        self.bytes = self.bytes.saturating_add(size);
        if self.found.len() as u64 >= self.limits.files_max {
            let limit = self.limits.files_max;
            return Err(PlanError::Limit { what: "too many entries", limit, unit: "entries" });
        }
        if self.bytes > self.limits.bytes_max {
            let limit = self.limits.bytes_max;
            return Err(PlanError::Limit { what: "too many bytes", limit, unit: "bytes" });
        }
        if path.depth() > self.limits.depth_max.min(DEPTH_MAX) {
            return Err(refused(format!("it is deeper than {} components", self.limits.depth_max)));
        }
        if kind == EntryKind::Directory {
            if mode & 0o500 != 0o500 {
                return Err(refused(format!(
                    "mode {mode:03o}: its owner may not list it, so a replica that is not root could not read it back"
                )));
            }
            self.left.push(path.clone());
        }
        self.found.push((PlanEntry { path, kind, mode, size, target }, Stamp::of(stat)));
        Ok(())
    }
}

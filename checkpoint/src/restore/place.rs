//! A look at the target, before anything is made: whether it may be restored to, and how the directory will get there.
//! Everything that can be refused is refused here.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, accessat, fstat, fstatfs, open,
    openat, statat, statx,
};
use rustix::io::Errno;

use super::known::{Survey, names_in, survey};
use super::temp::{self, OPEN_DIR, Prefix};
use super::{RestoreError, RestoreOptions};
use crate::beneath::descent::is_other_mount;
use crate::io_error::at;

const OVERLAY_MAGIC: u64 = 0x794c_7630;
const LOST_AND_FOUND: &str = "lost+found";

/// How the directory gets to its place.
#[derive(Debug)]
pub(super) enum How {
    /// Nothing is there.
    New,
    /// An empty directory is there, to be replaced by one rename.
    Empty(OwnedFd),
    /// A directory is there, to be exchanged for ours.
    Exchange(OwnedFd),
    /// A directory is there that cannot be renamed: its names are.
    Inside(OwnedFd),
}

/// A target that may be restored to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: PathBuf,
    /// The way to `parent`, as far as it is there: all that follows begins at this descriptor, whatever its path leads
    /// to by then.
    pub(super) above: Above,
    pub(super) name: OsString,
    /// `parent/name`.
    pub(super) target: PathBuf,
    pub(super) how: How,
    // Another file system begins there.
    is_mount: bool,
    // It cannot be renamed.
    inside: bool,
    // What killed restores into it were writing.
    stale: Vec<OsString>,
    /// What is there and will go; `None` when nothing is.
    pub(super) old: Option<Survey>,
    /// Where temporary names are made, and how they are called.
    pub(super) prefix: Prefix,
}

fn refused<T>(path: &Path, why: &str, fix: &'static str) -> Result<T, RestoreError> {
    Err(RestoreError::Target { path: path.to_path_buf(), why: why.to_owned(), fix })
}

/// The nearest directory above the target that is there, and what is missing from it to the target's parent.
#[derive(Debug)]
pub(super) struct Above {
    pub(super) dir: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) missing: Vec<OsString>,
}

impl Above {
    fn open(parent: &Path) -> Result<Above, RestoreError> {
        let mut missing = Vec::new();
        let mut path = parent;
        loop {
            match open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(dir) => {
                    missing.reverse();
                    return Ok(Above { dir, path: path.to_path_buf(), missing });
                }
                Err(Errno::NOTDIR) => {
                    return refused(path, "it exists and is not a directory", "name another directory");
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(at("look at", path)(e.into()).into()),
            }
            let Some(name) = path.file_name() else {
                let why = "it leads back from a directory that is not there";
                return refused(parent, why, "name the directory without `..`");
            };
            missing.push(name.to_owned());
            path = match path.parent() {
                Some(above) if !above.as_os_str().is_empty() => above,
                _ => Path::new("."),
            };
        }
    }
}

/// Looks. `mode` is what the root gets.
pub(super) fn look(target: &Path, options: &RestoreOptions, mode: u32) -> Result<Place, RestoreError> {
    look_as(target, options, mode, false)
}

/// The same, as if what is there could not be renamed (`stays_put`).
pub(super) fn look_as(
    target: &Path,
    options: &RestoreOptions,
    mode: u32,
    stays_put: bool,
) -> Result<Place, RestoreError> {
    // `.` and `..` have no name to be replaced: whoever stands there stays there.
    let is_dots = target.file_name().is_none();
    let whole = if is_dots {
        std::fs::canonicalize(target).map_err(at("look at", target))?
    } else {
        target.to_path_buf()
    };
    let Some(name) = whole.file_name() else {
        return refused(target, "the root of all file systems is never replaced", "name another directory");
    };
    let parent = match whole.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut place = Place {
        above: Above::open(&parent)?,
        name: name.to_owned(),
        prefix: Prefix::beside(name),
        target: parent.join(name),
        parent,
        how: How::New,
        is_mount: false,
        inside: false,
        stale: Vec::new(),
        old: None,
    };
    let above = &place.above;
    let there = if above.missing.is_empty() {
        statat(&above.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW)
    } else {
        Err(Errno::NOENT)
    };
    let kind = match there {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => {
            may_write(&above.dir).map_err(at("make anything in", &above.path))?;
            return Ok(place);
        }
        Err(e) => return Err(at("look at", &place.target)(e.into()).into()),
    };
    if kind.is_symlink() {
        return refused(&place.target, "it is a symbolic link", "name the directory that it leads to");
    }
    if !kind.is_dir() {
        let fix = "remove it, or name another directory";
        return refused(&place.target, "it exists and is not a directory", fix);
    }
    let opened = if is_dots {
        open(target, OPEN_DIR, Mode::empty())
    } else {
        openat(&above.dir, &place.name, OPEN_DIR, Mode::empty())
    };
    let dir = opened.map_err(|e| at("open", &place.target)(e.into()))?;
    place.look_inside(dir, options, mode, is_dots || stays_put)?;
    Ok(place)
}

fn may_write(dir: &OwnedFd) -> io::Result<()> {
    Ok(accessat(dir, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

impl Place {
    fn look_inside(
        &mut self,
        dir: OwnedFd,
        options: &RestoreOptions,
        mode: u32,
        stays_put: bool,
    ) -> Result<(), RestoreError> {
        let path = self.target.clone();
        self.is_mount = is_mount_root(&dir, &self.above.dir);
        self.inside = stays_put || self.is_mount || !self.may_rename(&dir);
        if self.inside {
            self.prefix = Prefix::inside();
            may_write(&dir).map_err(at("make anything in", &path))?;
            self.may_set_mode(&dir, mode)?;
        }
        let temporaries = temp::find(dir.as_fd(), &Prefix::inside()).map_err(at("read", &path))?;
        if !temporaries.in_use.is_empty() {
            return refused(&path, "another restore is writing to it", "wait until it has ended");
        }
        self.stale = temporaries.stale;
        let names = names_in(dir.as_fd()).map_err(at("read", &path))?;
        let is_empty = names.iter().all(|name| self.stays(name));
        if !is_empty {
            if !options.force {
                return Err(RestoreError::Exists(path));
            }
            self.old = Some(self.survey(&dir, options)?);
        }
        self.how = match (self.inside, is_empty) {
            (true, _) => How::Inside(dir),
            // What a killed restore left inside goes with it.
            (false, true) if self.stale.is_empty() => How::Empty(dir),
            (false, _) => How::Exchange(dir),
        };
        Ok(())
    }

    /// Looks through what will go, which lies in `dir`.
    ///
    /// # Errors
    /// [`RestoreError::Others`] when something is in it that may not go.
    pub(super) fn survey(&self, dir: &OwnedFd, options: &RestoreOptions) -> Result<Survey, RestoreError> {
        let found = survey(dir, &self.target, &|name| self.stays(name))?;
        if options.may_lose(&found.others) {
            return Ok(found);
        }
        Err(RestoreError::Others { path: self.target.clone(), others: found.others })
    }

    /// Whether a top name of the target is no part of it: what `mkfs` made or a restore into it, if the directory
    /// stays; if it goes, only what a killed restore was writing. What one has put aside there is somebody's.
    pub(super) fn stays(&self, name: &OsStr) -> bool {
        if !self.inside {
            return self.stale.iter().any(|stale| stale == name);
        }
        self.is_mount && name == LOST_AND_FOUND || self.prefix.is_ours(name)
    }

    // Whether its parent lets us rename it.
    fn may_rename(&self, dir: &OwnedFd) -> bool {
        let me = rustix::process::geteuid();
        let owner = fstat(dir).map(|stat| stat.st_uid);
        let above = fstat(&self.above.dir);
        let sticky_of_others = above.is_ok_and(|above| {
            above.st_mode & 0o1000 != 0 && above.st_uid != me.as_raw() && owner != Ok(me.as_raw())
        });
        may_write(&self.above.dir).is_ok() && (me.is_root() || !sticky_of_others)
    }

    // It keeps its inode, and has to get its mode.
    fn may_set_mode(&self, dir: &OwnedFd, mode: u32) -> Result<(), RestoreError> {
        let stat = fstat(dir).map_err(|e| at("look at", &self.target)(e.into()))?;
        let me = rustix::process::geteuid();
        if stat.st_mode & 0o7777 == mode || stat.st_uid == me.as_raw() || me.is_root() {
            return Ok(());
        }
        refused(
            &self.target,
            &format!("it belongs to user {}, so that it cannot be given its mode, {mode:o}", stat.st_uid),
            "give it to this user or give it that mode, or name a directory below it",
        )
    }

    /// Whether an overlay would refuse to move the old directory, because it lies in a lower layer. `full` is a
    /// directory with something in it, which no rename replaces: what the kernel says instead tells.
    pub(super) fn check_layer(&self, parent: &OwnedFd, full: &OsStr) -> Result<(), RestoreError> {
        let How::Exchange(dir) = &self.how else { return Ok(()) };
        if !fstatfs(dir).is_ok_and(|fs| fs.f_type as u64 == OVERLAY_MAGIC) {
            return Ok(());
        }
        match rustix::fs::renameat(parent, &self.name, parent, full) {
            Err(Errno::XDEV) => refused(
                &self.target,
                "it lies in a lower layer of an overlay, and cannot be moved there",
                "remove it first, or name another directory",
            ),
            _ => Ok(()),
        }
    }
}

fn is_mount_root(dir: &OwnedFd, parent: &OwnedFd) -> bool {
    if let Ok(told) = statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        && told.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    // Kernels before 5.8.
    is_other_mount(dir, parent).unwrap_or(false)
}

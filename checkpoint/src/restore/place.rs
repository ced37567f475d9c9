//! A look at the target, before anything is made: whether it may be restored to, and how the directory will get there.
//! Everything that can be refused is refused here.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, Mode, StatxAttributes, StatxFlags, accessat, fstat, fstatfs, open, statx,
};

use super::known::{Survey, names_in, survey};
use super::temp::{self, OPEN_DIR, Prefix};
use super::{RestoreError, RestoreOptions};
use crate::error::at;

const OVERLAY_MAGIC: u64 = 0x794c_7630;
const LOST_AND_FOUND: &str = "lost+found";

/// How the directory gets to its place.
#[derive(Debug)]
pub(super) enum How {
    /// Nothing is there.
    New,
    /// An empty directory is there, to be replaced by one rename.
    Empty,
    /// A directory is there, to be exchanged for ours.
    Exchange(OwnedFd),
    /// A directory is there that cannot be renamed: its names are.
    Inside(OwnedFd),
}

/// A target that may be restored to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: PathBuf,
    pub(super) name: OsString,
    /// `parent/name`.
    pub(super) target: PathBuf,
    pub(super) how: How,
    /// Another file system begins there.
    pub(super) is_mount: bool,
    /// What is there and will go; `None` when nothing is.
    pub(super) old: Option<Survey>,
    /// Where temporary names are made, and how they are called.
    pub(super) prefix: Prefix,
}

fn refused<T>(path: &Path, why: &str, fix: &'static str) -> Result<T, RestoreError> {
    Err(RestoreError::Target { path: path.to_path_buf(), why: why.to_owned(), fix })
}

/// Looks. `mode` is what the root gets.
pub(super) fn look(target: &Path, options: &RestoreOptions, mode: u32) -> Result<Place, RestoreError> {
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
    let target = parent.join(name);
    let mut place = Place {
        parent,
        name: name.to_owned(),
        prefix: Prefix::beside(name),
        target,
        how: How::New,
        is_mount: false,
        old: None,
    };
    match std::fs::symlink_metadata(&place.target) {
        Ok(there) if there.is_symlink() => {
            refused(&place.target, "it is a symbolic link", "name the directory that it leads to")
        }
        Ok(there) if !there.is_dir() => {
            refused(&place.target, "it exists and is not a directory", "remove it, or name another directory")
        }
        Ok(_) => {
            place.look_inside(options, mode, is_dots)?;
            Ok(place)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            may_make_below(&place.parent)?;
            Ok(place)
        }
        Err(e) => Err(at("look at", &place.target)(e).into()),
    }
}

// The nearest directory that is there takes new names.
fn may_make_below(dir: &Path) -> Result<(), RestoreError> {
    let mut dir = dir;
    loop {
        match std::fs::metadata(dir) {
            Ok(there) if !there.is_dir() => {
                return refused(dir, "it exists and is not a directory", "name another directory");
            }
            Ok(_) => return may_write(dir).map_err(|e| at("make anything in", dir)(e).into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                dir = match dir.parent() {
                    Some(above) if !above.as_os_str().is_empty() => above,
                    _ => Path::new("."),
                };
            }
            Err(e) => return Err(at("look at", dir)(e).into()),
        }
    }
}

fn may_write(dir: &Path) -> io::Result<()> {
    Ok(accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

impl Place {
    fn look_inside(
        &mut self,
        options: &RestoreOptions,
        mode: u32,
        is_dots: bool,
    ) -> Result<(), RestoreError> {
        let path = self.target.clone();
        let dir = open(&path, OPEN_DIR, Mode::empty()).map_err(|e| at("open", &path)(e.into()))?;
        self.is_mount = is_mount_root(&dir, &self.parent);
        let inside = is_dots || self.is_mount || !self.may_rename(&dir);
        if inside {
            self.prefix = Prefix::inside();
            may_write(&path).map_err(at("make anything in", &path))?;
            self.may_set_mode(&dir, mode)?;
        }
        let temporaries = temp::find(dir.as_fd(), &Prefix::inside()).map_err(at("read", &path))?;
        if !temporaries.in_use.is_empty() {
            return refused(&path, "another restore is writing to it", "wait until it has ended");
        }
        let stays = |name: &OsStr| self.stays(name);
        let names = names_in(dir.as_fd()).map_err(at("read", &path))?;
        let is_empty = names.iter().all(|name| stays(name));
        if !is_empty {
            if !options.force {
                return Err(RestoreError::Exists(path));
            }
            // From the directory that was opened, whatever its name stands for by now.
            let survey = survey(&dir, OsStr::new("."), &path, &stays)?;
            if survey.others.entries > 0 && !options.delete_others {
                return Err(RestoreError::Others { path, others: survey.others });
            }
            self.old = Some(survey);
        }
        self.how = match (inside, is_empty) {
            (true, _) => How::Inside(dir),
            // What a killed restore left inside goes with it.
            (false, true) if temporaries.stale.is_empty() => How::Empty,
            (false, _) => How::Exchange(dir),
        };
        Ok(())
    }

    /// Whether a top name of the target is no part of it: what `mkfs` made, or a restore into it.
    pub(super) fn stays(&self, name: &OsStr) -> bool {
        self.is_mount && name == LOST_AND_FOUND || Prefix::inside().is_ours(name)
    }

    // Whether its parent lets us rename it.
    fn may_rename(&self, dir: &OwnedFd) -> bool {
        let me = rustix::process::geteuid();
        let owner = fstat(dir).map(|stat| stat.st_uid);
        let above = rustix::fs::stat(&self.parent);
        let sticky_of_others = above.is_ok_and(|above| {
            above.st_mode & 0o1000 != 0 && above.st_uid != me.as_raw() && owner != Ok(me.as_raw())
        });
        may_write(&self.parent).is_ok() && (me.is_root() || !sticky_of_others)
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
            Err(rustix::io::Errno::XDEV) => refused(
                &self.target,
                "it lies in a lower layer of an overlay, and cannot be moved there",
                "remove it first, or name another directory",
            ),
            _ => Ok(()),
        }
    }
}

fn is_mount_root(dir: &OwnedFd, parent: &Path) -> bool {
    if let Ok(told) = statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        && told.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    // Kernels before 5.8.
    match (fstat(dir), rustix::fs::stat(parent)) {
        (Ok(dir), Ok(parent)) => dir.st_dev != parent.st_dev,
        _ => false,
    }
}

//! Temporary directories of a restore. Each is locked for as long as the restore lives that made it; one that is not is
//! what a killed restore has left, and is swept by the next one to the same target.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, openat, renameat_with, statat,
};
use rustix::io::Errno;

use super::RestoreError;
use super::known::names_in;
use crate::beneath::make_dir;
use crate::disk::remove_beneath;
use crate::error::at;

const MARK: &[u8] = b".epochlog-tmp-";
const RANDOM_CHARS: usize = 16;
// What the old directory is called for a moment where two names cannot be exchanged at once.
const ASIDE: &[u8] = b"-old";

pub(super) const OPEN_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Which temporaries are meant: those beside a target of this name, or those inside of it.
#[derive(Clone, Debug)]
pub(super) struct Prefix(Vec<u8>);

impl Prefix {
    pub(super) fn beside(name: &OsStr) -> Prefix {
        // The name may be as long as names can be.
        let name = &name.as_bytes()[..name.len().min(200)];
        Prefix([&b"."[..], name, MARK].concat())
    }

    pub(super) fn inside() -> Prefix {
        Prefix(MARK.to_vec())
    }

    /// Whether a restore made this name.
    pub(super) fn is_ours(&self, name: &OsStr) -> bool {
        self.is_temp(name) || self.is_aside(name)
    }

    fn is_temp(&self, name: &OsStr) -> bool {
        let random = name.as_bytes().strip_prefix(&self.0[..]);
        random.is_some_and(|random| random.len() == RANDOM_CHARS && random.iter().all(u8::is_ascii_hexdigit))
    }

    fn is_aside(&self, name: &OsStr) -> bool {
        name.as_bytes().strip_suffix(ASIDE).is_some_and(|name| self.is_temp(OsStr::from_bytes(name)))
    }

    fn make(&self) -> OsString {
        let random = RandomState::new().hash_one(std::process::id());
        OsString::from_vec([&self.0[..], format!("{random:0RANDOM_CHARS$x}").as_bytes()].concat())
    }
}

/// A temporary directory, made and locked by us.
#[derive(Debug)]
pub(super) struct Temp {
    /// The directory that holds it.
    pub(super) parent: OwnedFd,
    pub(super) name: OsString,
    /// For messages.
    pub(super) path: PathBuf,
    /// Itself.
    pub(super) dir: OwnedFd,
    // What has its name now is not to be removed.
    kept: Cell<bool>,
}

impl Temp {
    /// Makes one in `parent`, which is called `path`.
    pub(super) fn make(parent: &OwnedFd, path: &Path, prefix: &Prefix) -> Result<Temp, RestoreError> {
        let parent = parent.try_clone().map_err(at("open", path))?;
        loop {
            let name = prefix.make();
            let path = path.join(&name);
            make_dir(&parent, name.as_bytes()).map_err(at("make the directory", &path))?;
            let dir =
                openat(&parent, &name, OPEN_DIR, Mode::empty()).map_err(|e| at("open", &path)(e.into()))?;
            // Whoever sweeps may have been quicker: then it goes, and another one is made.
            if lock(&dir) && is_at(&dir, parent.as_fd(), &name) {
                return Ok(Temp { parent, name, path, dir, kept: Cell::new(false) });
            }
        }
    }

    /// Its name while another one has its place, where two cannot be exchanged.
    pub(super) fn aside(&self) -> OsString {
        OsString::from_vec([self.name.as_bytes(), ASIDE].concat())
    }

    /// Whatever has its name now is kept, under another name, so that nobody takes it for something stale. Answers
    /// where it lies.
    pub(super) fn keep(&self) -> PathBuf {
        self.kept.set(true);
        let name = OsStr::new("before-restore.epochlog");
        match renameat_with(&self.parent, &self.name, &self.parent, name, RenameFlags::NOREPLACE) {
            Ok(()) => self.path.with_file_name(name),
            Err(_) => self.path.clone(),
        }
    }

    /// Removes whatever has its name now. Answers what could not be removed.
    pub(super) fn remove(&self) -> Option<PathBuf> {
        if self.kept.get() {
            return None;
        }
        match remove_beneath(&self.parent, &self.name) {
            Ok(()) => None,
            Err(e) => {
                tracing::warn!(path = %self.path.display(), error = %e, "cannot remove a temporary directory");
                Some(self.path.clone())
            }
        }
    }
}

fn is_at(dir: &OwnedFd, parent: BorrowedFd<'_>, name: &OsStr) -> bool {
    match (fstat(dir), statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Locks it. False when somebody else has; where directories cannot be locked nobody sweeps either.
pub(super) fn lock(dir: &OwnedFd) -> bool {
    flock(dir, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK)
}

/// What is found of earlier restores.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Left by a killed one.
    pub(super) stale: Vec<OsString>,
    /// In use by another one now, or not known to be stale.
    pub(super) in_use: Vec<OsString>,
}

/// The temporaries in `parent`. Changes nothing.
pub(super) fn find(parent: BorrowedFd<'_>, prefix: &Prefix) -> io::Result<Stale> {
    let mut found = Stale::default();
    for name in names_in(parent)? {
        if prefix.is_ours(&name) {
            match stale(parent, &name) {
                Some(_) => found.stale.push(name),
                None => found.in_use.push(name),
            }
        }
    }
    Ok(found)
}

// Locked, if it is ours and nobody else has it.
fn stale(parent: BorrowedFd<'_>, name: &OsStr) -> Option<OwnedFd> {
    let dir = openat(parent, name, OPEN_DIR, Mode::empty()).ok()?;
    let is_ours = fstat(&dir).ok()?.st_uid == rustix::process::geteuid().as_raw();
    let locked = is_ours && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok();
    (locked && is_at(&dir, parent, name)).then_some(dir)
}

/// Removes what killed restores have left in `parent`, which is called `path`. An old directory that one of them had
/// put aside goes only when a new one has its place (`aside`). Answers what could not be removed.
pub(super) fn sweep(parent: BorrowedFd<'_>, path: &Path, prefix: &Prefix, aside: bool) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for name in names_in(parent).unwrap_or_default() {
        if !(if aside { prefix.is_aside(&name) } else { prefix.is_temp(&name) }) {
            continue;
        }
        // Locked until it is gone.
        let Some(_lock) = stale(parent, &name) else { continue };
        if let Err(e) = remove_beneath(parent, &name) {
            tracing::warn!(path = %path.join(&name).display(), error = %e, "cannot remove what a restore has left");
            left.push(path.join(&name));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn what_nobody_holds_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let parent: OwnedFd = File::open(dir.path()).unwrap().into();
        let prefix = Prefix::beside(OsStr::new("t"));
        let held = Temp::make(&parent, dir.path(), &prefix).unwrap();
        let killed = Temp::make(&parent, dir.path(), &prefix).unwrap();
        fs::create_dir(dir.path().join(&killed.name).join("d")).unwrap();
        let (stale, _) = (killed.name.clone(), drop(killed));
        let aside = OsString::from_vec([stale.as_bytes(), ASIDE].concat());
        fs::create_dir(dir.path().join(&aside)).unwrap();
        let others = [".t.epochlog-tmp-", ".t.epochlog-tmp-notes", ".u.epochlog-tmp-0123456789abcdef"];
        others.iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
        std::os::unix::fs::symlink(".", dir.path().join(".t.epochlog-tmp-0123456789abcdef")).unwrap();
        let found = find(parent.as_fd(), &prefix).unwrap();
        assert_eq!(found.stale.len(), 2);
        assert!(found.in_use.contains(&held.name), "{found:?}");
        assert!(sweep(parent.as_fd(), dir.path(), &prefix, false).is_empty());
        assert!(!dir.path().join(&stale).exists() && dir.path().join(&aside).exists());
        assert!(held.path.exists() && dir.path().join(".t.epochlog-tmp-0123456789abcdef").is_symlink());
        sweep(parent.as_fd(), dir.path(), &prefix, true);
        assert!(!dir.path().join(&aside).exists());
        assert!(others.iter().all(|name| dir.path().join(name).exists()));
        assert_eq!(held.remove(), None);
        assert!(!held.path.exists());
    }
}

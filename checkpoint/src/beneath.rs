//! Opening what lies beneath a directory, and only there: no component of the
//! path may be a symlink, whatever others do to the directory meanwhile.

pub mod descent;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, chmod, fstat, mkdirat, openat, openat2, statat};
use rustix::io::Errno;

use crate::epoch::RelPath;

// Set once this kernel (or its sandbox) has refused openat2.
static WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens `path` below the directory `root`. Symlinks in any component are refused with ELOOP.
pub fn open_beneath(root: impl AsFd, path: &RelPath, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if path.is_root() {
        return Ok(openat(root, c".", flags, mode)?);
    }
    if !WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&root, path.as_os_str(), flags, mode, resolve) {
            Err(Errno::NOSYS | Errno::PERM) => WITHOUT_OPENAT2.store(true, Ordering::Relaxed),
            other => return Ok(other?),
        }
    }
    by_component(root, path, flags, mode)
}

fn by_component(root: impl AsFd, path: &RelPath, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = openat(root, c".", step, Mode::empty())?;
    let mut components = path.components().peekable();
    while let Some(name) = components.next() {
        if components.peek().is_none() {
            return Ok(openat(&dir, name, flags, mode)?);
        }
        dir = openat(&dir, name, step, Mode::empty())?;
    }
    Ok(dir)
}

/// The directory that holds the last component of `path`, for calls that take a directory and a name.
pub fn open_parent(root: impl AsFd, path: &RelPath) -> io::Result<OwnedFd> {
    let parent = path.parent().unwrap_or_else(RelPath::root);
    open_beneath(root, &parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Makes a directory of mode 0700 in `dir`: a set-gid folder hands its bit down, a umask or a default access list
/// takes rights away, also from the owner.
pub fn make_dir(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    mkdirat(&dir, name, Mode::RWXU)?;
    if statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode & 0o7777 != 0o700 {
        // Through a descriptor: the name may be another's by now. One that only names asks for no rights.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&dir, name, flags, Mode::empty())?;
        chmod(format!("/proc/self/fd/{}", made.as_raw_fd()).as_str(), Mode::RWXU)?;
    }
    Ok(())
}

/// Whether the name `name` of `parent` stands for the open directory `dir`.
pub fn is_at(dir: impl AsFd, parent: impl AsFd, name: &OsStr) -> bool {
    match (fstat(dir), statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_its_mode_below_a_set_gid_folder() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2775)).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        make_dir(&root, b"made").unwrap();
        let made = std::fs::metadata(dir.path().join("made")).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o700);
        assert_eq!(make_dir(&root, b"made").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn no_component_may_be_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/f"), b"x").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("s")).unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("a/b/t")).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let read = OFlags::RDONLY;
        for (path, good) in
            [("a/b/f", true), ("a/b", true), ("s/b/f", false), ("a/b/t", false), ("a/x", false)]
        {
            let path = RelPath::parse(path.as_bytes()).unwrap();
            assert_eq!(open_beneath(&root, &path, read, Mode::empty()).is_ok(), good, "{path}");
            let flags = read | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            assert_eq!(by_component(&root, &path, flags, Mode::empty()).is_ok(), good, "{path}");
        }
    }
}

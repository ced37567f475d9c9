//! Removing a tree of the operating system. Every name is removed from the directory that was opened, never by a path:
//! a symlink that somebody puts in the place of a directory meanwhile is removed itself, and what it leads to stays.
//! What is mounted below is not entered.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;

use crate::beneath::descent::{Descent, is_no_directory};
use crate::beneath::is_at;

/// Removes a file or a whole tree; nothing there is fine.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(Errno::INVAL))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(parent) => remove_beneath(parent, name),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The same for the name `name` of the open directory `parent`.
fn remove_beneath(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let parent = parent.as_fd();
    let way = match Descent::begin_to_remove(parent, name) {
        Ok(way) => way,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if is_no_directory(&e) => return unlink(parent, name, AtFlags::empty()),
        Err(e) => return Err(e),
    };
    empty(way)?;
    unlink(parent, name, AtFlags::REMOVEDIR)
}

/// Removes the open directory `dir`, which has the name `name` of `parent`. Whatever else gets that name meanwhile
/// stays, unless it is an empty directory.
///
/// # Errors
/// Those of the system; when it has not that name (any more). Then what is in it may have gone.
pub fn remove_held(dir: impl AsFd, parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let (dir, parent) = (dir.as_fd(), parent.as_fd());
    let moved = || io::Error::other("it was moved or replaced by somebody else");
    if !is_at(dir, parent, name) {
        // Nothing of it is left when somebody else has removed it.
        return if fstat(dir)?.st_nlink == 0 { Ok(()) } else { Err(moved()) };
    }
    empty(Descent::begin_to_remove(dir, OsStr::new("."))?)?;
    if !is_at(dir, parent, name) {
        return Err(moved());
    }
    unlink(parent, name, AtFlags::REMOVEDIR)
}

// Removes everything below the directory that was reached.
fn empty(mut way: Descent) -> io::Result<()> {
    // Of every directory on the way down: its name, and those of the directories in it that are left.
    let mut left = vec![(OsString::new(), unlink_files(&way)?)];
    while let Some((_, inner)) = left.last_mut() {
        if let Some(dir) = inner.pop() {
            match way.enter(&dir) {
                Ok(()) => {
                    let inner = unlink_files(&way)?;
                    left.push((dir, inner));
                }
                // Somebody else removes it as well.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if is_no_directory(&e) => unlink(way.here(), &dir, AtFlags::empty())?,
                Err(e) => return Err(e),
            }
            continue;
        }
        if left.len() == 1 {
            break;
        }
        let (emptied, _) = left.pop().expect("there are two at least");
        way.leave()?;
        unlink(way.here(), &emptied, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn unlink(dir: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> io::Result<()> {
    match unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

// Removes what is no directory; answers the names of the directories.
fn unlink_files(way: &Descent) -> io::Result<Vec<OsString>> {
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    // All names first: what a listing says while names go is not told.
    way.names(|name, is_dir| {
        let name = OsStr::from_bytes(name.to_bytes()).to_owned();
        if is_dir {
            dirs.push(name)
        } else {
            files.push(name)
        }
        Ok(())
    })?;
    for name in files {
        match unlink(way.here(), &name, AtFlags::empty()) {
            // It has become one since.
            Err(e) if e.raw_os_error() == Some(Errno::ISDIR.raw_os_error()) => dirs.push(name),
            other => other?,
        }
    }
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_tree_goes_with_everything_in_it_and_nothing_behind_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir_all(tree.join("shut/in")).unwrap();
        fs::write(tree.join("a/b/f"), b"x").unwrap();
        fs::write(tree.join("shut/in/f"), b"x").unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("kept"), b"x").unwrap();
        symlink(&out, tree.join("a/link")).unwrap();
        symlink(&out, tree.join("link")).unwrap();
        for (path, mode) in [("shut/in", 0o000), ("shut", 0o500), ("a", 0o300)] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(fs::symlink_metadata(&tree).is_err());
        // A symlink goes itself, a file too, and what is not there is gone already.
        symlink(&out, dir.path().join("link")).unwrap();
        fs::write(dir.path().join("file"), b"x").unwrap();
        for name in ["link", "file", "file", "no/such"] {
            remove_tree(&dir.path().join(name)).unwrap();
            assert!(fs::symlink_metadata(dir.path().join(name)).is_err(), "{name}");
        }
        assert_eq!(fs::read(out.join("kept")).unwrap(), b"x");
    }

    #[test]
    fn a_deep_tree_takes_no_descriptor_a_level() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let deep = "d/".repeat(400);
        fs::create_dir_all(tree.join(&deep)).unwrap();
        fs::write(tree.join(deep).join("f"), b"x").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn what_is_held_is_removed_and_nothing_that_has_its_name_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let [tree, moved] = ["tree", "moved"].map(|name| dir.path().join(name));
        let parent = fs::File::open(dir.path()).unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        let held = fs::File::open(&tree).unwrap();
        // Another directory takes its name.
        fs::rename(&tree, &moved).unwrap();
        fs::create_dir_all(tree.join("precious")).unwrap();
        assert!(remove_held(&held, &parent, OsStr::new("tree")).is_err());
        assert!(tree.join("precious").is_dir() && moved.join("a/b").is_dir());
        remove_held(&held, &parent, OsStr::new("moved")).unwrap();
        assert!(!moved.exists() && tree.join("precious").is_dir());
        // It is gone already.
        remove_held(&held, &parent, OsStr::new("moved")).unwrap();
    }

    /// A directory is swapped for a symlink to another one again and again while its tree is removed.
    #[test]
    fn a_symlink_that_is_swapped_in_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, out, spare) = (dir.path().join("tree"), dir.path().join("out"), dir.path().join("spare"));
        let fill = |dir: &Path| {
            fs::create_dir_all(dir).unwrap();
            (0..20).for_each(|n| fs::write(dir.join(n.to_string()), b"x").unwrap());
        };
        fill(&out);
        let mode = || fs::metadata(&out).unwrap().permissions().mode();
        let before = mode();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Each may fail: the other side removes at the same time.
                while !done.load(Ordering::Relaxed) {
                    if fs::rename(tree.join("a"), &spare).is_ok() {
                        let _ = symlink(&out, tree.join("a"));
                        std::thread::yield_now();
                        let _ = fs::remove_file(tree.join("a"));
                        let _ = fs::rename(&spare, tree.join("a"));
                    }
                }
            });
            let fresh = dir.path().join("fresh");
            for _ in 0..300 {
                fill(&fresh.join("a/b"));
                fill(&fresh.join("a"));
                // A directory that was moved away in the middle is an error, and fine.
                while fs::rename(&fresh, &tree).is_err() {
                    let _ = remove_tree(&tree);
                }
                let _ = remove_tree(&tree);
                let _ = remove_tree(&spare);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(&out).unwrap().count(), 20, "what the link leads to was removed");
        assert_eq!(mode(), before);
    }
}

//! A source that holds still while it is read.
//!
//! Where the file system has reflinks the tree is cloned into `DATA/capture/` and the program may
//! go on at once. Where the caller promises that files never change in place, they are hard-linked
//! there. Otherwise the source is read where it is; size, times and inode of every file are checked
//! after reading. A clone shares no inode with the source; a hard link does, and nothing of ours
//! ever writes to it. The client is told which of these it is.
//!
//! The source may be `/proc/self/fd/N`, an open directory. Everything below it is reached from its
//! descriptor without following a symlink, whatever others do to it meanwhile.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::beneath::{open_beneath, open_parent};
use checkpoint::digest::FileHasher;
use checkpoint::disk::next_data;
use checkpoint::durable::remove_tree;
use checkpoint::plan::{BitsLost, PlanError};
use checkpoint::{Choice, Digest, EntryKind, Limits, Plan, RealDisk, RelPath};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// A source and its plan. The capture, if there is one, goes with this.
#[derive(Debug)]
pub struct Held {
    /// Where to read.
    pub dir: PathBuf,
    /// What to read.
    pub plan: Arc<Plan>,
    /// How it is held.
    pub how: How,
    /// Directories of the source that lose a bit of their mode.
    pub bits_lost: Option<BitsLost>,
    _guard: Option<Guard>,
}

/// How a source is held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is not: it is read in place and checked.
    InPlace,
    /// Cloned: the program may change it now.
    Cloned,
    /// Hard-linked: the program may add and remove files, not change them.
    Linked,
}

/// A folder below `capture/` that goes when it is no longer needed.
#[derive(Debug)]
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&RealDisk, &self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a capture stays behind until the next start");
        }
    }
}

/// What of a source is wanted, and what its caller promises.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which entries.
    pub choice: Choice,
    /// Files never change in place.
    pub immutable: bool,
    /// How much, at most.
    pub limits: Limits,
}

/// Scans `source` and captures it below `captures` when that is possible. Blocks.
///
/// # Errors
/// What the scan refuses; `SourceChanged` when it changed while it was captured.
pub fn hold(source: &Path, captures: &Path, wanted: &Wanted) -> Result<Held, PlanError> {
    let scan = || Plan::scan_chosen(source, &wanted.limits, &wanted.choice);
    let plan = scan()?;
    let how = if wanted.immutable { How::Linked } else { How::Cloned };
    let in_place = |plan: Plan| {
        // Where it cannot be linked the promise holds all the same.
        let plan = if wanted.immutable { plan.ignoring_links() } else { plan };
        let bits_lost = plan.bits_lost.clone();
        Ok(Held { dir: source.to_owned(), plan: Arc::new(plan), how: How::InPlace, bits_lost, _guard: None })
    };
    let Ok(root) =
        rustix::fs::open(source, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return in_place(plan);
    };
    if !may_capture(&root, captures, &plan, how) {
        return in_place(plan);
    }
    let target = captures.join(format!("{:032x}", rand::random::<u128>()));
    let guard = Guard(target.clone());
    if let Err(error) = copy_tree(&root, &target, &plan, how) {
        tracing::debug!(%error, "the source is read in place");
        return in_place(plan);
    }
    let captured = Plan::scan(&target, &wanted.limits)?;
    if let Some((path, why)) = changed(how, (&root, &plan), (&target, &captured), &scan()?) {
        return Err(PlanError::SourceChanged { path, why });
    }
    // Nobody else reaches a clone; names of what is linked may go from now on.
    let (dir, bits_lost) = (target, plan.bits_lost);
    Ok(Held { dir, plan: Arc::new(captured.ignoring_links()), how, bits_lost, _guard: Some(guard) })
}

/// What has changed in the source from the scan before its capture to the scan `after` it: the path, and how.
fn changed(
    how: How,
    (root, before): (&OwnedFd, &Plan),
    (target, captured): (&Path, &Plan),
    after: &Plan,
) -> Option<(String, String)> {
    let swapped = || Some((".".to_owned(), "it changed while it was captured".to_owned()));
    if let Some(change) = before.change(after) {
        return Some(change);
    }
    if before.entries != captured.entries {
        return swapped();
    }
    if how == How::Linked {
        return if before.same_files(captured) { None } else { swapped() };
    }
    // Of what only its links or its ctime moved, the content says whether it was written to.
    let same = |path: &RelPath| -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let capture = rustix::fs::open(target, flags, Mode::empty())?;
        Ok(digest_of(root, path)? == digest_of(&capture, path)?)
    };
    let mut touched = before.touched(after).into_iter().map(|place| &before.entries[place].path);
    let found = touched.find(|path| !same(path).unwrap_or(false))?;
    Some((found.to_string(), "its content changed while it was captured".to_owned()))
}

fn digest_of(root: &OwnedFd, path: &RelPath) -> io::Result<Digest> {
    let file = fs::File::from(open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
    let (mut at, size) = (0, file.metadata()?.len());
    let mut hasher = FileHasher::new();
    let mut room = vec![0; 1 << 16];
    while at < size {
        let (start, end) = next_data(&file, at, size)?.unwrap_or((size, size));
        hasher.zeros(start - at);
        at = start;
        while at < end {
            let want = (end - at).min(room.len() as u64) as usize;
            match file.read_at(&mut room[..want], at) {
                // It was cut meanwhile.
                Ok(0) => return Ok(hasher.finish()),
                Ok(bytes) => {
                    hasher.data(&room[..bytes]);
                    at += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(hasher.finish())
}

/// Same file system, and for clones one that can: tried with one file.
fn may_capture(root: &OwnedFd, captures: &Path, plan: &Plan, how: How) -> bool {
    match (rustix::fs::fstat(root), fs::metadata(captures)) {
        (Ok(one), Ok(other)) if one.st_dev == other.dev() => {}
        _ => return false,
    }
    if how == How::Linked {
        return true;
    }
    let Some(file) = plan.entries.iter().find(|entry| entry.kind == EntryKind::File && entry.size > 0) else {
        return false;
    };
    let probe = captures.join(format!("probe-{:032x}", rand::random::<u128>()));
    let cloned = clone_file(root, &file.path, &probe).is_ok();
    // It may never have been made.
    let _ = fs::remove_file(&probe);
    cloned
}

/// A clone of the file `path` below `root`, which must be a file still.
fn clone_file(root: &OwnedFd, path: &RelPath, to: &Path) -> io::Result<()> {
    // NONBLOCK: should it have become a fifo, opening it must not wait.
    let from = open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    let made = fs::File::options().write(true).create_new(true).mode(0o600).open(to)?;
    Ok(rustix::fs::ioctl_ficlone(&made, &from)?)
}

/// A hard link to the file `path` below `root`. Whether it is the planned one is seen afterwards.
fn link_file(root: &OwnedFd, path: &RelPath, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::linkat(open_parent(root, path)?, path.name(), CWD, to, AtFlags::empty())?)
}

fn copy_tree(root: &OwnedFd, target: &Path, plan: &Plan, how: How) -> io::Result<()> {
    for entry in &plan.entries {
        let to = if entry.path.is_root() { target.to_owned() } else { target.join(entry.path.to_path_buf()) };
        match entry.kind {
            EntryKind::Directory => {
                fs::create_dir(&to)?;
                fs::set_permissions(&to, fs::Permissions::from_mode(0o700))?;
            }
            EntryKind::Symlink => {
                use std::os::unix::ffi::OsStrExt;
                symlink(std::ffi::OsStr::from_bytes(&entry.target), &to)?;
            }
            EntryKind::File if how == How::Linked => link_file(root, &entry.path, &to)?,
            EntryKind::File => {
                clone_file(root, &entry.path, &to)?;
                fs::set_permissions(&to, fs::Permissions::from_mode(entry.mode))?;
            }
        }
    }
    // Bottom-up, so that a directory without write permission closes last.
    for entry in plan.entries.iter().rev().filter(|entry| entry.kind == EntryKind::Directory) {
        let to = if entry.path.is_root() { target.to_owned() } else { target.join(entry.path.to_path_buf()) };
        fs::set_permissions(&to, fs::Permissions::from_mode(entry.mode))?;
    }
    Ok(())
}

/// Empties `captures`: whatever lies there belonged to commits that ended with their process.
pub fn sweep(captures: &Path) -> io::Result<()> {
    for entry in fs::read_dir(captures)? {
        remove_tree(&RealDisk, &entry?.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(at: &Path) {
        fs::create_dir_all(at.join("closed")).unwrap();
        fs::write(at.join("closed/file"), b"content").unwrap();
        fs::write(at.join("empty"), b"").unwrap();
        symlink("closed/file", at.join("link")).unwrap();
        fs::set_permissions(at.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    }

    fn wanted(immutable: bool) -> Wanted {
        Wanted { immutable, ..Wanted::default() }
    }

    #[test]
    fn a_linked_capture_looks_like_its_source_and_goes_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (source, captures) = (dir.path().join("source"), dir.path().join("captures"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&captures).unwrap();
        tree(&source);
        let held = hold(&source, &captures, &wanted(true)).unwrap();
        assert_eq!(held.how, How::Linked);
        assert_eq!(held.plan.digest(), Plan::scan(&source, &Limits::default()).unwrap().digest());
        // The program removes its file; the capture still has it.
        fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(source.join("closed/file")).unwrap();
        assert_eq!(fs::read(held.dir.join("closed/file")).unwrap(), b"content");
        drop(held);
        assert_eq!(fs::read_dir(&captures).unwrap().count(), 0);
    }

    #[test]
    fn an_open_directory_is_captured_whatever_its_name_becomes() {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let (source, captures) = (dir.path().join("source"), dir.path().join("captures"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&captures).unwrap();
        tree(&source);
        let open = fs::File::open(&source).unwrap();
        fs::rename(&source, dir.path().join("moved")).unwrap();
        fs::create_dir(dir.path().join("secret")).unwrap();
        symlink("secret", &source).unwrap();
        let magic = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        for immutable in [false, true] {
            let held = hold(&magic, &captures, &wanted(immutable)).unwrap();
            assert_eq!(held.plan.entries.len(), 5);
            assert_eq!(held.dir != magic, held.how != How::InPlace);
            split(&held).unwrap();
        }
    }

    fn split(held: &Held) -> Result<checkpoint::Manifest, checkpoint::split::SplitError> {
        let (covered, previous) = (checkpoint::Coverage::default(), |_: &checkpoint::PlanEntry| None);
        let mut splitter = checkpoint::Splitter::new(&held.dir, &held.plan, 1 << 20, &covered, &previous)?;
        for piece in splitter.by_ref() {
            piece?;
        }
        splitter.finish()
    }

    #[test]
    fn a_linked_capture_can_be_split_after_its_names_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (source, captures) = (dir.path().join("source"), dir.path().join("captures"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&captures).unwrap();
        fs::write(source.join("file"), b"content").unwrap();
        let held = hold(&source, &captures, &wanted(true)).unwrap();
        fs::remove_file(source.join("file")).unwrap();
        assert_eq!(split(&held).unwrap().entries.len(), 2);
        // A change in place breaks the promise, and is seen.
        fs::write(held.dir.join("file"), b"CONTENT").unwrap();
        split(&held).unwrap_err();
    }

    #[test]
    fn a_rewrite_of_the_same_size_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let (source, clone) = (dir.path().join("source"), dir.path().join("clone"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&clone).unwrap();
        fs::write(source.join("file"), b"content").unwrap();
        let scan = |dir: &Path| Plan::scan(dir, &Limits::default()).unwrap();
        let root = OwnedFd::from(fs::File::open(&source).unwrap());
        // As a clone would be: another inode with the same content.
        fs::copy(source.join("file"), clone.join("file")).unwrap();
        let (before, captured) = (scan(&source), scan(&clone));
        let look = |how| changed(how, (&root, &before), (&clone, &captured), &scan(&source));
        assert_eq!(look(How::Cloned), None);
        assert!(look(How::Linked).is_some(), "a link is the same inode");
        // Links come and go.
        fs::hard_link(source.join("file"), dir.path().join("link")).unwrap();
        assert_eq!(look(How::Cloned), None);
        // Written in place, the mtime put back: only the content tells.
        let file = fs::File::options().write(true).open(source.join("file")).unwrap();
        let made = file.metadata().unwrap().modified().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"CONTENT", 0).unwrap();
        file.set_modified(made).unwrap();
        assert_eq!(look(How::Cloned).unwrap().0, "file");
        // Whatever the clock's grain.
        file.set_modified(made + std::time::Duration::from_secs(1)).unwrap();
        assert_eq!(before.digest(), scan(&source).digest());
        for how in [How::Cloned, How::Linked] {
            assert_eq!(look(how).unwrap().0, "file", "{how:?}");
        }
        // What is new is named, and not the directory.
        file.set_modified(made).unwrap();
        fs::write(source.join("late"), b"").unwrap();
        assert_eq!(look(How::Cloned).unwrap().0, "late");
    }

    #[test]
    fn a_promise_holds_where_nothing_can_be_linked() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), b"content").unwrap();
        // There is no folder to link to.
        let held = hold(&source, &dir.path().join("absent"), &wanted(true)).unwrap();
        assert_eq!(held.how, How::InPlace);
        fs::hard_link(source.join("file"), dir.path().join("link")).unwrap();
        split(&held).unwrap();
    }

    #[test]
    fn only_what_is_wanted_is_captured() {
        let dir = tempfile::tempdir().unwrap();
        let (source, captures) = (dir.path().join("source"), dir.path().join("captures"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&captures).unwrap();
        tree(&source);
        let exclude = vec![checkpoint::Pattern::new(b"empty"), checkpoint::Pattern::new(b"link")];
        for immutable in [false, true] {
            let choice = Choice { exclude: exclude.clone(), ..Choice::default() };
            let held = hold(&source, &captures, &Wanted { choice, ..wanted(immutable) }).unwrap();
            let names: Vec<String> = held.plan.entries.iter().map(|entry| entry.path.to_string()).collect();
            assert_eq!(names, [".", "closed", "closed/file"]);
            split(&held).unwrap();
        }
    }

    #[test]
    fn without_reflinks_the_source_is_read_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let (source, captures) = (dir.path().join("source"), dir.path().join("captures"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&captures).unwrap();
        tree(&source);
        let held = hold(&source, &captures, &wanted(false)).unwrap();
        match held.how {
            How::InPlace => assert_eq!(held.dir, source),
            How::Cloned => assert_ne!(held.dir, source),
            How::Linked => panic!("nobody promised that files do not change"),
        }
        assert_eq!(fs::read(held.dir.join("closed/file")).unwrap(), b"content");
    }

    #[test]
    fn a_sweep_empties_what_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("left")).unwrap();
        tree(&dir.path().join("left"));
        sweep(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

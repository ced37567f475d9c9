//! A source that holds still while it is read.
//!
//! Where the file system has reflinks the tree is cloned into `DATA/capture/` and the program may
//! go on at once. Where the caller promises that files never change in place, they are hard-linked
//! there. Otherwise the source is read where it is; size, times and inode of every file are checked
//! after reading. A clone shares no inode with the source; a hard link does, and nothing of ours
//! ever writes to it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use checkpoint::plan::PlanError;
use checkpoint::{EntryKind, Limits, Plan};

/// A source and its plan. The capture, if there is one, goes with this.
#[derive(Debug)]
pub struct Held {
    /// Where to read.
    pub dir: PathBuf,
    /// What to read.
    pub plan: Plan,
    /// How it is held.
    pub how: How,
    guard: Option<Guard>,
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
        if let Err(error) = remove_tree(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a capture stays behind until the next start");
        }
    }
}

/// Scans `source` and captures it below `captures` when that is possible. Blocks.
///
/// # Errors
/// What the scan refuses; `SourceChanged` when it changed while it was captured.
pub fn hold(source: &Path, captures: &Path, immutable: bool, limits: &Limits) -> Result<Held, PlanError> {
    let plan = Plan::scan(source, limits)?;
    let how = if immutable { How::Linked } else { How::Cloned };
    if !may_capture(source, captures, &plan, how) {
        return Ok(Held { dir: source.to_owned(), plan, how: How::InPlace, guard: None });
    }
    let target = captures.join(format!("{:032x}", rand::random::<u128>()));
    let guard = Guard(target.clone());
    if let Err(error) = copy_tree(source, &target, &plan, how) {
        tracing::debug!(%error, "the source is read in place");
        return Ok(Held { dir: source.to_owned(), plan, how: How::InPlace, guard: None });
    }
    let captured = Plan::scan(&target, limits)?;
    let again = Plan::scan(source, limits)?;
    if captured.digest() != plan.digest() || again.digest() != plan.digest() {
        return Err(PlanError::SourceChanged {
            path: ".".into(),
            why: "it changed while it was captured".into(),
        });
    }
    Ok(Held { dir: target, plan: captured, how, guard: Some(guard) })
}

impl Held {
    /// Whether the program may go on with its directory.
    pub fn is_captured(&self) -> bool {
        self.guard.is_some()
    }
}

/// Same file system, and for clones one that can: tried with one file.
fn may_capture(source: &Path, captures: &Path, plan: &Plan, how: How) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    match (device(source), device(captures)) {
        (Ok(one), Ok(other)) if one == other => {}
        _ => return false,
    }
    if how == How::Linked {
        return true;
    }
    let Some(file) = plan.entries.iter().find(|entry| entry.kind == EntryKind::File && entry.size > 0) else {
        return false;
    };
    let probe = captures.join(format!("probe-{:032x}", rand::random::<u128>()));
    let cloned = reflink_copy::reflink(source.join(file.path.to_path_buf()), &probe).is_ok();
    // It may never have been made.
    let _ = fs::remove_file(&probe);
    cloned
}

fn copy_tree(source: &Path, target: &Path, plan: &Plan, how: How) -> io::Result<()> {
    for entry in &plan.entries {
        let from = source.join(entry.path.to_path_buf());
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
            EntryKind::File if how == How::Linked => fs::hard_link(&from, &to)?,
            EntryKind::File => {
                reflink_copy::reflink(&from, &to)?;
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

/// Removes a tree whose directories may lack write permission.
fn remove_tree(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        remove_tree(&entry?.path())?;
    }
    fs::remove_dir(path)
}

/// Empties `captures`: whatever lies there belonged to commits that ended with their process.
pub fn sweep(captures: &Path) -> io::Result<()> {
    for entry in fs::read_dir(captures)? {
        remove_tree(&entry?.path())?;
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

    #[test]
    fn a_linked_capture_looks_like_its_source_and_goes_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (source, captures) = (dir.path().join("source"), dir.path().join("captures"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&captures).unwrap();
        tree(&source);
        let held = hold(&source, &captures, true, &Limits::default()).unwrap();
        assert_eq!(held.how, How::Linked);
        assert!(held.is_captured());
        assert_eq!(held.plan.digest(), Plan::scan(&source, &Limits::default()).unwrap().digest());
        // The program removes its file; the capture still has it.
        fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::remove_file(source.join("closed/file")).unwrap();
        assert_eq!(fs::read(held.dir.join("closed/file")).unwrap(), b"content");
        drop(held);
        assert_eq!(fs::read_dir(&captures).unwrap().count(), 0);
    }

    #[test]
    fn without_reflinks_the_source_is_read_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let (source, captures) = (dir.path().join("source"), dir.path().join("captures"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&captures).unwrap();
        tree(&source);
        let held = hold(&source, &captures, false, &Limits::default()).unwrap();
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

//! Which entries of a directory an earlier restore wrote, unchanged since: those whose time of last modification has
//! the fraction of a second that a restore gives it. Why there: see the tour of this room.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, futimens, statat, utimensat,
};

use super::error::RestoreError;
use super::others::Others;
use crate::beneath::descent::{Descent, is_mounted, is_no_directory};
use crate::digest::checksum;
use crate::io_error::at;

// The fraction, nanoseconds: whole microseconds, which all file systems keep that keep fractions at all, and never
// none, which is what times have that came out of an archive.
fn fraction(seconds: i64, inode: u64, size: u64) -> i64 {
    let parts: [&[u8]; 4] =
        [b"restored by epochlog", &seconds.to_le_bytes(), &inode.to_le_bytes(), &size.to_le_bytes()];
    let sum = checksum(&parts);
    let number = u64::from_le_bytes(sum[..8].try_into().expect("eight bytes"));
    (number % 999_999 + 1) as i64 * 1000
}

fn of(stat: &Stat, seconds: i64) -> i64 {
    // What a directory's size is says nothing, and changes with its names.
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    fraction(seconds, stat.st_ino, if is_dir { 0 } else { stat.st_size as u64 })
}

fn is_known(stat: &Stat) -> bool {
    stat.st_mtime_nsec as i64 == of(stat, stat.st_mtime)
}

fn times(stat: &Stat) -> Timestamps {
    // Of the second before: no time lies in the future.
    let seconds = stat.st_mtime - 1;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: of(stat, seconds) },
    }
}

/// Marks a file or directory that is finished. Where that cannot be, it is not known again, which does no harm.
pub(super) fn mark(file: impl AsFd) {
    if let Ok(stat) = fstat(&file) {
        let _ = futimens(&file, &times(&stat));
    }
}

/// The same for a symlink.
pub(super) fn mark_symlink(dir: impl AsFd, name: &[u8]) {
    if let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        let _ = utimensat(&dir, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW);
    }
}

/// What lies in a directory.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Entries that an earlier restore wrote.
    pub(super) known: u64,
    pub(super) others: Others,
    /// How many of the others are empty directories.
    pub(super) hollow: u64,
}

/// Looks through the open directory `dir`, whatever its name stands for by now; it is told as `target`. Without the
/// names in it that `stay`. Reads no content.
pub(super) fn survey(
    dir: impl AsFd,
    target: &Path,
    stay: &dyn Fn(&OsStr) -> bool,
) -> Result<Survey, RestoreError> {
    let mut survey = Survey::default();
    // From the target on.
    let mut path = PathBuf::new();
    let failed = |path: &Path, e: io::Error| RestoreError::from(at("read", &target.join(path))(e));
    let mut way = Descent::begin(dir, OsStr::new(".")).map_err(|e| failed(&path, e))?;
    let mut left = vec![survey.look(&way, &path, stay).map_err(|e| failed(&path, e))?];
    while let Some(inner) = left.last_mut() {
        let Some(dir) = inner.pop() else {
            left.pop();
            if !left.is_empty() {
                way.leave().map_err(|e| failed(&path, e))?;
                path.pop();
            }
            continue;
        };
        path.push(&dir);
        match way.enter(&dir) {
            Ok(()) => {
                left.push(survey.look(&way, &path, &|_| false).map_err(|e| failed(&path, e))?);
                continue;
            }
            Err(e) if is_mounted(&e) => {
                return Err(RestoreError::Target {
                    path: target.join(&path),
                    why: "another file system is mounted there".into(),
                    fix: "unmount it first, or name another directory",
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Who cannot look into it does not know it.
            Err(e) if is_no_directory(&e) || e.kind() == io::ErrorKind::PermissionDenied => {
                survey.others.add(&path, 0);
            }
            Err(e) => return Err(failed(&path, e)),
        }
        path.pop();
    }
    Ok(survey)
}

impl Survey {
    // Judges what is no directory; answers the names of the directories, last first.
    fn look(
        &mut self,
        way: &Descent,
        path: &Path,
        stay: &dyn Fn(&OsStr) -> bool,
    ) -> io::Result<Vec<OsString>> {
        let (mut dirs, mut files, mut empty) = (Vec::new(), Vec::new(), true);
        way.names(|name: &CStr, is_dir| {
            let name = OsStr::from_bytes(name.to_bytes());
            if !stay(name) {
                empty = false;
                if is_dir { dirs.push(name.to_owned()) } else { files.push(name.to_owned()) }
            }
            Ok(())
        })?;
        files.sort();
        for name in files {
            match statat(way.here(), &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.judge(&stat, &path.join(&name)),
                Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if empty && !path.as_os_str().is_empty() {
            self.judge(&fstat(way.here())?, path);
        }
        dirs.sort_by(|a, b| b.cmp(a));
        Ok(dirs)
    }

    fn judge(&mut self, stat: &Stat, path: &Path) {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if is_known(stat) && (kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            self.known += 1;
        } else {
            self.others.add(path, if kind.is_file() { stat.st_size as u64 } else { 0 });
            self.hollow += u64::from(kind.is_dir());
        }
    }
}

/// The top names of a directory.
pub(super) fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    fn look(dir: &Path) -> (u64, Others) {
        let tree = dir.join("t");
        let survey = survey(File::open(&tree).unwrap(), &tree, &|_| false).unwrap();
        (survey.known, survey.others)
    }

    #[test]
    fn what_is_marked_is_known_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        fs::create_dir_all(tree.join("d/e")).unwrap();
        fs::write(tree.join("d/f"), b"content").unwrap();
        symlink("nowhere", tree.join("l")).unwrap();
        assert_eq!(look(dir.path()).1.some, ["l", "d/f", "d/e"]);
        mark(File::open(tree.join("d/f")).unwrap());
        mark(File::open(tree.join("d/e")).unwrap());
        mark_symlink(File::open(&tree).unwrap(), b"l");
        assert_eq!(look(dir.path()), (3, Others::default()));
        // Renamed it is still ours; written to, or another inode with the same times, it is not.
        fs::rename(tree.join("d/f"), tree.join("g")).unwrap();
        assert_eq!(look(dir.path()).0, 3);
        fs::copy(tree.join("g"), tree.join("copy")).unwrap();
        let times = fs::metadata(tree.join("g")).unwrap().modified().unwrap();
        File::options().write(true).open(tree.join("copy")).unwrap().set_modified(times).unwrap();
        assert_eq!(look(dir.path()).1.some, ["copy"]);
        fs::write(tree.join("g"), b"CONTENT").unwrap();
        fs::write(tree.join("d/e/mine"), b"").unwrap();
        let (known, others) = look(dir.path());
        assert_eq!((known, others.entries, others.bytes), (1, 3, 14));
        assert_eq!(others.to_string(), "3 entries (copy, g, d/e/mine)");
    }

    #[test]
    fn others_cover_no_more_than_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        fs::create_dir_all(tree.join("e")).unwrap();
        fs::write(tree.join("f"), b"four").unwrap();
        let covers = |accepted: &Others| accepted.covers(&look(dir.path()).1);
        let accepted = look(dir.path()).1;
        assert!(covers(&accepted) && !covers(&Others::default()));
        // Shorter is no more, longer is; so is another entry in the place of one.
        for (data, good) in [(&b"fo"[..], true), (&b"longer"[..], false), (&b"four"[..], true)] {
            fs::write(tree.join("f"), data).unwrap();
            assert_eq!(covers(&accepted), good, "{data:?}");
        }
        fs::rename(tree.join("f"), tree.join("g")).unwrap();
        assert!(!covers(&accepted));
        fs::remove_file(tree.join("g")).unwrap();
        fs::remove_dir(tree.join("e")).unwrap();
        assert!(covers(&accepted) && covers(&Others::default()), "nothing is no more than anything");
    }

    #[test]
    fn times_without_a_fraction_are_never_ours() {
        let sums: Vec<i64> = (0..2000).map(|n| fraction(n, 7, 5)).collect();
        assert!(sums.iter().all(|sum| *sum > 0 && *sum < 1_000_000_000 && sum % 1000 == 0));
        let known: std::collections::BTreeSet<_> = sums.iter().collect();
        assert!(known.len() > 1990, "the seconds have no part in it");
    }
}

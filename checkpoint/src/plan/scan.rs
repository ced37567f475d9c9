//! The walk. Everything is reached from the root's descriptor without following
//! a symlink; only directories are opened, and files that have holes.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, open, statat};
use rustix::io::Errno;

use super::{BitsLost, Plan, PlanError, Stamp, stored};
use crate::beneath::open_beneath;
use crate::entry::PlanEntry;
use crate::epoch::{EntryKind, RelPath};
use crate::io_error::at;
use crate::limits::{DEPTH_MAX, Limits};
use crate::pattern::Choice;
use crate::tree_rules::{PlanChecker, RuleError};

impl Plan {
    /// Walks `dir`. Sockets, fifos and devices are refused by name without being opened; so are set-id and sticky
    /// bits of files, files that their owner may not read and directories that their owner may not list.
    pub fn scan(dir: &Path, limits: &Limits) -> Result<Plan, PlanError> {
        scan(dir, limits, &Choice::default())
    }

    /// [`Plan::scan`] of the chosen entries. What is left out is not looked at: nothing of it is refused.
    pub fn scan_chosen(dir: &Path, limits: &Limits, choice: &Choice) -> Result<Plan, PlanError> {
        scan(dir, limits, choice)
    }

    /// Scans the very same directory once more, for what this scan was to choose. `dir` is its name, for messages.
    pub(crate) fn scan_again(&self, dir: &Path) -> Result<Plan, PlanError> {
        scan_open(self.root.clone(), dir, &Limits::default(), &self.choice)
    }
}

// `dir` may be a magic link of procfs, which leads to an open directory: it alone is followed.
fn scan(dir: &Path, limits: &Limits, choice: &Choice) -> Result<Plan, PlanError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(dir, flags, Mode::empty()).map_err(|e| at("open the directory", dir)(e.into()))?;
    scan_open(Arc::new(root), dir, limits, choice)
}

/// The same of a directory that is open; `dir` is its name, for messages.
fn scan_open(root: Arc<OwnedFd>, dir: &Path, limits: &Limits, choice: &Choice) -> Result<Plan, PlanError> {
    let began = SystemTime::now();
    let stat = fstat(&root).map_err(|e| at("stat", dir)(e.into()))?;
    let mut walk = Walk { dir, limits, choice, found: Vec::new(), left: Vec::new(), bytes: 0, stored: 0 };
    walk.take(RelPath::root(), &stat, None)?;
    while let Some(path) = walk.left.pop() {
        walk.list(&root, &path)?;
    }
    walk.found.sort_unstable_by(|a, b| a.0.path.cmp(&b.0.path));
    if !choice.include.is_empty() {
        drop_empty(&mut walk.found, choice);
    }
    let (bits_lost, stored) = (bits_lost(&walk.found), walk.stored);
    let (entries, stamps): (Vec<_>, Vec<_>) = walk.found.into_iter().unzip();
    let mut checker = PlanChecker::new(*limits);
    entries.iter().try_for_each(|entry| checker.push(entry.borrowed()))?;
    Ok(Plan { entries, bits_lost, stamps, stored, root, began, choice: choice.clone() })
}

fn bits_lost(found: &[(PlanEntry, Stamp)]) -> Option<BitsLost> {
    let mut losers =
        found.iter().filter(|(entry, stamp)| entry.kind == EntryKind::Directory && stamp.mode & 0o7000 != 0);
    let (first, _) = losers.next()?;
    Some(BitsLost { directories: 1 + losers.count() as u64, first: first.path.clone() })
}

// Every directory was walked, for what it may hold: those go that are not wanted and hold nothing that is.
fn drop_empty(found: &mut Vec<(PlanEntry, Stamp)>, choice: &Choice) {
    let mut above = HashSet::from([RelPath::root()]);
    // A parent sorts before its content: backwards is bottom-up.
    for (entry, _) in found.iter().rev() {
        if (above.contains(&entry.path) || choice.takes(&entry.path))
            && let Some(parent) = entry.path.parent()
        {
            above.insert(parent);
        }
    }
    found.retain(|(entry, _)| above.contains(&entry.path) || choice.takes(&entry.path));
}

struct Walk<'a> {
    dir: &'a Path,
    limits: &'a Limits,
    choice: &'a Choice,
    found: Vec<(PlanEntry, Stamp)>,
    left: Vec<RelPath>,
    bytes: u64,
    stored: u64,
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
                path.join(name).map_err(|e| RuleError::Refused { path: e.path, why: e.why.to_owned() })?;
            if self.choice.excludes(&inner) {
                continue;
            }
            let stat = match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // A name that came and went. Had it been more, its new place would be found in the last look.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(self.io("stat", &inner, e)),
            };
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder || self.choice.takes(&inner) {
                self.take(inner, &stat, Some((&fd, name)))?;
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        path: RelPath,
        stat: &rustix::fs::Stat,
        at: Option<(&OwnedFd, &[u8])>,
    ) -> Result<(), PlanError> {
        let refused = |why: String| PlanError::from(RuleError::Refused { path: path.to_string(), why });
        let mut mode = stat.st_mode & 0o7777;
        let mut size = 0;
        let mut target = Vec::new();
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                size = stat.st_size as u64;
                let (fd, name) = at.expect("the root was opened as a directory");
                self.stored = self.stored.saturating_add(stored::stored_bytes(fd, name, stat));
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
        if mode & 0o7000 != 0 && kind == EntryKind::Directory {
            // They come from a folder above as often as from a person: a directory is not refused for them.
            mode &= 0o777;
        } else if mode & 0o7000 != 0 {
            return Err(refused(format!(
                "mode {mode:04o}: setuid, setgid and sticky bits of files are not kept; \
                 take them off (chmod u-s,g-s,-t), or leave the file out (--exclude)"
            )));
        }
        // Early, so that a walk without end ends.
        self.bytes = self.bytes.saturating_add(size);
        if self.found.len() as u64 >= self.limits.files_max {
            let limit = self.limits.files_max;
            return Err(RuleError::Limit { what: "too many entries", limit, unit: "entries" }.into());
        }
        if self.bytes > self.limits.bytes_max {
            let limit = self.limits.bytes_max;
            return Err(RuleError::Limit { what: "too many bytes", limit, unit: "bytes" }.into());
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

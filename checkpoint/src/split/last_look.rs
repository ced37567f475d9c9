//! The last look, after everything was read: each entry once more, by name.
//!
//! An entry in the very state that was planned is done. Where nothing moved but what links move too, or where the
//! stamp was too fresh to prove anything, content decides: a file is read again and must have the digest of what was
//! read before, a directory is listed again, a symlink read again. So links may come and go without pause, and what
//! was overwritten in place is found although its mtime was put back.
//!
//! Where only some entries are wanted, directories that held none of them are not in the plan. So the directory is
//! scanned once more then: one of them may hold some by now.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, readlinkat, statat};
use rustix::io::Errno;

use super::SplitError;
use super::read::{SourceFile, changed, check_name, lost};
use super::unseen::Devices;
use crate::beneath::{open_beneath, open_parent};
use crate::digest::Digest;
use crate::epoch::{EntryKind, RelPath};
use crate::plan::{Plan, PlanEntry, PlanError, RuleError};

// A file whose links move all the time, also while it is read again, is taken when so many more readings agree.
const READINGS_MAX: u32 = 3;

pub(super) struct LastLook<'a> {
    pub(super) root: &'a OwnedFd,
    pub(super) dir: &'a Path,
    pub(super) plan: &'a Plan,
    /// By entry: the digest of what was read.
    pub(super) digests: &'a [Digest],
    /// Files whose stamp proved nothing when they were read.
    pub(super) fresh: &'a BTreeSet<u32>,
    pub(super) devices: &'a Devices,
}

impl LastLook<'_> {
    pub(super) fn take(&self) -> Result<(), SplitError> {
        let now = SystemTime::now();
        let planned = self.plan.entries.iter().zip(&self.plan.stamps);
        for (place, (entry, stamp)) in planned.enumerate() {
            let is_still = check_name(self.root, self.dir, &entry.path, stamp)?;
            let is_fresh = match entry.kind {
                EntryKind::File => self.fresh.contains(&(place as u32)),
                EntryKind::Directory | EntryKind::Symlink => stamp.is_fresh_at(self.plan.began, now),
            };
            if is_still && !is_fresh {
                continue;
            }
            match entry.kind {
                // Its length is all that it has.
                EntryKind::File if entry.size == 0 => {}
                EntryKind::File => self.read_again(place)?,
                EntryKind::Directory => self.list_again(&entry.path)?,
                EntryKind::Symlink => self.read_link_again(entry)?,
            }
        }
        if self.plan.choice.include.is_empty() { Ok(()) } else { self.scan_again() }
    }

    fn scan_again(&self) -> Result<(), SplitError> {
        let later = self.plan.scan_again(self.dir).map_err(|error| match error {
            PlanError::SourceChanged { path, why } | PlanError::Rules(RuleError::Refused { path, why }) => {
                SplitError::SourceChanged { path, why }
            }
            PlanError::Rules(RuleError::Limit { .. }) => changed(&RelPath::root(), error.to_string()),
            PlanError::Io(error) => error.into(),
        })?;
        // Of the directories above it none is named for it.
        let is_new = |path: &RelPath| self.plan.choice.takes(path) && !self.plan.has(path);
        if let Some(entry) = later.entries.iter().find(|entry| is_new(&entry.path)) {
            return Err(changed(&entry.path, "it is new"));
        }
        match self.plan.change(&later) {
            Some((path, why)) => Err(SplitError::SourceChanged { path, why }),
            None => Ok(()),
        }
    }

    fn read_again(&self, place: usize) -> Result<(), SplitError> {
        let path = &self.plan.entries[place].path;
        for _ in 0..READINGS_MAX {
            let mut file =
                SourceFile::open(self.root, self.dir, path, self.plan.stamps[place], self.devices)?;
            let before = file.now()?;
            if file.hash(|_| {})? != self.digests[place] {
                return Err(changed(path, "its content changed, although its times do not tell"));
            }
            if before.is_still(&file.now()?) {
                return Ok(());
            }
        }
        Ok(())
    }

    // Names that are missing are found by name.
    fn list_again(&self, path: &RelPath) -> Result<(), SplitError> {
        let full = self.dir.join(path.as_os_str());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let dir = open_beneath(self.root, path, flags, Mode::empty())
            .map_err(|e| lost(path, "open the directory", &full, e))?;
        let names = Dir::read_from(&dir).map_err(|e| lost(path, "list", &full, e.into()))?;
        for entry in names {
            let entry = entry.map_err(|e| lost(path, "list", &full, e.into()))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let inner = path.join(name).map_err(|e| changed(path, format!("{}: {}", e.path, e.why)))?;
            // A directory that was not wanted may be left out although patterns do not mean it: it held nothing.
            if self.plan.has(&inner) || !self.plan.choice.takes(&inner) {
                continue;
            }
            match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                // A name that came and went.
                Err(Errno::NOENT) => {}
                _ => return Err(changed(&inner, "it is new")),
            }
        }
        Ok(())
    }

    fn read_link_again(&self, entry: &PlanEntry) -> Result<(), SplitError> {
        let path = &entry.path;
        let read: io::Result<_> =
            open_parent(self.root, path).and_then(|dir| Ok(readlinkat(dir, path.name(), Vec::new())?));
        let target = read.map_err(|e| lost(path, "read the link", &self.dir.join(path.as_os_str()), e))?;
        match target.into_bytes() == entry.target {
            true => Ok(()),
            false => Err(changed(path, "it leads elsewhere")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::content;
    use crate::limits::Limits;

    // The clock did not move between the stamp and a write: the stamp is that of what was written.
    #[test]
    fn a_change_within_the_tick_of_its_stamp_is_found_by_reading_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"before").unwrap();
        let read = [Digest::NONE, content(b"before")];
        std::fs::write(dir.path().join("a"), b"behind").unwrap();
        let plan = Plan::scan(dir.path(), &Limits::default()).unwrap();
        let look = |fresh: &BTreeSet<u32>| {
            let (root, devices) = (&plan.root, &Devices::default());
            LastLook { root, dir: dir.path(), plan: &plan, digests: &read, fresh, devices }.take()
        };
        look(&BTreeSet::new()).unwrap();
        let found = look(&BTreeSet::from([1])).unwrap_err().to_string();
        assert!(found.starts_with("a: ") && found.contains("content"), "{found}");
    }
}

//! The rules for a list of entries, whoever made it: a scan, a record, a
//! manifest. Works entry by entry in the memory of one path, so that pages can
//! be checked as they come.

use super::{PlanEntry, PlanError};
use crate::epoch::{EntryKind, RelPath, escape};
use crate::limits::{DEPTH_MAX, FILE_BYTES_MAX, Limits, MODE_MAX, TARGET_BYTES_MAX};

/// Checks entries one after the other.
#[derive(Clone, Debug)]
pub struct PlanChecker {
    limits: Limits,
    entries: u64,
    bytes: u64,
    last: Option<RelPath>,
    // Directories that later entries can still be in, outermost first. Sorted, because each is a prefix of the
    // next: bytewise order lets `a-b` come between `a` and `a/b`, and those in between end before.
    open: Vec<RelPath>,
}

/// Checks a whole list: the root first, sorted, no duplicates, every parent listed and a directory, modes,
/// sizes, targets, limits.
pub fn check_entries(entries: &[PlanEntry], limits: &Limits) -> Result<(), PlanError> {
    let mut checker = PlanChecker::new(*limits);
    entries.iter().try_for_each(|entry| checker.push(entry))?;
    checker.finish()
}

fn refused(path: &RelPath, why: impl Into<String>) -> PlanError {
    PlanError::Refused { path: path.to_string(), why: why.into() }
}

impl PlanChecker {
    /// Starts before the first entry.
    pub fn new(limits: Limits) -> PlanChecker {
        PlanChecker { limits, entries: 0, bytes: 0, last: None, open: Vec::new() }
    }

    /// Goes on where another one was: after so many entries of so many bytes, of which `last` was the last, with
    /// these directories [open](PlanChecker::open). `None` for what no checker can have been in.
    pub fn resume(
        limits: Limits,
        (entries, bytes): (u64, u64),
        last: Option<RelPath>,
        open: Vec<RelPath>,
    ) -> Option<PlanChecker> {
        let nested = open.windows(2).all(|two| two[0] < two[1] && may_hold(&two[0], &two[1]));
        let begun = (entries > 0) == last.is_some() && open.is_empty() != last.is_some();
        let holds = open.last().zip(last.as_ref()).is_none_or(|(dir, last)| dir <= last);
        (nested && begun && holds).then_some(PlanChecker { limits, entries, bytes, last, open })
    }

    /// The path of the entry that came last.
    pub fn last(&self) -> Option<&RelPath> {
        self.last.as_ref()
    }

    /// Directories that later entries may be in, outermost first: as text each begins with the one before it.
    pub fn open(&self) -> &[RelPath] {
        &self.open
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Sum of file sizes so far, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next entry.
    pub fn push(&mut self, entry: &PlanEntry) -> Result<(), PlanError> {
        self.push_parts(&entry.path, entry.kind, entry.mode, entry.size, &entry.target)
    }

    pub(crate) fn push_parts(
        &mut self,
        path: &RelPath,
        kind: EntryKind,
        mode: u32,
        size: u64,
        target: &[u8],
    ) -> Result<(), PlanError> {
        self.check_place(path, kind)?;
        check_entry(path, kind, mode, size, target)?;
        self.entries += 1;
        if self.entries > self.limits.files_max.min(u64::from(u32::MAX)) {
            let limit = self.limits.files_max;
            return Err(PlanError::Limit { what: "too many entries", limit, unit: "entries" });
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes_max {
            let limit = self.limits.bytes_max;
            return Err(PlanError::Limit { what: "too many bytes", limit, unit: "bytes" });
        }
        if path.depth() > self.limits.depth_max.min(DEPTH_MAX) {
            let why = format!("it is deeper than {} components", self.limits.depth_max);
            return Err(refused(path, why));
        }
        if kind == EntryKind::Directory {
            self.open.push(path.clone());
        }
        self.last = Some(path.clone());
        Ok(())
    }

    fn check_place(&mut self, path: &RelPath, kind: EntryKind) -> Result<(), PlanError> {
        let Some(last) = &self.last else {
            return match (path.is_root(), kind) {
                (true, EntryKind::Directory) => Ok(()),
                _ => Err(refused(path, "the first entry must be the root directory")),
            };
        };
        if path == last {
            return Err(refused(path, "the path is listed twice"));
        }
        if path < last {
            return Err(refused(path, "entries are not sorted bytewise by path"));
        }
        // Everything that starts with `dir/` sorts below `dir0`.
        while self.open.last().is_some_and(|dir| !may_hold(dir, path)) {
            self.open.pop();
        }
        let parent = path.parent_bytes().unwrap_or_default();
        if self.open.binary_search_by(|dir| dir.as_bytes().cmp(parent)).is_err() {
            return Err(refused(path, "its parent is not listed before it as a directory"));
        }
        Ok(())
    }

    /// Ends the list.
    pub fn finish(&self) -> Result<(), PlanError> {
        match self.last {
            Some(_) => Ok(()),
            None => Err(PlanError::Refused { path: ".".into(), why: "there are no entries".into() }),
        }
    }
}

// Whether entries at or after `path` can still lie in `dir`.
fn may_hold(dir: &RelPath, path: &RelPath) -> bool {
    let (dir, path) = (dir.as_bytes(), path.as_bytes());
    dir.is_empty() || (path.starts_with(dir) && path.get(dir.len()).is_none_or(|b| *b <= b'/'))
}

fn check_entry(
    path: &RelPath,
    kind: EntryKind,
    mode: u32,
    size: u64,
    target: &[u8],
) -> Result<(), PlanError> {
    if kind != EntryKind::File && size != 0 {
        return Err(refused(path, "only files have a size"));
    }
    if kind != EntryKind::Symlink && !target.is_empty() {
        return Err(refused(path, "only symlinks have a target"));
    }
    if mode > MODE_MAX {
        return Err(refused(path, format!("mode {mode:o} has setuid, setgid, sticky or unknown bits")));
    }
    match kind {
        EntryKind::File if mode & 0o400 == 0 => Err(refused(
            path,
            format!(
                "mode {mode:03o}: its owner may not read it, so a replica that is not root could not read it back"
            ),
        )),
        EntryKind::File if size > FILE_BYTES_MAX => Err(refused(path, "it is larger than 2^50 bytes")),
        EntryKind::Directory if mode & 0o500 != 0o500 => Err(refused(
            path,
            format!(
                "mode {mode:03o}: its owner may not list it, so a replica that is not root could not read it back"
            ),
        )),
        EntryKind::Symlink if mode != 0o777 => Err(refused(path, "a symlink has mode 777")),
        EntryKind::Symlink if target.is_empty() => Err(refused(path, "the symlink has no target")),
        EntryKind::Symlink if target.len() > TARGET_BYTES_MAX => {
            Err(refused(path, "the symlink's target is longer than 4095 bytes"))
        }
        EntryKind::Symlink if target.contains(&0) => {
            Err(refused(path, format!("the symlink's target {} holds a NUL byte", escape(target))))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> PlanEntry {
        let mode = if kind == EntryKind::Symlink { 0o777 } else { 0o755 };
        let target = if kind == EntryKind::Symlink { b"x".to_vec() } else { Vec::new() };
        PlanEntry { path: RelPath::parse(path.as_bytes()).unwrap(), kind, mode, size: 0, target }
    }

    fn check(list: &[(&str, EntryKind)]) -> Result<(), PlanError> {
        let entries: Vec<_> = list.iter().map(|(path, kind)| entry(path, *kind)).collect();
        check_entries(&entries, &Limits::default())
    }

    #[test]
    fn siblings_may_sort_between_a_directory_and_its_content() {
        use EntryKind::{Directory, File, Symlink};
        let list = [
            ("", Directory),
            ("a", Directory),
            ("a-", Directory),
            ("a-/x", File),
            ("a-b", Symlink),
            ("a/b", Directory),
            ("a/b!", File),
            ("a/b/c", File),
            ("a0", File),
        ];
        check(&list).unwrap();
        check(&[("", Directory)]).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        use EntryKind::{Directory, File, Symlink};
        for bad in [
            &[][..],
            &[("a", File)],
            &[("", File)],
            &[("", Directory), ("", Directory)],
            &[("", Directory), ("b", File), ("a", File)],
            &[("", Directory), ("a", File), ("a", File)],
            &[("", Directory), ("a/b", File)],
            &[("", Directory), ("a", File), ("a/b", File)],
            &[("", Directory), ("a", Symlink), ("a/b", File)],
            &[("", Directory), ("a", Directory), ("a0", File), ("a/b", File)],
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for (mode, kind) in [
            (0o377, EntryKind::File),
            (0o4755, EntryKind::File),
            (0o677, EntryKind::Directory),
            (0o1777, EntryKind::Directory),
            (0o755, EntryKind::Symlink),
        ] {
            let mut bad = entry("a", kind);
            bad.mode = mode;
            let list = [entry("", EntryKind::Directory), bad];
            assert!(check_entries(&list, &Limits::default()).is_err(), "{mode:o} {kind:?}");
        }
        let list = [entry("", Directory), entry("a", File)];
        let tight = Limits { files_max: 1, ..Limits::default() };
        assert!(matches!(check_entries(&list, &tight), Err(PlanError::Limit { .. })));
    }
}

//! The rules of a tree: which lists of entries a directory can have and a
//! replica can write, whoever made the list: a scan, a record, a manifest.
//! Works entry by entry in the memory of one path, so that pages can be checked
//! as they come.

use std::cmp::Ordering;

use crate::entry::EntryRef;
use crate::epoch::{EntryKind, PathRef, RelPath, escape};
use crate::limits::{DEPTH_MAX, FILE_BYTES_MAX, Limits, MODE_MAX, TARGET_BYTES_MAX};

/// Why a list of entries is no tree that is taken.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// An entry that cannot be reproduced, or that must not be.
    #[error("{path}: refused: {why}")]
    Refused {
        /// The path, escaped; `.` for the root.
        path: String,
        /// The reason.
        why: String,
    },
    /// More than the limits allow.
    #[error("the directory is over the limit: {what}, at most {limit} {unit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// Its unit.
        unit: &'static str,
    },
}

/// Checks entries one after the other.
#[derive(Clone, Debug)]
pub struct PlanChecker {
    limits: Limits,
    entries: u64,
    bytes: u64,
    // The path that came last, once there was one.
    last: Vec<u8>,
    // Directories that later entries can still be in, outermost first. Sorted, because each is a prefix of the
    // next: bytewise order lets `a-b` come between `a` and `a/b`, and those in between end before.
    open: Vec<RelPath>,
}

/// Checks a whole list: the root first, sorted, no duplicates, every parent listed and a directory, modes,
/// sizes, targets, limits.
pub fn check_entries<'a>(
    entries: impl IntoIterator<Item = EntryRef<'a>>,
    limits: &Limits,
) -> Result<(), RuleError> {
    let mut checker = PlanChecker::new(*limits);
    entries.into_iter().try_for_each(|entry| checker.push(entry))?;
    checker.finish()
}

fn refused(path: PathRef<'_>, why: impl Into<String>) -> RuleError {
    RuleError::Refused { path: path.to_string(), why: why.into() }
}

impl PlanChecker {
    /// Starts before the first entry.
    pub fn new(limits: Limits) -> PlanChecker {
        PlanChecker { limits, entries: 0, bytes: 0, last: Vec::new(), open: Vec::new() }
    }

    /// Goes on where another one was: after so many entries of so many bytes, of which `last` was the last, with
    /// these directories [open](PlanChecker::open). `None` for what no checker can have been in.
    pub fn resume(
        limits: Limits,
        (entries, bytes): (u64, u64),
        last: Option<RelPath>,
        open: Vec<RelPath>,
    ) -> Option<PlanChecker> {
        let nested =
            open.windows(2).all(|two| two[0] < two[1] && may_hold(two[0].borrowed(), two[1].borrowed()));
        let begun = (entries > 0) == last.is_some() && open.is_empty() != last.is_some();
        let holds = open.last().zip(last.as_ref()).is_none_or(|(dir, last)| dir <= last);
        let last = last.map(|last| last.as_bytes().to_vec()).unwrap_or_default();
        (nested && begun && holds).then_some(PlanChecker { limits, entries, bytes, last, open })
    }

    /// The bytes of the path that came last.
    pub fn last(&self) -> Option<&[u8]> {
        (self.entries > 0).then_some(&self.last)
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
    pub fn push(&mut self, entry: EntryRef<'_>) -> Result<(), RuleError> {
        let path = entry.path;
        self.check_place(path, entry.kind)?;
        check_entry(entry)?;
        if self.entries + 1 > self.limits.files_max.min(u64::from(u32::MAX)) {
            let limit = self.limits.files_max;
            return Err(RuleError::Limit { what: "too many entries", limit, unit: "entries" });
        }
        let bytes = self.bytes.saturating_add(entry.size);
        if bytes > self.limits.bytes_max {
            let limit = self.limits.bytes_max;
            return Err(RuleError::Limit { what: "too many bytes", limit, unit: "bytes" });
        }
        if path.depth() > self.limits.depth_max.min(DEPTH_MAX) {
            let why = format!("it is deeper than {} components", self.limits.depth_max);
            return Err(refused(path, why));
        }
        if entry.kind == EntryKind::Directory {
            self.open.push(path.to_rel_path());
        }
        (self.entries, self.bytes) = (self.entries + 1, bytes);
        self.last.clear();
        self.last.extend_from_slice(path.as_bytes());
        Ok(())
    }

    fn check_place(&mut self, path: PathRef<'_>, kind: EntryKind) -> Result<(), RuleError> {
        if self.entries == 0 {
            return match (path.is_root(), kind) {
                (true, EntryKind::Directory) => Ok(()),
                _ => Err(refused(path, "the first entry must be the root directory")),
            };
        }
        match path.as_bytes().cmp(&self.last) {
            Ordering::Equal => return Err(refused(path, "the path is listed twice")),
            Ordering::Less => return Err(refused(path, "entries are not sorted bytewise by path")),
            Ordering::Greater => {}
        }
        // Everything that starts with `dir/` sorts below `dir0`.
        while self.open.last().is_some_and(|dir| !may_hold(dir.borrowed(), path)) {
            self.open.pop();
        }
        // Mostly the innermost one.
        let parent = path.parent().map_or(&b""[..], PathRef::as_bytes);
        if self.open.iter().rev().all(|dir| dir.as_bytes() != parent) {
            return Err(refused(path, "its parent is not listed before it as a directory"));
        }
        Ok(())
    }

    /// Ends the list.
    pub fn finish(&self) -> Result<(), RuleError> {
        match self.entries {
            0 => Err(RuleError::Refused { path: ".".into(), why: "there are no entries".into() }),
            _ => Ok(()),
        }
    }
}

// Whether entries at or after `path` can still lie in `dir`.
fn may_hold(dir: PathRef<'_>, path: PathRef<'_>) -> bool {
    let (dir, path) = (dir.as_bytes(), path.as_bytes());
    dir.is_empty() || (path.starts_with(dir) && path.get(dir.len()).is_none_or(|b| *b <= b'/'))
}

fn check_entry(entry: EntryRef<'_>) -> Result<(), RuleError> {
    let EntryRef { path, kind, mode, size, target } = entry;
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
    use crate::entry::PlanEntry;

    fn entry(path: &str, kind: EntryKind) -> PlanEntry {
        let mode = if kind == EntryKind::Symlink { 0o777 } else { 0o755 };
        let target = if kind == EntryKind::Symlink { b"x".to_vec() } else { Vec::new() };
        PlanEntry { path: RelPath::parse(path.as_bytes()).unwrap(), kind, mode, size: 0, target }
    }

    fn check(list: &[(&str, EntryKind)]) -> Result<(), RuleError> {
        let entries: Vec<_> = list.iter().map(|(path, kind)| entry(path, *kind)).collect();
        check_entries(entries.iter().map(PlanEntry::borrowed), &Limits::default())
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
            assert!(
                check_entries(list.iter().map(PlanEntry::borrowed), &Limits::default()).is_err(),
                "{mode:o} {kind:?}"
            );
        }
        let list = [entry("", Directory), entry("a", File)];
        let tight = Limits { files_max: 1, ..Limits::default() };
        assert!(matches!(
            check_entries(list.iter().map(PlanEntry::borrowed), &tight),
            Err(RuleError::Limit { .. })
        ));
    }
}

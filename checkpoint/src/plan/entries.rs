//! The bytes of entries: a plan's digest is made of them, and a page of a plan is a run of them. Format:
//! `docs/format.md`.
//!
//! **Guarantees.** An entry has one encoding, and reading takes nothing else: equal bytes, equal entries. Whether an entry
//! fits a plan, or can be reproduced at all, is for [`PlanChecker`](crate::tree_rules::PlanChecker) to say.

use crate::encoding::{Malformed, Reader, put_head, put_short};
use crate::entry::{EntryRef, PlanEntry};
use crate::epoch::{EntryKind, PathError, PathRef};

/// Why bytes are no entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Its path is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Its kind is none.
    #[error("an entry of kind {0} is not known")]
    Kind(u8),
    /// The bytes end in the middle of it.
    #[error("an entry ends too early")]
    Short,
}

// All that is wrong with bytes that are merely taken: there are too few.
impl From<Malformed> for EntryError {
    fn from(_: Malformed) -> EntryError {
        EntryError::Short
    }
}

/// The bytes of these entries.
///
/// # Panics
/// A symlink's target has 64 KiB or more: no [`PlanChecker`](crate::tree_rules::PlanChecker) takes it.
pub fn encode<'a>(entries: impl IntoIterator<Item = &'a PlanEntry>) -> Vec<u8> {
    let mut bytes = Vec::new();
    entries.into_iter().for_each(|entry| put(&mut bytes, entry.borrowed()));
    bytes
}

pub(super) fn put(bytes: &mut Vec<u8>, entry: EntryRef<'_>) {
    put_head(bytes, entry.path, entry.kind, entry.mode);
    match entry.kind {
        EntryKind::File => bytes.extend_from_slice(&entry.size.to_le_bytes()),
        EntryKind::Directory => {}
        EntryKind::Symlink => put_short(bytes, entry.target),
    }
}

/// An entry and its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// What they say.
    pub entry: EntryRef<'a>,
    /// They themselves.
    pub bytes: &'a [u8],
}

/// Reads entries, and copies nothing; ends with the first error.
pub fn entries(bytes: &[u8]) -> Entries<'_> {
    Entries { rest: bytes }
}

/// See [`entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Encoded<'a>, EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut read = Reader::new(self.rest, 0);
        let entry = take(&mut read);
        let (bytes, rest) = self.rest.split_at(read.at());
        self.rest = if entry.is_ok() { rest } else { &[] };
        Some(entry.map(|entry| Encoded { entry, bytes }))
    }
}

fn take<'a>(read: &mut Reader<'a>) -> Result<EntryRef<'a>, EntryError> {
    let kind = match read.array()? {
        [b'f'] => EntryKind::File,
        [b'd'] => EntryKind::Directory,
        [b'l'] => EntryKind::Symlink,
        [other] => return Err(EntryError::Kind(other)),
    };
    let mode = u32::from(read.u16()?);
    let path = PathRef::parse(read.short()?)?;
    let (mut size, mut target) = (0, &[][..]);
    match kind {
        EntryKind::File => size = read.u64()?,
        EntryKind::Directory => {}
        EntryKind::Symlink => target = read.short()?,
    }
    Ok(EntryRef { path, kind, mode, size, target })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::RelPath;

    fn list() -> Vec<PlanEntry> {
        let entry = |path: &str, kind, mode, size, target: &[u8]| PlanEntry {
            path: RelPath::parse(path.as_bytes()).unwrap(),
            kind,
            mode,
            size,
            target: target.to_vec(),
        };
        vec![
            entry("", EntryKind::Directory, 0o755, 0, b""),
            entry("a", EntryKind::File, 0o640, u64::MAX >> 14, b""),
            entry("b", EntryKind::Symlink, 0o777, 0, &[b'x'; 4095]),
            entry("c/d", EntryKind::File, 0o400, 0, b""),
        ]
    }

    #[test]
    fn what_was_written_is_read_and_nothing_shorter() {
        let list = list();
        let bytes = encode(&list);
        let read: Vec<_> = entries(&bytes).map(|read| read.unwrap()).collect();
        assert_eq!(read.iter().map(|read| read.entry.to_entry()).collect::<Vec<_>>(), list);
        assert_eq!(read.iter().map(|read| read.bytes).collect::<Vec<_>>().concat(), bytes);
        let ends: Vec<usize> = (0..=list.len()).map(|some| encode(&list[..some]).len()).collect();
        for end in 0..bytes.len() {
            let good = entries(&bytes[..end]).all(|read| read.is_ok());
            assert_eq!(good, ends.contains(&end), "{end}");
        }
    }

    #[test]
    fn what_is_no_entry_is_refused_and_ends_the_list() {
        let good = encode(&list());
        let bad = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let read: Vec<_> = entries(&bytes).collect();
            assert_eq!(read.iter().position(|read| read.is_err()), Some(read.len() - 1));
            read.into_iter().next_back().unwrap().unwrap_err()
        };
        assert_eq!(bad(0, 7), EntryError::Kind(7));
        // The name of the second entry, behind the root's five bytes and five of its own.
        assert!(matches!(bad(10, b'/'), EntryError::Path(_)));
    }

    #[test]
    fn whatever_is_read_has_this_one_encoding() {
        let good = encode(&list()[..2]);
        let mut taken = 0;
        for at in 0..good.len() {
            for byte in 0..=255 {
                let mut bytes = good.clone();
                bytes[at] = byte;
                let read: Vec<_> = entries(&bytes).map_while(Result::ok).collect();
                let again: Vec<u8> =
                    encode(&read.iter().map(|read| read.entry.to_entry()).collect::<Vec<_>>());
                assert!(bytes.starts_with(&again), "{bytes:?}");
                taken += usize::from(again.len() == bytes.len());
            }
        }
        assert!(taken > 256, "sizes and names may be other ones");
    }

    #[test]
    fn a_digest_is_the_same_of_entries_and_of_their_bytes() {
        let (list, mut hasher) = (list(), crate::plan::PlanHasher::default());
        let bytes = encode(&list);
        entries(&bytes).for_each(|read| hasher.push_encoded(read.unwrap().bytes));
        assert_eq!(hasher.finish(), crate::plan::plan_digest(&list));
    }

    #[test]
    fn a_mode_that_is_none_stays_none() {
        let entry = PlanEntry { mode: 0x1_01ff, ..list()[1].clone() };
        let bytes = encode([&entry]);
        let read = entries(&bytes).next().unwrap().unwrap().entry;
        assert!(read.mode > crate::limits::MODE_MAX);
    }
}

//! The canonical bytes of a tree, entry by entry. Format: `docs/format.md`. Reading takes only what encoding makes.

use std::convert::Infallible;

use super::ManifestError;
use crate::digest::{Digest, Hasher, content};
use crate::encoding::{Reader, put_head, put_short};
use crate::entry::EntryRef;
use crate::epoch::{EntryKind, PathRef};
use crate::limits::Limits;
use crate::tree_rules::{PlanChecker, RuleError};

/// The bytes a canonical tree starts with.
pub(super) const TREE_MAGIC: &[u8] = b"epochlog tree 1\n";
/// A tree is hashed, written and read in runs of about this many bytes: a million entries would take 80 MB at once.
pub(super) const RUN_BYTES: usize = 256 << 10;

/// The digest of the canonical bytes of these entries.
pub(super) fn hashed<'a>(count: usize, entries: impl Iterator<Item = (EntryRef<'a>, &'a Digest)>) -> Digest {
    let mut hasher = Hasher::new();
    let update = |run: &[u8]| {
        hasher.update(run);
        Ok::<_, Infallible>(())
    };
    let Ok(()) = runs(Vec::with_capacity(2 * RUN_BYTES), count, entries, update);
    hasher.finish()
}

/// The canonical bytes in runs of about `RUN_BYTES`; the first begins with what `bytes` holds already.
pub(super) fn runs<'a, E>(
    mut bytes: Vec<u8>,
    count: usize,
    entries: impl Iterator<Item = (EntryRef<'a>, &'a Digest)>,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    put_magic(&mut bytes, count);
    for (entry, digest) in entries {
        put_entry(&mut bytes, entry, digest);
        if bytes.len() >= RUN_BYTES {
            each(&bytes)?;
            bytes.clear();
        }
    }
    each(&bytes)
}

pub(super) fn put_magic(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(TREE_MAGIC);
    bytes.extend_from_slice(&(count as u32).to_le_bytes());
}

pub(super) fn put_entry(bytes: &mut Vec<u8>, entry: EntryRef<'_>, digest: &Digest) {
    put_head(bytes, entry.path, entry.kind, entry.mode);
    match entry.kind {
        EntryKind::File => {
            bytes.extend_from_slice(&entry.size.to_le_bytes());
            bytes.extend_from_slice(digest.as_bytes());
        }
        EntryKind::Directory => {}
        EntryKind::Symlink => put_short(bytes, entry.target),
    }
}

/// The number of entries, behind the magic.
pub(super) fn take_count(read: &mut Reader<'_>) -> Result<u32, ManifestError> {
    if read.take(TREE_MAGIC.len())? != TREE_MAGIC {
        return Err(ManifestError::Malformed { at: 0, why: "not a tree of version 1" });
    }
    Ok(read.u32()?)
}

/// The next entry, and the digest of its content.
pub(super) fn take_entry<'a>(read: &mut Reader<'a>) -> Result<(EntryRef<'a>, Digest), ManifestError> {
    let kind = match read.take(1)? {
        b"f" => EntryKind::File,
        b"d" => EntryKind::Directory,
        b"l" => EntryKind::Symlink,
        _ => return Err(read.wrong("an entry of unknown kind").into()),
    };
    let mode = u32::from(read.u16()?);
    let path =
        PathRef::parse(read.short()?).map_err(|e| RuleError::Refused { path: e.path, why: e.why.into() })?;
    let (mut size, mut digest, mut target) = (0, Digest::NONE, &[][..]);
    match kind {
        EntryKind::File => {
            size = read.u64()?;
            digest = Digest::from_bytes(read.array()?);
            if size == 0 && digest != content(&[]) {
                return Err(read.wrong("an empty file with the digest of something").into());
            }
        }
        EntryKind::Directory => {}
        EntryKind::Symlink => target = read.short()?,
    }
    Ok((EntryRef { path, kind, mode, size, target }, digest))
}

/// The rules for it: what no plan was too large for was sealed.
pub(super) fn any_tree() -> PlanChecker {
    PlanChecker::new(Limits { files_max: u64::from(u32::MAX), bytes_max: u64::MAX, ..Limits::default() })
}

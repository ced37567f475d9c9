//! Content of an epoch that lies in an object store: the node that uploaded it has it staged, whole; on any other it may have come
//! to the shelves meanwhile. No log of this node has named its bytes, so that a staged file is read, and compared, before
//! it becomes anything: by `verifying`, which nobody waits for.
//!
//! An epoch waits for its store for hours, and is tried again and again: whether something of it is nowhere here is found
//! without reading, and then nothing is read for it. What was read is remembered as blobs are, whether it was good or not,
//! and is not read again before it has changed or its content is doubted.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::blobs::any_mode;
use super::envelopes::is_published;
use super::error::Unpublished;
use super::link::{UNPACKED, missing};
use super::sealed::{Publish, Source};
use super::shelves::Shelves;
use super::staged::index_of;
use crate::digest::Digest;
use crate::disk::{FileKind, Stat, hash_staged, is_rot};
use crate::epoch::EntryKind;
use crate::io_error::at;
use crate::manifest::ManifestEntry;

/// What stands in place of a mode in the marks of staged files; no blob has such a one.
const GOOD: u32 = u32::MAX;
const ANOTHER: u32 = u32::MAX - 1;

/// What is known of the staged file of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Staged {
    /// It is the content.
    Good,
    /// It has the right length, and nobody has read it.
    Unread,
    /// It is not there, or is something else.
    No,
}

/// The staged file of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StagedFile {
    pub attempt: u64,
    pub file: u32,
}

impl StagedFile {
    fn path(&self, shelves: &Shelves) -> PathBuf {
        shelves.layout.staged_file(self.attempt, self.file)
    }

    /// A file of this length; nothing when there is none.
    fn stat(&self, shelves: &Shelves, size: u64) -> Result<Option<Stat>, Unpublished> {
        let path = self.path(shelves);
        match shelves.disk.stat(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            stat => {
                let stat = stat.map_err(at("stat", &path))?;
                Ok(Some(stat).filter(|stat| stat.kind == FileKind::File && stat.len == size))
            }
        }
    }

    /// What is known of it. Reads nothing.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn known(&self, shelves: &Shelves, digest: Digest, size: u64) -> Result<Staged, Unpublished> {
        let Some(stat) = self.stat(shelves, size)? else { return Ok(Staged::No) };
        let is = |mark| shelves.known.knows(&(digest, mark, self.file), &stat);
        Ok(match (is(GOOD), is(ANOTHER)) {
            (true, _) => Staged::Good,
            (false, true) => Staged::No,
            (false, false) => Staged::Unread,
        })
    }

    /// Reads it, unless that was done before. Whether it is the content.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn look(&self, shelves: &Shelves, digest: Digest, size: u64) -> Result<bool, Unpublished> {
        // Before anything is looked at, as for a blob.
        let token = shelves.known.token(&digest);
        match self.known(shelves, digest, size)? {
            Staged::Good => return Ok(true),
            Staged::No => return Ok(false),
            Staged::Unread => {}
        }
        let (path, before) = (self.path(shelves), self.stat(shelves, size)?);
        let mark = match hash_staged(&*shelves.disk, &path, size) {
            Ok(found) if found == digest => GOOD,
            Ok(_) => ANOTHER,
            Err(e) if is_rot(&e) => ANOTHER,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(at("read", &path)(e).into()),
        };
        let state = |stat: &Stat| (stat.ino, stat.len, stat.mtime_ns);
        match (before, self.stat(shelves, size)?) {
            (Some(before), Some(stat)) if state(&before) == state(&stat) => {
                shelves.known.remember((digest, mark, self.file), &stat, token);
                Ok(mark == GOOD)
            }
            // Somebody writes there: read another time.
            _ => Ok(false),
        }
    }
}

/// Entries with content of one source, with their places.
fn of_source(epoch: &Publish, wanted: Source) -> impl Iterator<Item = (usize, &ManifestEntry)> {
    let all = epoch.manifest.entries.iter().zip(epoch.sources.iter()).enumerate();
    let has_bytes = |entry: &ManifestEntry| entry.kind == EntryKind::File && entry.size > 0;
    all.filter(move |(_, (entry, source))| **source == wanted && has_bytes(entry))
        .map(|(index, (entry, _))| (index, entry))
}

/// The entries of an epoch whose content lies in a store and is staged here, whole, and was read: ascending.
///
/// # Errors
/// The disk refuses.
pub(super) fn staged(shelves: &Shelves, epoch: &Publish) -> Result<Vec<usize>, Unpublished> {
    let mut staged = Vec::new();
    for (index, entry) in of_source(epoch, Source::Linked) {
        let file = StagedFile { attempt: epoch.attempt, file: index_of(index) };
        if file.known(shelves, entry.digest, entry.size)? == Staged::Good {
            staged.push(index);
        }
    }
    Ok(staged)
}

/// Of each epoch of a batch what lies in a store and is nowhere here, as far as names and lengths tell; of one whose
/// directory is here, nothing. What else it lacks is told first: it may be in the log still.
pub(super) fn lacking(shelves: &Shelves, batch: &[Publish]) -> Vec<Option<Unpublished>> {
    let brought = OnceCell::new();
    batch.iter().map(|epoch| lacking_of(shelves, batch, &brought, epoch)).collect()
}

fn lacking_of(
    shelves: &Shelves,
    batch: &[Publish],
    brought: &OnceCell<HashSet<Digest>>,
    epoch: &Publish,
) -> Option<Unpublished> {
    let mut linked = of_source(epoch, Source::Linked).peekable();
    linked.peek()?;
    if is_published(&*shelves.disk, &shelves.layout, &epoch.envelope) {
        return None;
    }
    let (index, entry) = linked.find(|(index, entry)| {
        let file = StagedFile { attempt: epoch.attempt, file: index_of(*index) };
        // Where the disk refuses, whoever reads hears of it.
        let is_here = |path: &Path| shelves.disk.stat(path).is_ok();
        let is_staged = !matches!(file.known(shelves, entry.digest, entry.size), Ok(Staged::No));
        !(is_staged
            || is_here(&shelves.layout.blob(entry.digest, entry.mode, 0))
            || brought.get_or_init(|| brought_with(shelves, batch)).contains(&entry.digest)
            || is_shelved(shelves, entry))
    })?;
    let tree = shelves.layout.tree_dir(epoch.attempt);
    let unpacked = of_source(epoch, Source::Unpacked).find_map(|(_, entry)| {
        let path = tree.join(entry.path.as_os_str());
        let stat = shelves.disk.stat(&path);
        let is_there = match &stat {
            Ok(stat) => stat.kind == FileKind::File && stat.len == entry.size,
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        };
        (!is_there && !is_shelved(shelves, entry)).then(|| missing(entry, UNPACKED, &path))
    });
    let blob = shelves.layout.blob(entry.digest, entry.mode, 0);
    tracing::debug!(
        attempt = epoch.attempt,
        entry = index,
        "its content is neither staged nor on the shelves"
    );
    Some(unpacked.unwrap_or_else(|| missing(entry, "the blob", &blob)))
}

/// Under any mode. Where the disk refuses, whoever reads hears of it.
fn is_shelved(shelves: &Shelves, entry: &ManifestEntry) -> bool {
    any_mode(&*shelves.disk, &shelves.layout, entry.digest).map_or(true, |found| found.is_some())
}

/// What epochs of a batch bring themselves, which serves them all, in any mode.
fn brought_with(shelves: &Shelves, batch: &[Publish]) -> HashSet<Digest> {
    let mut brought = HashSet::new();
    for epoch in batch {
        for source in [Source::Staged, Source::Unpacked] {
            brought.extend(of_source(epoch, source).map(|(_, entry)| entry.digest));
        }
        let staged = of_source(epoch, Source::Linked).filter(|(index, entry)| {
            let file = StagedFile { attempt: epoch.attempt, file: index_of(*index) };
            !matches!(file.known(shelves, entry.digest, entry.size), Ok(Staged::No))
        });
        brought.extend(staged.map(|(_, entry)| entry.digest));
    }
    brought
}

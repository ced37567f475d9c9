//! Content of an epoch that lies in an object store: the node that uploaded it has it staged, whole; on any other it may have come
//! to the shelves meanwhile. No log of this node has named its bytes, so that a staged file is read, and compared, before
//! it becomes anything.

use std::io;

use super::error::Unpublished;
use super::sealed::{Publish, Source};
use super::shelves::Shelves;
use super::staged::index_of;
use crate::disk::{FileKind, hash_staged, is_rot};
use crate::io_error::at;
use crate::manifest::ManifestEntry;

/// The entries of an epoch whose content lies in a store and is staged here, whole, ascending. Reads all of it.
///
/// # Errors
/// The disk refuses. What does not verify is left out.
pub(super) fn staged(shelves: &Shelves, epoch: &Publish) -> Result<Vec<usize>, Unpublished> {
    let Publish { attempt, manifest, sources, .. } = epoch;
    let all = manifest.entries.iter().zip(sources.iter()).enumerate();
    let mut staged = Vec::new();
    for (index, (entry, _)) in all.filter(|(_, (_, source))| **source == Source::Linked) {
        if is_staged(shelves, *attempt, index, entry)? {
            staged.push(index);
        }
    }
    Ok(staged)
}

fn is_staged(
    shelves: &Shelves,
    attempt: u64,
    index: usize,
    entry: &ManifestEntry,
) -> Result<bool, Unpublished> {
    let path = shelves.layout.staged_file(attempt, index_of(index));
    let stat = match shelves.disk.stat(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        stat => stat.map_err(at("stat", &path))?,
    };
    if stat.kind != FileKind::File || stat.len != entry.size {
        return Ok(false);
    }
    match hash_staged(&*shelves.disk, &path, entry.size) {
        Ok(found) => Ok(found == entry.digest),
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_rot(&e) => Ok(false),
        Err(e) => Err(at("read", &path)(e).into()),
    }
}

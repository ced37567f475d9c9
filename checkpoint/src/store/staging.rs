//! The attempt's tree while it is built: small files unpacked, directories as
//! they are needed. Nothing here is durable before publish has synced it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::shelves::Shelves;
use crate::disk::Disk;
use crate::durable::{ensure_dir, ignore_missing};
use crate::epoch::RelPath;
use crate::io_error::{IoError, at};

/// A small file to write into an attempt's tree.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked<'a> {
    /// Where.
    pub path: &'a RelPath,
    /// Permission bits.
    pub mode: u32,
    /// The whole content. Files of one call that share the same slice and mode share an inode.
    pub data: &'a [u8],
}

/// Bytes that come back with the folder of an attempt: of its staged files that have no other name. Nothing for what
/// cannot be looked at.
pub(super) fn staged_bytes(shelves: &Shelves, attempt: u64) -> u64 {
    let (disk, dir) = (&*shelves.disk, shelves.layout.attempt_dir(attempt));
    let names = disk.read_dir(&dir).unwrap_or_default();
    let stats = names.into_iter().filter_map(|(name, _)| disk.stat(&dir.join(name)).ok());
    stats.filter(|stat| stat.links == 1).map(|stat| stat.len.min(stat.blocks.saturating_mul(512))).sum()
}

/// Writes small files below `tree`. One create and one write each; equal slices with equal modes become links.
pub(super) fn unpack(disk: &dyn Disk, tree: &Path, files: &[Unpacked<'_>]) -> Result<(), StoreError> {
    let mut firsts: HashMap<(*const u8, usize, u32), PathBuf> = HashMap::new();
    for file in files {
        let path = tree.join(file.path.as_os_str());
        let key = (file.data.as_ptr(), file.data.len(), file.mode);
        let first = firsts.get(&key).filter(|_| !file.data.is_empty());
        if let Some(first) = first
            && try_twice(disk, tree, &path, || disk.link(first, &path)).is_ok()
        {
            continue;
        }
        let write = || disk.write_new(&path, file.data, file.mode);
        try_twice(disk, tree, &path, write).map_err(at("write", &path))?;
        firsts.insert(key, path);
    }
    Ok(())
}

/// Makes a name, and once more after what was in the way is cleared: a parent that is missing, one that an
/// earlier try has closed already, a name that an earlier try has made.
pub(super) fn try_twice(
    disk: &dyn Disk,
    tree: &Path,
    path: &Path,
    mut make: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    match make() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_parents(disk, path)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match disk.unlink(path) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                open_parents(disk, tree, path)?;
                disk.unlink(path)?;
            }
            other => other?,
        },
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_parents(disk, tree, path)?;
            ignore_missing(disk.unlink(path))?;
        }
        other => return other,
    }
    make()
}

// Makes the missing directories above `path`, innermost last.
fn make_parents(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut next = path.parent();
    while let Some(dir) = next {
        match ensure_dir(disk, dir) {
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing.push(dir),
            Err(e) => return Err(e),
        }
        next = dir.parent();
    }
    missing.into_iter().rev().try_for_each(|dir| ensure_dir(disk, dir).map(|_| ()))
}

// Makes the directories from `tree` down to the parent of `path` writable for their owner.
fn open_parents(disk: &dyn Disk, tree: &Path, path: &Path) -> io::Result<()> {
    let mut dirs: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| dir.starts_with(tree)).collect();
    dirs.reverse();
    dirs.into_iter().try_for_each(|dir| disk.set_mode(dir, 0o700))
}

/// Makes the folders in which an attempt's epoch is built.
pub(super) fn make_building(disk: &dyn Disk, tree: &Path) -> Result<(), IoError> {
    let made = match ensure_dir(disk, tree) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_parents(disk, tree).and_then(|()| ensure_dir(disk, tree))
        }
        other => other,
    };
    made.map(|_| ()).map_err(at("make the folder", tree))
}

//! Sealed content, one inode per content and mode, and a further one wherever
//! an inode has no room for another link. A blob's name appears only after its
//! content and mode are durable; it is never written in place.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::layout::Layout;
use super::verified::{Key, Known};
use crate::digest::Digest;
use crate::disk::{Disk, FileKind, Stat, hash_file, is_rot};
use crate::io_error::{IoError, at};

/// What is at a blob's name.
pub(super) enum Found {
    Good(Stat),
    Missing,
    Corrupt(String),
}

/// Looks at a blob and reads it unless this process has done so.
pub(super) fn check(
    disk: &dyn Disk,
    known: &Known,
    path: &Path,
    key: Key,
    size: u64,
) -> Result<Found, IoError> {
    let found = check_content(disk, known, path, key, size)?;
    match found {
        Found::Good(stat) if stat.mode != key.1 => {
            Ok(Found::Corrupt(format!("its mode is {:o}, not {:o}", stat.mode, key.1)))
        }
        found => Ok(found),
    }
}

// As `check`, whatever the mode is.
fn check_content(disk: &dyn Disk, known: &Known, path: &Path, key: Key, size: u64) -> Result<Found, IoError> {
    // Before anything is looked at: should a copy be found bad meanwhile, this read says nothing of later uses.
    let token = known.token(&key.0);
    let stat = match disk.stat(path) {
        Ok(stat) => stat,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(e) => return Err(at("stat", path)(e)),
    };
    if stat.kind != FileKind::File || stat.len != size {
        return Ok(Found::Corrupt(format!("it has {} bytes, not {size}", stat.len)));
    }
    if known.knows(&key, &stat) {
        return Ok(Found::Good(stat));
    }
    match hash_file(disk, path) {
        Ok(found) if found == key.0 => {
            known.remember(key, &stat, token);
            Ok(Found::Good(stat))
        }
        Ok(found) => Ok(Found::Corrupt(format!("its digest is {}, not {}", found.short(), key.0.short()))),
        Err(e) if is_rot(&e) => Ok(Found::Corrupt(format!("it cannot be read: {e}"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
        Err(e) => Err(at("read", path)(e)),
    }
}

/// What there is of a content, of all modes and numbers together.
pub(super) enum Held {
    /// An inode whose content was checked; its mode may be wrong.
    Good(PathBuf, Stat),
    /// Inodes, all of them bad: one of them, and why.
    Corrupt(PathBuf, String),
    Missing,
}

/// Looks for an inode with this content under any mode and number. `mode` is tried first.
pub(super) fn find_good(
    disk: &dyn Disk,
    known: &Known,
    layout: &Layout,
    digest: Digest,
    mode: u32,
    size: u64,
) -> Result<Held, IoError> {
    let likely = layout.blob(digest, mode, 0);
    let mut held = Held::Missing;
    match check_content(disk, known, &likely, (digest, mode, 0), size)? {
        Found::Good(stat) => return Ok(Held::Good(likely, stat)),
        Found::Corrupt(why) => held = Held::Corrupt(likely.clone(), why),
        Found::Missing => {}
    }
    let all = all_modes(disk, layout, digest).map_err(at("list", &layout.blobs_dir()))?;
    for path in all.into_iter().filter(|path| *path != likely) {
        let Some(key) = path.file_name().and_then(parse) else { continue };
        match check_content(disk, known, &path, key, size)? {
            Found::Good(stat) => return Ok(Held::Good(path, stat)),
            Found::Corrupt(why) => held = Held::Corrupt(path, why),
            Found::Missing => {}
        }
    }
    Ok(held)
}

/// Which inode a file name on a shelf stands for; `None` for a name that is not ours.
pub(super) fn parse(name: &OsStr) -> Option<Key> {
    let text = name.to_str()?;
    let mut parts = text.split('.');
    let digest: Digest = parts.next()?.parse().ok()?;
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    let n = parts.next().map_or(Ok(0), str::parse).ok()?;
    let ours = if n == 0 { format!("{digest}.{mode:o}") } else { format!("{digest}.{mode:o}.{n}") };
    (ours == text).then_some((digest, mode, n))
}

/// Every inode of a content, of any mode.
pub(super) fn all_modes(disk: &dyn Disk, layout: &Layout, digest: Digest) -> io::Result<Vec<PathBuf>> {
    let shelf = layout.blob_shelf(digest.as_bytes()[0]);
    let names = match disk.read_dir(&shelf) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let ours = |(name, kind): &(OsString, FileKind)| {
        *kind == FileKind::File && parse(name).is_some_and(|(found, ..)| found == digest)
    };
    Ok(names.into_iter().filter(ours).map(|(name, _)| shelf.join(name)).collect())
}

/// One inode of a content, of any mode.
pub(super) fn any_mode(disk: &dyn Disk, layout: &Layout, digest: Digest) -> io::Result<Option<PathBuf>> {
    // The modes that nearly all files have, before the shelf is listed.
    for mode in [0o644, 0o600, 0o664, 0o755] {
        let path = layout.blob(digest, mode, 0);
        if disk.stat(&path).is_ok() {
            return Ok(Some(path));
        }
    }
    Ok(all_modes(disk, layout, digest)?.into_iter().next())
}

#[cfg(test)]
mod tests;

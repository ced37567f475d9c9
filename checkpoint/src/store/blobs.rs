//! Sealed content, one inode per content and mode, and a further one wherever
//! an inode has no room for another link. A blob's name appears only after its
//! content and mode are durable; it is never written in place.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::layout::Layout;
use crate::digest::{Digest, Hasher};
use crate::disk::{Disk, FileKind, Open, Stat};
use crate::error::{IoError, at};

// Blobs that this process has verified and remembers, at most.
const VERIFIED_MAX: usize = 200_000;
const READ_BYTES: usize = 1 << 20;

/// Which inode of a content: digest, mode, number.
pub(super) type Key = (Digest, u32, u32);

/// What this process knows of blobs.
#[derive(Debug, Default)]
pub(super) struct Known {
    // Verified once: as long as inode and time of change stay, it is not read again.
    verified: HashMap<Key, (u64, i128)>,
}

impl Known {
    pub(super) fn remember(&mut self, key: Key, stat: &Stat) {
        if self.verified.len() >= VERIFIED_MAX {
            self.verified.clear();
        }
        self.verified.insert(key, (stat.ino, stat.mtime_ns));
    }

    fn knows(&self, key: &Key, stat: &Stat) -> bool {
        self.verified.get(key) == Some(&(stat.ino, stat.mtime_ns))
    }
}

/// What is at a blob's name.
pub(super) enum Found {
    Good(Stat),
    Missing,
    Corrupt(String),
}

/// Looks at a blob and reads it unless this process has done so.
pub(super) fn check(
    disk: &dyn Disk,
    known: &mut Known,
    path: &Path,
    key: Key,
    size: u64,
) -> Result<Found, IoError> {
    let stat = match disk.stat(path) {
        Ok(stat) => stat,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(e) => return Err(at("stat", path)(e)),
    };
    let (digest, mode, _) = key;
    if stat.kind != FileKind::File || stat.len != size {
        return Ok(Found::Corrupt(format!("it has {} bytes, not {size}", stat.len)));
    }
    if stat.mode != mode {
        return Ok(Found::Corrupt(format!("its mode is {:o}, not {mode:o}", stat.mode)));
    }
    if known.knows(&key, &stat) {
        return Ok(Found::Good(stat));
    }
    let found = hash_file(disk, path).map_err(at("read", path))?;
    if found != digest {
        return Ok(Found::Corrupt(format!("its digest is {}, not {}", found.short(), digest.short())));
    }
    known.remember(key, &stat);
    Ok(Found::Good(stat))
}

/// The digest of a file's content.
pub(super) fn hash_file(disk: &dyn Disk, path: &Path) -> io::Result<Digest> {
    let file = disk.open(path, Open::Read)?;
    let mut room = vec![0; file.len()?.clamp(1, READ_BYTES as u64) as usize];
    let mut hasher = Hasher::new();
    let mut offset = 0;
    loop {
        match file.read_at(&mut room, offset) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => {
                hasher.update(&room[..n]);
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Every inode of a content, of any mode.
pub(super) fn all_modes(disk: &dyn Disk, layout: &Layout, digest: Digest) -> io::Result<Vec<PathBuf>> {
    let shelf = layout.blob_shelf(digest.as_bytes()[0]);
    let prefix = format!("{digest}.");
    let names = match disk.read_dir(&shelf) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let ours = names.into_iter().filter(|(name, kind)| {
        *kind == FileKind::File && name.as_encoded_bytes().starts_with(prefix.as_bytes())
    });
    Ok(ours.map(|(name, _)| shelf.join(name)).collect())
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

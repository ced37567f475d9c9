//! What it takes until a name survives a power cut. A new file is durable when
//! its content was synced and the directory that names it was, and that
//! directory's own name, up to one that was durable before.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, FileKind};

/// Makes `path` and everything between it and `root` (which must be there and durable), and syncs every parent:
/// also that of directories that were there, because an earlier process may have died before it synced them.
pub fn create_dir_all(disk: &dyn Disk, root: &Path, path: &Path) -> io::Result<()> {
    let below = path.strip_prefix(root).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not below {}", path.display(), root.display()),
        )
    })?;
    let mut at = root.to_path_buf();
    for name in below.components() {
        let parent = at.clone();
        at.push(name);
        ensure_dir(disk, &at)?;
        disk.sync_dir(&parent)?;
    }
    Ok(())
}

/// Makes a directory unless it is there; syncs nothing. Whether it was made.
pub fn ensure_dir(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.create_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if disk.stat(path)?.kind == FileKind::Directory { Ok(false) } else { Err(e) }
        }
        Err(e) => Err(e),
    }
}

/// Replaces the file at `path` as a whole: written beside it under `temp`, synced, renamed, directory synced.
pub fn replace_file(disk: &dyn Disk, path: &Path, temp: &Path, data: &[u8]) -> io::Result<()> {
    ignore_missing(disk.unlink(temp))?;
    disk.write_new(temp, data, 0o600)?;
    disk.open(temp, crate::disk::Open::Write)?.sync_all()?;
    disk.rename(temp, path)?;
    let parent = path.parent().map(Path::to_path_buf).unwrap_or_else(|| PathBuf::from("."));
    disk.sync_dir(&parent)
}

/// `NotFound` is as good as done.
pub fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// [`Disk::remove_tree`].
pub fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.remove_tree(path)
}

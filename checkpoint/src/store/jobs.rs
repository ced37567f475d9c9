//! The folders of jobs and epochs, looked at. A link in the place of one is none: it would lead to names that are not ours.

use std::io;
use std::path::Path;

use crate::disk::{Disk, FileKind};
use crate::io_error::{IoError, at};

/// The numbers of the epochs in a job's folder, rising.
pub(super) fn epochs(disk: &dyn Disk, job_dir: &Path) -> Result<Vec<u64>, IoError> {
    let names = match disk.read_dir(job_dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(at("list", job_dir)(e)),
    };
    let dirs = names.into_iter().filter(|(_, kind)| *kind == FileKind::Directory);
    let mut epochs: Vec<u64> = dirs.filter_map(|(name, _)| number(name.as_encoded_bytes())).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// An epoch's number as we write it: no sign, no leading zero.
pub(super) fn number(name: &[u8]) -> Option<u64> {
    let number: u64 = std::str::from_utf8(name).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == name).then_some(number)
}

/// What is at a name; nothing when there is none.
pub(super) fn kind_of(disk: &dyn Disk, path: &Path) -> Result<Option<FileKind>, IoError> {
    match disk.stat(path) {
        Ok(stat) => Ok(Some(stat.kind)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("stat", path)(e)),
    }
}

/// Whether a job or an epoch has a folder here. What somebody has put in its place is none: a symlink would lead to names
/// that are not ours. Nothing of it is there, and nothing there is changed.
pub(super) fn is_folder(disk: &dyn Disk, dir: &Path) -> Result<bool, IoError> {
    Ok(match kind_of(disk, dir)? {
        Some(FileKind::Directory) => true,
        Some(_) => {
            tracing::warn!(path = %dir.display(), "no folder of ours: it is left alone");
            false
        }
        None => false,
    })
}

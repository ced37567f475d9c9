//! Syncs: few are made one by one, many by one sync of the file system. One that
//! failed is final ([`crate::disk::StrictDisk`]): the device may have lost what the
//! kernel calls written, so nothing more is made durable here before the next start.
//!
//! Writes are another matter: one that finds no room fails alone, and is tried again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::shelves::Shelves;
use crate::disk::Open;
use crate::io_error::{IoError, at};

/// Above this many files or directories, one sync of the file system is cheaper than one each.
pub(super) const SYNC_EACH_MAX: usize = 16;

/// So many files are made before the file system writes down what it has so far.
const FILES_IN_A_ROW_MAX: usize = 8192;

impl Shelves {
    /// So many files were made. Very many are written down as they come: what gathers is written in one go, a block for
    /// each file at least, and a log on the same disk waits behind it. Nothing relies on it: what has to be durable is
    /// synced for that.
    ///
    /// Names that are linked are not counted: each row of them would change nearly every block of the shelves' folders
    /// again. 200,000 links change 70 MiB in all, and 450 MiB were written in rows of 8,192.
    pub(super) fn made(&self, files: usize) -> Result<(), IoError> {
        let since = self.unsynced_files.fetch_add(files, Ordering::Relaxed) + files;
        if since < FILES_IN_A_ROW_MAX { Ok(()) } else { self.sync_everything() }
    }

    /// Content and mode of a file.
    pub(super) fn sync_file(&self, path: &Path) -> Result<(), IoError> {
        let file = self.disk.open(path, Open::Read).map_err(at("open", path))?;
        file.sync_all().map_err(at("sync", path))
    }

    /// The names in a directory.
    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), IoError> {
        self.disk.sync_dir(path).map_err(at("sync", path))
    }

    /// Everything that was written so far.
    pub(super) fn sync_everything(&self) -> Result<(), IoError> {
        self.unsynced_files.store(0, Ordering::Relaxed);
        let data = self.layout.data_dir();
        self.disk.sync_fs(data).map_err(at("sync", data))
    }

    /// The names in these directories. One that has gone since is fine: then it is not ours any more.
    pub(super) fn sync_dirs(&self, dirs: &BTreeSet<PathBuf>) -> Result<(), IoError> {
        if dirs.len() > SYNC_EACH_MAX {
            return self.sync_everything();
        }
        dirs.iter().try_for_each(|dir| match self.disk.sync_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(at("sync", dir)),
        })
    }
}

//! Syncs: few are made one by one, many by one sync of the file system. One that
//! failed is final: the device may have lost what the kernel calls written, so
//! nothing more is made durable here before the next start.
//!
//! Writes are another matter: one that finds no room fails alone, and is tried again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::Inner;
use crate::disk::Open;
use crate::error::{IoError, at};

/// Above this many files or directories, one sync of the file system is cheaper than one each.
pub(super) const SYNC_EACH_MAX: usize = 16;

impl Inner {
    /// Whether nothing may be made durable any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Refuses work once a sync has failed.
    pub(super) fn not_broken(&self, what: &'static str, path: &Path) -> Result<(), IoError> {
        if self.is_broken() {
            return Err(at(what, path)(io::Error::other(
                "an earlier sync failed: what is on the device is unknown until the next start",
            )));
        }
        Ok(())
    }

    /// The result of a sync; a failed one ends all further work.
    pub(super) fn synced(&self, result: io::Result<()>, path: &Path) -> Result<(), IoError> {
        if result.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        result.map_err(at("sync", path))
    }

    /// Content and mode of a file.
    pub(super) fn sync_file(&self, path: &Path) -> Result<(), IoError> {
        let file = self.disk.open(path, Open::Read).map_err(at("open", path))?;
        self.synced(file.sync_all(), path)
    }

    /// Everything that was written so far.
    pub(super) fn sync_everything(&self) -> Result<(), IoError> {
        let data = self.layout.data_dir();
        self.synced(self.disk.sync_fs(data), data)
    }

    /// The names in these directories. One that has gone since is fine: then it is not ours any more.
    pub(super) fn sync_dirs(&self, dirs: &BTreeSet<PathBuf>) -> Result<(), IoError> {
        if dirs.len() > SYNC_EACH_MAX {
            return self.sync_everything();
        }
        dirs.iter().try_for_each(|dir| match self.disk.sync_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => self.synced(result, dir),
        })
    }
}

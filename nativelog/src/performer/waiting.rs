//! Epochs that wait to be published: their trees lie in files, so that a long queue holds few of them in memory.
//!
//! A file is written behind the back of whoever seals, by a thread of its own, and read when its turn has come.
//!
//! **Never.** Nothing here is fsynced or found again after a start: what is queued lies above every snapshot, and the
//! log says it once more. So a file that does not read back ends the process, and no epoch.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::durable::{ensure_dir, ignore_missing, remove_tree};
use checkpoint::{Digest, JobName};

use crate::dues::tree_file::{FILE_BYTES_MAX, decode, encode};
use crate::ledger::PublishEpoch;

/// Where such files lie.
#[derive(Debug)]
pub struct Shelf {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// An epoch whose tree lies in a file. The file goes with it.
pub struct Shelved {
    pub job: JobName,
    pub epoch: u64,
    pub attempt: u64,
    pub root: Digest,
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Shelved {
    fn drop(&mut self) {
        if let Err(error) = ignore_missing(self.disk.unlink(&self.path)) {
            tracing::warn!(path = %self.path.display(), %error, "a file that is not needed any more goes at the next start");
        }
    }
}

impl Shelf {
    /// One in `dir`; what a process before this one left there goes. What stays of it is never read, and makes way.
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Shelf {
        if let Err(error) = ignore_missing(remove_tree(&*disk, &dir)) {
            tracing::warn!(path = %dir.display(), %error, "trees that waited before this start cannot be removed");
        }
        Shelf { disk, dir }
    }

    /// Puts the epoch that was sealed at `index` into a file.
    ///
    /// # Errors
    /// The disk refuses. What was written goes.
    pub fn put(&self, index: u64, epoch: &PublishEpoch) -> io::Result<Shelved> {
        ensure_dir(&*self.disk, &self.dir)?;
        let shelved = Shelved {
            job: epoch.job.clone(),
            epoch: epoch.epoch,
            attempt: epoch.attempt,
            root: epoch.envelope.root,
            disk: self.disk.clone(),
            path: self.dir.join(format!("{index}-{}", epoch.attempt)),
        };
        ignore_missing(self.disk.unlink(&shelved.path))?;
        self.disk.write_new(&shelved.path, &encode(epoch), 0o600)?;
        Ok(shelved)
    }
}

impl Shelved {
    /// The epoch as it was.
    ///
    /// # Errors
    /// The disk refuses, or the file is not what was written (`InvalidData`).
    pub fn read(&self) -> io::Result<PublishEpoch> {
        let bytes = self.disk.read_file(&self.path, FILE_BYTES_MAX)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is not what was written");
        decode(&bytes).ok_or_else(damaged)
    }
}

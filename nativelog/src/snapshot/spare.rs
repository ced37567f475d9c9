//! Blocks for the next snapshot, kept in a file of their own: a record that makes room takes effect only behind a
//! snapshot and a purge, and on a disk that is full to the last byte there would be none for it.
//!
//! ```text
//!  spare ──rename──▶ <name>.tmp ──written in place, cut, fsynced──▶ <name>
//!    ▲                                                               │ two newer are kept
//!    └────────────────────────── rename ─────────────────────────────┘
//! ```
//!
//! So each snapshot is written where blocks are allocated already, and the one that it makes needless becomes the next
//! spare. It holds no promise: a power cut may cost it, and it is made anew as soon as there is room. Where a file system
//! writes nothing in place (btrfs, zfs), it is of no use, and of no harm.
//!
//! **Never.** No name of a snapshot may lead to bytes that are being overwritten: not even after a power cut that undoes
//! a rename. An old snapshot that was renamed to be the spare may have its old name back then. So the folder is fsynced
//! when it has become the spare, before its length is changed, and once more after the spare has got its temporary name
//! and before the first byte of it is changed; from there on a crash finds a temporary file, which is removed, or two
//! names of it, of which the other is `spare`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::disk::{Disk, Open, lacks_room};
use checkpoint::durable::ignore_missing;

/// A spare has at least so many bytes.
const SPARE_BYTES_MIN: u64 = 64 << 10;
/// Blocks of a disk are taken to be so large.
const BLOCK_BYTES: u64 = 4096;
/// It is cut when it has more than so many times what is wanted.
const TOO_MANY: u64 = 4;

/// The spare of one folder.
#[derive(Debug)]
pub struct Spare {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Spare {
    /// At this path, on the same file system as the snapshots; maybe it is not there.
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Spare {
        Spare { disk, path }
    }

    /// Bytes that are allocated.
    pub fn bytes(&self) -> u64 {
        self.disk.stat(&self.path).map_or(0, |stat| stat.len.min(stat.blocks.saturating_mul(512)))
    }

    /// Writes `parts` to `temp`, which is in `dir`, in the spare's place, if there is one; syncs that, and names it `path`.
    /// Where it fails, the spare is as before, and there is neither.
    pub fn write(&self, dir: &Path, temp: &Path, path: &Path, parts: &[Bytes]) -> io::Result<()> {
        ignore_missing(self.disk.unlink(temp))?;
        ignore_missing(self.disk.rename(&self.path, temp))?;
        let had = self.disk.stat(temp).map_or(0, |stat| stat.len);
        let written = self.overwrite(dir, temp, had, parts).and_then(|()| self.disk.rename(temp, path));
        if written.is_err() {
            self.put_back(temp, had);
        }
        written
    }

    fn overwrite(&self, dir: &Path, temp: &Path, had: u64, parts: &[Bytes]) -> io::Result<()> {
        let file = match had {
            0 => {
                ignore_missing(self.disk.unlink(temp))?;
                self.disk.open(temp, Open::CreateNew)?
            }
            _ => {
                self.disk.sync_dir(dir)?;
                self.disk.open(temp, Open::Write)?
            }
        };
        let mut at = 0;
        for part in parts {
            file.write_at(part, at)?;
            at += part.len() as u64;
        }
        if had > at {
            file.set_len(at)?;
        }
        file.sync_all()
    }

    /// What it grew by goes: somebody may need it more.
    fn put_back(&self, temp: &Path, had: u64) {
        let back = match had {
            0 => ignore_missing(self.disk.unlink(temp)),
            _ => self
                .disk
                .open(temp, Open::Write)
                .and_then(|file| file.set_len(had))
                .and_then(|()| self.disk.rename(temp, &self.path)),
        };
        if let Err(error) = back {
            tracing::warn!(path = %temp.display(), %error, "a snapshot that was begun stays; the next start removes it");
        }
    }

    /// Takes over a snapshot that is needless from now on. False when there is a spare already. Whoever calls syncs the
    /// folder that it was in, before anything else is done to the spare.
    pub fn take(&self, old: &Path) -> io::Result<bool> {
        if self.disk.stat(&self.path).is_ok() {
            return Ok(false);
        }
        self.disk.rename(old, &self.path).map(|()| true)
    }

    /// Has enough allocated for a snapshot of `bytes` and some growth, as long as there is room. That there is none is no
    /// failure: what it has stays.
    pub fn keep_enough_for(&self, bytes: u64) {
        if let Err(error) = self.allocate_for(bytes) {
            tracing::debug!(path = %self.path.display(), %error, "no room is kept for the next snapshot yet");
        }
    }

    /// The same, for a snapshot that is about to be written: where there is no room for growth, it does without.
    ///
    /// # Errors
    /// The disk refuses even that: what it has stays.
    pub fn allocate_for(&self, bytes: u64) -> io::Result<()> {
        let exact = bytes.next_multiple_of(BLOCK_BYTES);
        match self.allocate(exact.saturating_add(exact / 4).max(SPARE_BYTES_MIN)) {
            Err(_) if self.bytes() >= exact => Ok(()),
            Err(error) if lacks_room(&error) => self.allocate(exact),
            done => done,
        }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let wanted = bytes.next_multiple_of(BLOCK_BYTES);
        let has = self.bytes();
        if has >= wanted && has <= wanted.saturating_mul(TOO_MANY) {
            return Ok(());
        }
        let file = self.disk.open(&self.path, Open::Create)?;
        if has > wanted {
            return file.set_len(wanted);
        }
        file.allocate(0, wanted).inspect_err(|_| drop(file.set_len(has)))
    }
}

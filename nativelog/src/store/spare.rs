//! The next segment, kept ready: a file of zeros whose blocks are there before the disk is full.
//!
//! ```text
//!  spare ──rename, fsync of the folder──▶ next.new ──first frame, fsync──▶ rename ──▶ <base>.wal
//!    ▲ made anew behind it, as soon as there is room
//! ```
//!
//! Beside the zeros at the end of the segment that is written this is what records that bring no content may use when the
//! disk is full to the last byte (see `wal.rs`). It holds no promise: a power cut may cost it. Where a file system
//! writes nothing in place (btrfs, zfs), it is of no use, and of no harm.
//!
//! **Never** is anything but zeros in a file of that name. The folder is fsynced after it got its new name and before its
//! first byte is changed: not even a power cut that undoes a rename leaves both names to one file with frames.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::disk::{Disk, DiskDir, DiskFile, Open, Stat};

use super::failed::Failed;

/// Its name in the folder of the segments.
const NAME: &str = "spare";
/// Zeros are written in pieces of so many bytes at most.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The spare of one log.
pub struct SpareSegment {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    whole: bool,
}

impl SpareSegment {
    /// Of so many bytes, in this folder of segments; maybe it is there. None is kept when that is 0.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> SpareSegment {
        let path = dir.join(NAME);
        let there = |stat: Stat| stat.len >= bytes && stat.blocks.saturating_mul(512) >= bytes;
        let whole = disk.stat(&path).is_ok_and(there);
        SpareSegment { disk, path, bytes, whole }
    }

    /// Bytes that it has when it is whole.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It can be taken.
    pub fn is_whole(&self) -> bool {
        self.bytes > 0 && self.whole
    }

    /// Makes it, unless it is whole.
    ///
    /// # Errors
    /// The disk refuses: what it got so far stays.
    pub fn make(&mut self) -> io::Result<()> {
        if self.whole || self.bytes == 0 {
            return Ok(());
        }
        let file = self.disk.open(&self.path, Open::Create)?;
        let mut at = 0;
        while at < self.bytes {
            let some =
                &ZEROS[..usize::try_from(self.bytes - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()))];
            file.write_at(some, at)?;
            at += some.len() as u64;
        }
        self.whole = true;
        Ok(())
    }

    /// Gives it the name `to`, durably, in the folder that `names` is. `None` when there is none, or the disk refuses.
    pub fn take(&mut self, names: &dyn DiskDir, to: &Path) -> Result<Option<Box<dyn DiskFile>>, Failed> {
        if !self.is_whole() {
            return Ok(None);
        }
        let Ok(file) = self.disk.open(&self.path, Open::Write) else { return Ok(None) };
        if self.disk.rename(&self.path, to).is_err() {
            return Ok(None);
        }
        self.whole = false;
        names.sync().map_err(Failed::Final)?;
        Ok(Some(file))
    }
}

//! The ballast: a file that takes space for nothing, so that there is some to give up when the disk is full and
//! log, snapshot and purge must go on. It holds no promise: after a power cut it may be shorter, and is made again.

use std::io;
use std::path::Path;

use super::{Store, StoreError};
use crate::disk::{Disk, DiskFile, Open};
use crate::durable::ignore_missing;
use crate::io_error::at;

// Written in pieces of this many bytes where the file system cannot reserve.
const PIECE_BYTES: usize = 1 << 20;

impl Store {
    /// Keeps a file of this many bytes allocated, so that it can be given up when the disk is full. 0 gives it up.
    ///
    /// # Errors
    /// The disk refuses (there is no room for it yet): what was there before stays.
    pub fn set_ballast(&self, bytes: u64) -> Result<(), StoreError> {
        let _one = self.ballast.lock().expect("a thread panicked while it changed the ballast");
        let (disk, path) = (&**self.disk(), self.layout().ballast());
        if bytes == 0 {
            match disk.unlink(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => result.map_err(at("give up", &path))?,
            }
            // Some file systems hand out blocks again only after the removal is on the device.
            let group = self.layout().group_dir();
            return Ok(self.shelves.sync_dir(group)?);
        }
        let before = held(disk, &path);
        if before == bytes && disk.stat(&path).is_ok_and(|stat| stat.len == bytes) {
            return Ok(());
        }
        let result = disk.open(&path, Open::Create).and_then(|file| {
            let result = fill(disk, &path, &*file, bytes);
            if result.is_err() && before > 0 {
                file.set_len(before)?;
            }
            result
        });
        if result.is_err() && before == 0 {
            // Half a ballast would only be in the way of what the space is needed for.
            ignore_missing(disk.unlink(&path)).map_err(at("give up", &path))?;
        }
        Ok(result.map_err(at("allocate", &path))?)
    }

    /// Bytes of the ballast that is there.
    pub fn ballast(&self) -> u64 {
        held(&**self.disk(), &self.layout().ballast())
    }
}

// Only blocks that it really has can be given up.
fn held(disk: &dyn Disk, path: &Path) -> u64 {
    disk.stat(path).map_or(0, |stat| stat.len.min(stat.blocks.saturating_mul(512)))
}

fn fill(disk: &dyn Disk, path: &Path, file: &dyn DiskFile, bytes: u64) -> io::Result<()> {
    if file.len()? > bytes {
        file.set_len(bytes)?;
    }
    file.allocate(0, bytes)?;
    if held(disk, path) >= bytes {
        return Ok(());
    }
    let noise = noise((bytes as usize).min(PIECE_BYTES));
    let mut at = 0;
    while at < bytes {
        let some = (bytes - at).min(noise.len() as u64);
        file.write_at(&noise[..some as usize], at)?;
        at += some;
    }
    // Blocks may be handed out only now.
    file.sync_all()
}

// Where blocks cannot be reserved, zeros may take none either.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

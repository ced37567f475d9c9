//! Reading one planned file: opened beneath the root, compared with its stamp
//! before and after, so that a file that changes meanwhile is told from one that
//! did not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, AtFlags, Mode, OFlags, fadvise, fstat, statat};
use rustix::io::Errno;

use super::SplitError;
use crate::beneath::{open_beneath, open_parent};
use crate::digest::{Digest, Hasher};
use crate::disk::next_data;
use crate::epoch::RelPath;
use crate::error::at;
use crate::plan::Stamp;

pub(super) fn changed(path: &RelPath, why: impl Into<String>) -> SplitError {
    SplitError::SourceChanged { path: path.to_string(), why: why.into() }
}

/// A file of the source, open.
#[derive(Debug)]
pub(super) struct SourceFile {
    fd: OwnedFd,
    path: RelPath,
    full: PathBuf,
    stamp: Stamp,
    // The range of data found last, so that each hole is asked for once.
    data: Option<(u64, u64)>,
}

impl SourceFile {
    pub(super) fn open(
        root: impl AsFd,
        dir: &Path,
        path: &RelPath,
        stamp: Stamp,
    ) -> Result<SourceFile, SplitError> {
        let full = dir.join(path.as_os_str());
        // NONBLOCK: should it have become a fifo, opening it must not wait.
        let fd = match open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(fd) => fd,
            Err(e) => {
                return Err(match Errno::from_io_error(&e) {
                    Some(Errno::NOENT | Errno::NOTDIR) => changed(path, "it vanished"),
                    Some(Errno::LOOP | Errno::NXIO) => changed(path, "it is no regular file any more"),
                    _ => at("open", &full)(e).into(),
                });
            }
        };
        let file = SourceFile { fd, path: path.clone(), full, stamp, data: None };
        file.check()?;
        if stamp.len >= 1 << 20 {
            // Advice only: without it the reads are still right.
            let _ = fadvise(&file.fd, 0, None, Advice::Sequential);
        }
        Ok(file)
    }

    pub(super) fn len(&self) -> u64 {
        self.stamp.len
    }

    /// Compares the file with its stamp.
    pub(super) fn check(&self) -> Result<(), SplitError> {
        let stat = fstat(&self.fd).map_err(|e| at("stat", &self.full)(e.into()))?;
        compare(&self.path, &self.stamp, &Stamp::of(&stat))
    }

    /// Reads exactly `len` bytes at `offset`, appending them to `room`; what its capacity holds beyond them is lost.
    pub(super) fn read(&self, room: &mut Vec<u8>, offset: u64, len: usize) -> Result<(), SplitError> {
        let end = room.len() + len;
        room.reserve_exact(len);
        let mut at_byte = offset;
        while room.len() < end {
            match rustix::io::pread(&self.fd, spare_capacity(room), at_byte) {
                Ok(0) => {
                    self.check()?;
                    return Err(changed(
                        &self.path,
                        format!("it ends at byte {at_byte}, it had {}", self.len()),
                    ));
                }
                Ok(n) => at_byte += n as u64,
                Err(Errno::INTR) => {}
                Err(e) => return Err(at("read", &self.full)(e.into()).into()),
            }
        }
        // The capacity may have been larger, and the file too; that it has grown is found by `check`.
        room.truncate(end);
        Ok(())
    }

    /// Where the hole that starts at `offset` ends; `offset` itself when there is none.
    pub(super) fn hole_end(&mut self, offset: u64) -> Result<u64, SplitError> {
        if let Some((start, end)) = self.data
            && offset < end
        {
            return Ok(start.max(offset));
        }
        let found: io::Result<_> = next_data(&self.fd, offset, self.len());
        let found = found.map_err(at("find holes in", &self.full))?;
        self.data = Some(found.unwrap_or((self.len(), u64::MAX)));
        Ok(found.map_or(self.len(), |(start, _)| start))
    }

    /// The digest of the whole file; tells how many bytes it went through.
    pub(super) fn hash(&mut self, mut went: impl FnMut(u64)) -> Result<Digest, SplitError> {
        let mut hasher = Hasher::new();
        let mut room = Vec::with_capacity(self.len().min(1 << 20) as usize);
        let mut offset = 0;
        while offset < self.len() {
            let hole = self.hole_end(offset)?;
            if hole > offset {
                hasher.update_zeros(hole - offset);
                went(hole - offset);
                offset = hole;
                continue;
            }
            let take = (self.len() - offset).min(1 << 20) as usize;
            room.clear();
            self.read(&mut room, offset, take)?;
            hasher.update(&room);
            went(take as u64);
            offset += take as u64;
        }
        self.check()?;
        Ok(hasher.finish())
    }
}

fn compare(path: &RelPath, planned: &Stamp, now: &Stamp) -> Result<(), SplitError> {
    if planned.allows(now) {
        return Ok(());
    }
    Err(changed(
        path,
        if (planned.dev, planned.ino) != (now.dev, now.ino) {
            "another file took its place".to_owned()
        } else if now.len > planned.len {
            format!("it grew from {} to {} bytes", planned.len, now.len)
        } else if now.len < planned.len {
            format!("it shrank from {} to {} bytes", planned.len, now.len)
        } else if now.mode != planned.mode {
            format!("its mode went from {:o} to {:o}", planned.mode & 0o7777, now.mode & 0o7777)
        } else {
            "it was modified".to_owned()
        },
    ))
}

/// Compares any entry with its stamp, by name.
pub(super) fn check_name(
    root: impl AsFd,
    dir: &Path,
    path: &RelPath,
    planned: &Stamp,
) -> Result<(), SplitError> {
    let stat = if path.is_root() {
        fstat(root).map_err(io::Error::from)
    } else {
        // The full path first: cheap, and through whatever it goes, the inode must be the planned one.
        statat(&root, path.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .or_else(|_| Ok(statat(open_parent(&root, path)?, path.name(), AtFlags::SYMLINK_NOFOLLOW)?))
    };
    match stat {
        Ok(stat) => compare(path, planned, &Stamp::of(&stat)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => {
            Err(changed(path, "it vanished"))
        }
        Err(e) => Err(at("stat", &dir.join(path.as_os_str()))(e).into()),
    }
}

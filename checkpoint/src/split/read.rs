//! Reading one planned file: opened beneath the root, closed to writes that
//! nobody would see, compared with its stamp before and after, so that a file
//! that changes meanwhile is told from one that did not.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, AtFlags, Mode, OFlags, fadvise, fstat, statat};
use rustix::io::Errno;

use super::SplitError;
use super::unseen::{Devices, has_writer};
use crate::beneath::{open_beneath, open_parent};
use crate::digest::{Digest, FileHasher};
use crate::disk::next_data;
use crate::epoch::RelPath;
use crate::io_error::at;
use crate::plan::Stamp;

// A file of at least so many bytes waits until its stamp is no longer fresh, which is at most 20 ms (2 s where times have
// no fraction); a shorter one is read twice: so a tiny epoch that was written just now costs no time.
const WAIT_BYTES_MIN: u64 = 1 << 20;

pub(super) fn changed(path: &RelPath, why: impl Into<String>) -> SplitError {
    SplitError::SourceChanged { path: path.to_string(), why: why.into() }
}

/// What an error of looking at an entry means: that it is gone, or that it cannot be looked at.
pub(super) fn lost(path: &RelPath, what: &'static str, full: &Path, error: io::Error) -> SplitError {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR) => changed(path, "it vanished"),
        Some(Errno::LOOP) => changed(path, "a symlink took its place"),
        _ => at(what, full)(error).into(),
    }
}

/// A file of the source, open.
#[derive(Debug)]
pub(super) struct SourceFile {
    fd: OwnedFd,
    path: RelPath,
    full: PathBuf,
    stamp: Stamp,
    // From where data was looked for last, and the range that was found: behind its start that answer holds, so that each
    // hole is asked for once. Not before it: who reads a file a second time begins there anew.
    data: Option<(u64, Range<u64>)>,
    /// It may have changed after its stamp without moving it: what is read now proves nothing alone.
    pub(super) is_fresh: bool,
}

impl SourceFile {
    pub(super) fn open(
        root: impl AsFd,
        dir: &Path,
        path: &RelPath,
        stamp: Stamp,
        devices: &Devices,
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
        let mut file = SourceFile { fd, path: path.clone(), full, stamp, data: None, is_fresh: false };
        // Before the stamp is compared: from then on no write goes unseen.
        if stamp.ctime.is_some()
            && let Err(error) = devices.close_to_mapped_writes(&file.fd, stamp.dev)
        {
            // What the source's own disk cannot take is still there to be read.
            tracing::debug!(path = %file.full.display(), %error, "cannot flush");
        }
        match stamp.is_fresh_for(SystemTime::now()) {
            Some(left) if stamp.len >= WAIT_BYTES_MIN => std::thread::sleep(left),
            fresh => file.is_fresh = fresh.is_some(),
        }
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

    /// Whether a write that began before `moment`, the scan, may be under way still. It has moved the times by then.
    pub(super) fn may_be_written_since(&self, moment: SystemTime) -> bool {
        self.stamp.is_recent_at(moment) && has_writer(&self.fd)
    }

    /// Its state now.
    pub(super) fn now(&self) -> Result<Stamp, SplitError> {
        let stat = fstat(&self.fd).map_err(|e| at("stat", &self.full)(e.into()))?;
        Ok(Stamp::of(&stat))
    }

    /// Compares the file with its stamp. Links that came or went are left to the last look.
    pub(super) fn check(&self) -> Result<(), SplitError> {
        self.now().and_then(|now| compare(&self.path, &self.stamp, &now).map(|_| ()))
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
        if let Some((from, data)) = &self.data
            && (*from..data.end).contains(&offset)
        {
            return Ok(data.start.max(offset));
        }
        let found: io::Result<_> = next_data(&self.fd, offset, self.len());
        let found = found.map_err(at("find holes in", &self.full))?;
        let (start, end) = found.unwrap_or((self.len(), u64::MAX));
        self.data = Some((offset, start..end));
        Ok(start)
    }

    /// The digest of the whole file; tells how many bytes it went through.
    pub(super) fn hash(&mut self, mut went: impl FnMut(u64)) -> Result<Digest, SplitError> {
        let mut hasher = FileHasher::new();
        let mut room = Vec::with_capacity(self.len().min(1 << 20) as usize);
        let mut offset = 0;
        while offset < self.len() {
            let hole = self.hole_end(offset)?;
            if hole > offset {
                hasher.zeros(hole - offset);
                went(hole - offset);
                offset = hole;
                continue;
            }
            let data_end = self.data.as_ref().map_or(u64::MAX, |(_, data)| data.end);
            let take = (self.len().min(data_end) - offset).min(1 << 20) as usize;
            room.clear();
            self.read(&mut room, offset, take)?;
            hasher.data(&room);
            went(take as u64);
            offset += take as u64;
        }
        self.check()?;
        Ok(hasher.finish())
    }
}

// Whether the entry is in the very state that was planned. Not so, and no error: it must be looked at again.
fn compare(path: &RelPath, planned: &Stamp, now: &Stamp) -> Result<bool, SplitError> {
    match planned.change(now) {
        Some(why) => Err(changed(path, why)),
        None => Ok(planned.is_still(now)),
    }
}

/// Compares any entry with its stamp, by name. `false`: nothing but times moved, as when links come and go.
pub(super) fn check_name(
    root: impl AsFd,
    dir: &Path,
    path: &RelPath,
    planned: &Stamp,
) -> Result<bool, SplitError> {
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
        Err(e) => Err(lost(path, "stat", &dir.join(path.as_os_str()), e)),
    }
}

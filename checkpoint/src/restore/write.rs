//! One file of a restore: taken over from this machine or fetched, hashed while
//! it is written, long runs of zeros left as holes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, linkat, open, openat, unlinkat};

use super::{ContentSource, RestoreError, SourceError};
use crate::digest::{Hasher, is_zero};
use crate::disk::next_data;
use crate::error::at;
use crate::limits::HOLE_BYTES_MIN;
use crate::manifest::ManifestEntry;

const READ_BYTES: usize = 1 << 20;

/// A regular file of this machine, through no symlink in its last component.
pub(super) fn local_file(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).ok().map(File::from)
}

/// Writes one entry into the directory `dir`.
pub(super) struct Writer<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) entry: &'a ManifestEntry,
    pub(super) full: &'a Path,
}

impl Writer<'_> {
    fn create(&self) -> Result<File, RestoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.dir, self.entry.path.name(), flags, Mode::RUSR | Mode::WUSR);
        Ok(File::from(made.map_err(|e| at("make the file", self.full)(e.into()))?))
    }

    fn undo(&self) -> Result<(), RestoreError> {
        let gone = unlinkat(self.dir, self.entry.path.name(), AtFlags::empty());
        Ok(gone.map_err(|e| at("remove", self.full)(e.into()))?)
    }

    fn set_mode(&self, file: &File) -> Result<(), RestoreError> {
        let mode = Mode::from_raw_mode(self.entry.mode);
        Ok(fchmod(file, mode).map_err(|e| at("set the mode of", self.full)(e.into()))?)
    }

    // Whether a file of this machine may be what we want, before it is read.
    fn fits(&self, file: &File) -> Option<std::fs::Metadata> {
        file.metadata().ok().filter(|there| there.is_file() && there.len() == self.entry.size)
    }

    /// The content of a local file: reflink, else a copy that keeps holes; verified as it is then. A file that is
    /// about to go (`leaving`) and has no other name is linked. `None`: it is not the content.
    pub(super) fn take_over(&self, from: File, leaving: bool) -> Result<Option<Option<File>>, RestoreError> {
        let Some(there) = self.fits(&from) else { return Ok(None) };
        if leaving && there.nlink() == 1 && there.mode() & 0o7777 == self.entry.mode {
            if !self.is_content(&from)? {
                return Ok(None);
            }
            let by_fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&from));
            let name = self.entry.path.name();
            if linkat(CWD, by_fd.as_str(), self.dir, name, AtFlags::SYMLINK_FOLLOW).is_ok() {
                return Ok(Some(Some(from)));
            }
        }
        let to = self.create()?;
        let good = if reflink_copy::reflink_file(&from, &to).is_ok() {
            self.is_content(&to)?
        } else {
            self.copy(&from, &to)?
        };
        if !good {
            self.undo()?;
            return Ok(None);
        }
        self.set_mode(&to)?;
        Ok(Some(Some(to)))
    }

    /// Another name for a local file, verified, when its mode is right; else as [`Writer::take_over`].
    pub(super) fn link(&self, from: File, path: &Path) -> Result<Option<Option<File>>, RestoreError> {
        let Some(there) = self.fits(&from) else { return Ok(None) };
        if there.mode() & 0o7777 == self.entry.mode {
            if !self.is_content(&from)? {
                return Ok(None);
            }
            if linkat(CWD, path, self.dir, self.entry.path.name(), AtFlags::empty()).is_ok() {
                let linked = openat(
                    self.dir,
                    self.entry.path.name(),
                    OFlags::RDONLY | OFlags::NOFOLLOW,
                    Mode::empty(),
                );
                let linked = File::from(linked.map_err(|e| at("open", self.full)(e.into()))?);
                let now = linked.metadata().map_err(at("stat", self.full))?;
                // What was verified is what was linked.
                if (now.dev(), now.ino()) == (there.dev(), there.ino()) {
                    return Ok(Some(None));
                }
                self.undo()?;
            }
        }
        self.take_over(from, false)
    }

    /// The content from the source.
    pub(super) fn fetch(
        &self,
        index: usize,
        source: &mut dyn ContentSource,
    ) -> Result<Option<File>, RestoreError> {
        let file = self.create()?;
        let mut hasher = Hasher::new();
        let mut offset = 0;
        let size = self.entry.size;
        let mut sink = |data: &[u8]| {
            if data.len() as u64 > size - offset {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("more than its {size} bytes came"),
                ));
            }
            hasher.update(data);
            write_with_holes(&file, data, offset)?;
            offset += data.len() as u64;
            Ok(())
        };
        let fetched = if size == 0 { Ok(()) } else { source.fetch(index, self.entry, &mut sink) };
        match fetched {
            Ok(()) => {}
            Err(SourceError::Sink(e)) if e.kind() != io::ErrorKind::InvalidData => {
                return Err(at("write", self.full)(e).into());
            }
            Err(source) => return Err(RestoreError::Source { path: self.entry.path.to_string(), source }),
        }
        if offset != size {
            return Err(self.corrupt(format!("only {offset} of its {size} bytes came")));
        }
        let found = hasher.finish();
        if found != self.entry.digest {
            let sealed = self.entry.digest.short();
            return Err(
                self.corrupt(format!("what came has the digest {}, sealed was {sealed}", found.short()))
            );
        }
        file.set_len(size).map_err(at("set the length of", self.full))?;
        self.set_mode(&file)?;
        Ok(Some(file))
    }

    fn corrupt(&self, why: String) -> RestoreError {
        RestoreError::Corrupt { path: self.entry.path.to_string(), why }
    }

    fn is_content(&self, file: &File) -> Result<bool, RestoreError> {
        self.read(file, |_, _| Ok(()))
    }

    fn copy(&self, from: &File, to: &File) -> Result<bool, RestoreError> {
        let good = self.read(from, |data, offset| write_with_holes(to, data, offset))?;
        to.set_len(self.entry.size).map_err(at("set the length of", self.full))?;
        Ok(good)
    }

    // Reads a local file, holes as holes; whether it is the sealed content. A file that cannot be read is not.
    fn read(
        &self,
        from: &File,
        mut each: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<bool, RestoreError> {
        let mut hasher = Hasher::new();
        let mut room = vec![0; self.entry.size.clamp(1, READ_BYTES as u64) as usize];
        let mut offset = 0;
        while offset < self.entry.size {
            let Ok(data) = next_data(from, offset, self.entry.size) else { return Ok(false) };
            let (start, end) = data.unwrap_or((self.entry.size, self.entry.size));
            hasher.update_zeros(start - offset);
            offset = start;
            while offset < end {
                let want = (end - offset).min(room.len() as u64) as usize;
                match from.read_at(&mut room[..want], offset) {
                    Ok(0) | Err(_) => return Ok(false),
                    Ok(n) => {
                        hasher.update(&room[..n]);
                        each(&room[..n], offset).map_err(at("write", self.full))?;
                        offset += n as u64;
                    }
                }
            }
        }
        // It may have grown meanwhile.
        let mut from = from;
        let more =
            io::Seek::seek(&mut from, io::SeekFrom::Start(offset)).and_then(|_| from.read(&mut room[..1]));
        Ok(hasher.finish() == self.entry.digest && matches!(more, Ok(0)))
    }
}

// Aligned runs of zeros are not written: the file's length makes them holes.
fn write_with_holes(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    let step = HOLE_BYTES_MIN as u64;
    let (mut at_byte, mut pending) = (0, 0);
    while at_byte < data.len() {
        let place = offset + at_byte as u64;
        let len = ((step - place % step) as usize).min(data.len() - at_byte);
        if len == HOLE_BYTES_MIN && is_zero(&data[at_byte..at_byte + len]) {
            file.write_all_at(&data[pending..at_byte], offset + pending as u64)?;
            pending = at_byte + len;
        }
        at_byte += len;
    }
    file.write_all_at(&data[pending..], offset + pending as u64)
}

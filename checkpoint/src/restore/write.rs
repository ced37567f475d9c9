//! One file of a restore: taken over from this machine or fetched, hashed while
//! it is written, long runs of zeros left as holes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, open, openat, unlinkat};

use super::{ContentSource, RestoreError, Sink, SourceError, Stop};
use crate::digest::FileHasher;
use crate::disk::{next_data, write_around};
use crate::io_error::at;
use crate::manifest::ManifestEntry;

const READ_BYTES: usize = 1 << 20;

/// A regular file of this machine, through no symlink in its last component.
pub(super) fn local_file(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).ok().map(File::from)
}

/// What comes of one file: hashed and written, its long runs of zeros left as holes.
struct Filling<'a> {
    file: &'a File,
    stop: &'a Stop,
    hasher: FileHasher,
    offset: u64,
    size: u64,
    too_much: bool,
}

impl Filling<'_> {
    fn take(&mut self, len: u64) -> io::Result<()> {
        if self.stop.is_set() {
            return Err(io::Error::other("it was stopped"));
        }
        if len > self.size - self.offset {
            self.too_much = true;
            return Err(io::Error::other("more came than it has"));
        }
        Ok(())
    }
}

impl Sink for Filling<'_> {
    fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.take(data.len() as u64)?;
        self.hasher.data(data);
        write_around(data, self.offset, |part, at| self.file.write_all_at(part, at))?;
        self.offset += data.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> io::Result<()> {
        self.take(len)?;
        // The file is new, and gets its length in the end.
        self.hasher.zeros(len);
        self.offset += len;
        Ok(())
    }
}

/// Writes one entry into the directory `dir`.
pub(super) struct Writer<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) entry: &'a ManifestEntry,
    pub(super) full: &'a Path,
    pub(super) stop: &'a Stop,
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

    /// An empty file.
    pub(super) fn empty(&self) -> Result<File, RestoreError> {
        let file = self.create()?;
        self.set_mode(&file)?;
        Ok(file)
    }

    /// Whether a file made here can share the blocks of `from`: tried, and undone.
    pub(super) fn can_share(&self, from: &File) -> Result<io::Result<()>, RestoreError> {
        let to = self.create()?;
        let shared = reflink_copy::reflink_file(from, &to);
        self.undo()?;
        Ok(shared)
    }

    /// The content of a local file: reflink, else a copy that keeps holes; verified as it is then. `None`: it is not
    /// the content.
    pub(super) fn take_over(&self, from: &File) -> Result<Option<File>, RestoreError> {
        let fits = |there: &std::fs::Metadata| there.is_file() && there.len() == self.entry.size;
        if !from.metadata().is_ok_and(|there| fits(&there)) {
            return Ok(None);
        }
        let to = self.create()?;
        let good = if reflink_copy::reflink_file(from, &to).is_ok() {
            self.is_content(&to)?
        } else {
            self.copy(from, &to)?
        };
        if !good {
            self.undo()?;
            return Ok(None);
        }
        self.set_mode(&to)?;
        Ok(Some(to))
    }

    /// The content from the source, from another copy when one does not verify.
    pub(super) fn fetch(&self, index: usize, source: &mut dyn ContentSource) -> Result<File, RestoreError> {
        let file = self.create()?;
        while let Some(why) = self.fetch_once(&file, index, source)? {
            self.stop.check()?;
            if !source.reject(index, &why) {
                return Err(RestoreError::Corrupt { path: self.entry.path.to_string(), why });
            }
            file.set_len(0).map_err(at("empty", self.full))?;
        }
        file.set_len(self.entry.size).map_err(at("set the length of", self.full))?;
        self.set_mode(&file)?;
        Ok(file)
    }

    // Why what came is not the content, if it is not.
    fn fetch_once(
        &self,
        file: &File,
        index: usize,
        source: &mut dyn ContentSource,
    ) -> Result<Option<String>, RestoreError> {
        let size = self.entry.size;
        let mut filling =
            Filling { file, stop: self.stop, hasher: FileHasher::new(), offset: 0, size, too_much: false };
        let fetched = source.fetch(index, self.entry, &mut filling);
        let Filling { hasher, offset, too_much, .. } = filling;
        self.stop.check()?;
        if too_much {
            return Ok(Some(format!("more than its {size} bytes came")));
        }
        match fetched {
            Ok(()) => {}
            Err(SourceError::Sink(e)) => return Err(at("write", self.full)(e).into()),
            Err(source) => return Err(RestoreError::Source { path: self.entry.path.to_string(), source }),
        }
        if offset != size {
            return Ok(Some(format!("only {offset} of its {size} bytes came")));
        }
        let (found, sealed) = (hasher.finish(), self.entry.digest);
        if found != sealed {
            let (found, sealed) = (found.short(), sealed.short());
            return Ok(Some(format!("what came has the digest {found}, sealed was {sealed}")));
        }
        Ok(None)
    }

    fn is_content(&self, file: &File) -> Result<bool, RestoreError> {
        self.read(file, |_, _| Ok(()))
    }

    fn copy(&self, from: &File, to: &File) -> Result<bool, RestoreError> {
        let good =
            self.read(from, |data, offset| write_around(data, offset, |part, at| to.write_all_at(part, at)))?;
        to.set_len(self.entry.size).map_err(at("set the length of", self.full))?;
        Ok(good)
    }

    // Reads a local file, holes as holes; whether it is the sealed content. A file that cannot be read is not.
    fn read(
        &self,
        from: &File,
        mut each: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<bool, RestoreError> {
        let mut hasher = FileHasher::new();
        let mut room = vec![0; self.entry.size.clamp(1, READ_BYTES as u64) as usize];
        let mut offset = 0;
        while offset < self.entry.size {
            let Ok(data) = next_data(from, offset, self.entry.size) else { return Ok(false) };
            let (start, end) = data.unwrap_or((self.entry.size, self.entry.size));
            hasher.zeros(start - offset);
            offset = start;
            while offset < end {
                self.stop.check()?;
                let want = (end - offset).min(room.len() as u64) as usize;
                match from.read_at(&mut room[..want], offset) {
                    Ok(0) | Err(_) => return Ok(false),
                    Ok(n) => {
                        hasher.data(&room[..n]);
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

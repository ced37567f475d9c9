//! The copy of a staged file in which a rotten payload is replaced by a good one.
//!
//! **Guarantees.** It takes the place of the file only while that is the inode that was copied, with the mode it had
//! then and no longer than the writer has made it. By then it is fsynced, and so is the name afterwards. The old inode
//! is not touched.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::disk::{Disk, DiskFile, FileKind, Open, Stat};
use checkpoint::durable::ignore_missing;

use super::failed::Failed;
use Failed::{Final, Refused};

/// Bytes that are copied at once.
const STEP_BYTES: u64 = 1 << 20;

/// What tells that a file is still the one that it was: the performer gives it length and mode of the sealed file, and
/// may put another inode in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    mode: u32,
    len: u64,
    ino: u64,
}

/// A copy without its name.
pub struct Copied {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    copy: PathBuf,
    /// `None` when there was no file.
    before: Option<Look>,
    /// Held open: its blocks are freed by who drops this, which must not be the writer.
    old: Option<Box<dyn DiskFile>>,
    file: Box<dyn DiskFile>,
}

impl Copied {
    /// Copies the file at `path`, with `data` at `offset`, to `copy`; all durable but the name. As long as this takes
    /// somebody must note what is written into the file.
    pub fn make(
        disk: &Arc<dyn Disk>,
        path: &Path,
        copy: &Path,
        offset: u64,
        data: &[u8],
    ) -> Result<Copied, Failed> {
        ignore_missing(disk.unlink(copy)).map_err(Refused)?;
        let before = look(disk, path)?;
        let made = match before {
            Some(_) => disk.open(path, Open::Read).and_then(|old| {
                disk.clone_file(path, copy)?;
                Ok((Some(old), disk.open(copy, Open::Write)?))
            }),
            None => disk.open(copy, Open::CreateNew).map(|file| (None, file)),
        };
        let (old, file) = made.map_err(Refused)?;
        file.write_at(data, offset).map_err(Refused)?;
        if let Some(Look { mode, .. }) = before {
            file.set_mode(mode).map_err(Refused)?;
        }
        file.sync_all().map_err(Final)?;
        Ok(Copied { disk: disk.clone(), path: path.into(), copy: copy.into(), before, old, file })
    }

    /// Where it belongs.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies ranges that were written or cleared since, durably; holes as holes.
    pub fn follow(&self, ranges: &[Range<u64>]) -> Result<(), Failed> {
        let Some(old) = self.old.as_ref().filter(|_| !ranges.is_empty()) else { return Ok(()) };
        let mut buf = vec![0; STEP_BYTES as usize];
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let data = old.next_data(at, range.end).map_err(Refused)?;
                let (start, end) = data.unwrap_or((range.end, range.end));
                if at < start {
                    // Behind the end of the file it was to be written, and was not: there is nothing there, either.
                    self.file.clear(at, start - at).map_err(Refused)?;
                }
                at = start;
                while at < end {
                    let want = (end - at).min(STEP_BYTES) as usize;
                    match old.read_at(&mut buf[..want], at) {
                        Ok(0) => at = end,
                        Ok(n) => {
                            self.file.write_at(&buf[..n], at).map_err(Refused)?;
                            at += n as u64;
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(Refused(error)),
                    }
                }
            }
        }
        self.file.sync_all().map_err(Final)
    }

    /// Renames it over the file, durably, unless that has changed otherwise than by writes up to `written`. The names of
    /// both folders are synced.
    pub fn take_place(&self, written: u64) -> Result<bool, Failed> {
        let expected = self.before.map(|look| Look { len: look.len.max(written), ..look });
        if look(&self.disk, &self.path)? != expected {
            return Ok(false);
        }
        // Open before the rename: what was renamed can be made durable then.
        let open = |file: &Path| self.disk.open_dir(file.parent().unwrap_or(file)).map_err(Refused);
        let folders = [open(&self.path)?, open(&self.copy)?];
        self.disk.rename(&self.copy, &self.path).map_err(Refused)?;
        folders.iter().try_for_each(|folder| folder.sync()).map_err(Final)?;
        Ok(true)
    }
}

fn look(disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<Look>, Failed> {
    match disk.stat(path) {
        Ok(Stat { kind: FileKind::File, mode, len, ino, .. }) => Ok(Some(Look { mode, len, ino })),
        Ok(_) => Err(Refused(io::Error::other(format!("{} is no file", path.display())))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::testing::CrashDisk;

    #[test]
    fn what_is_cleared_while_it_is_copied_is_a_hole_in_the_copy() {
        let crash = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(crash.clone());
        let (path, copy) = (Path::new("/file"), Path::new("/copy"));
        let file = disk.open(path, Open::Create).unwrap();
        let end = 256 << 20;
        for at in [0, 50_000, end] {
            file.write_at(b"rotten", at).unwrap();
        }
        let Ok(copied) = Copied::make(&disk, path, copy, 0, b"mended") else { panic!("it is not copied") };
        file.write_at(&[0; 6], 50_000).unwrap();
        file.write_at(b"new", 100 << 20).unwrap();
        let ranges = [4096..end, end + 3..end + (1 << 20)];
        assert!(copied.follow(&ranges).is_ok());
        assert!(matches!(copied.take_place(end), Ok(true)));
        let mended = disk.open(path, Open::Read).unwrap();
        let read = |at| {
            let mut bytes = [1; 3];
            mended.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!((read(0), read(50_000), read(100 << 20), read(end)), (*b"men", [0; 3], *b"new", *b"rot"));
        let there = disk.stat(path).unwrap();
        assert!(there.blocks < 1000, "{there:?}");
        assert_eq!(there.len, end + 6);
    }
}

//! What the writer thread does so that the log stays small and its files good: purge, sweep, place, repair.
//!
//! **Guarantees.** A segment is deleted, and `purged` told, only after the purge is fsynced in the WAL and in the
//! mark. A folder that an entry may still name is not swept. Brought bytes and repaired files are
//! fsynced, names included, before they are answered. A repaired file is a new inode with the length and the mode of
//! the old one.
//!
//! **Never** waits for room: what comes here either makes room or can be asked for again, and must not hold up votes
//! and appends. A failed fsync is final here as everywhere.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use checkpoint::disk::{FileKind, Open, Stat};
use checkpoint::durable::{ensure_dir, ignore_missing};

use super::Placed;
use super::frame::{FrameKind, put_optional_log_id};
use super::payload::position;
use super::queue::Repair;
use super::room::Room;
use super::writer::Writer;
use crate::record::LogId;

/// A purge that reaches into a segment of at least this many bytes closes it, so that it can be deleted soon.
const ROTATE_BYTES: u64 = 64 << 10;
/// How often a repair starts again because the performer has changed the file meanwhile.
const REPAIR_TRIES: usize = 8;
/// Folders of one attempt that may lie in the trash at once.
const TRASH_NAMES_MAX: u32 = 1000;

/// Why something was not done.
pub enum Failed {
    /// The disk refused, or it cannot be done. Nothing is lost: the log goes on.
    Refused(io::Error),
    /// An fsync failed, or the log could not be written.
    Final(io::Error),
}

use Failed::{Final, Refused};

/// Answers; an error comes back when the log must stop.
pub fn answer<T>(result: Result<T, Failed>, done: impl FnOnce(io::Result<T>)) -> io::Result<()> {
    match result {
        Ok(value) => done(Ok(value)),
        Err(Refused(error)) => done(Err(error)),
        Err(Final(error)) => {
            done(Err(io::Error::new(error.kind(), error.to_string())));
            return Err(error);
        }
    }
    Ok(())
}

impl Writer {
    /// Entries that were purged while they waited to be written leave a hole below `next`: the WAL must say why
    /// before it goes on above it.
    pub(super) fn purge_before(&mut self, next: u64) -> io::Result<()> {
        let purged = self.shared.index().purged();
        match purged {
            Some(purged) if self.last.is_some_and(|last| last.index + 1 < next) => self.write_purge(purged),
            _ => Ok(()),
        }
    }

    /// Makes a purge durable and deletes the segments below it.
    pub(super) fn write_purge(&mut self, upto: LogId) -> io::Result<()> {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        let reaches_into_segment = self.wal.before_segment().is_none_or(|before| before.index < upto.index);
        if reaches_into_segment && self.wal.segment_len() >= ROTATE_BYTES.min(self.options.segment_bytes) {
            self.rotate()?;
        }
        let mut body = Vec::new();
        put_optional_log_id(&mut body, Some(upto));
        self.append_frame(FrameKind::Purge, &body)?;
        self.wal.sync()?;
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
        self.write_mark()?;
        if self.wal.delete_purged(upto)? {
            self.shared.segments.forget_below(self.wal.first());
        }
        self.shared.wal_bytes.store(self.wal.bytes(), Ordering::Relaxed);
        let mut index = self.shared.index();
        index.claims.purged(upto.index);
        self.shared.purged.send_replace(upto.index + 1);
        // What a snapshot covers need not be flushed any more.
        if *self.shared.flushed.borrow() <= upto.index {
            self.shared.flushed.send_replace(upto.index + 1);
            self.shared.flush_wake.notify_all();
        }
        Ok(())
    }

    /// Moves the folders of these attempts to the trash, except those that an entry may still name. Those that are
    /// gone now.
    pub(super) fn sweep(&mut self, attempts: &[u64]) -> Result<Vec<u64>, Failed> {
        let (disk, layout) = (&self.shared.disk, &self.shared.layout);
        // Open before anything is moved: what is moved can be made durable then.
        let group = disk.open_dir(layout.group_dir()).map_err(Refused)?;
        let staging = disk.open_dir(&layout.staging_dir()).map_err(Refused)?;
        if ensure_dir(disk.as_ref(), &layout.trash_dir()).map_err(Refused)? {
            group.sync().map_err(Final)?;
        }
        let mut gone = Vec::new();
        let mut moved = false;
        let mut refused = None;
        for attempt in attempts.iter().copied() {
            // Only the writer, this very thread, takes ranges in the folder: none is taken until it is moved.
            if self.shared.index().claims.names(attempt) {
                continue;
            }
            match self.move_to_trash(attempt) {
                Ok(was_there) => {
                    moved |= was_there;
                    gone.push(attempt);
                }
                Err(error) => refused = Some(error),
            }
        }
        if moved {
            staging.sync().map_err(Final)?;
        }
        match refused {
            Some(error) if gone.is_empty() => Err(Refused(error)),
            _ => Ok(gone),
        }
    }

    /// True when there was a folder.
    fn move_to_trash(&mut self, attempt: u64) -> io::Result<bool> {
        let (disk, layout) = (self.shared.disk.clone(), self.shared.layout.clone());
        let folder = layout.attempt_dir(attempt);
        let mut number = 0;
        let trash = loop {
            let name = match number {
                0 => format!("attempt.{attempt}"),
                _ => format!("attempt.{attempt}.{number}"),
            };
            let path = layout.trash_dir().join(name);
            match disk.stat(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break path,
                Err(error) => return Err(error),
                Ok(_) if number == TRASH_NAMES_MAX => return Err(io::ErrorKind::AlreadyExists.into()),
                Ok(_) => number += 1,
            }
        };
        let was_there = match disk.rename(&folder, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            other => other.map(|()| true)?,
        };
        self.forget(&folder);
        self.shared.index().claims.sweep(attempt);
        Ok(was_there)
    }

    fn forget(&mut self, below: &Path) {
        self.payloads.forget(below);
        self.shared.files.forget(below);
    }

    /// Writes bytes without an entry, durably.
    pub(super) fn place(&mut self, ranges: &[Placed]) -> Result<(), Failed> {
        // A start checks the payloads of entries above the mark. One of them may have lost its range to these
        // bytes (it will never be committed), and must not be taken for damage.
        self.write_mark().map_err(Final)?;
        let room = Room::impatient();
        for range in ranges {
            let path = self.shared.layout.staged_file(range.attempt, range.file);
            self.payloads.write_at(&room, path, range.offset, &range.data).map_err(Refused)?;
        }
        self.payloads.sync().map_err(Final)?;
        let mut index = self.shared.index();
        for range in ranges {
            index.claims.bring(range.attempt, range.file, range.offset, range.data.len() as u64);
        }
        Ok(())
    }

    /// Puts a good payload in place of a rotten one, by a new inode.
    pub(super) fn repair(&mut self, repair: &Repair) -> Result<(), Failed> {
        if !self.shared.index().holds(repair.id) {
            let why = format!("entry {} is gone from the log", repair.id);
            return Err(Refused(io::Error::new(io::ErrorKind::NotFound, why)));
        }
        let (path, offset) =
            position(&self.shared.layout, repair.id.index, repair.place, &repair.header).map_err(Refused)?;
        self.payloads.make_dir_of(&Room::impatient(), &path).map_err(Refused)?;
        self.payloads.sync().map_err(Final)?;
        // Removed at the next start if this process ends before it has its name.
        let copy = self.shared.layout.log_dir().join("repair.new");
        for _ in 0..REPAIR_TRIES {
            match self.replace_range(&path, &copy, offset, &repair.payload) {
                Ok(true) => {
                    self.forget(&path);
                    self.shared.rotten.changed();
                    tracing::info!(position = %repair.id, path = %path.display(), "payload repaired");
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => {
                    let _ = self.shared.disk.unlink(&copy);
                    return Err(error);
                }
            }
        }
        let _ = self.shared.disk.unlink(&copy);
        Err(Refused(io::Error::other(format!("{} changes all the time", path.display()))))
    }

    /// False when the file got another length or mode meanwhile: the performer gives it those of the sealed file.
    fn replace_range(&self, path: &Path, copy: &Path, offset: u64, data: &[u8]) -> Result<bool, Failed> {
        let disk = &self.shared.disk;
        let look = || match disk.stat(path) {
            Ok(Stat { kind: FileKind::File, mode, len, ino, .. }) => Ok(Some((mode, len, ino))),
            Ok(_) => Err(Refused(io::Error::other(format!("{} is no file", path.display())))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Refused(error)),
        };
        ignore_missing(disk.unlink(copy)).map_err(Refused)?;
        let before = look()?;
        let file = match before {
            Some(_) => disk.clone_file(path, copy).and_then(|()| disk.open(copy, Open::Write)),
            None => disk.open(copy, Open::CreateNew),
        };
        let file = file.map_err(Refused)?;
        file.write_at(data, offset).map_err(Refused)?;
        if let Some((mode, ..)) = before {
            file.set_mode(mode).map_err(Refused)?;
        }
        file.sync_all().map_err(Final)?;
        if look()? != before {
            return Ok(false);
        }
        let folder = disk.open_dir(path.parent().unwrap_or(path)).map_err(Refused)?;
        let log = disk.open_dir(&self.shared.layout.log_dir()).map_err(Refused)?;
        disk.rename(copy, path).map_err(Refused)?;
        folder.sync().and_then(|()| log.sync()).map_err(Final)?;
        Ok(true)
    }
}

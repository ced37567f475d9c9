//! What the writer thread does so that the log stays small and its files good: purge, sweep, place, repair.
//!
//! **Guarantees.** A segment is deleted, and `purged` told, only after the purge is fsynced in the WAL and in the
//! mark. A folder that an entry may still name is not swept. Brought bytes and repaired files are
//! fsynced, names included, before they are answered.
//!
//! **How long they take** does not depend on how large a file is, for appends and votes wait meanwhile. A sweep renames
//! whole folders, as many as it was asked for at once; who empties the trash is another. A purge unlinks segments of
//! about `segment_bytes` each. Brought bytes are few at a time, brought zeros become a hole. A file that is
//! repaired is copied by who asks (`repair.rs`); here it is only renamed, with the little that was written last.
//!
//! **Never** waits for room: what comes here either makes room or can be asked for again, and must not hold up votes
//! and appends. A failed fsync is final here as everywhere.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use checkpoint::durable::ensure_dir;

use super::brought::{Brought, Placed};
use super::copied::Copied;
use super::failed::Failed;
use super::frame::{FrameKind, put_optional_log_id};
use super::payload::position;
use super::pen::Pen;
use super::queue::{Repair, Swapped};
use super::room::Room;
use crate::record::LogId;

use Failed::{Final, Refused};

/// A purge that reaches into a segment of at least this many bytes closes it, so that it can be deleted soon.
const ROTATE_BYTES: u64 = 64 << 10;
/// Bytes that the writer itself copies into the copy of a staged file, as many as of a batch of entries.
const SWAP_BYTES_MAX: u64 = 8 << 20;
/// Folders of one attempt that may lie in the trash at once.
const TRASH_NAMES_MAX: u32 = 1000;

impl Pen {
    /// Entries that were purged while they waited to be written leave a hole below `next`: the WAL must say why
    /// before it goes on above it.
    pub fn purge_before(&mut self, next: u64) -> io::Result<()> {
        let purged = self.shared.index().purged();
        match purged {
            Some(purged) if self.last.is_some_and(|last| last.index + 1 < next) => self.write_purge(purged),
            _ => Ok(()),
        }
    }

    /// Makes a purge durable and deletes the segments below it.
    pub fn write_purge(&mut self, upto: LogId) -> io::Result<()> {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        let reaches_into_segment = self.wal.before_segment().is_none_or(|before| before.index < upto.index);
        if reaches_into_segment && self.wal.segment_len() >= ROTATE_BYTES.min(self.options.segment_bytes) {
            self.rotate_if_possible()?;
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
        drop(index);
        // Of what the deleted segments left.
        self.wal.keep_spare();
        Ok(())
    }

    /// Moves the folders of these attempts to the trash, except those that an entry may still name. Those that are
    /// gone now.
    pub fn sweep(&mut self, attempts: &[u64]) -> Result<Vec<u64>, Failed> {
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

    /// Writes bytes without an entry, durably.
    pub fn place(&mut self, ranges: &[Placed]) -> Result<(), Failed> {
        // A start checks the payloads of entries above the mark. One of them may have lost its range to these
        // bytes (it will never be committed), and must not be taken for damage.
        self.write_mark().map_err(Final)?;
        let room = Room::impatient();
        for range in ranges {
            let path = self.shared.layout.staged_file(range.attempt, range.file);
            let put = match &range.data {
                Brought::Bytes(bytes) => self.payloads.write_at(&room, path, range.offset, bytes),
                Brought::Zeros(len) => self.payloads.clear(&room, path, range.offset..range.offset + len),
            };
            put.map_err(Refused)?;
        }
        self.payloads.sync().map_err(Final)?;
        let mut index = self.shared.index();
        for range in ranges {
            index.claims.bring(range.attempt, range.file, range.offset, range.data.len());
        }
        Ok(())
    }

    /// Notes from here on what is written into the file of a rotten payload. Where that belongs: file and offset.
    pub fn begin_copy(&mut self, repair: &Repair) -> Result<(PathBuf, u64), Failed> {
        self.check_held(repair.id)?;
        let (path, offset) =
            position(&self.shared.layout, repair.id.index, repair.place, &repair.header).map_err(Refused)?;
        self.payloads.make_dir_of(&Room::impatient(), &path).map_err(Refused)?;
        self.payloads.sync().map_err(Final)?;
        self.payloads.begin_notes(path.clone());
        Ok((path, offset))
    }

    /// Puts a copy in the place of its file, with what was written there since it was begun.
    pub fn swap(&mut self, repair: &Repair, copied: &Copied) -> Result<Swapped, Failed> {
        let swapped = self.try_swap(repair, copied);
        if !matches!(swapped, Ok(Swapped::Behind(_))) {
            self.payloads.end_notes();
        }
        if matches!(swapped, Ok(Swapped::Done)) {
            let path = copied.path();
            self.forget(path);
            self.shared.rotten.changed();
            tracing::info!(position = %repair.id, path = %path.display(), "payload repaired");
        }
        swapped
    }

    fn try_swap(&mut self, repair: &Repair, copied: &Copied) -> Result<Swapped, Failed> {
        // Its range may be another entry's by now.
        self.check_held(repair.id)?;
        let Some(notes) = self.payloads.notes() else { return Ok(Swapped::Changed) };
        let (bytes, written) = (notes.bytes(), notes.highest());
        let Some(ranges) = notes.take() else { return Ok(Swapped::Changed) };
        if bytes > SWAP_BYTES_MAX {
            return Ok(Swapped::Behind(ranges));
        }
        copied.follow(&ranges)?;
        Ok(if copied.take_place(written)? { Swapped::Done } else { Swapped::Changed })
    }

    fn check_held(&self, id: LogId) -> Result<(), Failed> {
        if self.shared.index().holds(id) {
            return Ok(());
        }
        let why = format!("entry {id} is gone from the log");
        Err(Refused(io::Error::new(io::ErrorKind::NotFound, why)))
    }
}

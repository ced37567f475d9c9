//! What the writer thread writes with: the WAL, the mark and the staged files, and how far they are.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use checkpoint::disk::lacks_room;

use super::failed::Failed;
use super::frame::{FrameKind, put_optional_log_id, put_vote};
use super::mark::MarkFile;
use super::options::Options;
use super::owner::Vote;
use super::payload::PayloadWriter;
use super::room::Room;
use super::shared::Shared;
use super::wal::{Load, SegmentStart, Wal};
use crate::record::LogId;

/// The only one that writes to the log and to staged files. Its thread has it alone.
pub struct Pen {
    pub shared: Arc<Shared>,
    pub wal: Wal,
    mark: MarkFile,
    pub payloads: PayloadWriter,
    pub options: Options,
    /// As of what is written, not of what is queued.
    vote: Option<Vote>,
    pub last: Option<LogId>,
    pub purged: Option<LogId>,
    /// A position that is written with the next mark.
    pub committed: Option<Option<LogId>>,
    marked_at: Instant,
}

impl Pen {
    /// One that goes on where recovery ended.
    pub fn new(shared: Arc<Shared>, wal: Wal, mark: MarkFile, options: Options) -> Self {
        let payloads = PayloadWriter::new(shared.disk.clone(), shared.layout.clone());
        let (vote, last, purged) = {
            let index = shared.index();
            (index.vote, index.last(), index.purged())
        };
        let (committed, marked_at) = (None, Instant::now());
        Pen { shared, wal, mark, payloads, options, vote, last, purged, committed, marked_at }
    }

    /// A bare frame, not durable yet. Returns the offset of its body in the whole WAL.
    pub fn append_frame(&mut self, kind: FrameKind, body: &[u8]) -> io::Result<u64> {
        self.append(kind, Load::Bare, body)
    }

    /// Any frame.
    pub fn append(&mut self, kind: FrameKind, load: Load, body: &[u8]) -> io::Result<u64> {
        let shared = self.shared.clone();
        let body_at = loop {
            if let Some(at) = self.wal.append(&shared.room, kind, load, body)? {
                break at;
            }
            tracing::warn!("the disk is full: the log goes on in what is kept for records that make room");
            self.start_segment(&shared.room, true).map_err(Failed::error)?;
        };
        shared.wal_bytes.store(self.wal.bytes(), Ordering::Relaxed);
        Ok(body_at)
    }

    /// Whether the disk is likely to have room for so many bytes beside what it keeps.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let needs = bytes.saturating_add(self.options.kept_bytes.saturating_mul(2));
        self.shared.disk.free(&self.shared.layout.log_dir()).map_or(true, |space| space.free_bytes >= needs)
    }

    /// The mark was not written for so long.
    pub fn is_mark_older_than(&self, interval: Duration) -> bool {
        self.marked_at.elapsed() >= interval
    }

    /// Makes everything in the WAL durable, and the mark that says so.
    pub fn write_mark(&mut self) -> io::Result<()> {
        self.marked_at = Instant::now();
        // Only here, right before an fsync: a frame that is not durable must never have another behind it.
        if let Some(committed) = self.committed.take() {
            let mut body = Vec::new();
            put_optional_log_id(&mut body, committed);
            self.append_frame(FrameKind::Committed, &body)?;
        }
        self.wal.sync()?;
        let last = self.mark.last();
        if (last.durable, last.vote, last.purged) != (self.wal.durable(), self.vote, self.purged) {
            self.mark.write(&self.shared.room, self.wal.durable(), self.vote, self.purged)?;
        }
        Ok(())
    }

    /// Starts the next segment when this one is full. Where there is no room for it, bare frames do without.
    pub fn rotate_if_full(&mut self, load: Load) -> io::Result<()> {
        if self.wal.segment_len() < self.options.segment_bytes {
            return Ok(());
        }
        let shared = self.shared.clone();
        match load {
            Load::Content => self.start_segment(&shared.room, false).map_err(Failed::error),
            Load::Bare => self.try_start_segment(false).map(drop),
        }
    }

    /// Starts the next segment, so that this one can be deleted: in the spare where there is no room. Not at all where
    /// there is none either.
    pub fn rotate_if_possible(&mut self) -> io::Result<()> {
        if !self.try_start_segment(false)? {
            self.try_start_segment(true)?;
        }
        Ok(())
    }

    /// False when there is no room for it.
    fn try_start_segment(&mut self, in_spare: bool) -> io::Result<bool> {
        match self.start_segment(&Room::impatient(), in_spare) {
            Err(Failed::Refused(error)) if lacks_room(&error) => Ok(false),
            done => done.map(|()| true).map_err(Failed::error),
        }
    }

    fn start_segment(&mut self, room: &Room, in_spare: bool) -> Result<(), Failed> {
        let (owner, last, purged, vote) = (self.shared.owner, self.last, self.purged, self.vote);
        self.wal.rotate(room, &SegmentStart { owner, last, purged, vote }, in_spare)
    }

    /// Durable when this returns, and so is everything before it.
    pub fn write_vote(&mut self, vote: Vote) -> io::Result<()> {
        self.rotate_if_full(Load::Bare)?;
        let mut body = Vec::new();
        put_vote(&mut body, Some(vote));
        self.append_frame(FrameKind::Vote, &body)?;
        self.wal.sync()?;
        self.vote = Some(vote);
        self.write_mark()
    }

    /// Durable when this returns.
    pub fn write_truncate(&mut self, after: Option<LogId>) -> io::Result<()> {
        let mut body = Vec::new();
        put_optional_log_id(&mut body, after);
        self.append_frame(FrameKind::Truncate, &body)?;
        self.wal.sync()?;
        self.last = after.or(self.purged);
        Ok(())
    }

    /// Nothing is read or written any more through what is open at this path, or below this folder: it was moved.
    pub fn forget(&mut self, below: &Path) {
        self.payloads.forget(below);
        self.shared.files.forget(below);
    }
}

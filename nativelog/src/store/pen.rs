//! What the writer thread writes with: the WAL, the mark and the staged files, and how far they are.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::frame::{FrameKind, put_optional_log_id, put_vote};
use super::mark::MarkFile;
use super::options::Options;
use super::owner::Vote;
use super::payload::PayloadWriter;
use super::shared::Shared;
use super::wal::{SegmentStart, Wal};
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

    /// A frame, not durable yet. Returns the offset of its body in the whole WAL.
    pub fn append_frame(&mut self, kind: FrameKind, body: &[u8]) -> io::Result<u64> {
        let body_at = self.wal.append(&self.shared.room, kind, body)?;
        self.shared.wal_bytes.store(self.wal.bytes(), Ordering::Relaxed);
        Ok(body_at)
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

    /// Starts the next segment when this one is full.
    pub fn rotate_if_full(&mut self) -> io::Result<()> {
        if self.wal.segment_len() >= self.options.segment_bytes { self.rotate() } else { Ok(()) }
    }

    /// Starts the next segment.
    pub fn rotate(&mut self) -> io::Result<()> {
        let (owner, last, purged, vote) = (self.shared.owner, self.last, self.purged, self.vote);
        self.wal.rotate(&self.shared.room, &SegmentStart { owner, last, purged, vote })
    }

    /// Durable when this returns, and so is everything before it.
    pub fn write_vote(&mut self, vote: Vote) -> io::Result<()> {
        self.rotate_if_full()?;
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

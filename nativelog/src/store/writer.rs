//! The writer thread: the only place that writes to the log and to staged files.
//!
//! Commands are served in the order they came. Appends that wait together share their fsyncs. What keeps the
//! log small and its files good (purge, sweep, place, repair) is in `chores.rs`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::failed::{answer, same};
use super::frame::{FrameKind, Placed, put_entry, put_optional_log_id, put_vote};
use super::index::Place;
use super::mark::MarkFile;
use super::payload::PayloadWriter;
use super::queue::Command;
use super::wal::{SegmentStart, Wal};
use super::{Done, Options, Shared, Vote};
use crate::record::{Body, Entry, Kind, LogId};

/// Appends that wait are written together up to this many bytes, headers and payloads.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// The writer thread's own things.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) wal: Wal,
    mark: MarkFile,
    pub(super) payloads: PayloadWriter,
    pub(super) options: Options,
    /// As of what is written, not of what is queued.
    vote: Option<Vote>,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    committed: Option<Option<LogId>>,
    marked_at: Instant,
}

/// Appends that are written together.
#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    done: Vec<Done>,
    bytes: usize,
}

impl Writer {
    /// A writer that goes on where recovery ended.
    pub fn new(shared: Arc<Shared>, wal: Wal, mark: MarkFile, options: Options) -> Self {
        let payloads = PayloadWriter::new(shared.disk.clone(), shared.layout.clone());
        let (vote, last, purged) = {
            let index = shared.index();
            (index.vote, index.last(), index.purged())
        };
        Writer {
            shared,
            wal,
            mark,
            payloads,
            options,
            vote,
            last,
            purged,
            committed: None,
            marked_at: Instant::now(),
        }
    }

    /// What it shares with the callers.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Serves commands until told to stop.
    pub fn run(mut self) {
        loop {
            let mut commands = self.shared.queue.take(self.options.mark_interval);
            let why = match self.serve(&mut commands) {
                Ok(false) => continue,
                Ok(true) => "the log store has stopped".to_string(),
                Err(error) => {
                    // Final: after a failed fsync the kernel may report the next one as good
                    // although the data are gone.
                    let why = format!("log write failed: {error}");
                    tracing::error!(why, "the log store stops; nothing is acknowledged from here on");
                    self.shared.fail(why.clone());
                    why
                }
            };
            for command in commands {
                command.refuse(&why);
            }
            self.shared.queue.close(&why);
            return;
        }
    }

    /// Serves all of `commands`; true when one of them was to stop.
    fn serve(&mut self, commands: &mut VecDeque<Command>) -> io::Result<bool> {
        let mut batch = Batch::default();
        let mut stop = false;
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Append { entries, done } => {
                    batch.bytes += entries.iter().map(Entry::bytes).sum::<usize>();
                    batch.entries.extend(entries);
                    batch.done.push(done);
                    if batch.bytes >= BATCH_BYTES_MAX {
                        self.write_batch(std::mem::take(&mut batch))?;
                    }
                }
                Command::Committed { committed } => self.committed = Some(committed),
                Command::Vote { vote, done } => {
                    self.write_batch(std::mem::take(&mut batch))?;
                    complete(self.write_vote(vote), vec![done])?;
                }
                Command::Truncate { after } => {
                    self.write_batch(std::mem::take(&mut batch))?;
                    self.write_truncate(after)?;
                }
                Command::Purge { upto } => {
                    self.write_batch(std::mem::take(&mut batch))?;
                    self.write_purge(upto)?;
                }
                Command::Sweep { attempts, done } => {
                    self.write_batch(std::mem::take(&mut batch))?;
                    answer(self.sweep(&attempts), done)?;
                }
                Command::Place { ranges, done } => {
                    self.write_batch(std::mem::take(&mut batch))?;
                    answer(self.place(&ranges), done)?;
                }
                Command::Copy { repair, done } => {
                    self.write_batch(std::mem::take(&mut batch))?;
                    answer(self.begin_copy(&repair), done)?;
                }
                Command::Swap { repair, copied, done } => {
                    self.write_batch(std::mem::take(&mut batch))?;
                    let swapped = self.swap(&repair, &copied);
                    // Who waits for the answer frees the old file.
                    drop(copied);
                    answer(swapped, done)?;
                }
                Command::Leave { fatal } => {
                    self.payloads.end_notes();
                    fatal.map_or(Ok(()), Err)?;
                }
                Command::Stop => {
                    stop = true;
                    break;
                }
            }
        }
        self.write_batch(batch)?;
        if stop || self.marked_at.elapsed() >= self.options.mark_interval {
            self.write_mark()?;
        }
        Ok(stop)
    }

    pub(super) fn append_frame(&mut self, kind: FrameKind, body: &[u8]) -> io::Result<u64> {
        let body_at = self.wal.append(&self.shared.room, kind, body)?;
        self.shared.wal_bytes.store(self.wal.bytes(), Ordering::Relaxed);
        Ok(body_at)
    }

    pub(super) fn write_mark(&mut self) -> io::Result<()> {
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

    fn rotate_if_full(&mut self) -> io::Result<()> {
        if self.wal.segment_len() >= self.options.segment_bytes { self.rotate() } else { Ok(()) }
    }

    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let (owner, last, purged, vote) = (self.shared.owner, self.last, self.purged, self.vote);
        self.wal.rotate(&self.shared.room, &SegmentStart { owner, last, purged, vote })
    }

    /// Steps 1 to 5 of the module's picture.
    fn write_batch(&mut self, batch: Batch) -> io::Result<()> {
        if batch.done.is_empty() {
            return Ok(());
        }
        let written = self.write_entries(batch.entries);
        complete(written, batch.done)
    }

    fn write_entries(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        self.rotate_if_full()?;
        // An entry that was truncated while it waited here is dropped: its bytes must not land
        // after those of the entry that replaced it.
        let mut work: Vec<(Entry, (Placed, bool))> = Vec::with_capacity(entries.len());
        {
            let mut index = self.shared.index();
            for entry in entries {
                if !index.holds(entry.id) {
                    continue;
                }
                let placed = match &entry.body {
                    Body::Record(record) => index.claim(entry.id.index, record),
                    _ => (Placed::Inline, false),
                };
                work.push((entry, placed));
            }
        }
        let Some(last) = work.last().map(|(entry, _)| entry.id) else { return Ok(()) };
        self.purge_before(work[0].0.id.index)?;
        for (entry, (placed, write)) in &work {
            if let Body::Record(record) = &entry.body
                && let Some(Kind::Zero(zero)) = &record.header.kind
                && *write
            {
                let path = self.shared.layout.staged_file(zero.attempt, zero.file);
                let range = zero.offset..zero.offset.saturating_add(zero.len);
                self.payloads.clear(&self.shared.room, path, range)?;
            } else if let Body::Record(record) = &entry.body
                && *write
            {
                let (index, room) = (entry.id.index, &self.shared.room);
                self.payloads.write(room, index, *placed, &record.header, &record.payload)?;
            }
        }
        self.payloads.sync()?;
        let mut body = Vec::new();
        let mut offsets = Vec::with_capacity(work.len());
        for (entry, (placed, _)) in &work {
            offsets.push(put_entry(&mut body, entry, *placed));
        }
        let body_at = self.append_frame(FrameKind::Entries, &body)?;
        self.wal.sync()?;
        self.last = Some(last);
        let mut index = self.shared.index();
        for ((entry, (placed, _)), (header_at, header_len)) in work.iter().zip(offsets) {
            let header_position = body_at + header_at as u64;
            let place = match placed {
                Placed::Inline => Place::Inline { position: header_position + header_len as u64 },
                Placed::Staged => Place::Staged,
                Placed::Aside => Place::Aside,
            };
            index.written(entry.id, header_position, header_len, place);
        }
        if index.holds(last) {
            self.shared.flushed.send_replace(last.index + 1);
            self.shared.flush_wake.notify_all();
        }
        Ok(())
    }

    fn write_vote(&mut self, vote: Vote) -> io::Result<()> {
        self.rotate_if_full()?;
        let mut body = Vec::new();
        put_vote(&mut body, Some(vote));
        self.append_frame(FrameKind::Vote, &body)?;
        self.wal.sync()?;
        self.vote = Some(vote);
        self.write_mark()
    }

    fn write_truncate(&mut self, after: Option<LogId>) -> io::Result<()> {
        let mut body = Vec::new();
        put_optional_log_id(&mut body, after);
        self.append_frame(FrameKind::Truncate, &body)?;
        self.wal.sync()?;
        self.last = after.or(self.purged);
        Ok(())
    }
}

fn complete(result: io::Result<()>, done: Vec<Done>) -> io::Result<()> {
    for done in done {
        done(match &result {
            Ok(()) => Ok(()),
            Err(error) => Err(same(error)),
        });
    }
    result
}

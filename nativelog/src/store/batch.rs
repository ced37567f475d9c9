//! Appends: payloads into staged files, headers into the WAL, steps 1 to 5 of the picture in `store.rs`.
//!
//! **Guarantees.** Payloads are durable, their names included, before the frame that names them is written; who waits
//! is told after that is durable. An entry that was truncated while it waited leaves no byte.

use std::io;

use super::failed::same;
use super::frame::{FrameKind, Placed, put_entry};
use super::index::Place;
use super::pen::Pen;
use super::queue::Done;
use super::wal::Load;
use crate::record::{Body, Entry, Kind};

/// Appends that wait are written together up to this many bytes, headers and payloads.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Appends that are written together.
#[derive(Default)]
pub struct Batch {
    entries: Vec<Entry>,
    done: Vec<Done>,
    bytes: usize,
}

/// What these bring.
pub fn load(entries: &[Entry]) -> Load {
    let brings = |entry: &Entry| matches!(&entry.body, Body::Record(record) if record.brings_content());
    if entries.iter().any(brings) { Load::Content } else { Load::Bare }
}

impl Batch {
    /// It has some, and none of them brings content.
    pub fn is_bare(&self) -> bool {
        !self.entries.is_empty() && load(&self.entries) == Load::Bare
    }

    /// Takes one more append.
    pub fn push(&mut self, entries: Vec<Entry>, done: Done) {
        self.bytes += entries.iter().map(Entry::bytes).sum::<usize>();
        self.entries.extend(entries);
        self.done.push(done);
    }

    /// It takes no more.
    pub fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
    }
}

impl Pen {
    /// Writes what was gathered, if anything was, and answers.
    pub fn write_batch(&mut self, batch: &mut Batch) -> io::Result<()> {
        if batch.done.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(batch);
        let written = self.write_entries(batch.entries);
        complete(written, batch.done)
    }

    fn write_entries(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let load = load(&entries);
        self.rotate_if_full(load)?;
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
        let body_at = self.append(FrameKind::Entries, load, &body)?;
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
}

/// Tells all of them.
pub fn complete(result: io::Result<()>, done: Vec<Done>) -> io::Result<()> {
    for done in done {
        done(match &result {
            Ok(()) => Ok(()),
            Err(error) => Err(same(error)),
        });
    }
    result
}

//! What readers get: headers from memory or from the WAL, payloads from memory, from the WAL or from staged files.
//!
//! **Guarantees.** No payload that was read back from disk is returned without having been checked against its
//! digest. What is returned has no holes.
//!
//! **Never.** A payload that does not verify is no storage error: its reader waits until it is repaired, or given up.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::LogStore;
use super::index::{Place, Slot};
use crate::record::{Body, Entry, LogId, LogRecord};
use crate::shape;

impl LogStore {
    /// The entries in `range` that the log holds, without payloads that lie outside the header.
    ///
    /// # Errors
    /// When a header cannot be read back or does not decode.
    pub fn headers(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let mut out: Vec<Entry> = Vec::new();
        let mut next = range.start;
        while next < range.end {
            let slots = self.shared().index().slots(next..range.end.min(next + 256));
            let Some(first) = slots.first() else { break };
            if first.id.index > next {
                // Purged since the last look: what came before is gone too.
                out.clear();
            }
            for slot in slots {
                let id = slot.id;
                match self.header(slot) {
                    Ok(entry) => out.push(entry),
                    // Its segment was deleted since the index was asked.
                    Err(_) if self.is_purged(id) => out.clear(),
                    Err(error) => return Err(error),
                }
                next = id.index + 1;
            }
        }
        Ok(out)
    }

    /// The newest membership at or below `upto` that the log holds, as the `raft` crate encoded it. `None` when it
    /// was purged: the snapshot that allowed the purge has it.
    ///
    /// # Errors
    /// When its header cannot be read back.
    pub fn last_membership(&self, upto: u64) -> io::Result<Option<(LogId, Bytes)>> {
        let Some(at) = self.shared().index().last_membership(upto) else { return Ok(None) };
        for entry in self.headers(at..at + 1)? {
            if let Body::Membership(bytes) = entry.body {
                return Ok(Some((entry.id, bytes)));
            }
        }
        Ok(None)
    }

    fn is_purged(&self, id: LogId) -> bool {
        self.shared().index().first() > id.index
    }

    pub(super) fn header(&self, slot: Slot) -> io::Result<Entry> {
        let body = match slot.body {
            Some(body) => body,
            None => self.shared().segments.body(&slot)?,
        };
        Ok(Entry { id: slot.id, body })
    }

    /// Entries from `start` to below `end` with their payloads, at most about `max_bytes` of them
    /// but never fewer than one while `start` is held, and none when it is not. Every payload read back from disk is
    /// checked against its digest before it is returned. An entry whose payload was [given up](LogStore::give_up)
    /// comes alone and without it.
    ///
    /// # Errors
    /// When a header cannot be read back, or the store is shutting down while a damaged payload
    /// waits for its repair.
    pub fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let slots = self.shared().index().slots(start..end.min(start + 256));
        if slots.first().is_some_and(|first| first.id.index > start) {
            return Ok(Vec::new());
        }
        let mut out = Vec::with_capacity(slots.len());
        let mut bytes = 0usize;
        for slot in slots {
            let size = slot.payload_len as usize + slot.header_len as usize;
            if !out.is_empty() && bytes + size > max_bytes {
                break;
            }
            bytes += size;
            let id = slot.id;
            match self.whole(slot, true) {
                Ok(entry) => out.push(entry),
                Err(_) if self.is_purged(id) => return Ok(Vec::new()),
                Err(_) if self.shared().rotten.is_given_up(id) => {
                    if out.is_empty() {
                        out.extend(self.headers(id.index..id.index + 1)?);
                    }
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(out)
    }

    /// True when [`LogStore::read`] of `start..end` would not touch the disk.
    pub fn is_cached(&self, start: u64, end: u64, max_bytes: usize) -> bool {
        self.shared().index().is_cached(start..end, max_bytes)
    }

    /// The payload of the record at `index`, checked.
    ///
    /// # Errors
    /// At once when the log does not hold it, or it does not verify.
    pub fn payload(&self, index: u64) -> io::Result<Bytes> {
        match self.whole(self.slot(index)?, false)?.body {
            Body::Record(record) => Ok(record.payload),
            _ => Ok(Bytes::new()),
        }
    }

    pub(super) fn slot(&self, index: u64) -> io::Result<Slot> {
        let slot = self.shared().index().slots(index..index + 1).pop();
        slot.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no log entry {index}")))
    }

    fn whole(&self, slot: Slot, patient: bool) -> io::Result<Entry> {
        let payload_len = slot.payload_len;
        let cached = slot.payload.clone();
        let (id, place) = (slot.id, slot.place);
        let entry = self.header(slot)?;
        let Body::Record(record) = &entry.body else { return Ok(entry) };
        if payload_len == 0 {
            return Ok(entry);
        }
        let payload = match cached {
            Some(payload) => payload,
            None => self.read_back(id, place, record, patient)?,
        };
        let record = LogRecord::from_parts(record.header.clone(), payload);
        Ok(Entry { id, body: Body::Record(record) })
    }

    /// Reads a payload from disk and checks it. A patient reader of a damaged one shows it in
    /// [`LogStore::rotten`] and waits until it is repaired, or given up: then it stays shown.
    fn read_back(&self, id: LogId, place: Place, record: &LogRecord, patient: bool) -> io::Result<Bytes> {
        let shared = self.shared();
        let mut waits = shared.rotten.is_given_up(id);
        let result = loop {
            let changes = shared.rotten.changes();
            let why = match self.read_checked(id, place, record) {
                Ok(payload) => break Ok(payload),
                Err(why) => why,
            };
            if !shared.index().holds(id) {
                let why = format!("entry {id} is gone from the log");
                break Err(io::Error::new(io::ErrorKind::NotFound, why));
            }
            if !patient || shared.stopping.load(Ordering::Relaxed) {
                break Err(io::Error::new(io::ErrorKind::InvalidData, format!("payload of {id}: {why}")));
            }
            if shared.rotten.is_given_up(id) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("nobody has the payload of {id}: {why}"),
                ));
            }
            if !waits {
                tracing::error!(position = %id, record = %record, why, "payload does not verify; nothing is served from it until it is repaired");
                waits = true;
                shared.rotten.add(id.index);
            }
            shared.rotten.wait(changes);
        };
        if waits {
            shared.rotten.remove(id.index);
        }
        result
    }

    fn read_checked(&self, id: LogId, place: Place, record: &LogRecord) -> Result<Bytes, String> {
        let shared = self.shared();
        let read = match place {
            Place::Inline { position } => match shared.rotten.kept(id) {
                Some(payload) => Ok(payload),
                None => shared.segments.inline(position, record.header.payload_bytes),
            },
            Place::Staged | Place::Aside => shared.files.read(id.index, place, &record.header),
            Place::Pending => Err(io::Error::other("payload is neither cached nor placed")),
        };
        let payload = read.map_err(|error| error.to_string())?;
        match shape::check_shape(&record.header, Some(&payload)) {
            Ok(()) => Ok(payload),
            Err(why) if matches!(place, Place::Inline { .. }) => Err(format!("{why}, and {INLINE}")),
            Err(why) => Err(why.to_string()),
        }
    }
}

/// What is wrong, and what to do, when an inline payload does not verify.
pub(super) const INLINE: &str = "it lies inline in the WAL: the log itself is damaged. \
     Stop this node and run `epochlog repair` on it, or replace it";

//! The index: which entries the log holds and where their bytes lie. Memory only; rebuilt at start.
//!
//! An entry that is not durable yet is held whole (header and payload); a durable one keeps about
//! 64 bytes here. Its header stays in a bounded cache while it is likely to be asked for, its payload only at the
//! leader: nobody asks a follower for it.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::cache::Cache;
use super::claims::{Claims, attempt_of};
use super::frame::Placed;
use super::owner::Vote;
use crate::record::{Body, Entry, LogId, LogRecord};

/// Slots that may stay allocated although nothing lies in them.
const SLOTS_SPARE: usize = 4096;

/// Where a payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not on disk yet.
    Pending,
    /// In the WAL, at this offset of the whole WAL.
    Inline {
        /// Offset in the whole WAL.
        position: u64,
    },
    /// In the staged file that the header names.
    Staged,
    /// In `aside/<index>`.
    Aside,
}

/// What the index knows of one entry.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its position.
    pub id: LogId,
    /// 0 blank, 1 membership, 2 record.
    pub tag: u8,
    /// Where the payload lies.
    pub place: Place,
    /// Offset of the header bytes in the whole WAL; `u64::MAX` while not written.
    pub header_position: u64,
    /// Bytes of the header; 0 while not written.
    pub header_len: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// The header, when it is in memory.
    pub body: Option<Body>,
    /// The payload, when it is in memory.
    pub payload: Option<Bytes>,
}

#[derive(Debug)]
struct Resident {
    term: u64,
    node: u64,
    header_position: u64,
    place: Place,
    header_len: u32,
    payload_len: u32,
    tag: u8,
}

/// All entries of the log, by index.
pub struct Index {
    first: u64,
    slots: VecDeque<Resident>,
    purged: Option<LogId>,
    memberships: Vec<u64>,
    /// Headers and payloads in memory; entries that are not durable are pinned.
    cache: Cache,
    /// Which ranges of staged files are taken, and which attempts are named.
    pub claims: Claims,
    node: u64,
    /// This node leads, as far as it knows.
    leads: bool,
    /// The last saved vote.
    pub vote: Option<Vote>,
    /// The last saved committed position.
    pub committed: Option<LogId>,
}

impl Index {
    /// An empty log of this node.
    pub fn new(node: u64, cache_bytes: usize) -> Self {
        Index {
            first: 0,
            slots: VecDeque::new(),
            purged: None,
            memberships: Vec::new(),
            cache: Cache::new(cache_bytes),
            claims: Claims::default(),
            node,
            leads: false,
            vote: None,
            committed: None,
        }
    }

    /// Takes over a vote; who does not lead by it keeps no durable payload in memory.
    pub fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
        self.leads = vote.committed && vote.node == self.node;
        if !self.leads {
            self.cache.drop_payloads();
        }
    }

    /// Keeps no durable payload in memory.
    pub fn rest(&mut self) {
        self.cache.drop_payloads();
    }

    /// An empty log whose next entry is the one after `before`.
    pub fn start_after(&mut self, before: Option<LogId>) {
        self.truncate(0);
        self.slots.clear();
        self.purged = before;
        self.first = before.map_or(0, |id| id.index + 1);
    }

    /// The index of the first entry that is not purged, or would be the first.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The index after the last one.
    pub fn next_index(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Last purged position.
    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Last position, the purged one when the log is empty.
    pub fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => Some(LogId { term: slot.term, node: slot.node, index: self.next_index() - 1 }),
            None => self.purged,
        }
    }

    fn resident(&self, index: u64) -> Option<&Resident> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The position at `index`.
    pub fn log_id(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.purged
            && purged.index == index
        {
            return self.purged;
        }
        self.resident(index).map(|slot| LogId { term: slot.term, node: slot.node, index })
    }

    /// The highest index at or below `upto` that holds a membership.
    pub fn last_membership(&self, upto: u64) -> Option<u64> {
        self.memberships.iter().rev().find(|at| **at <= upto).copied()
    }

    fn push_resident(&mut self, id: LogId, slot: Resident) {
        assert!(
            id.index == self.next_index() || (self.slots.is_empty() && self.purged.is_none()),
            "hole in the log: {id} after {:?}",
            self.last()
        );
        if self.slots.is_empty() {
            self.first = id.index;
        }
        if slot.tag == 1 {
            self.memberships.push(id.index);
        }
        self.slots.push_back(slot);
    }

    /// Takes an entry that is not on disk yet; it stays in memory until it is.
    pub fn push(&mut self, entry: &Entry) {
        let (tag, header, payload) = match &entry.body {
            Body::Blank => (0, entry.body.clone(), Bytes::new()),
            Body::Membership(_) => (1, entry.body.clone(), Bytes::new()),
            Body::Record(record) => {
                if let Some(attempt) = attempt_of(record) {
                    self.claims.name(attempt, entry.id.index);
                }
                let header = LogRecord::from_parts(record.header.clone(), Bytes::new());
                (2, Body::Record(header), record.payload.clone())
            }
        };
        let slot = Resident {
            term: entry.id.term,
            node: entry.id.node,
            header_position: u64::MAX,
            place: Place::Pending,
            header_len: 0,
            payload_len: payload.len() as u32,
            tag,
        };
        self.push_resident(entry.id, slot);
        self.cache.insert_pinned(entry.id.index, header, payload);
    }

    /// Takes an entry found on disk at start.
    pub fn push_recovered(&mut self, slot: &Slot, placed: Placed) {
        let resident = Resident {
            term: slot.id.term,
            node: slot.id.node,
            header_position: slot.header_position,
            place: slot.place,
            header_len: slot.header_len,
            payload_len: slot.payload_len,
            tag: slot.tag,
        };
        self.push_resident(slot.id, resident);
        let Some(Body::Record(record)) = &slot.body else { return };
        if placed == Placed::Staged {
            self.claim(slot.id.index, record);
        }
        if let Some(attempt) = attempt_of(record) {
            self.claims.name(attempt, slot.id.index);
        }
    }

    /// True when this entry is still part of the log.
    pub fn holds(&self, id: LogId) -> bool {
        self.log_id(id.index) == Some(id) && self.resident(id.index).is_some()
    }

    /// Decides where the payload of `record` goes, as [`Claims::claim`] does.
    pub fn claim(&mut self, index: u64, record: &LogRecord) -> (Placed, bool) {
        let (first, slots) = (self.first, &self.slots);
        self.claims.claim(index, record, |by| match by.checked_sub(first) {
            // What is purged was durable.
            None => true,
            Some(at) => slots.get(at as usize).is_some_and(|slot| slot.place == Place::Staged),
        })
    }

    /// Marks an entry as written: from here on it may leave the memory.
    pub fn written(&mut self, id: LogId, header_position: u64, header_len: usize, place: Place) {
        if !self.holds(id) {
            return;
        }
        let at = (id.index - self.first) as usize;
        let slot = &mut self.slots[at];
        slot.header_position = header_position;
        slot.header_len = header_len as u32;
        slot.place = place;
        self.cache.unpin(id.index, header_len, self.leads);
    }

    /// Drops `next` and everything above it.
    pub fn truncate(&mut self, next: u64) {
        let keep = next.saturating_sub(self.first) as usize;
        self.slots.truncate(keep);
        self.memberships.retain(|at| *at < next);
        self.claims.truncate(next);
        self.cache.remove_from(next);
    }

    /// Drops everything up to and including `upto`, which may lie above the last entry. That the claims name
    /// attempts by these entries stays until the purge is durable ([`Claims::purged`]).
    pub fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        if upto.index >= self.next_index() {
            // A snapshot took the place of a log that ends below it: what its last entries claimed may never have been
            // committed, and the ledger of the snapshot alone says which ranges are taken.
            self.claims.drop_purged(upto.index);
        }
        let gone = (upto.index + 1).saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        if self.slots.capacity() > 2 * self.slots.len() + SLOTS_SPARE {
            self.slots.shrink_to(self.slots.len() + SLOTS_SPARE);
        }
        self.first = self.first.max(upto.index + 1);
        self.purged = Some(upto);
        // The headers are gone with their segments: the snapshot that allowed the purge has the membership.
        self.memberships.retain(|at| *at > upto.index);
        self.cache.remove_below(upto.index + 1);
    }

    /// Copies of the slots in `range` that the log holds.
    pub fn slots(&self, range: Range<u64>) -> Vec<Slot> {
        let start = range.start.max(self.first);
        let end = range.end.min(self.next_index());
        (start..end)
            .filter_map(|index| {
                let slot = self.resident(index)?;
                let (body, payload) = self.cache.get(index);
                Some(Slot {
                    id: LogId { term: slot.term, node: slot.node, index },
                    tag: slot.tag,
                    place: slot.place,
                    header_position: slot.header_position,
                    header_len: slot.header_len,
                    payload_len: slot.payload_len,
                    body,
                    payload,
                })
            })
            .collect()
    }

    /// True when the first `max_bytes` of `range` are all in memory.
    pub fn is_cached(&self, range: Range<u64>, max_bytes: usize) -> bool {
        let mut bytes = 0;
        for index in range {
            let Some(slot) = self.resident(index) else { break };
            if !self.cache.has(index, slot.payload_len) {
                return false;
            }
            bytes += slot.payload_len as usize;
            if bytes >= max_bytes {
                break;
            }
        }
        true
    }
}

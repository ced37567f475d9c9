//! Headers and payloads in memory: at the leader, for the followers that replicate the newest entries.
//!
//! An entry that is not durable yet is pinned: nothing but this memory holds it. Durable payloads
//! stay while they fit into a budget in bytes, newest last. Reads never insert, so that a follower
//! that catches up does not push out what the others need.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::record::Body;

/// Decoded headers kept beyond the pinned ones; a chunk's takes about 300 bytes.
const HEADERS_MAX: usize = 8192;
/// Encoded bytes of the headers kept beyond the pinned ones; decoded, a page of a plan takes three to four times as much.
const HEADER_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
struct Held {
    body: Body,
    payload: Option<Bytes>,
    payload_len: usize,
    /// Encoded; 0 while pinned.
    header_len: usize,
    pinned: bool,
}

/// The cache of one log.
#[derive(Debug)]
pub struct Cache {
    held: BTreeMap<u64, Held>,
    payload_bytes_max: usize,
    /// Bytes of payloads that are held and not pinned.
    payload_bytes: usize,
    /// Encoded bytes of headers that are held and not pinned.
    header_bytes: usize,
    /// Below this index no payload is held unpinned.
    oldest_payload: u64,
}

impl Cache {
    /// A cache of `payload_bytes_max` bytes beyond what is pinned.
    pub fn new(payload_bytes_max: usize) -> Self {
        Cache {
            held: BTreeMap::new(),
            payload_bytes_max,
            payload_bytes: 0,
            header_bytes: 0,
            oldest_payload: 0,
        }
    }

    /// Takes an entry that is not durable yet.
    pub fn insert_pinned(&mut self, index: u64, body: Body, payload: Bytes) {
        let payload_len = payload.len();
        self.held
            .insert(index, Held { body, payload: Some(payload), payload_len, header_len: 0, pinned: true });
    }

    /// The entry is durable: it may go when the budget asks for it, and its payload at once unless `keep` says that
    /// it will be asked for.
    pub fn unpin(&mut self, index: u64, header_len: usize, keep: bool) {
        let Some(held) = self.held.get_mut(&index) else { return };
        if !held.pinned {
            return;
        }
        held.pinned = false;
        held.header_len = header_len;
        self.header_bytes += header_len;
        if keep {
            self.payload_bytes += held.payload_len;
            self.oldest_payload = self.oldest_payload.min(index);
        } else if held.payload_len > 0 {
            held.payload = None;
        }
        self.shrink();
    }

    /// Drops every payload that is durable.
    pub fn drop_payloads(&mut self) {
        for held in self.held.values_mut() {
            if !held.pinned && held.payload_len > 0 && held.payload.take().is_some() {
                self.payload_bytes -= held.payload_len;
            }
        }
    }

    fn shrink(&mut self) {
        if self.payload_bytes > self.payload_bytes_max {
            for (index, held) in self.held.range_mut(self.oldest_payload..) {
                if self.payload_bytes <= self.payload_bytes_max {
                    break;
                }
                self.oldest_payload = *index;
                if !held.pinned && held.payload.take().is_some() {
                    self.payload_bytes -= held.payload_len;
                }
            }
        }
        while self.held.len() > HEADERS_MAX || self.header_bytes > HEADER_BYTES_MAX {
            match self.held.first_entry() {
                Some(first) if !first.get().pinned => {
                    let held = first.remove();
                    self.header_bytes -= held.header_len;
                    if held.payload.is_some() {
                        self.payload_bytes -= held.payload_len;
                    }
                }
                _ => break,
            }
        }
    }

    /// Header and payload of `index`, as far as they are held.
    pub fn get(&self, index: u64) -> (Option<Body>, Option<Bytes>) {
        self.held.get(&index).map_or((None, None), |held| (Some(held.body.clone()), held.payload.clone()))
    }

    /// True when header and payload are held.
    pub fn has(&self, index: u64, payload_len: u32) -> bool {
        self.held.get(&index).is_some_and(|held| payload_len == 0 || held.payload.is_some())
    }

    fn forget(&mut self, gone: impl IntoIterator<Item = Held>) {
        for held in gone {
            self.header_bytes -= held.header_len;
            if !held.pinned && held.payload.is_some() {
                self.payload_bytes -= held.payload_len;
            }
        }
    }

    /// Drops `next` and everything above it.
    pub fn remove_from(&mut self, next: u64) {
        let gone = self.held.split_off(&next);
        self.forget(gone.into_values());
        self.oldest_payload = self.oldest_payload.min(next);
    }

    /// Drops everything below `next`.
    pub fn remove_below(&mut self, next: u64) {
        let keep = self.held.split_off(&next);
        let gone = std::mem::replace(&mut self.held, keep);
        self.forget(gone.into_values());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_payloads_never_leave_and_durable_ones_fit_the_budget() {
        let mut cache = Cache::new(100);
        for index in 0..10 {
            cache.insert_pinned(index, Body::Blank, Bytes::from(vec![0; 40]));
        }
        assert!((0..10).all(|index| cache.has(index, 40)));
        for index in 0..6 {
            cache.unpin(index, 0, true);
        }
        let held: Vec<u64> = (0..10).filter(|index| cache.has(*index, 40)).collect();
        assert_eq!(held, [4, 5, 6, 7, 8, 9]);
        cache.remove_from(8);
        cache.remove_below(5);
        assert!(!cache.has(4, 40) && cache.has(5, 40) && cache.has(7, 40) && !cache.has(8, 40));
        assert_eq!(cache.payload_bytes, 40);
    }

    #[test]
    fn durable_headers_fit_their_budget_and_the_newest_stay() {
        // As large as a page of a plan can be.
        const HEADER_BYTES: usize = 256 << 10;
        const ENTRIES: u64 = 100;
        let mut cache = Cache::new(1 << 30);
        for index in 0..ENTRIES {
            cache.insert_pinned(index, Body::Blank, Bytes::from(vec![0; 10]));
        }
        assert_eq!(cache.held.len() as u64, ENTRIES, "pinned headers never leave");
        for index in 0..ENTRIES {
            cache.unpin(index, HEADER_BYTES, true);
        }
        let kept = (HEADER_BYTES_MAX / HEADER_BYTES) as u64;
        let held: Vec<u64> = cache.held.keys().copied().collect();
        assert_eq!(held, (ENTRIES - kept..ENTRIES).collect::<Vec<u64>>());
        assert_eq!(cache.header_bytes, kept as usize * HEADER_BYTES);
        assert_eq!(cache.payload_bytes, kept as usize * 10);
        cache.remove_from(ENTRIES - 1);
        cache.remove_below(ENTRIES - 3);
        assert_eq!(cache.header_bytes, 2 * HEADER_BYTES);
        cache.remove_below(ENTRIES);
        assert_eq!((cache.header_bytes, cache.payload_bytes), (0, 0));
    }

    #[test]
    fn who_does_not_lead_keeps_no_durable_payload() {
        let mut cache = Cache::new(1000);
        for index in 0..3 {
            cache.insert_pinned(index, Body::Blank, Bytes::from(vec![0; 40]));
        }
        cache.unpin(0, 1, true);
        cache.unpin(1, 1, false);
        assert!(cache.has(0, 40) && !cache.has(1, 40) && cache.has(2, 40));
        cache.drop_payloads();
        assert!(!cache.has(0, 40) && cache.has(2, 40), "what is not durable yet stays");
        assert!(cache.get(0).0.is_some(), "headers stay");
        assert_eq!(cache.payload_bytes, 0);
        cache.remove_below(3);
        assert_eq!((cache.payload_bytes, cache.header_bytes), (0, 0));
    }

    #[test]
    fn small_durable_headers_are_bounded_in_number() {
        let mut cache = Cache::new(1 << 30);
        for index in 0..HEADERS_MAX as u64 + 100 {
            cache.insert_pinned(index, Body::Blank, Bytes::new());
            cache.unpin(index, 1, true);
        }
        assert_eq!(cache.held.len(), HEADERS_MAX);
        assert!(!cache.has(99, 0) && cache.has(100, 0));
    }
}

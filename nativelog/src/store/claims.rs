//! Who wrote which range of which staged file, and which attempts the log still names.
//!
//! **Guarantees.** A range that one entry has taken is not given to another with other bytes, also when the first
//! one was purged meanwhile: its bytes belong to the attempt until the attempt's folder is swept. An attempt
//! is named here at least as long as an entry of the log has its payload in that folder.
//!
//! Memory only. After a restart the claims of entries that are still in the log are known again; those of purged
//! ones are not, and the ledger alone keeps others off their ranges. So it is behind a snapshot that took the place of
//! a log which ends below it: the last entries of that log may never have been committed.

use std::collections::BTreeMap;

use bytes::Bytes;
use checkpoint::limits::CHUNK_BYTES_MAX;

use super::frame::Placed;
use crate::record::{Kind, LogRecord};

/// Attempt, file and offset of a range.
type RangeAt = (u64, u32, u64);

#[derive(Debug)]
struct Claim {
    /// The entry; `None` for bytes that were brought without one.
    by: Option<u64>,
    len: u64,
    digest: Bytes,
}

/// All claims of a log. Ranges do not overlap.
#[derive(Debug, Default)]
pub struct Claims {
    ranges: BTreeMap<RangeAt, Claim>,
    /// The highest entry that has, or will have, its payload in the attempt's folder. After a truncation it may be
    /// too high, never too low.
    named: BTreeMap<u64, u64>,
}

/// The attempt in whose folder the payload of `record` lies.
pub fn attempt_of(record: &LogRecord) -> Option<u64> {
    match &record.header.kind {
        Some(Kind::Chunk(chunk)) => Some(chunk.attempt),
        _ => None,
    }
}

impl Claims {
    /// An entry names the folder of this attempt.
    pub fn name(&mut self, attempt: u64, index: u64) {
        let highest = self.named.entry(attempt).or_insert(index);
        *highest = index.max(*highest);
    }

    /// True when an entry that is not durably purged may name the attempt's folder.
    pub fn names(&self, attempt: u64) -> bool {
        self.named.contains_key(&attempt)
    }

    /// Decides where the chunk of `record` goes: in place, unless somebody else has put other bytes there. The
    /// flag is false when the same bytes are there already, as `is_written` says of the entry that brought them.
    /// For a run of zeros the flag says whether its range may be cleared.
    pub fn claim(
        &mut self,
        index: u64,
        record: &LogRecord,
        is_written: impl Fn(u64) -> bool,
    ) -> (Placed, bool) {
        if let Some(Kind::Zero(zero)) = &record.header.kind {
            // Nothing that the log has brought may be cleared away (the ledger rejects such a run).
            let end = zero.offset.saturating_add(zero.len);
            return (
                Placed::Inline,
                self.overlapping((zero.attempt, zero.file), zero.offset, end).is_empty(),
            );
        }
        let Some(Kind::Chunk(chunk)) = &record.header.kind else { return (Placed::Inline, false) };
        let (offset, len) = (chunk.offset, u64::from(chunk.len));
        let overlapping = self.overlapping((chunk.attempt, chunk.file), offset, offset.saturating_add(len));
        match overlapping.as_slice() {
            [] => {
                let claim = Claim { by: Some(index), len, digest: chunk.digest.clone() };
                self.ranges.insert((chunk.attempt, chunk.file, offset), claim);
                (Placed::Staged, true)
            }
            [at] => {
                let claim = &self.ranges[at];
                match claim.by {
                    Some(by) if at.2 == offset && claim.len == len && claim.digest == chunk.digest => {
                        (Placed::Staged, !is_written(by))
                    }
                    _ => (Placed::Aside, true),
                }
            }
            _ => (Placed::Aside, true),
        }
    }

    /// Checked bytes are put into this range without an entry: whatever was claimed there is void.
    pub fn bring(&mut self, attempt: u64, file: u32, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        for at in self.overlapping((attempt, file), offset, end) {
            self.ranges.remove(&at);
        }
        let mut at = offset;
        while at < end {
            // No claim is longer than a chunk: `overlapping` looks no further back.
            let len = (end - at).min(u64::from(CHUNK_BYTES_MAX));
            self.ranges.insert((attempt, file, at), Claim { by: None, len, digest: Bytes::new() });
            at += len;
        }
    }

    /// The claims that overlap `[offset, end)` of a staged file.
    fn overlapping(&self, (attempt, file): (u64, u32), offset: u64, end: u64) -> Vec<RangeAt> {
        if offset >= end {
            return Vec::new();
        }
        let near = (attempt, file, offset.saturating_sub(u64::from(CHUNK_BYTES_MAX)));
        let near = self.ranges.range(near..(attempt, file, end));
        near.filter(|((.., at), claim)| at + claim.len > offset).map(|(at, _)| *at).collect()
    }

    /// Entries from `next` on are gone.
    pub fn truncate(&mut self, next: u64) {
        self.ranges.retain(|_, claim| claim.by.is_none_or(|by| by < next));
        for highest in self.named.values_mut() {
            *highest = (*highest).min(next.saturating_sub(1));
        }
    }

    /// Entries up to `upto` are gone, durably: they name no folder any more.
    pub fn purged(&mut self, upto: u64) {
        self.named.retain(|_, highest| *highest > upto);
    }

    /// Drops the claims of entries up to `upto`: at start they are known by chance only, and of a log that a snapshot
    /// took the place of they may be wrong.
    pub fn drop_purged(&mut self, upto: u64) {
        self.ranges.retain(|_, claim| claim.by.is_none_or(|by| by > upto));
    }

    /// The folder of this attempt is gone.
    pub fn sweep(&mut self, attempt: u64) {
        let all = (attempt, 0, 0)..=(attempt, u32::MAX, u64::MAX);
        let gone: Vec<RangeAt> = self.ranges.range(all).map(|(at, _)| *at).collect();
        for at in gone {
            self.ranges.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::proto;

    fn chunk(attempt: u64, offset: u64, len: u32, digest: u8) -> LogRecord {
        let digest = vec![digest; 32].into();
        let chunk = proto::Chunk { attempt, file: 1, offset, len, digest, file_bytes: 1 << 30 };
        LogRecord::new(Kind::Chunk(chunk), Bytes::from(vec![0; len as usize]))
    }

    #[test]
    fn a_range_stays_taken_after_its_entry_was_purged_until_the_attempt_is_swept() {
        let mut claims = Claims::default();
        assert_eq!(claims.claim(3, &chunk(1, 0, 100, 7), |_| true), (Placed::Staged, true));
        claims.name(1, 3);
        claims.purged(3);
        assert!(!claims.names(1));
        assert_eq!(claims.claim(9, &chunk(1, 0, 100, 8), |_| true), (Placed::Aside, true));
        assert_eq!(claims.claim(9, &chunk(1, 0, 100, 7), |_| true), (Placed::Staged, false));
        assert_eq!(claims.claim(9, &chunk(2, 0, 100, 8), |_| true), (Placed::Staged, true));
        claims.sweep(1);
        assert_eq!(claims.claim(10, &chunk(1, 0, 100, 8), |_| true), (Placed::Staged, true));
        assert_eq!(claims.claim(11, &chunk(2, 0, 100, 9), |_| true), (Placed::Aside, true));
    }

    #[test]
    fn a_truncation_never_forgets_a_name_too_early() {
        let mut claims = Claims::default();
        claims.name(1, 3);
        claims.name(1, 8);
        claims.truncate(5);
        claims.purged(2);
        assert!(claims.names(1), "entry 3 is still there");
        claims.purged(4);
        assert!(!claims.names(1));
    }

    #[test]
    fn brought_bytes_take_their_range_from_whoever_had_it() {
        let mut claims = Claims::default();
        assert_eq!(claims.claim(3, &chunk(1, 100, 100, 7), |_| true), (Placed::Staged, true));
        claims.bring(1, 1, 0, 2 * u64::from(CHUNK_BYTES_MAX) + 5);
        claims.truncate(0);
        for offset in [0, 100, u64::from(CHUNK_BYTES_MAX) - 50, 2 * u64::from(CHUNK_BYTES_MAX)] {
            assert_eq!(claims.claim(9, &chunk(1, offset, 100, 7), |_| true), (Placed::Aside, true));
        }
        let behind = 2 * u64::from(CHUNK_BYTES_MAX) + 5;
        assert_eq!(claims.claim(9, &chunk(1, behind, 100, 7), |_| true), (Placed::Staged, true));
    }
}

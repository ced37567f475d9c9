//! Room: what a record that begins something may bring, and what is spoken for already. It is the arithmetic of whoever
//! proposes, with what it knows of the disks; no verdict depends on it.
//!
//! An attempt has spoken for what it may still bring from its Begin until it ends, or until no record has named it for
//! [`LAPSES_MS`]: whoever is gone does not keep others out until the attempt's time to live is over. Its writer, when it
//! comes back after that, asks anew, like everybody else; and so does the piece with which it outgrows what it said. So an attempt is counted once at most: as spoken for, or as
//! asking.

use bytes::Bytes;

use super::attempt::{Attempt, ENTRY_BYTES};
use super::judge_begin::stored_bytes;
use super::query::AttemptInfo;
use super::tables::Ledger;
use super::verdict::{Accepted, Verdict};
use crate::record::{Kind, Record, proto};

/// An attempt that no record has named for so long, in milliseconds of log time, has spoken for nothing any more.
pub const LAPSES_MS: u64 = 120_000;

/// What is asked of free space, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// What the record may bring, itself and by those that follow.
    pub needed: u64,
    /// What others may: open attempts that were heard of, and records that are on their way into the log.
    pub spoken_for: u64,
    /// What was brought to each replica so far, as [`Ledger::brought_bytes`] counts it.
    pub held: u64,
}

/// What a piece asks for that its attempt has not spoken for.
#[derive(Debug)]
pub(super) struct Outgrown {
    pub job: String,
    pub commit: Bytes,
    pub bytes: u64,
}

/// There is no room for what begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// For people: what is needed, where it is lacking, and who has spoken for how much.
    pub why: String,
    /// There will be some in a moment by itself.
    pub soon: bool,
    /// The attempt that has spoken for most, when that is in the way; else 0.
    pub attempt: u64,
}

/// What an open attempt has spoken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// The attempt.
    pub info: AttemptInfo,
    /// Bytes; 0 when nobody has heard of it for long.
    pub bytes: u64,
}

/// What a Begin may bring, in bytes: the one place that says what a plan takes on a disk.
fn planned(begin: &proto::Begin, version: u32) -> u64 {
    takes(stored_bytes(begin, version), begin.plan_entries)
}

fn takes(content_bytes: u64, entries: u32) -> u64 {
    content_bytes.saturating_add(u64::from(entries) * ENTRY_BYTES)
}

/// What an open attempt may still bring, in bytes.
fn left(attempt: &Attempt) -> u64 {
    takes(attempt.left_bytes(), attempt.terms.plan_entries)
}

impl Ledger {
    /// Payloads of the records that were accepted since this process made or read its first ledger, bytes. From one look to the next the
    /// disk of each replica fills by so much, whatever holes the files have; what was removed meanwhile is not counted.
    pub fn brought_bytes(&self) -> u64 {
        self.brought
    }

    /// Goes on where `before` has counted to, whose place this ledger takes: whoever has looked before counts from there.
    /// What came with this one from elsewhere is not in it, as each replica gets that in its own time.
    pub fn counts_on_from(&mut self, before: &Ledger) {
        self.brought = self.brought.saturating_add(before.brought);
    }

    /// Bytes that open attempts may still bring that were heard of: what free space must hold beside the rest.
    pub fn reserved_bytes(&self) -> u64 {
        self.open.values().map(|attempt| self.spoken_for(attempt)).fold(0, u64::saturating_add)
    }

    /// How many attempts are open.
    pub fn attempts_open(&self) -> usize {
        self.open.len()
    }

    /// The open attempts, oldest first, and what each has spoken for.
    pub fn spoken(&self) -> impl Iterator<Item = Spoken> {
        self.attempts().map(|info| {
            let bytes = self.open.get(&info.id).map_or(0, |attempt| self.spoken_for(attempt));
            Spoken { info, bytes }
        })
    }

    fn spoken_for(&self, attempt: &Attempt) -> u64 {
        if self.has_lapsed_since(attempt) { 0 } else { left(attempt) }
    }

    fn has_lapsed_since(&self, attempt: &Attempt) -> bool {
        self.log_ms - attempt.last_ms >= LAPSES_MS
    }

    /// What a piece asks for with which `more` bytes of this attempt are on their way: nothing as long as it brings no more
    /// than it said, and nothing any more once all that it lacks is spoken for. With the piece between the two it asks for
    /// that.
    pub(super) fn outgrown(&self, attempt: u64, more: u64) -> Option<Outgrown> {
        let attempt = self.open.get(&attempt).filter(|attempt| attempt.outgrows_with(more))?;
        let all = takes(attempt.uncovered_bytes(), attempt.terms.plan_entries);
        let bytes = all.saturating_sub(self.spoken_for(attempt));
        let commit = Bytes::copy_from_slice(attempt.terms.commit.as_bytes());
        (bytes > 0).then(|| Outgrown { job: attempt.terms.job.to_string(), commit, bytes })
    }

    /// Bytes that a record asks for which is answered like this: it begins something, or goes on with an attempt that has
    /// spoken for nothing any more.
    pub(super) fn asks_for(&self, record: &Record, verdict: &Verdict) -> Option<u64> {
        let Verdict::Accepted(accepted) = verdict else { return None };
        match (record.kind.as_ref()?, accepted) {
            (Kind::Begin(_), Accepted::Begun { attempt, resumed: true, .. }) => {
                let attempt = self.open.get(attempt)?;
                self.has_lapsed_since(attempt).then(|| left(attempt))
            }
            (Kind::Begin(begin), Accepted::Begun { .. }) => Some(planned(begin, record.version)),
            (Kind::Whole(whole), Accepted::Sealed(sealed)) if !sealed.already => {
                whole.begin.as_ref().map(|begin| planned(begin, record.version))
            }
            _ => None,
        }
    }
}

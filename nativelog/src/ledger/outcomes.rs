//! What became of commits: which commit id led where, and how attempts ended.
//!
//! **Guarantees.** An outcome is found for 24 hours of log time after it came about, unless so many newer ones came
//! that there is no room. The oldest go first, by the record that *ended* them: what was just recorded never goes.
//! The horizon is the end of the newest that was forgotten.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::digest::checksum;
use checkpoint::{CommitId, Digest, JobName};

use super::ring::Ring;
use crate::record::LogId;

/// Names a commit id of a job: half the BLAKE3 of both, so that a row needs no name and outlives its job.
pub(super) type CommitKey = [u8; 16];

/// What became of one commit id. Fixed fields: there may be hundreds of thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub key: CommitKey,
    /// Position of the record that brought it about.
    pub end: LogId,
    /// Log time of that, in milliseconds.
    pub end_ms: u64,
    /// The attempt; of a writer, its token.
    pub attempt: u64,
    /// Number of the job.
    pub job: u64,
    pub how: Ending,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// No attempt: a writer was opened.
    Writer,
    Sealed {
        epoch: u64,
        root: Digest,
        /// Start of the plan's digest, see [`plan_key`].
        plan: u64,
    },
    Aborted,
    /// A later epoch (or the same, sealed by another attempt) came first.
    Subsumed {
        by: u64,
    },
    Fenced,
    /// Its writer was silent for long, and another commit began the same epoch.
    Replaced,
    /// It was silent for minutes, and another attempt needed its room.
    GaveWay,
}

/// The outcomes that are remembered, in the order of their ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    ring: Ring<Outcome>,
    /// Number of the first in the ring: outcomes are counted from the cluster's first on.
    first: u64,
    /// Log index of the end of the newest that was forgotten.
    horizon: Option<u64>,
    /// Start of the key, and number. A few keys may begin alike.
    by_key: BTreeSet<(u64, u64)>,
    /// Number by attempt, or by a writer's token: each is a log index of its own.
    by_attempt: BTreeMap<u64, u64>,
}

impl Outcomes {
    /// The rows alone, for a snapshot, shared with these: nothing is found in it, and nothing may be changed.
    pub fn rows(&self) -> Outcomes {
        let Outcomes { ring, first, horizon, .. } = self;
        Outcomes { ring: ring.clone(), first: *first, horizon: *horizon, ..Outcomes::default() }
    }

    /// What a commit id led to last.
    pub fn of_commit(&self, job: &JobName, commit: &CommitId) -> Option<&Outcome> {
        let key = commit_key(job, commit);
        let start = start_of(&key);
        let alike = self.by_key.range((start, 0)..=(start, u64::MAX)).rev();
        alike.map(|(_, number)| self.at(*number)).find(|outcome| outcome.key == key)
    }

    /// How an attempt ended.
    pub fn of_attempt(&self, attempt: u64) -> Option<&Outcome> {
        let outcome = self.at(*self.by_attempt.get(&attempt)?);
        (outcome.how != Ending::Writer).then_some(outcome)
    }

    /// Whether what was born here, or later, may be forgotten.
    pub fn may_have_forgotten(&self, born: u64) -> bool {
        self.horizon.is_some_and(|horizon| born <= horizon)
    }

    pub fn horizon(&self) -> Option<u64> {
        self.horizon
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// The outcome of this number, while it is remembered.
    pub fn get(&self, number: u64) -> Option<&Outcome> {
        self.ring.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Numbers and outcomes, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Outcome)> {
        (self.first..).zip(self.ring.iter())
    }

    /// Number of the next one.
    pub fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Number of the first that is remembered: so many are forgotten.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Whether this one may be the newest.
    pub fn may_follow(&self, outcome: &Outcome) -> bool {
        let last = self.ring.back().map(|last| last.end.index).max(self.horizon);
        last.is_none_or(|last| last <= outcome.end.index) && !self.by_attempt.contains_key(&outcome.attempt)
    }

    /// Records the newest; answers with its number.
    pub fn push(&mut self, outcome: Outcome) -> u64 {
        let number = self.next();
        assert!(self.may_follow(&outcome), "ends only rise");
        self.by_key.insert((start_of(&outcome.key), number));
        let before = self.by_attempt.insert(outcome.attempt, number);
        assert!(before.is_none(), "an attempt ends once");
        self.ring.push_back(outcome);
        number
    }

    /// Number of the oldest, when there are `max` already, or when it ended at or before `until_ms`.
    pub fn due(&self, max: usize, until_ms: Option<u64>) -> Option<u64> {
        let oldest = self.ring.front()?;
        let is_due = self.ring.len() >= max || until_ms.is_some_and(|until| oldest.end_ms <= until);
        is_due.then_some(self.first)
    }

    /// Forgets the oldest.
    pub fn forget_oldest(&mut self) {
        let Some(gone) = self.ring.pop_front() else { return };
        let number = self.first;
        self.first += 1;
        self.horizon = Some(gone.end.index);
        self.by_key.remove(&(start_of(&gone.key), number));
        self.by_attempt.remove(&gone.attempt);
    }

    /// None yet, of a ledger that has forgotten those up to number `first`.
    pub fn behind(first: u64, horizon: Option<u64>) -> Outcomes {
        Outcomes { first, horizon, ..Outcomes::default() }
    }

    fn at(&self, number: u64) -> &Outcome {
        self.get(number).expect("what is in the indexes is in the ring")
    }
}

pub(super) fn commit_key(job: &JobName, commit: &CommitId) -> CommitKey {
    checksum(&[job.as_str().as_bytes(), &[0], commit.as_bytes()])
}

fn start_of(key: &CommitKey) -> u64 {
    u64::from_be_bytes(*key.first_chunk().expect("a key has 16 bytes"))
}

/// The start of a plan's digest: enough to tell whether a repeat brings the plan that was sealed.
pub(super) fn plan_key(plan_digest: &Digest) -> u64 {
    u64::from_be_bytes(*plan_digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

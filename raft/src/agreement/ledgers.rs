//! Ledgers at positions that every node looks at: this node's own, and what leaders say of theirs.

use std::collections::{BTreeMap, VecDeque};

use checkpoint::Digest;
use nativelog::record::LogId;

/// Indexes at which ledgers are compared are multiples of this.
pub const EVERY: u64 = 64;
/// Own digests that are kept, the newest.
const KEPT: usize = 256;
/// Digests of leaders at positions that are not applied here yet, at most.
const AWAITED: usize = 64;

/// A ledger at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerAt {
    pub at: LogId,
    pub rules: u32,
    /// See [`DIGEST_FORM`](nativelog::ledger::DIGEST_FORM).
    pub form: u32,
    pub digest: Digest,
}

impl LedgerAt {
    /// Says, after the words "node 1 leads and", what makes this one, a leader's, another than `own` of `node`, which is of
    /// the same index; nothing when they are alike.
    pub fn contradicts(&self, own: &LedgerAt, node: u64) -> Option<String> {
        // The rules follow from the records, but a binary may not know those of the other, nor make digests alike.
        let comparable = self.rules == own.rules && self.form == own.form;
        if self == own || (self.at == own.at && !comparable) {
            return None;
        }
        let at = own.at;
        Some(match self.at == at {
            true => format!(
                "at {at} its ledger is {} where that of node {node} is {}",
                self.digest.short(),
                own.digest.short()
            ),
            false => format!("has entry {} in its log where node {node} has applied {at}", self.at),
        })
    }
}

/// What is kept to be compared.
#[derive(Default)]
pub struct Ledgers {
    /// Own, in order of positions.
    own: VecDeque<LedgerAt>,
    /// Of leaders, by index, ahead of what is applied here.
    awaited: BTreeMap<u64, (u64, LedgerAt)>,
}

/// Whether ledgers are compared at this index.
pub fn is_looked_at(index: u64) -> bool {
    index.is_multiple_of(EVERY)
}

impl Ledgers {
    /// Takes this node's own at its newest position; returns what a leader said of its own there, and which leader.
    pub fn push(&mut self, now: LedgerAt) -> Option<(u64, LedgerAt)> {
        let index = now.at.index;
        self.own.push_back(now);
        if self.own.len() > KEPT {
            self.own.pop_front();
        }
        let later = self.awaited.split_off(&(index + 1));
        std::mem::replace(&mut self.awaited, later).remove(&index)
    }

    /// The newest of this node's own.
    pub fn newest(&self) -> Option<LedgerAt> {
        self.own.back().copied()
    }

    /// This node's own at the index of what a leader said, if it is known. What lies ahead of it is kept until it is, when
    /// `leader` says whose it is.
    pub fn at_or_awaited(&mut self, given: LedgerAt, leader: Option<u64>) -> Option<LedgerAt> {
        let (index, newest) = (given.at.index, self.newest());
        let ahead = newest.is_none_or(|newest| newest.at.index < index);
        if let Some(leader) = leader.filter(|_| ahead && is_looked_at(index)) {
            self.awaited.insert(index, (leader, given));
            if self.awaited.len() > AWAITED {
                self.awaited.pop_first();
            }
        }
        self.own.iter().rev().find(|own| own.at.index == index).copied()
    }
}

//! Content that was found nowhere, and what may be said of it in the log.

use std::collections::BTreeMap;

use checkpoint::Digest;
use nativelog::compose;
use nativelog::ledger::{Reason, Verdict};
use nativelog::record::LogRecord;

/// Longest finding, in characters of at most four bytes: a record takes 256.
const FINDING_CHARS: usize = 64;

/// Whether content that no peer has may still lie in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InStore {
    /// It never did.
    Never,
    /// It does by the ledger, and nobody has looked. What came through the log, too, may be lost from that.
    Unasked {
        /// Whether it came through the log.
        in_log: bool,
    },
    /// It is not there any more, or not as it was written: what this node found.
    Lost(String),
}

/// Content of which no peer that lives has a good copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Log index of the seal that brought it, by the ledger that it was looked for by.
    pub brought: u64,
    /// By node that has carried out that seal, and looked: what it found.
    pub found: BTreeMap<u64, String>,
    /// Some that live have not carried it out yet, and may still have it.
    pub not_yet: bool,
    /// Whether a store has it.
    pub in_store: InStore,
}

impl Lost {
    /// The record that says so, and who it names: when a majority of `voters` has looked in vain, and everybody who
    /// lives has. What lies in a store is lost when that was asked, too; else it is only the log that has it no more.
    pub fn record(&self, voters: &[u64]) -> Option<(LogRecord, Vec<u64>)> {
        let found = self.found.iter().filter(|(node, _)| voters.contains(node));
        let cut = |what: &String| what.chars().filter(|c| !c.is_control()).take(FINDING_CHARS).collect();
        let found: Vec<(u64, String)> = found.map(|(node, what)| (*node, cut(what))).collect();
        let in_store_alone = self.in_store == InStore::Unasked { in_log: false };
        if self.not_yet || in_store_alone || found.len() * 2 <= voters.len() {
            return None;
        }
        let nodes = found.iter().map(|(node, _)| *node).collect();
        let record = match self.in_store {
            InStore::Never | InStore::Unasked { .. } => compose::quarantine(self.digest, self.brought, found),
            InStore::Lost(_) => compose::quarantine_of_stored(self.digest, self.brought, found),
        };
        Some((record, nodes))
    }
}

/// Whether no open attempt leans on that content any more, now that the log has answered its record.
///
/// # Errors
/// Why it may.
pub fn leans_no_more(answered: &Verdict) -> Result<(), String> {
    match answered {
        Verdict::Accepted(_) => Ok(()),
        Verdict::Rejected(rejected) if rejected.reason == Reason::NotFound => Ok(()),
        Verdict::Rejected(rejected) => Err(rejected.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_a_majority_that_has_looked_and_waits_for_whoever_has_not() {
        let found = |nodes: &[u64]| nodes.iter().map(|node| (*node, "gone\n".to_owned())).collect();
        let lost = |nodes: &[u64], not_yet| Lost {
            digest: Digest::from_bytes([1; 32]),
            bytes: 5,
            brought: 9,
            found: found(nodes),
            not_yet,
            in_store: InStore::Never,
        };
        let named = |lost: Lost| lost.record(&[1, 2, 3]).map(|(_, nodes)| nodes);
        assert_eq!(named(lost(&[1, 3], false)), Some(vec![1, 3]));
        assert_eq!(named(lost(&[1, 2, 3], true)), None);
        assert_eq!(named(lost(&[2], false)), None);
        // Others than voters have no say.
        assert_eq!(named(lost(&[2, 7, 8], false)), None);
        // What may lie in a store is not lost before somebody has looked there.
        let stored = |in_store| Lost { in_store, ..lost(&[1, 2, 3], false) };
        assert_eq!(named(stored(InStore::Unasked { in_log: false })), None);
        assert_eq!(named(stored(InStore::Unasked { in_log: true })), Some(vec![1, 2, 3]));
        assert_eq!(named(stored(InStore::Lost("gone".into()))), Some(vec![1, 2, 3]));
    }
}

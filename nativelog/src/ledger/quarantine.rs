//! Content in quarantine: sealed, held, and not to be had on a quorum of the nodes.
//!
//! It is kept, with everything that holds it, and comes back by a record when a quorum has verified copies again, or at
//! once when a sealed attempt brings its bytes anew: then every replica gets them. Until then nobody is offered it: it
//! cannot be reused, an attempt that leans on it ends, and an epoch that holds it is not a job's newest.
//!
//! Content that lies in a store is in quarantine only when it is gone from there, too. Where the nodes alone have lost it, it
//! lies in the store only from then on: attempts that had it from the log end, and no other may have it from there.
//!
//! Here is what is asked of it; `judge_quarantine.rs` judges, `apply_quarantine.rs` changes.

use std::collections::BTreeSet;

use checkpoint::{Digest, JobName};

use super::content::Quarantined;
use super::homes::Home;
use super::job::EpochRecord;
use super::tables::Ledger;

/// Content in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineInfo {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Log index of the newest record that said so.
    pub at: u64,
    /// Who looked, and what they found.
    pub found: Vec<(u64, String)>,
}

impl Ledger {
    /// Content that is in quarantine.
    pub fn quarantine(&self) -> impl Iterator<Item = QuarantineInfo> {
        self.quarantine.iter().map(|(id, quarantined)| self.quarantine_info(*id, quarantined))
    }

    fn quarantine_info(&self, id: u32, quarantined: &Quarantined) -> QuarantineInfo {
        let content = self.content.get(id);
        QuarantineInfo {
            digest: content.digest,
            bytes: content.bytes,
            at: quarantined.at,
            found: quarantined.found.iter().map(|(node, what)| (*node, what.clone())).collect(),
        }
    }

    /// Whether this content is in quarantine.
    pub fn is_quarantined(&self, digest: &Digest) -> bool {
        !self.quarantine.is_empty()
            && self.content.find(digest).is_some_and(|(id, _)| self.quarantine.contains_key(&id))
    }

    /// What an epoch holds that is in quarantine.
    pub fn quarantined_in(&self, job: &JobName, epoch: u64) -> Vec<QuarantineInfo> {
        let record = self.jobs.get(job).and_then(|job| job.epochs.get(&epoch));
        let held = record.into_iter().flat_map(|record| self.quarantined_of(record));
        held.map(|id| self.quarantine_info(id, &self.quarantine[&id])).collect()
    }

    /// The epochs of a job that hold content in quarantine.
    pub fn quarantined_epochs(&self, job: &JobName) -> BTreeSet<u64> {
        let epochs = self.jobs.get(job).into_iter().flat_map(|job| &job.epochs);
        epochs.filter(|(_, record)| self.holds_quarantined(record)).map(|(epoch, _)| *epoch).collect()
    }

    /// Content is in quarantine here and there; few, so that each is looked for in the epoch.
    fn quarantined_of(&self, record: &EpochRecord) -> impl Iterator<Item = u32> {
        self.quarantine.keys().copied().filter(|id| record.content.binary_search(id).is_ok())
    }

    pub(super) fn holds_quarantined(&self, record: &EpochRecord) -> bool {
        self.quarantined_of(record).next().is_some()
    }

    /// The open attempts that reuse this content, in order: its quarantine ends them.
    pub(super) fn leaning_on(&self, content: u32) -> Vec<u64> {
        let leaning = self.open.iter().filter(|(_, attempt)| attempt.held.contains(&content));
        leaning.map(|(id, _)| *id).collect()
    }

    /// Of these, when `home` is where the content lies, those that have it from the log: it is not in their store.
    pub(super) fn leaning_on_log(&self, content: u32, home: &Home) -> Vec<u64> {
        let homes = self.content.homes();
        let mut leaning = self.leaning_on(content);
        leaning.retain(|id| {
            let store = self.open[id].terms.store;
            !home.extents().any(|extent| Some(homes.object(extent.object).key.store) == store)
        });
        leaning
    }
}

//! What is due, by kind. Touches no disk.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::{Digest, EntryKind, JobName};
use serde::{Deserialize, Serialize};

use super::debts::{Debts, Owed, Pack, Unpublished};
use crate::ledger::{Ledger, PublishEpoch, Released};

/// A job and an epoch of it.
pub type EpochKey = (JobName, u64);

/// What became of a sealed epoch on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// Nobody has looked yet, since the start, whether its directory is still here.
    NotLooked,
    /// Sealed, not yet a directory here.
    Pending,
    /// A directory here.
    Published,
    /// It could not be made a directory here, and why; it is tried again.
    Unpublished(String),
}

/// What waits to be given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Contents that no epoch refers to, and their bytes.
    pub contents: u64,
    /// Bytes of these contents.
    pub bytes: u64,
    /// Folders of ended attempts.
    pub attempts: u64,
}

/// A sealed epoch whose publishing was not tried yet, or failed.
struct Waiting {
    attempt: u64,
    publication: Publication,
}

/// A sealed epoch that could not be published here so far.
pub struct Failed {
    pub epoch: PublishEpoch,
    pub why: String,
    /// Log index of the record that expired it since.
    pub expired: Option<u64>,
    /// Once expired: its content that others still hold and may look for on the shelves.
    needed: BTreeSet<Digest>,
}

/// A sealed epoch that has no directory here, and nobody knows more.
pub struct Absent {
    pub attempt: u64,
    pub root: Digest,
    pub why: String,
}

/// What was unpacked for an attempt.
#[derive(Default)]
pub struct Tree {
    pub packs: Vec<Pack>,
    /// The first thing that went wrong while unpacking.
    pub failed: Option<String>,
    /// Log indexes of those packs that lie in files by now, durably.
    aside: BTreeSet<u64>,
}

/// Everything, under one lock that is never held over a disk.
pub struct Book {
    /// Attempts from here on began while this process ran: what lies in their trees is from another life.
    pub base: u64,
    waiting: BTreeMap<EpochKey, Waiting>,
    /// By attempt: a number may be another epoch's once its job was removed.
    pub failed: BTreeMap<u64, Failed>,
    pub missing: BTreeMap<EpochKey, Absent>,
    /// While nobody has looked which of the sealed epochs are here: those that are here for certain.
    seen: Option<BTreeSet<EpochKey>>,
    pub trees: BTreeMap<u64, Tree>,
    pub released: BTreeMap<Digest, Owed>,
    pub expiring: BTreeMap<EpochKey, u64>,
    /// Out of quarantine; names here may still lead to a bad copy.
    pub healing: BTreeMap<Digest, Owed>,
    /// How many read an epoch's directory just now: it is not removed while somebody does.
    pub readers: BTreeMap<EpochKey, usize>,
    /// Ended attempts whose staging folder may be there, each with the index of the record that ended it.
    pub ended: BTreeMap<u64, u64>,
    /// How often files were unpacked, and how many of these are durable.
    pub unpackings: u64,
    pub synced: u64,
}

impl Book {
    /// Of a start behind `ledger`, which stands right below `base`.
    pub fn new(base: u64, debts: Debts, ledger: &Ledger) -> Book {
        let mut book = Book {
            base,
            waiting: BTreeMap::new(),
            failed: BTreeMap::new(),
            missing: BTreeMap::new(),
            seen: (base > 0).then(BTreeSet::new),
            trees: BTreeMap::new(),
            released: debts.released,
            expiring: debts.expiring,
            healing: debts.healing,
            readers: BTreeMap::new(),
            ended: BTreeMap::new(),
            unpackings: 0,
            synced: 0,
        };
        for (attempt, packs) in debts.half_unpacked {
            let failed = Some("its files were not all unpacked before the last start".to_owned());
            book.trees.insert(attempt, Tree { packs, failed, aside: BTreeSet::new() });
        }
        for Unpublished { epoch, why, expired } in debts.unpublished {
            let key = (epoch.job.clone(), epoch.epoch);
            let held = |digest: &Digest| ledger.content(digest).is_some();
            let needed = contents(&epoch).filter(held).collect();
            if expired.is_none() {
                book.wait_for(&epoch);
                book.note_failure(&key, epoch.attempt, &why);
            }
            book.failed.insert(epoch.attempt, Failed { epoch, why, expired, needed });
        }
        book
    }

    pub fn wait_for(&mut self, epoch: &PublishEpoch) {
        let waiting = Waiting { attempt: epoch.attempt, publication: Publication::Pending };
        self.waiting.insert((epoch.job.clone(), epoch.epoch), waiting);
    }

    /// The epoch was published or has expired: nobody waits for it.
    pub fn wait_no_more(&mut self, key: &EpochKey) {
        self.waiting.remove(key);
        self.missing.remove(key);
    }

    pub fn waits(&self, key: &EpochKey) -> bool {
        self.waiting.contains_key(key)
    }

    fn note_failure(&mut self, key: &EpochKey, attempt: u64, why: &str) {
        if let Some(waiting) = self.waiting.get_mut(key).filter(|waiting| waiting.attempt == attempt) {
            waiting.publication = Publication::Unpublished(why.to_owned());
        }
    }

    pub fn publication(&self, key: &EpochKey) -> Publication {
        match (self.waiting.get(key), self.missing.get(key)) {
            (Some(waiting), _) => waiting.publication.clone(),
            (None, Some(absent)) => Publication::Unpublished(absent.why.clone()),
            (None, None) if self.seen.as_ref().is_none_or(|seen| seen.contains(key)) => {
                Publication::Published
            }
            (None, None) => Publication::NotLooked,
        }
    }

    /// How many of these epochs nobody has looked for since the start.
    pub fn not_looked(&self, sealed: impl Iterator<Item = EpochKey>) -> u64 {
        if self.seen.is_none() {
            return 0;
        }
        sealed.filter(|key| self.publication(key) == Publication::NotLooked).count() as u64
    }

    /// All that was sealed before was looked for.
    pub fn looked(&mut self) {
        self.seen = None;
    }

    /// The directory of the epoch that was `attempt` is here, and none of an earlier life of its job: whatever had ended
    /// such a one did so before this attempt began.
    pub fn found(&mut self, key: &EpochKey, attempt: u64) {
        if self.missing.get(key).is_some_and(|absent| absent.attempt == attempt) {
            self.missing.remove(key);
        }
        if self.expiring.get(key).is_some_and(|at| *at < attempt) {
            self.expiring.remove(key);
        }
        if let Some(seen) = &mut self.seen {
            seen.insert(key.clone());
        }
    }

    /// An epoch was not published.
    pub fn fail(&mut self, epoch: PublishEpoch, why: String) {
        let key = (epoch.job.clone(), epoch.epoch);
        self.note_failure(&key, epoch.attempt, &why);
        self.trees.entry(epoch.attempt).or_default().failed.get_or_insert(why.clone());
        match self.failed.get_mut(&epoch.attempt) {
            Some(failed) => failed.why = why,
            None => {
                self.failed
                    .insert(epoch.attempt, Failed { epoch, why, expired: None, needed: BTreeSet::new() });
            }
        }
    }

    /// An epoch is published. The index of the record that expired it, when one has since: then it goes at once.
    pub fn succeed(&mut self, epoch: &PublishEpoch) -> Option<u64> {
        let key = (epoch.job.clone(), epoch.epoch);
        if self.waiting.get(&key).is_none_or(|waiting| waiting.attempt == epoch.attempt) {
            self.wait_no_more(&key);
            self.found(&key, epoch.attempt);
        }
        self.trees.remove(&epoch.attempt);
        self.ended.insert(epoch.attempt, epoch.envelope.position.index);
        self.failed.remove(&epoch.attempt).and_then(|failed| failed.expired)
    }

    pub fn unpacked(&mut self, attempt: u64, pack: Pack, result: Result<(), String>) {
        self.unpackings += 1;
        let tree = self.trees.entry(attempt).or_default();
        tree.packs.push(pack);
        if let Err(why) = result {
            tree.failed.get_or_insert(why);
        }
    }

    pub fn owe(&mut self, digest: Digest, owed: Owed) {
        let entry = self.released.entry(digest).or_insert(owed);
        entry.index = entry.index.max(owed.index);
    }

    /// The record at `index` released content. Answers with the failed epochs that nobody needs any more, each with the
    /// index of the record that expired it: none of their content is held; they are forgotten.
    pub fn release(&mut self, index: u64, released: &[Released]) -> Vec<(PublishEpoch, u64)> {
        for content in released {
            self.owe(content.digest, Owed { index, bytes: content.bytes });
            for failed in self.failed.values_mut() {
                failed.needed.remove(&content.digest);
            }
        }
        let needless = self.failed.iter().filter(|(_, failed)| failed.needed.is_empty());
        let needless: Vec<(u64, u64)> =
            needless.filter_map(|(attempt, failed)| Some((*attempt, failed.expired?))).collect();
        needless.into_iter().map(|(attempt, expired)| (self.forget(attempt, index), expired)).collect()
    }

    fn forget(&mut self, attempt: u64, index: u64) -> PublishEpoch {
        let failed = self.failed.remove(&attempt).expect("it was just listed");
        self.trees.remove(&attempt);
        self.ended.insert(attempt, index);
        failed.epoch
    }

    /// A failed epoch expires: later ones may reuse what it holds, so it stays until they do not. False when it has
    /// not failed.
    pub fn expire_failed(&mut self, key: &EpochKey, index: u64) -> bool {
        let is = |failed: &&mut Failed| {
            failed.expired.is_none() && failed.epoch.job == key.0 && failed.epoch.epoch == key.1
        };
        let Some(failed) = self.failed.values_mut().find(is) else { return false };
        failed.expired = Some(index);
        failed.needed = contents(&failed.epoch).collect();
        true
    }

    /// Whether what is in the tree of this attempt is from another life. The tree of an attempt that began below the
    /// snapshot of this start holds what was unpacked up to there, and the log may not have it any more.
    pub fn has_old_tree(&self, attempt: u64) -> bool {
        attempt >= self.base && !self.trees.contains_key(&attempt)
    }

    /// One reader less. True when somebody waits for that.
    pub fn reader_left(&mut self, key: &EpochKey) -> bool {
        let Some(readers) = self.readers.get_mut(key) else { return false };
        *readers -= 1;
        if *readers > 0 {
            return false;
        }
        self.readers.remove(key);
        self.expiring.contains_key(key)
    }

    /// The attempt ended without an epoch.
    pub fn discard(&mut self, attempt: u64, index: u64) {
        self.trees.remove(&attempt);
        self.ended.insert(attempt, index);
    }

    /// Attempts whose staged files or trees somebody here needs, though the ledger may not have them open.
    pub fn busy_attempts(&self) -> BTreeSet<u64> {
        let waiting = self.waiting.values().map(|waiting| waiting.attempt);
        waiting.chain(self.failed.values().map(|failed| failed.epoch.attempt)).collect()
    }

    pub fn note_staging(&mut self, found: &BTreeSet<u64>, applied: u64, is_open: &dyn Fn(u64) -> bool) {
        self.ended.retain(|id, _| found.contains(id));
        let busy = self.busy_attempts();
        for id in found.range(..applied) {
            if !is_open(*id) && !busy.contains(id) {
                self.ended.entry(*id).or_insert(applied - 1);
            }
        }
    }

    /// Whether the packs of this attempt may have to be unpacked once more.
    fn needs_packs(&self, attempt: u64, tree: &Tree) -> bool {
        tree.failed.is_some() || self.failed.contains_key(&attempt)
    }

    /// Packs above `purged` that may have to be unpacked once more and are in the log only: attempt and log index.
    pub fn packs_in_log(&self, purged: Option<u64>) -> impl Iterator<Item = (u64, u64)> {
        let trees = self.trees.iter().filter(|(id, tree)| self.needs_packs(**id, tree));
        trees.flat_map(move |(id, tree)| {
            let indexes = tree.packs.iter().map(|pack| pack.index);
            let held = indexes.filter(move |index| {
                purged.is_none_or(|purged| *index > purged) && !tree.aside.contains(index)
            });
            held.map(|index| (*id, index))
        })
    }

    /// These packs lie in files now, durably: attempt and log index.
    pub fn set_aside(&mut self, packs: &[(u64, u64)]) {
        for (attempt, index) in packs {
            if let Some(tree) = self.trees.get_mut(attempt) {
                tree.aside.insert(*index);
            }
        }
    }

    /// What is owed of the records up to and including `index`.
    pub fn debts(&self, index: u64) -> Debts {
        let sealed = |failed: &&Failed| failed.epoch.envelope.position.index <= index;
        let unpublished = self.failed.values().filter(sealed).map(|failed| Unpublished {
            epoch: failed.epoch.clone(),
            why: failed.why.clone(),
            expired: failed.expired.filter(|at| *at <= index),
        });
        let half = self.trees.iter().filter(|(id, tree)| **id <= index && self.needs_packs(**id, tree));
        let half_unpacked = half.map(|(id, tree)| {
            let packs = tree.packs.iter().filter(|pack| pack.index <= index).cloned();
            (*id, packs.collect())
        });
        let released = self.released.iter().filter(|(_, owed)| owed.index <= index);
        let expiring = self.expiring.iter().filter(|(_, at)| **at <= index);
        let healing = self.healing.iter().filter(|(_, owed)| owed.index <= index);
        Debts {
            released: released.map(|(digest, owed)| (*digest, *owed)).collect(),
            unpublished: unpublished.collect(),
            half_unpacked: half_unpacked.collect(),
            expiring: expiring.map(|(key, at)| (key.clone(), *at)).collect(),
            healing: healing.map(|(digest, owed)| (*digest, *owed)).collect(),
        }
    }
}

/// Content that an epoch holds.
fn contents(epoch: &PublishEpoch) -> impl Iterator<Item = Digest> {
    let files = epoch.manifest.entries.iter().filter(|entry| entry.kind == EntryKind::File && entry.size > 0);
    files.map(|entry| entry.digest)
}

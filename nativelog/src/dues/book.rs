//! What is due, by kind. Touches no disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::Digest;
use serde::{Deserialize, Serialize};

use super::debts::{Debts, Owed, Pack, Unpublished};
use super::ended::EndedAttempts;
use super::epoch::EpochKey;
use super::unheld::Unheld;
use super::unlooked::Unlooked;
use crate::ledger::{Ledger, PublishEpoch, Released};

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
    /// Bytes of what lies in them under no other name.
    pub staged: u64,
}

impl Garbage {
    /// Bytes that come back once all of it was given back.
    pub fn all_bytes(&self) -> u64 {
        self.bytes.saturating_add(self.staged)
    }
}

/// A sealed epoch whose publishing was not tried yet, or failed.
struct Waiting {
    attempt: u64,
    publication: Publication,
}

/// A sealed epoch that could not be published here so far.
pub struct Failed {
    pub owed: Unpublished,
    /// Until it lies in a file (`trees`): it may have a million entries.
    pub tree: Option<PublishEpoch>,
    /// All that it lacks is content that lies in a store: what was unpacked of it is in its tree.
    hydrates: bool,
}

/// What others need of a failed epoch that has expired: content that it brought, and that they still hold. `None` when its
/// tree could not be read: it may be all that it brought.
pub type Needed = Option<BTreeSet<Digest>>;

/// What is not needed any more once an epoch is published. To be dropped while the book is free: it may be large.
pub struct Settled {
    pub failed: Option<Failed>,
    _needed: Option<Needed>,
    _tree: Option<Tree>,
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
    pub packs: Vec<Arc<Pack>>,
    /// The first thing that went wrong while unpacking.
    pub failed: Option<String>,
    /// Log indexes of those packs that lie in files by now, durably.
    aside: BTreeSet<u64>,
}

/// Everything, under one lock that is never held over a disk, nor over all of a long table: apply waits for it.
pub struct Book {
    /// Attempts from here on began while this process ran: what lies in their trees is from another life.
    pub base: u64,
    waiting: BTreeMap<EpochKey, Waiting>,
    /// By attempt: a number may be another epoch's once its job was removed.
    pub failed: BTreeMap<u64, Failed>,
    /// Of those that have expired, by attempt: what others may look for on the shelves. No set is empty.
    needed: BTreeMap<u64, Needed>,
    pub missing: BTreeMap<EpochKey, Absent>,
    /// Sealed before the start, and nobody has looked since whether they are here.
    unlooked: Unlooked,
    pub trees: BTreeMap<u64, Tree>,
    pub released: Unheld,
    pub expiring: BTreeMap<EpochKey, u64>,
    /// Out of quarantine; names here may still lead to a bad copy.
    pub healing: BTreeMap<Digest, Owed>,
    /// How many read an epoch's directory just now: it is not removed while somebody does.
    pub readers: BTreeMap<EpochKey, usize>,
    pub ended: EndedAttempts,
    /// How often files were unpacked, or a tree was put into one, and how many of these are durable.
    pub unpackings: u64,
    pub synced: u64,
}

impl Book {
    /// Of a start behind `ledger`, which stands right below `base`. What failed epochs have to hold for others although they
    /// have expired is `needed`, by attempt.
    pub fn new(base: u64, debts: Debts, mut needed: BTreeMap<u64, Needed>, ledger: &Ledger) -> Book {
        needed.retain(|_, needed| is_something(needed));
        let mut book = Book {
            base,
            waiting: BTreeMap::new(),
            failed: BTreeMap::new(),
            needed,
            missing: BTreeMap::new(),
            unlooked: Unlooked::of(ledger),
            trees: BTreeMap::new(),
            released: Unheld::new(debts.released),
            expiring: debts.expiring,
            healing: debts.healing,
            readers: BTreeMap::new(),
            ended: EndedAttempts::default(),
            unpackings: 0,
            synced: 0,
        };
        for (attempt, packs) in debts.half_unpacked {
            let failed = Some("its files were not all unpacked before the last start".to_owned());
            book.trees.insert(attempt, Tree { packs, failed, aside: BTreeSet::new() });
        }
        for owed in debts.unpublished {
            let attempt = owed.origin.attempt;
            if owed.expired.is_none() {
                book.wait_for(owed.key(), attempt);
                book.note_failure(&owed.key(), attempt, &owed.why);
            }
            book.failed.insert(attempt, Failed { owed, tree: None, hydrates: false });
        }
        book
    }

    /// The epoch that was `attempt` is sealed, and is to become a directory here.
    pub fn wait_for(&mut self, key: EpochKey, attempt: u64) {
        self.unlooked.remove(&key);
        self.waiting.insert(key, Waiting { attempt, publication: Publication::Pending });
    }

    /// The epoch was published or has expired: nobody waits for it.
    pub fn wait_no_more(&mut self, key: &EpochKey) {
        self.waiting.remove(key);
        self.missing.remove(key);
        self.unlooked.remove(key);
    }

    /// A sealed epoch has no directory here. False when it is just waiting for it.
    pub fn miss(&mut self, key: EpochKey, absent: Absent) -> bool {
        if self.waiting.contains_key(&key) {
            return false;
        }
        self.unlooked.remove(&key);
        self.missing.insert(key, absent);
        true
    }

    /// As [`Book::miss`], where nobody has known of this epoch since the start. Else false.
    pub fn miss_unlooked(&mut self, key: EpochKey, absent: Absent) -> bool {
        self.unlooked.contains(&key) && self.miss(key, absent)
    }

    /// Why an epoch is still missing. One that has come meanwhile is not.
    pub fn still_misses(&mut self, key: &EpochKey, why: String) {
        if let Some(absent) = self.missing.get_mut(key) {
            absent.why = why;
        }
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
            (None, None) if self.unlooked.contains(key) => Publication::NotLooked,
            (None, None) => Publication::Published,
        }
    }

    /// How many sealed epochs nobody has looked for since the start. One that is noted here in any other way, or was
    /// expired, is none of them any more.
    pub fn not_looked(&self) -> u64 {
        self.unlooked.len()
    }

    /// All that was sealed before was looked for. What is not needed any more.
    pub fn looked(&mut self) -> Unlooked {
        std::mem::take(&mut self.unlooked)
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
        self.unlooked.remove(key);
    }

    /// An epoch was not published, and may have to be unpacked once more. It comes back when it had failed before: to be
    /// dropped while the book is free.
    pub fn fail(&mut self, epoch: PublishEpoch, why: String) -> Option<PublishEpoch> {
        self.trees.entry(epoch.attempt).or_default().failed.get_or_insert(why.clone());
        self.not_yet(epoch, why, false)
    }

    /// An epoch was not published, because some of its content is still to come: no pack of it is needed for that.
    pub fn wait_on(&mut self, epoch: PublishEpoch, why: String) -> Option<PublishEpoch> {
        // Whoever hydrates it knows better why it still waits than whoever finds once more that it does.
        let before = self.failed.get(&epoch.attempt).filter(|failed| failed.hydrates);
        let why = before.map_or(why, |failed| failed.owed.why.clone());
        self.not_yet(epoch, why, true)
    }

    fn not_yet(&mut self, epoch: PublishEpoch, why: String, hydrates: bool) -> Option<PublishEpoch> {
        let (attempt, owed) = (epoch.attempt, Unpublished::of(&epoch, why.clone()));
        self.note_failure(&owed.key(), attempt, &why);
        match self.failed.get_mut(&attempt) {
            Some(failed) => {
                (failed.owed.why, failed.hydrates) = (why, hydrates);
                Some(epoch)
            }
            None => {
                self.failed.insert(attempt, Failed { owed, tree: Some(epoch), hydrates });
                None
            }
        }
    }

    /// An epoch that has failed could not be tried again.
    pub fn fail_again(&mut self, attempt: u64, why: String) {
        let Some(failed) = self.failed.get_mut(&attempt) else { return };
        failed.owed.why = why.clone();
        let key = failed.owed.key();
        self.note_failure(&key, attempt, &why);
    }

    /// The tree of an epoch that has failed lies in its file, still to be synced. It comes back: to be dropped while the book
    /// is free.
    pub fn filed(&mut self, attempt: u64) -> Option<PublishEpoch> {
        self.unpackings += 1;
        self.failed.get_mut(&attempt)?.tree.take()
    }

    /// An epoch is published.
    pub fn succeed(&mut self, epoch: &PublishEpoch) -> Settled {
        let key = (epoch.job.clone(), epoch.epoch);
        if self.waiting.get(&key).is_none_or(|waiting| waiting.attempt == epoch.attempt) {
            self.wait_no_more(&key);
            self.found(&key, epoch.attempt);
        }
        self.ended.insert(epoch.attempt, epoch.envelope.position.index);
        Settled {
            failed: self.failed.remove(&epoch.attempt),
            _needed: self.needed.remove(&epoch.attempt),
            _tree: self.trees.remove(&epoch.attempt),
        }
    }

    pub fn unpacked(&mut self, attempt: u64, pack: Pack, result: Result<(), String>) {
        self.unpackings += 1;
        let tree = self.trees.entry(attempt).or_default();
        tree.packs.push(Arc::new(pack));
        if let Err(why) = result {
            tree.failed.get_or_insert(why);
        }
    }

    /// In how many sets content is looked for that is released.
    pub fn needing(&self) -> usize {
        self.needed.len()
    }

    /// The record at `index` released content.
    pub fn release(&mut self, index: u64, released: &[Released]) {
        for content in released {
            self.released.owe(content.digest, Owed { index, bytes: content.bytes });
            for needed in self.needed.values_mut().flatten() {
                needed.remove(&content.digest);
            }
        }
        self.needed.retain(|_, needed| is_something(needed));
    }

    /// Forgets the failed epochs that have expired and hold nothing that anybody needs, by the record at `index`. Answers
    /// with them.
    pub fn forget_needless(&mut self, index: u64) -> Vec<Failed> {
        let needless = self.failed.iter().filter(|(attempt, _)| !self.needed.contains_key(attempt));
        let needless: Vec<u64> = needless
            .filter(|(_, failed)| failed.owed.expired.is_some())
            .map(|(attempt, _)| *attempt)
            .collect();
        needless.into_iter().map(|attempt| self.forget(attempt, index)).collect()
    }

    fn forget(&mut self, attempt: u64, index: u64) -> Failed {
        let failed = self.failed.remove(&attempt).expect("it was just listed");
        self.trees.remove(&attempt);
        self.ended.insert(attempt, index);
        failed
    }

    /// The attempt of the epoch that has failed and not expired under this number.
    pub fn has_failed(&self, (job, epoch): &EpochKey) -> Option<u64> {
        let mut failed = self.failed.values().map(|failed| &failed.owed);
        let owed = failed.find(|owed| owed.expired.is_none() && owed.job == *job && owed.epoch == *epoch)?;
        Some(owed.origin.attempt)
    }

    /// The failed epoch that was this attempt expires, and this of it is needed: later ones may reuse it, so the epoch stays
    /// until they do not.
    pub fn expire_failed(&mut self, attempt: u64, index: u64, needed: Needed) {
        if let Some(failed) = self.failed.get_mut(&attempt) {
            failed.owed.expired = Some(index);
            if is_something(&needed) {
                self.needed.insert(attempt, needed);
            }
        }
    }

    /// Whether others are known to need this content of a failed epoch that has expired.
    pub fn needs(&self, attempt: u64, digest: &Digest) -> bool {
        let needed = self.needed.get(&attempt).and_then(Option::as_ref);
        needed.is_some_and(|contents| contents.contains(digest))
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

    /// Attempts whose staged files or trees somebody here needs, though the ledger may not have them open. In no order, and
    /// one may be there twice.
    pub fn busy_attempts(&self) -> Vec<u64> {
        let waiting = self.waiting.values().map(|waiting| waiting.attempt);
        waiting.chain(self.failed.keys().copied()).collect()
    }

    /// Whether the packs of this attempt may have to be unpacked once more.
    fn needs_packs(&self, attempt: u64, tree: &Tree) -> bool {
        tree.failed.is_some() || self.failed.get(&attempt).is_some_and(|failed| !failed.hydrates)
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

    /// Attempts up to `index` with packs that may have to be unpacked once more, and those packs of records up to there.
    pub fn half_unpacked(&self, index: u64) -> BTreeMap<u64, Vec<Arc<Pack>>> {
        let half = self.trees.iter().filter(|(id, tree)| **id <= index && self.needs_packs(**id, tree));
        let packs = |tree: &Tree| tree.packs.iter().filter(|pack| pack.index <= index).cloned().collect();
        half.map(|(id, tree)| (*id, packs(tree))).collect()
    }
}

fn is_something(needed: &Needed) -> bool {
    needed.as_ref().is_none_or(|contents| !contents.is_empty())
}

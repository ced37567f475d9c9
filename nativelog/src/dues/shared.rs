//! The book of what is due, behind its lock: what the machine asks and the performer reports. What reads disks, or goes
//! through whole tables, is in the rooms above.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use checkpoint::store::Store;
use checkpoint::{Digest, JobName};
use tokio::sync::watch;

use super::book::{Absent, Book, Garbage, Needed, Publication};
use super::debts::{Debts, Owed, Pack, Unpublished};
use super::epoch::EpochKey;
use super::pins::Pins;
use super::replay::Replay;
use super::slices::{SLICE, in_slices};
use super::tree_file::needed_of;
use crate::ledger::{Ledger, PublishEpoch, Released};
use crate::store::LogStore;

/// A sealed epoch that is noted as missing.
pub struct MissingEpoch {
    pub job: JobName,
    pub epoch: u64,
    pub attempt: u64,
    pub root: Digest,
    pub why: String,
}

/// What a node has to see to settle what it owes.
pub struct Ground<'a> {
    pub dues: &'a Dues,
    pub pins: &'a Pins,
    pub store: &'a Store,
    pub log: &'a LogStore,
    pub ledger: &'a RwLock<Ledger>,
    pub replay: &'a Replay,
}

impl Ground<'_> {
    pub(super) fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of it, shared by the machine, which asks, and the performer, which reports.
pub struct Dues {
    book: Mutex<Book>,
    /// Counts publications and failures to publish.
    changed: watch::Sender<u64>,
    /// Held while the tree of a failed epoch is put into a file.
    pub(super) filing: Mutex<()>,
    /// The tree of a failed epoch that somebody has looked in last.
    pub(super) recent: Mutex<Option<PublishEpoch>>,
}

impl Dues {
    /// See [`Book::new`].
    pub fn new(base: u64, debts: Debts, needed: BTreeMap<u64, Needed>, ledger: &Ledger) -> Dues {
        let book = Mutex::new(Book::new(base, debts, needed, ledger));
        Dues { book, changed: watch::Sender::new(0), filing: Mutex::default(), recent: Mutex::default() }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The book of another ledger takes the place of all that was owed to the one before. That one comes back: it may
    /// take long to drop.
    pub fn begin_anew(&self, mut anew: Book) -> Book {
        let mut book = self.book();
        anew.readers = std::mem::take(&mut book.readers);
        let before = std::mem::replace(&mut *book, anew);
        drop(book);
        self.tell();
        before
    }

    /// Whether there are epochs to publish or folders to remove that could not be before.
    pub fn has_to_try(&self) -> bool {
        let book = self.book();
        !book.failed.is_empty() || !book.expiring.is_empty()
    }

    /// Changes whenever an epoch was published or could not be.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What became of an epoch that the ledger has sealed.
    pub fn publication(&self, job: &JobName, epoch: u64) -> Publication {
        self.book().publication(&(job.clone(), epoch))
    }

    /// How many sealed epochs nobody has looked for since the start: each may be here or not.
    pub fn not_looked(&self) -> u64 {
        self.book().not_looked()
    }

    /// The index below which alone the log may be purged: the pack there may have to be unpacked once more, and is
    /// nowhere else.
    pub fn needs_log_from(&self, log: &LogStore) -> Option<u64> {
        let purged = log.log_state().0.map(|purged| purged.index);
        self.book().packs_in_log(purged).map(|(_, index)| index).min()
    }

    /// Packs that may have to be unpacked once more and are nowhere but in the log: attempt and log index, the lowest
    /// index first.
    pub fn packs_in_log(&self, log: &LogStore) -> Vec<(u64, u64)> {
        let purged = log.log_state().0.map(|purged| purged.index);
        let mut packs: Vec<(u64, u64)> = self.book().packs_in_log(purged).collect();
        packs.sort_unstable_by_key(|(_, index)| *index);
        packs
    }

    /// These packs lie in files now, durably: attempt and log index. They hold the log no longer.
    pub fn set_aside(&self, packs: &[(u64, u64)]) {
        self.book().set_aside(packs);
    }
}

/// Epochs on their way to being directories.
impl Dues {
    /// The epoch was sealed.
    pub fn sealed(&self, epoch: &PublishEpoch) {
        self.book().wait_for((epoch.job.clone(), epoch.epoch), epoch.attempt);
    }

    /// A record has expired the epoch: nobody waits for its directory.
    pub fn expired(&self, key: &EpochKey) {
        self.book().wait_no_more(key);
    }

    /// An epoch is published. The index of the record that expired it, when one has since: then it goes at once.
    pub fn published(&self, epoch: &PublishEpoch) -> Option<u64> {
        let settled = self.book().succeed(epoch);
        self.tell();
        settled.failed.and_then(|failed| failed.owed.expired)
    }

    /// An epoch was not published. Its tree stays in memory until it lies in a file ([`Dues::file_tree`]).
    pub fn unpublished(&self, epoch: PublishEpoch, why: String) {
        let again = self.book().fail(epoch, why);
        self.tell();
        drop(again);
    }

    /// The same, when all that it lacks is content that lies in a store: nothing in the log is kept for it.
    pub fn to_hydrate(&self, epoch: PublishEpoch, why: String) {
        let again = self.book().wait_on(epoch, why);
        self.tell();
        drop(again);
    }

    /// An epoch that has failed could not be tried again.
    pub fn still_fails(&self, attempt: u64, why: String) {
        self.book().fail_again(attempt, why);
        self.tell();
    }

    /// An epoch that has failed was not tried again, since what it reuses is still being read. Nobody is told: whoever looks
    /// when something changes asks for another try, and would be woken by its own question.
    pub fn still_read(&self, attempt: u64, why: String) {
        self.book().fail_again(attempt, why);
    }

    /// The epoch that was this attempt was published by somebody else.
    pub fn adopted(&self, job: &JobName, epoch: u64, attempt: u64) {
        self.book().found(&(job.clone(), epoch), attempt);
        self.tell();
    }

    /// All that was sealed before was looked for: what is not noted as missing is a directory here.
    pub fn looked(&self) {
        let unlooked = self.book().looked();
        drop(unlooked);
        self.tell();
    }

    /// An epoch that was missing could not be brought. One that has come meanwhile is not missing any more.
    pub fn still_missing(&self, job: &JobName, epoch: u64, why: String) {
        self.book().still_misses(&(job.clone(), epoch), why);
        self.tell();
    }

    /// Whoever looks for all that was sealed finds no directory of this epoch. False when it has been here since the start,
    /// or was noted otherwise: what is looked at may be older than that.
    pub fn looked_in_vain(&self, job: JobName, epoch: u64, attempt: u64, root: Digest, why: &str) -> bool {
        let absent = Absent { attempt, root, why: why.to_owned() };
        let missing = self.book().miss_unlooked((job, epoch), absent);
        if missing {
            self.tell();
        }
        missing
    }

    /// Takes note that a sealed epoch has no directory here, unless it is just waiting for it.
    pub fn note_missing(&self, job: JobName, epoch: u64, attempt: u64, root: Digest, why: &str) {
        let absent = Absent { attempt, root, why: why.to_owned() };
        let missing = self.book().miss((job, epoch), absent);
        if missing {
            self.tell();
        }
    }
}

/// Trees of attempts, and what was unpacked into them.
impl Dues {
    /// Whether what is in the tree of this attempt is from another life.
    pub fn has_old_tree(&self, attempt: u64) -> bool {
        self.book().has_old_tree(attempt)
    }

    /// What is in the tree of this attempt stays from now on.
    pub fn begin_tree(&self, attempt: u64) {
        self.book().trees.entry(attempt).or_default();
    }

    /// Nothing of this attempt is to be unpacked any more.
    pub fn forget_tree(&self, attempt: u64) {
        self.book().trees.remove(&attempt);
    }

    /// A pack was unpacked into the tree of an attempt, or why it was not.
    pub fn unpacked(&self, attempt: u64, pack: Pack, result: Result<(), String>) {
        self.book().unpacked(attempt, pack, result);
    }

    /// All packs of this attempt are in its tree now.
    pub fn unpacked_again(&self, attempt: u64) {
        let mut book = self.book();
        book.unpackings += 1;
        if let Some(tree) = book.trees.get_mut(&attempt) {
            tree.failed = None;
        }
    }

    /// The packs to unpack once more, when something went wrong with one of them.
    pub fn half_unpacked(&self, attempt: u64) -> Option<Vec<Arc<Pack>>> {
        let book = self.book();
        book.trees.get(&attempt).filter(|tree| tree.failed.is_some()).map(|tree| tree.packs.clone())
    }

    /// How often files were unpacked, when nobody has synced the last of them.
    pub fn unsynced(&self) -> Option<u64> {
        let book = self.book();
        (book.synced < book.unpackings).then_some(book.unpackings)
    }

    /// What was unpacked in the first `unpackings` is durable. More may have been unpacked meanwhile.
    pub fn synced(&self, unpackings: u64) {
        let mut book = self.book();
        book.synced = book.synced.max(unpackings);
    }
}

/// What waits to be given back.
impl Dues {
    /// The record at `index` released content. Answers with the failed epochs that have expired and that nobody needs any
    /// more: nothing that they brought is held; they are forgotten.
    pub fn release(&self, index: u64, released: &[Released]) -> Vec<Unpublished> {
        // Only the performer, which calls this, changes what has failed, and no other ledger takes over meanwhile. A
        // snapshot that needs all of it waits until the record is performed.
        let slice = (SLICE / (1 + self.book().needing())).max(1);
        for released in released.chunks(slice) {
            self.book().release(index, released);
        }
        let forgotten = self.book().forget_needless(index);
        forgotten.into_iter().map(|failed| failed.owed).collect()
    }

    /// The attempt of the epoch that has failed and not expired under this number.
    pub fn has_failed(&self, key: &EpochKey) -> Option<u64> {
        self.book().has_failed(key)
    }

    /// A failed epoch expires: later ones may reuse what it brought, so it stays until they do not. One whose `tree` is lost
    /// helps nobody; one whose tree cannot be read stays.
    pub fn expire_failed(&self, attempt: u64, index: u64, tree: io::Result<Option<PublishEpoch>>) {
        // A tree may have a million files. As above, it is still failed afterwards.
        let needed = needed_of(attempt, tree, |_| true);
        self.book().expire_failed(attempt, index, needed);
    }

    /// Whether others are known to need this content of a failed epoch that has expired.
    pub fn needs(&self, attempt: u64, digest: &Digest) -> bool {
        self.book().needs(attempt, digest)
    }

    /// The attempt ended without an epoch.
    pub fn discard(&self, attempt: u64, index: u64) {
        self.book().discard(attempt, index);
    }

    /// So many bytes come back with the folder of an attempt that has ended.
    pub fn weigh(&self, attempt: u64, bytes: u64) {
        self.book().ended.weigh(attempt, bytes);
    }

    /// The record at `index` ended the quarantine of this content: names here may still lead to a bad copy.
    pub fn heal(&self, digest: Digest, owed: Owed) {
        self.book().healing.insert(digest, owed);
        self.tell();
    }

    /// The names of this content here lead to a good copy, unless it is owed once more since.
    pub fn healed(&self, digest: &Digest, owed: Owed) {
        let mut book = self.book();
        if book.healing.get(digest) == Some(&owed) {
            book.healing.remove(digest);
        }
    }

    /// Owes more: content whose blobs may be here without anybody referring to it, and folders of epochs that have
    /// expired, each with the log index up to which what lies there goes. True when there are folders to remove: the
    /// performer has to look.
    ///
    /// The contents first: whoever finds a folder here finds what was in it, too.
    pub fn owe(
        &self,
        index: u64,
        contents: impl IntoIterator<Item = (Digest, u64)>,
        expired: impl IntoIterator<Item = (EpochKey, u64)>,
    ) -> bool {
        in_slices(contents, |slice| {
            let mut book = self.book();
            slice.into_iter().for_each(|(digest, bytes)| book.released.owe(digest, Owed { index, bytes }));
        });
        in_slices(expired, |slice| {
            let mut book = self.book();
            for (key, until) in slice {
                let at = book.expiring.entry(key).or_insert(until);
                *at = until.max(*at);
            }
        });
        !self.book().expiring.is_empty()
    }

    /// The folder of an epoch has to go, and could not yet.
    pub fn owe_folder(&self, key: EpochKey, index: u64) {
        self.book().expiring.insert(key, index);
    }

    /// As [`Dues::owe_folder`], when somebody reads it just now.
    pub fn owe_folder_that_is_read(&self, key: &EpochKey, index: u64) -> bool {
        let mut book = self.book();
        let read = book.readers.contains_key(key);
        if read {
            book.expiring.insert(key.clone(), index);
        }
        read
    }

    /// Folders that have to go: they are not on the list any more.
    pub fn take_expiring(&self) -> BTreeMap<EpochKey, u64> {
        std::mem::take(&mut self.book().expiring)
    }

    /// This content is not owed any more, unless it was released again since `index`.
    pub fn paid(&self, digest: &Digest, index: u64) {
        self.book().released.pay(digest, index);
    }

    /// What waits to be given back, and would be after a snapshot and a purge.
    pub fn garbage(&self) -> Garbage {
        let book = self.book();
        Garbage {
            contents: book.released.contents().len() as u64,
            bytes: book.released.bytes(),
            attempts: book.ended.rows().len() as u64,
            staged: book.ended.bytes(),
        }
    }

    /// Somebody reads the directory of an epoch: it stays until [`Dues::reader_left`].
    pub fn reader_came(&self, key: &EpochKey) {
        *self.book().readers.entry(key.clone()).or_default() += 1;
    }

    /// One reader less. True when somebody waits for that.
    pub fn reader_left(&self, key: &EpochKey) -> bool {
        self.book().reader_left(key)
    }

    /// Whether somebody reads this epoch.
    pub fn is_read(&self, job: &JobName, epoch: u64) -> bool {
        self.book().readers.contains_key(&(job.clone(), epoch))
    }
}

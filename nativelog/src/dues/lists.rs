//! Lists of what is due, for whoever has time to read them.
//!
//! Apply waits for the book, so no table is copied in one go. Between two slices others may come and go: whatever is in
//! a table all the while is in its list, once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use checkpoint::{Digest, JobName};

use super::book::{Book, Failed};
use super::debts::{Debts, Owed, Unpublished};
use super::epoch::{EpochKey, Origin};
use super::shared::{Dues, MissingEpoch};
use super::slices::SLICE;

impl Dues {
    /// What `pick` makes of the rows of a table, in their order.
    fn list<K: Ord + Clone, V, T>(
        &self,
        table: impl Fn(&Book) -> &BTreeMap<K, V>,
        pick: impl Fn(&K, &V) -> Option<T>,
    ) -> Vec<T> {
        let (mut all, mut last) = (Vec::new(), None::<K>);
        loop {
            let book = self.book();
            let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows: Vec<(&K, &V)> = table(&book).range((from, Bound::Unbounded)).take(SLICE).collect();
            let next = rows.last().filter(|_| rows.len() == SLICE).map(|(key, _)| (*key).clone());
            let picked: Vec<T> = rows.into_iter().filter_map(|(key, value)| pick(key, value)).collect();
            drop(book);
            #[cfg(test)]
            tests::COPIED.set(tests::COPIED.get() + picked.len());
            all.extend(picked);
            match next {
                Some(key) => last = Some(key),
                None => return all,
            }
        }
    }

    /// What is owed of the records up to and including `index`, all of which were performed: nothing of that is added any
    /// more but what was found on the disk, and what is settled between two slices may be among it, as in any older snapshot.
    /// The trees of what was not published are in their files (`Ground::file_trees`).
    pub fn debts(&self, index: u64) -> Debts {
        let owed = |digest: &Digest, owed: &Owed| (owed.index <= index).then_some((*digest, *owed));
        // The packs after the epochs that need them: with an epoch they go, and without it nobody would ever let go of them.
        let unpublished = self.list(
            |book| &book.failed,
            |_, failed| {
                (failed.owed.origin.sealed_at <= index).then(|| Unpublished {
                    expired: failed.owed.expired.filter(|at| *at <= index),
                    ..failed.owed.clone()
                })
            },
        );
        let half_unpacked = self.book().half_unpacked(index);
        let expiring = self.list(|book| &book.expiring, |key, at| (*at <= index).then(|| (key.clone(), *at)));
        // After the folders: what was found in one is owed before the folder is, see `owe`.
        let released = self.list(|book| book.released.contents(), owed);
        let healing = self.list(|book| &book.healing, owed);
        Debts {
            released: released.into_iter().collect(),
            unpublished,
            half_unpacked,
            expiring: expiring.into_iter().collect(),
            healing: healing.into_iter().collect(),
        }
    }

    /// Epochs that could not be published, those too that have expired since.
    pub fn failed(&self) -> Vec<Unpublished> {
        self.list(|book| &book.failed, |_, failed| Some(failed.owed.clone()))
    }

    /// Where these come from, and which epochs they are; `None` for those that have expired.
    pub fn failed_keys(&self) -> Vec<(Origin, Option<EpochKey>)> {
        let key = |owed: &Unpublished| owed.expired.is_none().then(|| owed.key());
        self.list(|book| &book.failed, |_, failed| Some((failed.owed.origin, key(&failed.owed))))
    }

    /// Attempts of epochs that could not be published and were sealed up to `index`, whose trees are not in files yet.
    pub fn trees_in_memory(&self, index: u64) -> Vec<u64> {
        let is_due = |failed: &Failed| failed.tree.is_some() && failed.owed.origin.sealed_at <= index;
        self.list(|book| &book.failed, |attempt, failed| is_due(failed).then_some(*attempt))
    }

    /// Epochs that could not be published and have not expired.
    pub fn still_unpublished(&self) -> Vec<Unpublished> {
        self.list(|book| &book.failed, |_, failed| failed.owed.expired.is_none().then(|| failed.owed.clone()))
    }

    /// Sealed epochs that are noted as missing.
    pub fn missing(&self) -> Vec<MissingEpoch> {
        self.list(
            |book| &book.missing,
            |(job, epoch), absent| {
                Some(MissingEpoch {
                    job: JobName::clone(job),
                    epoch: *epoch,
                    attempt: absent.attempt,
                    root: absent.root,
                    why: absent.why.clone(),
                })
            },
        )
    }

    /// Content whose names here have to lead to a good copy.
    pub fn to_heal(&self) -> Vec<(Digest, Owed)> {
        self.list(|book| &book.healing, |digest, owed| Some((*digest, *owed)))
    }

    /// Content to unlink that was released below `purged`: digest and the index that released it.
    pub fn ripe(&self, purged: u64) -> Vec<(Digest, u64)> {
        self.list(
            |book| book.released.contents(),
            |digest, owed| (owed.index < purged).then_some((*digest, owed.index)),
        )
    }

    /// What records above `index`, or any, let go of and is still here: contents, and attempts.
    pub fn let_go_since(&self, index: Option<u64>) -> (Vec<Digest>, Vec<u64>) {
        let above = |at: u64| index.is_none_or(|index| at > index);
        let released =
            self.list(|book| book.released.contents(), |digest, owed| above(owed.index).then_some(*digest));
        (released, self.list(|book| book.ended.rows(), |id, ended| above(ended.index).then_some(*id)))
    }

    /// Takes note of the attempts that have a folder in staging (`found`) and of those of them that are not open, each with
    /// the index of the last record applied when that was asked: unless it waits here it has ended, at the latest by that.
    /// Answers with those of whose end nobody knew.
    pub fn note_staging(&self, found: &BTreeSet<u64>, not_open: &[(u64, u64)]) -> Vec<u64> {
        let gone = self.list(|book| book.ended.rows(), |id, _| (!found.contains(id)).then_some(*id));
        self.swept(&gone);
        // Asked after the ledger: a seal is waited for before the ledger can be asked again, and what does not wait any
        // more has ended.
        let busy = self.busy_attempts();
        let mut news = Vec::new();
        for slice in not_open.chunks(SLICE) {
            let mut book = self.book();
            let ended = slice.iter().filter(|(id, _)| !busy.contains(id));
            news.extend(ended.filter(|(id, at)| book.ended.note(*id, *at)).map(|(id, _)| *id));
        }
        news
    }

    /// Ended attempts whose Begin and end both lie below `purged`.
    pub fn sweepable(&self, purged: u64) -> Vec<u64> {
        let mut ended = self.list(
            |book| book.ended.rows(),
            |id, ended| (*id < purged && ended.index < purged).then_some(*id),
        );
        let busy = self.busy_attempts();
        ended.retain(|id| !busy.contains(id));
        ended
    }

    /// These folders are gone.
    pub fn swept(&self, attempts: &[u64]) {
        for slice in attempts.chunks(SLICE) {
            let mut book = self.book();
            for id in slice {
                book.ended.remove(*id);
            }
        }
    }

    fn busy_attempts(&self) -> BTreeSet<u64> {
        // A number each, and as a list: no more than a moment.
        let busy = self.book().busy_attempts();
        busy.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::ledger::Ledger;

    thread_local! {
        /// Rows that this thread has copied into lists.
        pub static COPIED: Cell<usize> = const { Cell::new(0) };
    }

    fn digest(n: u64) -> Digest {
        checkpoint::digest::content(&n.to_be_bytes())
    }

    #[test]
    fn a_list_of_several_slices_has_every_row_once() {
        for count in [0, 1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE, 2 * SLICE + 7] {
            let dues = Dues::new(0, Debts::default(), BTreeMap::new(), &Ledger::default());
            let contents = (0..count as u64).map(|n| (digest(n), n));
            dues.owe(5, contents.clone(), []);
            let all: BTreeMap<Digest, Owed> =
                contents.map(|(digest, bytes)| (digest, Owed { index: 5, bytes })).collect();
            assert_eq!(dues.debts(5).released, all);
            assert_eq!(dues.debts(4), Debts::default());
            assert_eq!(dues.ripe(6).len(), count);
            assert_eq!(dues.ripe(5), []);
            let garbage = dues.garbage();
            assert_eq!((garbage.contents, garbage.bytes), (count as u64, (0..count as u64).sum()));
        }
    }

    #[test]
    fn no_more_than_a_slice_is_looked_at_while_the_book_is_held() {
        let count = 2 * SLICE + 7;
        let dues = Dues::new(0, Debts::default(), BTreeMap::new(), &Ledger::default());
        dues.owe(5, (0..count as u64).map(|n| (digest(n), n)), []);
        // How many, each time that the book is held.
        let looked = RefCell::new(Vec::<usize>::new());
        let list = dues.list(
            |book| {
                looked.borrow_mut().push(0);
                book.released.contents()
            },
            |_, owed| {
                *looked.borrow_mut().last_mut().unwrap() += 1;
                (owed.bytes < 3).then_some(owed.bytes)
            },
        );
        assert_eq!(list.len(), 3);
        assert_eq!(looked.into_inner(), [SLICE, SLICE, 7]);
    }

    /// Once a round of keeping, of a table that may have millions of rows of which nothing is due.
    #[test]
    fn of_what_is_to_be_unlinked_only_what_is_due_is_copied() {
        let dues = Dues::new(0, Debts::default(), BTreeMap::new(), &Ledger::default());
        let contents = |numbers: std::ops::Range<u64>| numbers.map(|n| (digest(n), n));
        let later = 2 * SLICE as u64 + 7;
        dues.owe(9, contents(0..later), []);
        dues.owe(4, contents(later..later + 3), []);
        let copied = |purged: u64| {
            COPIED.set(0);
            let ripe: BTreeMap<Digest, u64> = dues.ripe(purged).into_iter().collect();
            (ripe, COPIED.get())
        };
        assert_eq!(copied(4), (BTreeMap::new(), 0));
        let due: BTreeMap<Digest, u64> = (later..later + 3).map(|n| (digest(n), 4)).collect();
        assert_eq!(copied(9), (due, 3));
        assert_eq!(copied(10).1, later as usize + 3);
    }

    #[test]
    fn folders_in_staging_that_are_not_open_have_ended_and_those_that_went_are_forgotten() {
        let dues = Dues::new(0, Debts::default(), BTreeMap::new(), &Ledger::default());
        dues.discard(3, 4);
        dues.discard(5, 6);
        dues.weigh(3, 1000);
        dues.weigh(5, 100);
        assert_eq!(dues.note_staging(&BTreeSet::from([5, 7, 8]), &[(5, 9), (7, 9)]), [7]);
        dues.weigh(7, 20);
        dues.weigh(8, 4000);
        assert_eq!((dues.garbage().attempts, dues.garbage().staged, dues.garbage().bytes), (2, 120, 0));
        dues.discard(5, 6);
        dues.weigh(5, 101);
        assert_eq!(dues.garbage().all_bytes(), 121, "what is done again is counted once");
        assert_eq!(dues.sweepable(7), [5], "its own end is known");
        assert_eq!(dues.sweepable(10), [5, 7]);
        dues.swept(&[5]);
        assert_eq!(dues.sweepable(10), [7]);
        assert_eq!(dues.garbage().all_bytes(), 20);
    }
}

//! Trees of epochs that have failed: in memory until they lie in their files (`tree_file.rs`), read back from there.

use std::io;
use std::sync::PoisonError;

use checkpoint::Store;

use super::shared::{Dues, Ground};
use super::tree_file::{read, write};
use crate::ledger::PublishEpoch;

impl Dues {
    /// The tree of an epoch that could not be published, from memory or from its file; `None` when it is lost here.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be read now.
    pub fn tree(&self, store: &Store, attempt: u64) -> io::Result<Option<PublishEpoch>> {
        let in_memory = self.book().failed.get(&attempt).and_then(|failed| failed.tree.clone());
        match in_memory {
            Some(epoch) => Ok(Some(epoch)),
            None => read(store, attempt),
        }
    }

    /// The same for whoever looks for one file of it after the other: the last one stays in memory until
    /// [`Dues::forget_recent_tree`]. Blocks.
    ///
    /// # Errors
    /// As [`Dues::tree`].
    pub fn recent_tree(&self, store: &Store, attempt: u64) -> io::Result<Option<PublishEpoch>> {
        // Held over the disk: many may ask at once, and not each of them is to read a million entries.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(epoch) = recent.as_ref().filter(|epoch| epoch.attempt == attempt) {
            return Ok(Some(epoch.clone()));
        }
        // Before the next one comes.
        *recent = None;
        let tree = self.tree(store, attempt)?;
        *recent = tree.clone();
        Ok(tree)
    }

    /// Nobody has looked for long, perhaps.
    pub fn forget_recent_tree(&self) {
        let forgotten = self.recent.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(forgotten);
    }

    /// Puts the tree of an epoch that has failed into its file, still to be synced, unless it lies there. Until it does it
    /// stays in memory. Blocks.
    ///
    /// # Errors
    /// The disk refuses. What was written goes.
    pub fn file_tree(&self, store: &Store, attempt: u64) -> io::Result<()> {
        // One at a time: nobody counts on a file that somebody else is just writing.
        let _filing = self.filing.lock().unwrap_or_else(PoisonError::into_inner);
        let in_memory = self.book().failed.get(&attempt).and_then(|failed| failed.tree.clone());
        let Some(epoch) = in_memory else { return Ok(()) };
        write(store, &epoch)?;
        let filed = self.book().filed(attempt);
        drop(filed);
        Ok(())
    }
}

impl Ground<'_> {
    /// Puts the trees of all epochs sealed up to `index` that have failed into their files, still to be synced: what is
    /// about to take the log's place does not hold them. Blocks.
    ///
    /// # Errors
    /// The disk refuses, for want of room perhaps.
    pub fn file_trees(&self, index: u64) -> io::Result<()> {
        self.dues.trees_in_memory(index).into_iter().try_for_each(|id| self.dues.file_tree(self.store, id))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use checkpoint::disk::Disk;
    use checkpoint::testing::{CrashDisk, OpKind};

    use super::super::debts::{Debts, Unpublished};
    use super::super::tree_file::tests::{ENTRIES, example};
    use super::*;
    use crate::ledger::Ledger;

    fn shelves(disk: &CrashDisk) -> Store {
        disk.create_dir(Path::new("/data")).unwrap();
        Store::open(Arc::new(disk.clone()), Path::new("/data")).unwrap()
    }

    #[test]
    fn a_tree_that_lies_in_its_file_is_neither_in_memory_nor_among_the_debts() {
        let disk = CrashDisk::new();
        let store = shelves(&disk);
        let dues = Dues::new(0, Debts::default(), BTreeMap::new(), &Ledger::default());
        for attempt in [10, 20, 30] {
            dues.unpublished(example(attempt), "a folder is in the way".into());
        }
        assert_eq!(dues.trees_in_memory(22), [10, 20], "those that were sealed up to there");
        disk.fail_next(OpKind::Write, "/20/sealed", 28);
        dues.file_tree(&store, 10).unwrap();
        dues.file_tree(&store, 20).unwrap_err();
        assert_eq!(dues.trees_in_memory(u64::MAX), [20, 30]);
        assert!(!disk.paths().contains(&store.layout().sealed_file(20)), "it takes room for nothing");
        for attempt in [20, 30] {
            dues.file_tree(&store, attempt).unwrap();
        }
        assert!(dues.trees_in_memory(u64::MAX).is_empty());
        assert!(dues.unsynced().is_some(), "the next snapshot syncs them");
        let debts = dues.debts(u64::MAX);
        let owed = |attempt| Unpublished::of(&example(attempt), "a folder is in the way".into());
        assert_eq!(debts.unpublished, [10, 20, 30].map(owed));
        assert!(debts.encode().len() < ENTRIES, "less than a byte an entry: {}", debts.encode().len());

        // After a start.
        let dues = Dues::new(40, debts, BTreeMap::new(), &Ledger::default());
        for attempt in [10, 20, 30] {
            assert_eq!(dues.tree(&store, attempt).unwrap(), Some(example(attempt)));
            assert_eq!(dues.recent_tree(&store, attempt).unwrap(), Some(example(attempt)));
        }
        disk.unlink(&store.layout().sealed_file(30)).unwrap();
        assert_eq!(dues.tree(&store, 30).unwrap(), None, "it is lost");
        assert_eq!(dues.recent_tree(&store, 30).unwrap(), Some(example(30)), "it was read last");
        dues.forget_recent_tree();
        assert_eq!(dues.recent_tree(&store, 30).unwrap(), None);
        disk.fail_next(OpKind::Read, "/20/sealed", 24);
        dues.tree(&store, 20).unwrap_err();
        assert!(dues.tree(&store, 20).unwrap().is_some(), "it was not lost");
    }
}

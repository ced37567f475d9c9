//! What a new epoch can refer to instead of sending it: the files of the newest epoch that is published here.

use std::collections::BTreeMap;

use checkpoint::store::StoreError;
use checkpoint::{Digest, EntryKind, JobName, Store};
use nativelog::machine::Machine;

/// Size and digest of files by path.
pub type Known = BTreeMap<Vec<u8>, (u64, Digest)>;

/// So many are looked up while apply waits.
const LOOKED_UP_AT_ONCE: usize = 4096;

/// The files of the newest epoch that is published here, but for those whose content the ledger would not refer to.
/// Reads the disk.
///
/// # Errors
/// The manifest cannot be read.
pub fn files(store: &Store, machine: &Machine, job: &JobName) -> Result<Known, StoreError> {
    let Some(newest) = store.epochs(job)?.into_iter().max() else { return Ok(Known::new()) };
    let Some((_, manifest)) = store.manifest(job, newest)? else { return Ok(Known::new()) };
    // What the ledger says of one may be old by the next slice, or when a reference to it is judged: then that is refused.
    let known = looked_up(
        &manifest.entries,
        || machine.ledger(),
        |ledger, entry| {
            entry.kind == EntryKind::File
                && entry.size > 0
                && ledger.content(&entry.digest).is_some()
                && !ledger.is_quarantined(&entry.digest)
        },
    );
    let known = known.into_iter().map(|entry| (entry.path.as_bytes().to_vec(), (entry.size, entry.digest)));
    Ok(known.collect())
}

/// Those that are wanted, looked up in slices under a guard that is taken anew for each. Nothing is copied under it.
fn looked_up<T, G>(all: &[T], hold: impl Fn() -> G, is_wanted: impl Fn(&G, &T) -> bool) -> Vec<&T> {
    let mut found = Vec::with_capacity(all.len());
    for some in all.chunks(LOOKED_UP_AT_ONCE) {
        let guard = hold();
        found.extend(some.iter().filter(|one| is_wanted(&guard, one)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// Notes for how many it was held.
    struct Guard<'a> {
        for_so_many: Cell<usize>,
        held: &'a RefCell<Vec<usize>>,
    }

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.held.borrow_mut().push(self.for_so_many.get());
        }
    }

    #[test]
    fn a_large_manifest_is_looked_up_under_many_short_guards() {
        let count = 2 * LOOKED_UP_AT_ONCE + 5;
        let (all, held) = ((0..count).collect::<Vec<_>>(), RefCell::new(Vec::new()));
        let taken = Cell::new(0);
        let hold = || {
            assert_eq!(
                taken.replace(taken.get() + 1),
                held.borrow().len(),
                "one is let go of before the next"
            );
            Guard { for_so_many: Cell::new(0), held: &held }
        };
        let is_wanted = |guard: &Guard<'_>, one: &usize| {
            guard.for_so_many.set(guard.for_so_many.get() + 1);
            one.is_multiple_of(3)
        };
        let found = looked_up(&all, hold, is_wanted);
        assert!(found.into_iter().copied().eq((0..count).step_by(3)));
        assert_eq!(held.into_inner(), [LOOKED_UP_AT_ONCE, LOOKED_UP_AT_ONCE, 5]);
    }
}

//! Numbers that are free, as runs of them: of very many that follow each other only the ends are kept.

use std::collections::BTreeMap;

/// The first number of each run, and the one behind its last. No two runs touch, so that equal sets are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Free(BTreeMap<u32, u32>);

impl Free {
    /// All below `end` but these, which ascend and are below it.
    pub fn all_but(used: impl Iterator<Item = u32>, end: u32) -> Free {
        let (mut runs, mut next) = (BTreeMap::new(), 0);
        for id in used.chain(std::iter::once(end)) {
            if next < id {
                runs.insert(next, id);
            }
            // Behind `end` nothing is looked for any more.
            next = id.saturating_add(1);
        }
        Free(runs)
    }

    /// The smallest, which is free no more.
    pub fn take_first(&mut self) -> Option<u32> {
        let (first, end) = self.0.pop_first()?;
        if first + 1 < end {
            self.0.insert(first + 1, end);
        }
        Some(first)
    }

    /// One more: it was not free, and is below `u32::MAX`.
    pub fn put(&mut self, id: u32) {
        let end = self.0.remove(&(id + 1)).unwrap_or(id + 1);
        let touching = self.0.range(..id).next_back().filter(|(_, end)| **end == id);
        let first = touching.map_or(id, |(first, _)| *first);
        self.0.insert(first, end);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(
            used in prop::collection::btree_set(0u32..40, 0..40),
            end in 40u32..50,
            steps in prop::collection::vec(prop::option::of(0u32..50), 0..80),
        ) {
            let mut free = Free::all_but(used.iter().copied(), end);
            let mut set: BTreeSet<u32> = (0..end).filter(|id| !used.contains(id)).collect();
            for step in steps {
                match step {
                    None => prop_assert_eq!(free.take_first(), set.pop_first()),
                    Some(id) if set.insert(id) => free.put(id),
                    Some(_) => {}
                }
                let taken = (0..50).filter(|id| !set.contains(id));
                prop_assert_eq!(&free, &Free::all_but(taken, 50));
            }
        }
    }

    #[test]
    fn very_many_take_no_more_than_a_few() {
        let mut free = Free::all_but([7, u32::MAX - 1].into_iter(), u32::MAX);
        assert_eq!(free.0, BTreeMap::from([(0, 7), (8, u32::MAX - 1)]));
        free.put(u32::MAX - 1);
        free.put(7);
        assert_eq!(free.0, BTreeMap::from([(0, u32::MAX)]));
        assert_eq!(free.take_first(), Some(0));
    }
}

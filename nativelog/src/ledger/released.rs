//! Objects that nobody holds any more, by name. There may be a million of them for each store: they lie in parts that a
//! copy shares with what it is a copy of until one of them changes, as slots do, for a snapshot copies all of them while
//! apply waits.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::objects::ObjectKey;

/// Most objects of a part, of about 80 bytes each.
const PART: usize = 512;

/// What is kept of an object that nobody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReleasedAt {
    /// Log index of the record that did it.
    pub index: u64,
    pub bytes: u64,
}

/// Ascending, never empty.
type Part = Arc<Vec<(ObjectKey, ReleasedAt)>>;

/// All of them, in the order of names: store by store.
#[derive(Debug, Clone, Default)]
pub(super) struct Released {
    /// By a name that none in the part is below, and all in the parts before are.
    parts: BTreeMap<ObjectKey, Part>,
    /// By store, how many.
    counts: BTreeMap<u64, usize>,
}

/// How they are parted is no difference.
impl PartialEq for Released {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts && self.iter().eq(other.iter())
    }
}

impl Eq for Released {}

impl Released {
    /// How many there are of one store.
    pub fn of_store(&self, store: u64) -> usize {
        self.counts.get(&store).copied().unwrap_or_default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.counts.values().sum()
    }

    /// What is kept of this one.
    pub fn get(&self, key: &ObjectKey) -> Option<&ReleasedAt> {
        let (_, part) = self.parts.range(..=*key).next_back()?;
        let at = part.binary_search_by(|(there, _)| there.cmp(key)).ok()?;
        Some(&part[at].1)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &ReleasedAt)> {
        self.parts.values().flat_map(|part| part.iter().map(|(key, at)| (key, at)))
    }

    /// Those behind a name, or all, in order.
    pub fn after(&self, last: Option<&ObjectKey>) -> impl Iterator<Item = (&ObjectKey, &ReleasedAt)> {
        // The part in which the name lies, or would.
        let first = last.and_then(|last| self.parts.range(..=*last).next_back()).map(|(first, _)| *first);
        let from = first.map_or(Bound::Unbounded, Bound::Included);
        let last = last.copied();
        self.parts.range((from, Bound::Unbounded)).flat_map(move |(_, part)| {
            let behind = last.map_or(0, |last| part.partition_point(|(key, _)| *key <= last));
            part[behind..].iter().map(|(key, at)| (key, at))
        })
    }

    /// One more. False, and nothing is changed, when it is there already.
    pub fn insert(&mut self, key: ObjectKey, at: ReleasedAt) -> bool {
        let Some(first) = self.part_for(&key) else {
            self.parts.insert(key, Arc::new(vec![(key, at)]));
            self.count(key.store);
            return true;
        };
        let part = self.parts.get_mut(&first).expect("it was just found");
        let Err(place) = part.binary_search_by(|(there, _)| there.cmp(&key)) else { return false };
        let mut behind = Vec::new();
        if part.len() >= PART && place == part.len() {
            // They come in the order of names more often than not: the part stays full.
            behind.push((key, at));
        } else {
            let part = Arc::make_mut(part);
            part.insert(place, (key, at));
            if part.len() > PART {
                behind = part.split_off(PART / 2);
            }
        }
        if let Some((first, _)) = behind.first().copied() {
            self.parts.insert(first, Arc::new(behind));
        }
        self.count(key.store);
        true
    }

    /// It is forgotten. What was kept of it.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<ReleasedAt> {
        let (first, part) = self.parts.range_mut(..=*key).next_back()?;
        let place = part.binary_search_by(|(there, _)| there.cmp(key)).ok()?;
        let (_, gone) = Arc::make_mut(part).remove(place);
        let (first, left) = (*first, part.len());
        if left < PART / 4 {
            self.join(first);
        }
        let count = self.counts.get_mut(&key.store).expect("who is there was counted");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key.store);
        }
        Some(gone)
    }

    fn count(&mut self, store: u64) {
        *self.counts.entry(store).or_default() += 1;
    }

    /// The name of the part that is to have this one; of the first it may have to be a smaller one than before.
    fn part_for(&mut self, key: &ObjectKey) -> Option<ObjectKey> {
        if let Some((first, _)) = self.parts.range(..=*key).next_back() {
            return Some(*first);
        }
        let (_, part) = self.parts.pop_first()?;
        self.parts.insert(*key, part);
        Some(*key)
    }

    /// A part that has become small goes into the one before, where that has room, so that they do not become many.
    fn join(&mut self, first: ObjectKey) {
        let Some(small) = self.parts.remove(&first) else { return };
        if small.is_empty() {
            return;
        }
        match self.parts.range_mut(..first).next_back() {
            Some((_, before)) if before.len() + small.len() <= PART => {
                Arc::make_mut(before).extend_from_slice(&small);
            }
            _ => drop(self.parts.insert(first, small)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(store: u64, attempt: u64) -> ObjectKey {
        ObjectKey { store, attempt, digest: checkpoint::Digest::NONE, nonce: 0 }
    }

    fn at(index: u64) -> ReleasedAt {
        ReleasedAt { index, bytes: 1 }
    }

    fn many(count: u64) -> Released {
        let mut released = Released::default();
        assert!((0..count).all(|attempt| released.insert(key(1, attempt), at(attempt))));
        released
    }

    proptest! {
        #[test]
        fn it_is_a_map_of_names(
            first in 0..3 * PART as u64,
            steps in prop::collection::vec((any::<bool>(), 0..2u64, 0..4 * PART as u64, 1..700u64), 0..20),
        ) {
            let mut released = many(first);
            let mut map: BTreeMap<ObjectKey, ReleasedAt> = (0..first).map(|n| (key(1, n), at(n))).collect();
            for (comes, store, from, count) in steps {
                for attempt in from..from + count {
                    let key = key(store, attempt);
                    if comes {
                        let new = !map.contains_key(&key);
                        prop_assert_eq!(released.insert(key, at(attempt)), new);
                        map.entry(key).or_insert(at(attempt));
                    } else {
                        prop_assert_eq!(released.remove(&key), map.remove(&key));
                    }
                }
                prop_assert!(released.iter().eq(map.iter()));
                prop_assert_eq!(released.len(), map.len());
                for store in 0..3 {
                    let there = map.keys().filter(|key| key.store == store).count();
                    prop_assert_eq!(released.of_store(store), there);
                }
                for last in [key(0, 0), key(store, from), key(store, from + count), key(9, 9)] {
                    let behind = map.range((Bound::Excluded(last), Bound::Unbounded));
                    prop_assert!(released.after(Some(&last)).eq(behind));
                    prop_assert_eq!(released.get(&last), map.get(&last));
                }
                prop_assert!(released.after(None).eq(map.iter()));
                prop_assert!(released.parts.values().all(|part| !part.is_empty() && part.len() <= PART));
                let anew = map.iter().fold(Released::default(), |mut anew, (key, at)| {
                    anew.insert(*key, *at);
                    anew
                });
                prop_assert_eq!(&released, &anew);
            }
        }
    }

    #[test]
    fn a_copy_shares_all_parts_but_those_that_change() {
        let mut released = many(200 * PART as u64);
        assert_eq!(released.parts.len(), 200, "they are full");
        let copy = released.clone();
        assert!(released.insert(key(1, 1 << 40), at(1)));
        assert!(released.remove(&key(1, 5 * PART as u64 + 7)).is_some());
        let shared = |(first, part): &(&ObjectKey, &Part)| {
            released.parts.get(first).is_some_and(|now| Arc::ptr_eq(now, part))
        };
        assert_eq!(copy.parts.iter().filter(shared).count(), 199);
        assert_eq!((copy.len(), released.len()), (200 * PART, 200 * PART));
        assert!(copy.get(&key(1, 5 * PART as u64 + 7)).is_some(), "the copy is not changed");
    }

    #[test]
    fn parts_do_not_stay_when_hardly_anything_is_left() {
        let mut released = many(100 * PART as u64);
        for attempt in (0..100 * PART as u64).filter(|attempt| attempt % 64 != 0) {
            assert!(released.remove(&key(1, attempt)).is_some());
        }
        assert_eq!(released.len(), 100 * PART / 64);
        assert!(released.parts.len() <= 10, "{} parts", released.parts.len());
    }
}

//! Contents by their ids, in parts that a copy shares with what it is a copy of until one of them changes: a snapshot
//! copies a table of millions while apply waits.

use std::sync::Arc;

/// Slots of a part; a content's has 56 bytes.
const PART: usize = 1024;

/// A slot by its number; it may be free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slots<T> {
    /// All but the last are full.
    parts: Vec<Arc<Vec<Option<T>>>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { parts: Vec::new() }
    }
}

impl<T: Clone> Slots<T> {
    /// How many there are, free ones included.
    pub fn len(&self) -> usize {
        self.parts.last().map_or(0, |last| (self.parts.len() - 1) * PART + last.len())
    }

    /// What is in a slot, if it is there and not free.
    pub fn get(&self, id: u32) -> Option<&T> {
        let id = id as usize;
        self.parts.get(id / PART)?.get(id % PART)?.as_ref()
    }

    /// A slot.
    ///
    /// # Panics
    /// It is not there.
    pub fn at(&mut self, id: u32) -> &mut Option<T> {
        let id = id as usize;
        &mut Arc::make_mut(&mut self.parts[id / PART])[id % PART]
    }

    /// One more, with this in it. Its number.
    pub fn push(&mut self, value: T) -> u32 {
        let id = self.len();
        if id.is_multiple_of(PART) {
            self.parts.push(Arc::new(Vec::with_capacity(PART)));
        }
        Arc::make_mut(self.parts.last_mut().expect("it was just made")).push(Some(value));
        u32::try_from(id).expect("fewer contents than 2^32")
    }

    /// So many, if there are not as many yet: the new ones are free.
    pub fn grow(&mut self, len: usize) {
        while self.len() < len {
            if self.len().is_multiple_of(PART) {
                self.parts.push(Arc::new(Vec::with_capacity(PART)));
            }
            let (whole, last) = (self.parts.len() - 1, self.parts.last_mut().expect("there is one"));
            Arc::make_mut(last).resize((len - whole * PART).min(PART), None);
        }
    }

    /// Those that are not free, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let all = self.parts.iter().flat_map(|part| part.iter());
        all.enumerate().filter_map(|(id, slot)| Some((id as u32, slot.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_not_changed_with_the_other() {
        let mut slots = Slots::default();
        for bytes in 0..3 * PART as u32 + 5 {
            assert_eq!(slots.push(u64::from(bytes)), bytes);
        }
        let copy = slots.clone();
        *slots.at(PART as u32) = None;
        slots.push(7);
        assert_eq!((copy.len(), slots.len()), (3 * PART + 5, 3 * PART + 6));
        assert!(copy.iter().map(|(id, bytes)| (u64::from(id), *bytes)).all(|(id, bytes)| id == bytes));
        assert_eq!(copy.iter().count(), copy.len());
        assert_eq!(slots.iter().count(), copy.len());
        assert_eq!(slots.get(PART as u32), None);
        assert_eq!(slots.get(slots.len() as u32), None);
        assert!(Arc::ptr_eq(&slots.parts[2], &copy.parts[2]), "what did not change is shared");
    }

    #[test]
    fn it_grows_to_any_length_however_it_came_there() {
        for (pushed, len) in
            [(0, 0), (0, 1), (5, 3), (PART, PART + 1), (7, 3 * PART), (PART - 1, 2 * PART + 9)]
        {
            let mut slots = Slots::<u64>::default();
            for id in 0..pushed {
                assert_eq!(slots.push(7) as usize, id);
            }
            slots.grow(len);
            assert_eq!(slots.len(), len.max(pushed));
            let mut other = Slots::default();
            for id in 0..len.max(pushed) {
                assert_eq!(other.push(7) as usize, id);
            }
            for id in pushed..len {
                *other.at(id as u32) = None;
            }
            assert_eq!(slots, other);
            assert_eq!(slots.push(7) as usize, len.max(pushed));
        }
    }
}

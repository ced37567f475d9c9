//! A queue in parts that a copy shares with what it is a copy of until one of them changes: a snapshot copies a queue
//! of a million while apply waits. It may be read anywhere, and grows and shrinks at its ends.

use std::collections::VecDeque;
use std::sync::Arc;

/// Of a part; an outcome has some 100 bytes.
const PART: usize = 1024;

/// First in, first out.
#[derive(Debug, Clone)]
pub(super) struct Ring<T> {
    /// None is empty; all but the last are full.
    parts: VecDeque<Arc<Vec<T>>>,
    /// So many of the first part are gone.
    gone: usize,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Ring { parts: VecDeque::new(), gone: 0 }
    }
}

impl<T: Copy> Ring<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.parts.back().map_or(0, |last| (self.parts.len() - 1) * PART + last.len() - self.gone)
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The one so many after the oldest.
    pub fn get(&self, at: usize) -> Option<&T> {
        let at = at.checked_add(self.gone)?;
        self.parts.get(at / PART)?.get(at % PART)
    }

    /// The oldest.
    pub fn front(&self) -> Option<&T> {
        self.get(0)
    }

    /// The newest.
    pub fn back(&self) -> Option<&T> {
        self.parts.back()?.last()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flat_map(|part| part.iter()).skip(self.gone)
    }

    pub fn push_back(&mut self, value: T) {
        if self.parts.back().is_none_or(|last| last.len() == PART) {
            self.parts.push_back(Arc::default());
        }
        Arc::make_mut(self.parts.back_mut().expect("there is one")).push(value);
    }

    pub fn pop_front(&mut self) -> Option<T> {
        let front = *self.front()?;
        self.gone += 1;
        if self.parts.front().is_some_and(|first| first.len() == self.gone) {
            self.parts.pop_front();
            self.gone = 0;
        }
        Some(front)
    }
}

/// However they lie in parts.
impl<T: Copy + PartialEq> PartialEq for Ring<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<T: Copy + Eq> Eq for Ring<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ring: &Ring<u64>) -> Vec<u64> {
        ring.iter().copied().collect()
    }

    #[test]
    fn it_is_a_queue_wherever_its_parts_begin_and_end() {
        let (mut ring, mut model) = (Ring::default(), VecDeque::new());
        let mut next = 0..;
        // Fills two parts and a half, is emptied past a part, to a part's end, wholly.
        for (pushed, popped) in [
            (2 * PART + PART / 2, PART + 1),
            (0, PART - 1),
            (3, PART / 2 + 3),
            (1, 1),
            (PART, PART - 1),
            (0, 2),
        ] {
            for value in next.by_ref().take(pushed) {
                ring.push_back(value);
                model.push_back(value);
            }
            for _ in 0..popped {
                assert_eq!(ring.pop_front(), model.pop_front());
            }
            assert!(ring.iter().eq(&model));
            assert_eq!((ring.len(), ring.is_empty()), (model.len(), model.is_empty()));
            assert_eq!((ring.front(), ring.back()), (model.front(), model.back()));
            for at in [0, 1, PART - 1, PART, PART + 1, model.len(), usize::MAX] {
                assert_eq!(ring.get(at), model.get(at), "at {at}");
            }
        }
    }

    #[test]
    fn a_copy_shares_what_does_not_change() {
        let mut ring = Ring::default();
        (0..3 * PART as u64 - 1).for_each(|value| ring.push_back(value));
        let (copy, before) = (ring.clone(), of(&ring));
        ring.push_back(7);
        ring.pop_front();
        assert_eq!(of(&copy), before);
        assert!(Arc::ptr_eq(&ring.parts[0], &copy.parts[0]) && Arc::ptr_eq(&ring.parts[1], &copy.parts[1]));
        let mut same = Ring::default();
        of(&ring).into_iter().for_each(|value| same.push_back(value));
        assert_eq!(ring, same, "where its parts begin says nothing");
        assert_ne!(ring, copy);
    }
}

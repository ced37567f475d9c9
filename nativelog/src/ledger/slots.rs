//! Contents by their ids, in parts that a copy shares with what it is a copy of until one of them changes: a snapshot
//! copies a table of millions while apply waits. A part in which nothing ever was is not made: whoever says that there are
//! very many free slots costs 8 bytes for each thousand of them.

use std::sync::Arc;

/// Slots of a part; a content's has 56 bytes.
const PART: usize = 1024;

/// A slot by its number; it may be free.
#[derive(Debug, Clone)]
pub(super) struct Slots<T> {
    /// All but the last are full. One that is not made has free slots alone.
    parts: Vec<Option<Arc<Vec<Option<T>>>>>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { parts: Vec::new(), len: 0 }
    }
}

impl<T: Clone> Slots<T> {
    /// How many there are, free ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// What is in a slot, if it is there and not free.
    pub fn get(&self, id: u32) -> Option<&T> {
        let id = id as usize;
        self.parts.get(id / PART)?.as_ref()?.get(id % PART)?.as_ref()
    }

    /// A slot.
    ///
    /// # Panics
    /// It is not there.
    pub fn at(&mut self, id: u32) -> &mut Option<T> {
        let id = id as usize;
        &mut self.made(id / PART)[id % PART]
    }

    /// A part that is there, made and shared with nobody.
    fn made(&mut self, part: usize) -> &mut Vec<Option<T>> {
        let slots = self.len.saturating_sub(part * PART).min(PART);
        let part = self.parts[part].get_or_insert_with(|| Arc::new(vec![None; slots]));
        Arc::make_mut(part)
    }

    /// One more, with this in it. Its number.
    pub fn push(&mut self, value: T) -> u32 {
        let id = self.len;
        if id.is_multiple_of(PART) {
            self.parts.push(Some(Arc::new(Vec::with_capacity(PART))));
        }
        self.made(id / PART).push(Some(value));
        self.len += 1;
        u32::try_from(id).expect("fewer contents than 2^32")
    }

    /// So many, if there are not as many yet: the new ones are free.
    pub fn grow(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        let whole = self.parts.len().saturating_sub(1) * PART;
        if let Some(Some(last)) = self.parts.last_mut() {
            Arc::make_mut(last).resize((len - whole).min(PART), None);
        }
        self.parts.resize(len.div_ceil(PART), None);
        self.len = len;
    }

    /// Those that are not free, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let parts = self.parts.iter().enumerate();
        let made = parts.filter_map(|(number, part)| Some((number * PART, part.as_ref()?)));
        made.flat_map(|(first, part)| {
            let slots = part.iter().enumerate();
            slots.filter_map(move |(at, slot)| Some(((first + at) as u32, slot.as_ref()?)))
        })
    }
}

/// Whether a part of free slots is made is no difference.
impl<T: Clone + PartialEq> PartialEq for Slots<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Clone + Eq> Eq for Slots<T> {}

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
        let third = |slots: &Slots<u64>| slots.parts[2].clone().unwrap();
        assert!(Arc::ptr_eq(&third(&slots), &third(&copy)), "what did not change is shared");
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

    #[test]
    fn a_part_is_made_when_something_comes_into_it() {
        let mut slots = Slots::default();
        slots.push(7u64);
        slots.grow(4 * PART + 3);
        let far = 2 * PART as u32 + 1;
        *slots.at(far) = Some(9);
        let made = |slots: &Slots<u64>| slots.parts.iter().map(Option::is_some).collect::<Vec<_>>();
        assert_eq!(made(&slots), [true, false, true, false, false]);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(0, &7), (far, &9)]);
        assert_eq!((slots.get(far), slots.get(far + 1), slots.get(PART as u32)), (Some(&9), None, None));
        assert_eq!(slots.push(8) as usize, 4 * PART + 3);
        assert_eq!((slots.get(4 * PART as u32 + 3), slots.len()), (Some(&8), 4 * PART + 4));
        assert_eq!(made(&slots), [true, false, true, false, true]);
    }
}

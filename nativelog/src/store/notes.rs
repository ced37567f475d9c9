//! Which ranges of a staged file are written while somebody copies it.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that are kept apart; of more than these nothing is known, and the copy begins anew.
const RANGES_MAX: usize = 4096;

/// The ranges, joined where they touch.
#[derive(Debug, Default)]
pub struct Notes {
    /// By their start.
    ends: BTreeMap<u64, u64>,
    highest: u64,
    too_many: bool,
}

impl Notes {
    /// This range is about to be written.
    pub fn add(&mut self, range: Range<u64>) {
        self.highest = self.highest.max(range.end);
        if range.is_empty() || self.too_many {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Ranges are apart, so their ends ascend too.
        while let Some((before, until)) = self.ends.range(..=end).next_back().map(|(at, end)| (*at, *end))
            && until >= start
        {
            self.ends.remove(&before);
            (start, end) = (start.min(before), end.max(until));
        }
        self.ends.insert(start, end);
        if self.ends.len() > RANGES_MAX {
            self.too_many = true;
            self.ends.clear();
        }
    }

    /// Bytes of all ranges together.
    pub fn bytes(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).sum()
    }

    /// The highest end of a range since the copy began.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Hands over what was noted since the last time; `None` when it was too much to be kept.
    pub fn take(&mut self) -> Option<Vec<Range<u64>>> {
        (!self.too_many)
            .then(|| std::mem::take(&mut self.ends).into_iter().map(|(at, end)| at..end).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one_and_the_highest_end_stays() {
        let mut notes = Notes::default();
        for range in [10..20, 30..40, 50..60, 20..25, 5..10, 8..12, 33..35, 39..51, 100..100] {
            notes.add(range);
        }
        assert_eq!((notes.bytes(), notes.highest()), (50, 100));
        assert_eq!(notes.take(), Some(vec![5..25, 30..60]));
        assert_eq!((notes.bytes(), notes.highest()), (0, 100));
        notes.add(0..1000);
        assert_eq!((notes.take(), notes.take()), (Some(vec![0..1000; 1]), Some(vec![])));
    }

    #[test]
    fn too_many_ranges_are_no_ranges() {
        let mut notes = Notes::default();
        (0..RANGES_MAX as u64).for_each(|at| notes.add(2 * at..2 * at + 1));
        assert_eq!(notes.bytes(), RANGES_MAX as u64);
        notes.add(1 << 40..1 << 41);
        assert_eq!((notes.take(), notes.highest()), (None, 1 << 41));
        notes.add(0..1);
        assert_eq!(notes.take(), None, "what was forgotten does not come back");
    }
}

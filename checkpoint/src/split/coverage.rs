//! What the log already has of an attempt: whole files as ranges of ids, other
//! files as ranges of bytes, pages of the plan.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that never touch each other: start to end.
type Ranges = BTreeMap<u64, u64>;

fn add(ranges: &mut Ranges, mut start: u64, mut end: u64) {
    if start >= end {
        return;
    }
    // Everything that touches [start, end] melts into it.
    while let Some((at, to)) = ranges.range(..=end).next_back().map(|(a, t)| (*a, *t)) {
        if to < start {
            break;
        }
        ranges.remove(&at);
        start = start.min(at);
        end = end.max(to);
    }
    ranges.insert(start, end);
}

fn covers(ranges: &Ranges, start: u64, end: u64) -> bool {
    start >= end || ranges.range(..=start).next_back().is_some_and(|(_, to)| *to >= end)
}

/// What is covered. Empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    files: Ranges,
    partial: BTreeMap<u32, Ranges>,
    /// Pages of the plan that the log has, from page 0 on without gap.
    pub parts: u32,
}

impl Coverage {
    /// Nothing yet.
    pub fn new() -> Coverage {
        Coverage::default()
    }

    /// These files (ids, end excluded) are complete.
    pub fn add_files(&mut self, ids: Range<u32>) {
        add(&mut self.files, u64::from(ids.start), u64::from(ids.end));
    }

    /// This range of a file is there, bytes.
    pub fn add_range(&mut self, file: u32, offset: u64, len: u64) {
        add(self.partial.entry(file).or_default(), offset, offset.saturating_add(len));
    }

    /// Complete files, as ranges of ids.
    pub fn files(&self) -> impl Iterator<Item = Range<u32>> {
        self.files.iter().map(|(start, end)| *start as u32..*end as u32)
    }

    /// Ranges of files that are not complete: id, offset and length in bytes.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        self.partial.iter().flat_map(|(file, ranges)| ranges.iter().map(|(at, to)| (*file, *at, to - at)))
    }

    /// Whether the whole file is there.
    pub fn has_file(&self, file: u32) -> bool {
        covers(&self.files, u64::from(file), u64::from(file) + 1)
    }

    /// Whether this range of a file is there, bytes.
    pub fn has(&self, file: u32, offset: u64, len: u64) -> bool {
        self.has_file(file)
            || self.partial.get(&file).is_some_and(|r| covers(r, offset, offset.saturating_add(len)))
    }

    /// Whether any byte of this range of a file is there.
    pub fn touches(&self, file: u32, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        let touches = |r: &Ranges| r.range(..end).next_back().is_some_and(|(_, to)| *to > offset);
        self.has_file(file) || self.partial.get(&file).is_some_and(touches)
    }

    /// Whether anything of this file is there.
    pub fn has_any(&self, file: u32) -> bool {
        self.has_file(file) || self.partial.contains_key(&file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_melt_together() {
        let mut covered = Coverage::new();
        for (offset, len) in [(10, 5), (30, 5), (15, 5), (0, 1), (19, 12)] {
            covered.add_range(7, offset, len);
        }
        assert_eq!(covered.ranges().collect::<Vec<_>>(), [(7, 0, 1), (7, 10, 25)]);
        assert!(covered.has(7, 10, 25) && !covered.has(7, 9, 2) && covered.touches(7, 9, 2));
        assert!(!covered.touches(7, 1, 9) && !covered.touches(7, 35, 100) && !covered.has(8, 0, 1));
        covered.add_files(3..5);
        covered.add_files(5..6);
        covered.add_files(1..2);
        assert_eq!(covered.files().collect::<Vec<_>>(), [1..2, 3..6]);
        assert!(covered.has_file(4) && covered.has(5, 1 << 40, 9) && !covered.has_file(2));
    }
}

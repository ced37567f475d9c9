//! What the log has of an open attempt, put together in slices: of a million files, or of a file in a million ranges.
//!
//! While an attempt is open its pages, files and ranges are only added to, and its id never comes again: what one slice
//! found is still true in the last. What comes in behind the slice that looked for it is told as lacking, as what comes in
//! a moment after a look at everything at once would be.

use checkpoint::Coverage;

use super::files::FileState;
use super::tables::Ledger;

/// So many files and ranges are looked at while others wait for the ledger.
const SLICE: usize = 4096;

/// What is found of an attempt so far.
pub struct Covering {
    attempt: u64,
    file: u32,
    /// Where in that file.
    offset: u64,
    coverage: Coverage,
}

impl Covering {
    /// Nothing yet of this attempt.
    pub fn of(attempt: u64) -> Covering {
        Covering { attempt, file: 0, offset: 0, coverage: Coverage::new() }
    }

    /// Looks a little further: true when there is more. `None` when the attempt is not open, or not any more.
    pub fn slice(&mut self, ledger: &Ledger) -> Option<bool> {
        self.look(ledger, SLICE)
    }

    /// What was found.
    pub fn finish(self) -> Coverage {
        self.coverage
    }

    fn look(&mut self, ledger: &Ledger, many: usize) -> Option<bool> {
        let attempt = ledger.open.get(&self.attempt)?;
        let mut left = many;
        while let Some(stub) = attempt.files.get(self.file) {
            if left == 0 {
                return Some(true);
            }
            match attempt.files.state(self.file) {
                FileState::Bare => {}
                FileState::Packed(_) | FileState::Reused(_) | FileState::Linked(_) => self.add_file(),
                FileState::Staged(staged) if staged.covered == stub.size() => self.add_file(),
                FileState::Staged(staged) => {
                    for (offset, (len, _)) in staged.ranges.range(self.offset..) {
                        if left == 0 {
                            return Some(true);
                        }
                        left -= 1;
                        self.coverage.add_range(self.file, *offset, *len);
                        self.offset = offset + len;
                    }
                }
            }
            left = left.saturating_sub(1);
            (self.file, self.offset) = (self.file + 1, 0);
        }
        self.coverage.parts = attempt.pages.len() as u32;
        Some(false)
    }

    /// Ranges of it may be told already, when it was completed meanwhile: that is true as well.
    fn add_file(&mut self) {
        self.coverage.add_files(self.file..self.file + 1);
    }
}

impl Ledger {
    /// What the log has of an open attempt, all at once: for whoever has the ledger alone. A resumed commit sends only the
    /// rest.
    pub fn coverage(&self, attempt: u64) -> Option<Coverage> {
        let mut covering = Covering::of(attempt);
        covering.look(self, usize::MAX)?;
        Some(covering.finish())
    }
}

#[cfg(test)]
mod tests {
    use checkpoint::limits::CHUNK_BYTES_MIN;
    use checkpoint::{CommitId, Digest, EntryKind, Limits, PlanEntry, RelPath};

    use super::super::attempt::{Attempt, Terms};
    use super::super::files::{Stub, Whole};
    use super::*;

    const ID: u64 = 7;
    const CHUNK: u64 = CHUNK_BYTES_MIN as u64;

    /// An open attempt with files of eight chunks each.
    fn open(files: u32) -> Ledger {
        let terms = Terms {
            job: "job".parse().unwrap(),
            epoch: 1,
            token: 0,
            commit: CommitId::from_bytes([0; 16]),
            declared_bytes: 0,
            stored_bytes: 0,
            chunk_bytes: CHUNK as u32,
            base: None,
            labels: Vec::new(),
            depends_on: Vec::new(),
            plan_digest: Digest::NONE,
            plan_pages: 1,
            plan_entries: files,
            store: None,
        };
        let mut attempt = Attempt::new(terms, Limits::default(), 0, 0);
        let entry = PlanEntry {
            path: RelPath::parse(b"file").unwrap(),
            kind: EntryKind::File,
            mode: 0o644,
            size: 8 * CHUNK,
            target: Default::default(),
        };
        attempt.files.add(&vec![Stub::of(entry.borrowed()); files as usize], files);
        attempt.missing = u64::from(files);
        let mut ledger = Ledger::default();
        ledger.open.insert(ID, attempt);
        ledger
    }

    fn cover(ledger: &mut Ledger, file: u32, chunks: impl IntoIterator<Item = u64>) {
        let attempt = ledger.open.get_mut(&ID).unwrap();
        chunks.into_iter().for_each(|at| attempt.cover(file, at * CHUNK, CHUNK, Digest::NONE));
    }

    fn some_of_everything() -> Ledger {
        let mut ledger = open(6);
        cover(&mut ledger, 1, [0, 2, 3, 6]);
        cover(&mut ledger, 2, 0..8);
        let attempt = ledger.open.get_mut(&ID).unwrap();
        attempt.cover_whole(3, Whole::Packed, Digest::NONE);
        attempt.cover_whole(4, Whole::Reused, Digest::NONE);
        cover(&mut ledger, 5, [7]);
        ledger
    }

    #[test]
    fn slices_of_any_size_find_what_one_look_finds() {
        let ledger = some_of_everything();
        let whole = ledger.coverage(ID).unwrap();
        assert!(whole.files().eq(std::iter::once(2..5)));
        let ranges = [(1, 0, CHUNK), (1, 2 * CHUNK, 2 * CHUNK), (1, 6 * CHUNK, CHUNK), (5, 7 * CHUNK, CHUNK)];
        assert_eq!(whole.ranges().collect::<Vec<_>>(), ranges);
        for many in 1..20 {
            let mut covering = Covering::of(ID);
            while covering.look(&ledger, many).unwrap() {}
            assert_eq!(covering.finish(), whole, "{many}");
        }
    }

    #[test]
    fn what_comes_in_between_two_slices_is_told_or_not_and_never_what_is_not_there() {
        for when in 0..12 {
            let mut ledger = some_of_everything();
            let before = ledger.coverage(ID).unwrap();
            let mut covering = Covering::of(ID);
            for slice in 0.. {
                if slice == when {
                    cover(&mut ledger, 0, [3]);
                    cover(&mut ledger, 1, [1, 4, 5, 7]);
                    cover(&mut ledger, 5, 0..7);
                }
                if !covering.look(&ledger, 1).unwrap() {
                    break;
                }
            }
            let (found, after) = (covering.finish(), ledger.coverage(ID).unwrap());
            for (file, at) in (0..6).flat_map(|file| (0..8).map(move |at| (file, at * CHUNK))) {
                let in_these = |coverage: &Coverage| coverage.has(file, at, CHUNK);
                assert!(in_these(&found) || !in_these(&before), "{when}: {file} {at}");
                assert!(!in_these(&found) || in_these(&after), "{when}: {file} {at}");
            }
        }
    }

    #[test]
    fn an_attempt_that_ended_between_two_slices_covers_nothing() {
        let mut ledger = some_of_everything();
        let mut covering = Covering::of(ID);
        assert_eq!(covering.look(&ledger, 1), Some(true));
        ledger.open.clear();
        assert_eq!(covering.look(&ledger, 1), None);
    }
}

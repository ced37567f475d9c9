//! Which ranges of objects to ask for: small contents that lie end to end in a pack come with one request, a large one
//! comes in several.

use nativelog::ledger::ObjectKey;

use crate::depot::ObjectRange;

/// Contents that lie so near to each other, in bytes, come with what is between them.
const GAP_BYTES: u64 = 64 << 10;

/// Bytes of one content that are wanted, as they lie in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which content.
    pub item: usize,
    pub object: ObjectKey,
    pub object_bytes: u64,
    pub offset: u64,
    pub len: u64,
}

/// A part of a run that belongs to one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub item: usize,
    /// Where it begins in the run.
    pub at: usize,
    pub len: usize,
}

/// A range to ask for, and what it brings. Parts of one content come in their order, over all runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub range: ObjectRange,
    pub cuts: Vec<Cut>,
}

/// Runs of at most `run_bytes` each that bring these pieces, which are in the order of objects and offsets.
pub fn runs(pieces: &[Piece], run_bytes: u64) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    for piece in pieces {
        let mut done = 0;
        while done < piece.len {
            let (at, left) = (piece.offset + done, piece.len - done);
            let room = all.last().and_then(|run| room_behind(run, piece, at, run_bytes));
            // What would be cut in two comes whole with the next one, if it can.
            let room = room.filter(|room| *room >= left.min(run_bytes));
            let len = left.min(room.unwrap_or(run_bytes));
            let run = match all.last_mut() {
                Some(run) if room.is_some() => run,
                _ => {
                    let (object, object_bytes) = (piece.object, piece.object_bytes);
                    let range = ObjectRange { object, object_bytes, offset: at, len: 0 };
                    all.push(Run { range, cuts: Vec::new() });
                    all.last_mut().expect("it was just pushed")
                }
            };
            let from = at - run.range.offset;
            run.range.len = from + len;
            run.cuts.push(Cut { item: piece.item, at: from as usize, len: len as usize });
            done += len;
        }
    }
    all
}

/// How many bytes from `at` on this run can still take, if it can take those.
fn room_behind(run: &Run, piece: &Piece, at: u64, run_bytes: u64) -> Option<u64> {
    let ObjectRange { object, offset, len, .. } = run.range;
    let gap = at.checked_sub(offset + len).filter(|gap| *gap <= GAP_BYTES)?;
    let room = run_bytes.checked_sub(len + gap).filter(|room| *room > 0)?;
    (object == piece.object).then_some(room)
}

#[cfg(test)]
mod tests {
    use checkpoint::Digest;
    use proptest::prelude::*;

    use super::*;

    const RUN: u64 = 1000;

    fn key(attempt: u64) -> ObjectKey {
        ObjectKey { store: 1, attempt, digest: Digest::NONE, nonce: 0 }
    }

    fn piece(item: usize, attempt: u64, offset: u64, len: u64) -> Piece {
        Piece { item, object: key(attempt), object_bytes: 1 << 40, offset, len }
    }

    fn told(runs: &[Run]) -> Vec<(u64, u64, Vec<usize>)> {
        let told =
            |run: &Run| (run.range.offset, run.range.len, run.cuts.iter().map(|cut| cut.item).collect());
        runs.iter().map(told).collect()
    }

    #[test]
    fn small_contents_come_together_and_large_ones_in_parts() {
        let pieces =
            [piece(0, 1, 0, 300), piece(1, 1, 300, 600), piece(2, 1, 950, 200), piece(3, 2, 1150, 2500)];
        assert_eq!(
            told(&runs(&pieces, RUN)),
            [
                (0, 900, vec![0, 1]),
                (950, 200, vec![2]),
                (1150, 1000, vec![3]),
                (2150, 1000, vec![3]),
                (3150, 500, vec![3]),
            ]
        );
        let far = [piece(0, 1, 0, 10), piece(1, 1, 11 + GAP_BYTES, 10)];
        assert_eq!(runs(&far, 1 << 20).len(), 2, "too much is between them");
        assert!(runs(&[], RUN).is_empty());
    }

    proptest! {
        #[test]
        fn runs_bring_every_byte_of_every_piece_once_and_in_order(
            lens in prop::collection::vec((0u64..3, 0u64..2000, 1u64..3500), 0..40),
        ) {
            let (mut at, mut pieces) = (0, Vec::new());
            for (item, (object, gap, len)) in lens.into_iter().enumerate() {
                at += gap;
                pieces.push(piece(item, object, at, len));
                at += len;
            }
            pieces.sort_by_key(|piece| (piece.object, piece.offset));
            let runs = runs(&pieces, RUN);
            for run in &runs {
                prop_assert!((1..=RUN).contains(&run.range.len));
                let end = run.cuts.iter().map(|cut| (cut.at + cut.len) as u64).max();
                prop_assert_eq!(end, Some(run.range.len), "nothing is asked for in vain");
            }
            for piece in &pieces {
                let mut next = piece.offset;
                let cuts = runs.iter().flat_map(|run| run.cuts.iter().map(move |cut| (run.range, cut)));
                for (range, cut) in cuts.filter(|(_, cut)| cut.item == piece.item) {
                    prop_assert_eq!(range.object, piece.object);
                    prop_assert_eq!(range.offset + cut.at as u64, next);
                    next += cut.len as u64;
                }
                prop_assert_eq!(next, piece.offset + piece.len);
            }
        }
    }
}

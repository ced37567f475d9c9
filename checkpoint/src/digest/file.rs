//! The hash of a file with holes: data is hashed, zeros are taken by their length.

use blake3::hazmat::{self, HasherExt, Mode};

use super::zeros::{self, zeros};
use super::{Digest, content};

/// Where zeros begin, what is hashed together is filled up to a multiple of this: so much of a hole is hashed like data.
const UNIT_BYTES: u64 = 64 << 10;

/// An incremental hash of a file whose length need not be known: BLAKE3, whatever of it was given as data or as zeros.
/// A hole costs what `zeros` says of its length, also when it comes in many parts.
#[derive(Clone, Debug, Default)]
pub struct FileHasher {
    // Full subtrees, each shorter than the one before, from the file's start to where `open` begins: their lengths and
    // values. More is known to follow, so none of them is the whole file.
    done: Vec<(u64, [u8; 32])>,
    open: Open,
}

/// What was taken last. More may follow, or not: only then it is known whether it is the root.
#[derive(Clone, Debug)]
enum Open {
    /// So many zeros.
    Zeros(u64),
    /// Bytes of one subtree, as many of them, of at most so many.
    Data(Box<blake3::Hasher>, u64, u64),
}

impl Default for Open {
    fn default() -> Self {
        Open::Zeros(0)
    }
}

impl FileHasher {
    /// Of no bytes.
    pub fn new() -> FileHasher {
        FileHasher::default()
    }

    /// Takes the next bytes.
    pub fn data(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if let Open::Data(hasher, len, full) = &mut self.open
                && *len < *full
            {
                let take = (*full - *len).min(data.len() as u64);
                hasher.update(&data[..take as usize]);
                *len += take;
                data = &data[take as usize..];
            } else {
                self.begin_data(data.len() as u64);
            }
        }
    }

    /// Takes `len` zero bytes.
    pub fn zeros(&mut self, mut len: u64) {
        if let Open::Data(hasher, taken, full) = &mut self.open {
            let take = (*full - *taken).min(len);
            zeros::update(hasher, take);
            *taken += take;
            len -= take;
        }
        if len > 0 {
            if let Open::Zeros(taken) = &mut self.open {
                *taken += len;
            } else {
                self.close();
                self.open = Open::Zeros(len);
            }
        }
    }

    /// The digest of everything taken so far.
    pub fn finish(&self) -> Digest {
        let at = self.at();
        let (last, done) = match &self.open {
            Open::Zeros(0) => return content(&[]),
            Open::Zeros(len) if at == 0 => return zeros(*len, 0, *len),
            Open::Data(hasher, ..) if at == 0 => return Digest(*hasher.finalize().as_bytes()),
            Open::Data(hasher, ..) => (hasher.finalize_non_root(), self.done.clone()),
            Open::Zeros(len) => {
                let mut full = self.clone();
                let left = full.close_runs(*len, |at, left| left <= aligned(at));
                (zeros::value(full.at(), left), full.done)
            }
        };
        // From the right: each is the left sibling of all that comes behind it.
        let (first, rest) = done.split_first().expect("the open run does not begin the file");
        let merge = |right, (_, left): &(u64, _)| hazmat::merge_subtrees_non_root(left, &right, Mode::Hash);
        let right = rest.iter().rev().fold(last, merge);
        Digest(*hazmat::merge_subtrees_root(&first.1, &right, Mode::Hash).as_bytes())
    }

    /// Where the open run begins.
    fn at(&self) -> u64 {
        self.done.iter().map(|(len, _)| len).sum()
    }

    /// Opens a run of data, of which `more` bytes are there: as long a subtree as they fill, or one unit.
    fn begin_data(&mut self, more: u64) {
        let over = self.close();
        let at = self.at();
        let fills = 1 << more.max(1).ilog2().min(aligned(at).ilog2());
        let full = if over > 0 { UNIT_BYTES } else { UNIT_BYTES.max(fills) };
        let mut hasher = Box::new(blake3::Hasher::new());
        hasher.set_input_offset(at);
        zeros::update(&mut hasher, over);
        self.open = Open::Data(hasher, over, full);
    }

    /// What is open is done, for more follows: a full run of data, or zeros but for what fills no unit, which is the
    /// answer.
    fn close(&mut self) -> u64 {
        match std::mem::take(&mut self.open) {
            Open::Zeros(len) => self.close_runs(len, |_, left| left < UNIT_BYTES),
            Open::Data(hasher, len, full) => {
                assert_eq!(len, full, "a run is closed when it is full");
                self.push(full, hasher.finalize_non_root());
                0
            }
        }
    }

    /// Runs of zeros, each as long as its place allows, until `ends` says so of the place and of what is left.
    fn close_runs(&mut self, mut left: u64, ends: impl Fn(u64, u64) -> bool) -> u64 {
        let mut at = self.at();
        while !ends(at, left) {
            let run = 1 << left.ilog2().min(aligned(at).ilog2());
            self.push(run, zeros::value(at, run));
            (at, left) = (at + run, left - run);
        }
        left
    }

    fn push(&mut self, mut len: u64, mut value: [u8; 32]) {
        while let Some((left, of_left)) = self.done.last().copied()
            && left == len
        {
            value = hazmat::merge_subtrees_non_root(&of_left, &value, Mode::Hash);
            len += left;
            self.done.pop();
        }
        self.done.push((len, value));
    }
}

/// The longest subtree that begins at a multiple of a unit.
fn aligned(at: u64) -> u64 {
    if at == 0 { 1 << 63 } else { 1 << at.trailing_zeros() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 251) as u8 | 1).collect()
    }

    #[derive(Clone, Copy, Debug)]
    enum Part {
        Data(usize),
        Zeros(usize),
    }

    fn part() -> impl Strategy<Value = Part> {
        let unit = UNIT_BYTES as usize;
        let len = prop_oneof![
            1usize..5000,
            (0usize..20, 0usize..3).prop_map(move |(units, over)| (units * unit + over).max(1)),
            1usize..600_000,
        ];
        (any::<bool>(), len).prop_map(|(data, len)| if data { Part::Data(len) } else { Part::Zeros(len) })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn data_and_zeros_in_any_mix_hash_to_the_blake3_of_all(parts in proptest::collection::vec(part(), 0..10)) {
            let mut hasher = FileHasher::new();
            let mut all = Vec::new();
            for part in parts {
                match part {
                    Part::Data(len) => {
                        let data = pattern(len);
                        hasher.data(&data);
                        all.extend(data);
                    }
                    Part::Zeros(len) => {
                        hasher.zeros(len as u64);
                        all.resize(all.len() + len, 0);
                    }
                }
                prop_assert_eq!(hasher.finish(), content(&all));
            }
        }
    }

    #[test]
    fn what_fills_subtrees_exactly_is_the_root_only_when_it_ends_there() {
        let unit = UNIT_BYTES as usize;
        for units in [1, 2, 3, 4, 16, 17, 32] {
            for zeros in 0..=units {
                let mut hasher = FileHasher::new();
                let all = [pattern((units - zeros) * unit), vec![0; zeros * unit]].concat();
                hasher.data(&all[..(units - zeros) * unit]);
                hasher.zeros((zeros * unit) as u64);
                assert_eq!(hasher.finish(), content(&all), "{zeros} of {units}");
                hasher.data(b"x");
                assert_eq!(
                    hasher.finish(),
                    content(&[&all[..], b"x"].concat()),
                    "and more, {zeros} of {units}"
                );
            }
        }
        assert_eq!(FileHasher::new().finish(), content(&[]));
    }

    #[test]
    fn a_hole_in_many_parts_costs_what_it_costs_in_one() {
        let began = std::time::Instant::now();
        let mut hasher = FileHasher::new();
        hasher.data(b"start");
        let (step, steps) = (16 << 20, 1u64 << 15);
        for _ in 0..steps {
            hasher.zeros(step);
        }
        hasher.data(b"end");
        let found = hasher.finish();
        let mut hasher = FileHasher::new();
        hasher.data(b"start");
        hasher.zeros(step * steps);
        hasher.data(b"end");
        assert_eq!(hasher.finish(), found);
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

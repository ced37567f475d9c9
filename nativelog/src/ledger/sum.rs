//! Sums of hashes: what stands for a table in the ledger's digest. See `digest.rs`.

use std::collections::BTreeSet;

use checkpoint::Digest;
use checkpoint::digest::content;

use super::key::RowKey;

/// A sum of hashes modulo 2^256, in four limbs, the lowest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    /// Puts in a row of these bytes.
    pub fn put(&mut self, row: &[u8]) {
        self.add(limbs(&content(row)));
    }

    /// Takes out a row of these bytes.
    pub fn take(&mut self, row: &[u8]) {
        self.subtract(limbs(&content(row)));
    }

    /// Puts in a row that is a digest and these words. An epoch has a million such rows, and commits wait while its
    /// content is put in: what is a hash already is not hashed again, but stirred.
    pub fn put_stirred<const WORDS: usize>(&mut self, digest: &Digest, words: [u64; WORDS]) {
        self.add(stirred(digest, words));
    }

    /// Takes out such a row.
    pub fn take_stirred<const WORDS: usize>(&mut self, digest: &Digest, words: [u64; WORDS]) {
        self.subtract(stirred(digest, words));
    }

    /// Both together.
    pub fn plus(mut self, other: Sum) -> Sum {
        self.add(other.0);
        self
    }

    fn add(&mut self, row: [u64; 4]) {
        let mut carry = false;
        for (limb, part) in self.0.iter_mut().zip(row) {
            let (sum, over) = limb.overflowing_add(part);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || again);
        }
    }

    fn subtract(&mut self, row: [u64; 4]) {
        let mut borrow = false;
        for (limb, part) in self.0.iter_mut().zip(row) {
            let (rest, under) = limb.overflowing_sub(part);
            let (rest, again) = rest.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (rest, under || again);
        }
    }

    /// The sum as bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (eight, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            eight.copy_from_slice(&limb.to_be_bytes());
        }
        bytes
    }
}

fn limbs(digest: &Digest) -> [u64; 4] {
    let eight = |at: usize| u64::from_be_bytes(*digest.as_bytes()[at..].first_chunk().expect("32 bytes"));
    [eight(0), eight(8), eight(16), eight(24)]
}

/// The digest with the words stirred in: whatever differs changes all four limbs.
fn stirred<const WORDS: usize>(digest: &Digest, words: [u64; WORDS]) -> [u64; 4] {
    let words = words.into_iter().fold(ODD[4], |so_far, word| stir(so_far ^ word, ODD[0]));
    let [a, b, c, d] = limbs(digest);
    [stir(a ^ words, ODD[0]), stir(b ^ words, ODD[1]), stir(c ^ words, ODD[2]), stir(d ^ words, ODD[3])]
}

/// Both halves of a product of 128 bits, one upon the other: each bit of `word` reaches all others.
fn stir(word: u64, odd: u64) -> u64 {
    let product = u128::from(word) * u128::from(odd);
    product as u64 ^ (product >> 64) as u64 ^ word
}

/// The first places of the fractions of the square roots of 2, 3, 5, 7 and 11: numbers without a pattern, made odd.
const ODD: [u64; 5] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
];

/// The sum over the tables that keep none of their own: jobs, epochs, pins, outcomes.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    pub rows: Sum,
    /// Rows that this step changes: they are out of the sum until it ends.
    pub touched: BTreeSet<RowKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_forgets_what_is_taken_out_and_in_which_order_rows_came() {
        let rows: Vec<Vec<u8>> = (0..100u32).map(|row| row.to_be_bytes().to_vec()).collect();
        let (mut up, mut down) = (Sum::default(), Sum::default());
        rows.iter().for_each(|row| up.put(row));
        rows.iter().rev().for_each(|row| down.put(row));
        assert_eq!(up, down);
        assert_ne!(up, Sum::default());
        rows.iter().step_by(2).chain(rows.iter().skip(1).step_by(2)).for_each(|row| up.take(row));
        assert_eq!(up, Sum::default());
        up.take(&rows[0]);
        up.put(&rows[0]);
        assert_eq!(up, Sum::default(), "through zero");
    }

    #[test]
    fn rows_of_digests_that_differ_in_anything_have_other_sums() {
        let digests = [content(b"one"), content(b"other"), Digest::NONE];
        let mut seen = BTreeSet::new();
        for digest in &digests {
            for words in (0..27u64).map(|n| [n % 3, n / 3 % 3, n / 9]) {
                let mut sum = Sum::default();
                sum.put_stirred(digest, words);
                assert!(seen.insert(sum.to_bytes()), "{words:?}");
                assert!(sum.0.iter().all(|limb| limb.count_ones() > 8), "{words:?} reach only {:x?}", sum.0);
                sum.take_stirred(digest, words);
                assert_eq!(sum, Sum::default());
            }
        }
        // Who has which number counts, too: of two that have changed them each limb differs.
        let sum_of = |first, second| {
            let mut sum = Sum::default();
            sum.put_stirred(&digests[0], [first, 10, 5]);
            sum.put_stirred(&digests[1], [second, 10, 5]);
            sum
        };
        let (one, other) = (sum_of(0, 1), sum_of(1, 0));
        assert!(one.0.iter().zip(&other.0).all(|(one, other)| one != other));
    }
}

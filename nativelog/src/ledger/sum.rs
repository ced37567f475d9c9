//! Sums of hashes: what stands for a table in the ledger's digest. See `digest.rs`.

use std::collections::BTreeSet;

use checkpoint::digest::content;

use super::rows::key::RowKey;

/// A sum of hashes modulo 2^256, in four limbs, the lowest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum([u64; 4]);

impl Sum {
    /// Puts in a row of these bytes.
    pub fn put(&mut self, row: &[u8]) {
        let mut carry = false;
        for (limb, part) in self.0.iter_mut().zip(limbs(row)) {
            let (sum, over) = limb.overflowing_add(part);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || again);
        }
    }

    /// Takes out a row of these bytes.
    pub fn take(&mut self, row: &[u8]) {
        let mut borrow = false;
        for (limb, part) in self.0.iter_mut().zip(limbs(row)) {
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

fn limbs(row: &[u8]) -> [u64; 4] {
    let digest = content(row);
    let eight = |at: usize| u64::from_be_bytes(*digest.as_bytes()[at..].first_chunk().expect("32 bytes"));
    [eight(0), eight(8), eight(16), eight(24)]
}

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
}

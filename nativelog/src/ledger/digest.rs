//! The ledger's digest, kept up to date as it changes: asking for it looks at each open attempt, however much else
//! there is.
//!
//! A table's part is the sum, modulo 2^256, of the BLAKE3 of its rows: equal tables have equal sums in whatever order
//! their rows came, and a row that changes is taken out as it was and put in as it is. Content and open attempts
//! keep sums of their own, beside what they sum up: an attempt that ends takes a million rows with it at once. Most of
//! such a row is a digest, into which the rest is stirred: to hash it again took two fifths of a seal's time.
//!
//! **Guarantees.** Equal ledgers have equal digests, a decoded one included (which counts anew).
//! **Never** does a verdict depend on one. It tells replicas apart that differ by accident; it withstands nobody
//! who looks for rows that add up to the same.

use std::collections::BTreeSet;

use checkpoint::Digest;
use checkpoint::digest::content;

use super::codec::Writer;
use super::key::RowKey;
use super::sum::{Sum, Sums};
use super::tables::Ledger;

/// How digests are made: raised whenever a row's bytes or their summing change. Digests of different forms say nothing
/// about each other, also where the rules are the same.
pub const DIGEST_FORM: u32 = 5;

impl Ledger {
    /// Digest of the whole state: equal on all replicas that applied up to the same position. Takes as long as
    /// there are open attempts.
    pub fn digest(&self) -> Digest {
        assert!(self.sums.touched.is_empty(), "nobody asks in the middle of a step");
        let mut out = Writer::default();
        out.raw(format!("epochlog ledger sums {DIGEST_FORM}\n").as_bytes());
        self.put_row(&RowKey::Meta, &mut out).expect("every ledger has it");
        out.raw(&self.sums.rows.to_bytes()).raw(&self.content.sum().to_bytes());
        for (id, attempt) in &self.open {
            let key = RowKey::Attempt(*id);
            key.put(&mut out);
            self.put_row(&key, &mut out).expect("it is open");
            out.raw(&attempt.sum.to_bytes());
        }
        content(&out.bytes)
    }

    /// A row is about to change, to come or to go. Call this before it does.
    pub(super) fn touch(&mut self, key: RowKey) {
        if is_summed(&key) && !self.sums.touched.contains(&key) {
            if let Some(row) = self.whole_row(&key) {
                self.sums.rows.take(&row);
            }
            self.sums.touched.insert(key.clone());
        }
        self.changes.row(key);
    }

    /// The step is over: what it changed is put in as it is now.
    pub(super) fn sum_up(&mut self) {
        for key in std::mem::take(&mut self.sums.touched) {
            if let Some(row) = self.whole_row(&key) {
                self.sums.rows.put(&row);
            }
        }
    }

    /// Counts anew, for a ledger that was built from rows.
    pub(super) fn sum_anew(&mut self) {
        let mut rows = Sum::default();
        for key in self.row_keys().filter(is_summed) {
            rows.put(&self.whole_row(&key).expect("the ledger lists the rows it has"));
        }
        self.sums = Sums { rows, touched: BTreeSet::new() };
    }

    /// Key and value. Keys end themselves, but for a pin's, whose owner is all the rest: its length goes before.
    fn whole_row(&self, key: &RowKey) -> Option<Vec<u8>> {
        let mut row = Writer::default();
        if let RowKey::Pin(_, _, owner) = key {
            row.u32(owner.len() as u32);
        }
        key.put(&mut row);
        self.put_row(key, &mut row)?;
        Some(row.bytes)
    }
}

fn is_summed(key: &RowKey) -> bool {
    match key {
        RowKey::Job(_)
        | RowKey::Epoch(..)
        | RowKey::EpochContent(..)
        | RowKey::Pin(..)
        | RowKey::Outcome(_)
        | RowKey::Quarantine(_)
        | RowKey::Store(_) => true,
        RowKey::Meta
        | RowKey::Content(_)
        | RowKey::Attempt(_)
        | RowKey::Page(..)
        | RowKey::File(..)
        | RowKey::Piece(..)
        | RowKey::Object(_)
        | RowKey::Home(_)
        | RowKey::Released(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::job::Job;

    #[test]
    fn a_digest_is_told_without_a_look_at_the_rows() {
        let mut ledger = Ledger::default();
        let digest = ledger.digest();
        // Behind the back of the sums: whoever looks sees it.
        ledger.jobs.insert("job".parse().unwrap(), Job::default());
        assert_eq!(ledger.digest(), digest);
        ledger.sum_anew();
        assert_ne!(ledger.digest(), digest);
    }
}

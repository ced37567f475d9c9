//! Sealed epochs that nobody has looked for since the start: each may be a directory here or not.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::JobName;

use crate::ledger::Ledger;

/// By job their numbers, and how many there are: a status asks for that, and does not count.
#[derive(Default)]
pub struct Unlooked {
    epochs: BTreeMap<JobName, BTreeSet<u64>>,
    len: u64,
}

impl Unlooked {
    /// All that are sealed in this ledger.
    pub fn of(ledger: &Ledger) -> Unlooked {
        let of_job = |job: &JobName| {
            let sealed: BTreeSet<u64> = ledger.sealed(job).map(|sealed| sealed.epoch).collect();
            (job.clone(), sealed)
        };
        let epochs: BTreeMap<JobName, BTreeSet<u64>> = ledger.jobs().map(of_job).collect();
        let len = epochs.values().map(|sealed| sealed.len() as u64).sum();
        Unlooked { epochs, len }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn contains(&self, (job, epoch): &(JobName, u64)) -> bool {
        self.epochs.get(job).is_some_and(|epochs| epochs.contains(epoch))
    }

    pub fn remove(&mut self, (job, epoch): &(JobName, u64)) {
        if self.epochs.get_mut(job).is_some_and(|epochs| epochs.remove(epoch)) {
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn so_many_are_left_as_were_not_removed(
            removed in prop::collection::vec((0usize..4, 0u64..5), 0..40),
        ) {
            let jobs = ["a", "b", "c", "none"].map(|job| job.parse::<JobName>().unwrap());
            let epochs = jobs[..3].iter().map(|job| (job.clone(), (0..4).collect()));
            let mut unlooked = Unlooked { epochs: epochs.collect(), len: 12 };
            for (job, epoch) in removed {
                let key = (jobs[job].clone(), epoch);
                unlooked.remove(&key);
                prop_assert!(!unlooked.contains(&key));
                prop_assert_eq!(unlooked.len(), unlooked.epochs.values().map(|left| left.len() as u64).sum::<u64>());
            }
        }
    }
}

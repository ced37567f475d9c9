//! What people list of the ledger: what the catalog follows.

use std::collections::BTreeSet;

use super::rows::RowKey;
use super::tables::Ledger;

/// Key and value of a row that changed; without a value it is gone.
pub type ChangedRow = (Vec<u8>, Option<Vec<u8>>);

impl Ledger {
    /// Takes up to `max` of the listed rows that changed, as they are now, for the catalog: the ledger forgets that
    /// they did. None when there are no more.
    pub fn take_changed(&mut self, max: usize) -> Vec<ChangedRow> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(key) = self.changes.0.pop_first()
        {
            taken.push((key.to_bytes(), self.row(&key)));
        }
        taken
    }

    /// Counts every listed row as changed, and `others`, which a catalog has from before.
    pub fn list_anew(&mut self, others: impl IntoIterator<Item = RowKey>) {
        let listed: BTreeSet<RowKey> = self.listed_keys().collect();
        self.changes.0.extend(listed);
        others.into_iter().for_each(|key| self.changes.row(key));
    }

    /// This ledger takes the place of `before`: a catalog that followed that one may follow this one now.
    pub fn succeeds(&mut self, before: &Ledger) {
        self.list_anew(before.listed_keys().chain(before.changes.0.iter().cloned()));
    }

    /// How many rows people list.
    pub fn listed_rows(&self) -> u64 {
        let epochs: usize = self.jobs.values().map(|job| job.epochs.len()).sum();
        (1 + self.jobs.len() + epochs + self.open.len()) as u64
    }

    fn listed_keys(&self) -> impl Iterator<Item = RowKey> {
        let jobs = self.jobs.iter().flat_map(|(name, job)| {
            let epochs = job.epochs.keys().map(move |epoch| RowKey::Epoch(name.clone(), *epoch));
            std::iter::once(RowKey::Job(name.clone())).chain(epochs)
        });
        std::iter::once(RowKey::Meta).chain(jobs).chain(self.open.keys().map(|id| RowKey::Attempt(*id)))
    }
}

//! What people list of the ledger: what the catalog follows.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use checkpoint::JobName;

use super::key::RowKey;
use super::tables::Ledger;

/// Key and value of a row that changed; without a value it is gone.
pub type ChangedRow = (Vec<u8>, Option<Vec<u8>>);

impl Ledger {
    /// Whether there is anything for [`Ledger::take_changed`].
    pub fn has_changed(&self) -> bool {
        !self.changes.0.is_empty()
    }

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
        self.list(others);
    }

    /// Counts the next `max` listed rows behind `last`, or the first, as changed; answers with the last of them, `None`
    /// when there are no more. Once that went through, every listed row counts that was there all the time; what came or
    /// went meanwhile does as a change.
    pub fn list_more(&mut self, last: Option<&RowKey>, max: usize) -> Option<RowKey> {
        let more: Vec<RowKey> = self.listed_behind(last).take(max).collect();
        let last = more.last().cloned();
        self.changes.0.extend(more);
        last
    }

    /// Counts these as changed.
    pub fn list(&mut self, rows: impl IntoIterator<Item = RowKey>) {
        rows.into_iter().for_each(|key| self.changes.row(key));
    }

    /// What a catalog may have that followed this ledger: the one that follows has to count it as changed.
    pub fn was_listed(&self) -> impl Iterator<Item = RowKey> {
        self.listed_keys().chain(self.changes.0.iter().cloned())
    }

    /// How many rows people list.
    pub fn listed_rows(&self) -> u64 {
        let epochs: usize = self.jobs.values().map(|job| job.epochs.len()).sum();
        (1 + self.jobs.len() + epochs + self.open.len()) as u64
    }

    fn listed_keys(&self) -> impl Iterator<Item = RowKey> {
        self.listed_behind(None)
    }

    /// Those behind `last`, which may be gone, in this order: the position, each job with its epochs, open attempts.
    fn listed_behind(&self, last: Option<&RowKey>) -> impl Iterator<Item = RowKey> {
        let (job, epoch, attempt) = match last {
            Some(RowKey::Job(name)) => (Some(name), Unbounded, None),
            Some(RowKey::Epoch(name, epoch)) => (Some(name), Excluded(*epoch), None),
            Some(RowKey::Attempt(id)) => (None, Unbounded, Some(*id)),
            _ => (None, Unbounded, None),
        };
        let meta = last.is_none().then_some(RowKey::Meta);
        let begun = job.and_then(|name| self.jobs.get_key_value(name)).into_iter();
        let begun = begun.flat_map(move |(name, job)| {
            let epochs = job.epochs.range((epoch, Unbounded));
            epochs.map(move |(epoch, _)| RowKey::Epoch(name.clone(), *epoch))
        });
        let behind = (job.map_or(Unbounded, Excluded), Unbounded);
        let jobs = attempt.is_none().then(|| self.jobs.range::<JobName, _>(behind)).into_iter().flatten();
        let jobs = jobs.flat_map(|(name, job)| {
            let epochs = job.epochs.keys().map(move |epoch| RowKey::Epoch(name.clone(), *epoch));
            std::iter::once(RowKey::Job(name.clone())).chain(epochs)
        });
        let open = self.open.range((attempt.map_or(Unbounded, Excluded), Unbounded));
        meta.into_iter().chain(begun).chain(jobs).chain(open.map(|(id, _)| RowKey::Attempt(*id)))
    }
}

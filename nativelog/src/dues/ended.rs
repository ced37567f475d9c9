//! Attempts that have ended and whose staging folder may be there.

use std::collections::BTreeMap;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Index of the record that ended it, or of a later one.
    pub index: u64,
    /// Bytes that come back with its folder, once somebody has looked.
    bytes: u64,
}

/// All of them, by id, and their bytes.
#[derive(Debug, Default)]
pub struct EndedAttempts {
    rows: BTreeMap<u64, Ended>,
    bytes: u64,
}

impl EndedAttempts {
    pub fn rows(&self) -> &BTreeMap<u64, Ended> {
        &self.rows
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The record at `index` ended it.
    pub fn insert(&mut self, attempt: u64, index: u64) {
        self.rows.entry(attempt).or_insert(Ended { index, bytes: 0 }).index = index;
    }

    /// It has ended at the latest by the record at `index`. False when that is no news.
    pub fn note(&mut self, attempt: u64, index: u64) -> bool {
        let is_news = !self.rows.contains_key(&attempt);
        if is_news {
            self.insert(attempt, index);
        }
        is_news
    }

    /// So much comes back with its folder.
    pub fn weigh(&mut self, attempt: u64, bytes: u64) {
        if let Some(ended) = self.rows.get_mut(&attempt) {
            self.bytes = self.bytes - ended.bytes + bytes;
            ended.bytes = bytes;
        }
    }

    pub fn remove(&mut self, attempt: u64) {
        if let Some(ended) = self.rows.remove(&attempt) {
            self.bytes -= ended.bytes;
        }
    }
}

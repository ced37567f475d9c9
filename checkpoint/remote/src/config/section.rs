//! A table of the configuration, read by its keys; what is wrong is said with the name of the key.

use toml::{Table, Value};

use crate::error::StoreError;

/// A table of the configuration and what it is called.
pub(super) struct Section<'a> {
    pub name: String,
    /// The keys of it that are ours; all others are the crate's.
    pub own_keys: &'a [&'a str],
    pub table: &'a Table,
}

impl Section<'_> {
    pub(super) fn error(&self, key: &str, why: impl Into<String>, advice: impl Into<String>) -> StoreError {
        StoreError::configuration(format!("{}.{key}", self.name), why, advice)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, StoreError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(key, "is not a text", "write it in quotes")),
        }
    }

    // ClickHouse writes 0 and 1.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, StoreError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Boolean(flag)) => Ok(Some(*flag)),
            Some(Value::Integer(0)) => Ok(Some(false)),
            Some(Value::Integer(1)) => Ok(Some(true)),
            Some(_) => Err(self.error(key, "is neither true nor false", "write true or false")),
        }
    }

    pub(super) fn unknown(&self, key: &str, known: &[&str]) -> StoreError {
        let near = nearest(key, self.own_keys.iter().chain(known).copied());
        self.error(key, "no such key", format!("the nearest known key is {near:?}"))
    }

    pub(super) fn only_own_keys(&self) -> Result<(), StoreError> {
        match self.table.keys().find(|key| !self.own_keys.contains(&key.as_str())) {
            Some(key) => Err(self.unknown(key, &[])),
            None => Ok(()),
        }
    }
}

/// The most similar of the known words.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let near = |name: &&str| (strsim::jaro_winkler(word, name) * 1e6) as u64;
    known.max_by_key(near).unwrap_or_default()
}

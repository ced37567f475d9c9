//! The catalog follows the ledger, once a second while something changes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Machine, lock};
use crate::catalog::{Catalog, CatalogError};
use crate::ledger::{ChangedRow, Ledger, RowKey};

/// How long the catalog may lie behind the ledger.
const PROJECT_EVERY: Duration = Duration::from_secs(1);
/// So many rows at a time: the ledger is held while they are copied.
const ROWS_MAX: usize = 256;
/// So many keys at a time are counted as changed.
const KEYS_MAX: usize = 4096;

/// Opens the catalog in `folder`. `ledger` counts what it says otherwise, or does not have, as changed.
pub(super) fn open(folder: &Path, ledger: &mut Ledger) -> Option<Catalog> {
    let opened = Catalog::open(folder).and_then(|catalog| match catalog.keys() {
        Ok(keys) => Ok((catalog, keys)),
        Err(error) => {
            tracing::warn!(%error, "the catalog is made anew");
            Ok((catalog.made_anew()?, Vec::new()))
        }
    });
    match opened {
        Ok((catalog, keys)) => {
            ledger.list_anew(keys);
            Some(catalog)
        }
        Err(error) => {
            tracing::warn!(%error, "the catalog does not open: nothing is listed there");
            None
        }
    }
}

impl Machine {
    /// Starts the thread.
    pub(super) fn follow(self: &Arc<Self>) -> io::Result<()> {
        let follower = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("catalog".into());
        thread.spawn(move || {
            loop {
                std::thread::sleep(PROJECT_EVERY);
                let Some(machine) = follower.upgrade() else { return };
                machine.project();
            }
        })?;
        Ok(())
    }

    /// Makes the catalog follow the ledger, which is held only while a few rows are copied.
    pub(super) fn project(&self) {
        let mut slot = lock(&self.catalog);
        let followed = slot.take().and_then(|catalog| or_none(self.followed(catalog)));
        if followed.is_none() {
            while !self.take_changed().is_empty() {}
        }
        *slot = followed;
    }

    fn followed(&self, catalog: Catalog) -> Result<Catalog, CatalogError> {
        if catalog.is_bloated(|| self.ledger().listed_rows()) {
            return self.made_anew(catalog);
        }
        self.fill(&catalog)?;
        Ok(catalog)
    }

    fn made_anew(&self, catalog: Catalog) -> Result<Catalog, CatalogError> {
        let mut catalog = catalog.made_anew()?;
        let mut last: Option<RowKey> = None;
        loop {
            // A statement of its own, as below. What comes or goes between two parts is a change like any other.
            let more = self.write().list_more(last.as_ref(), KEYS_MAX);
            let Some(more) = more else { break };
            last = Some(more);
        }
        self.fill(&catalog)?;
        catalog.is_whole(self.ledger().listed_rows());
        Ok(catalog)
    }

    fn fill(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        loop {
            // A statement of its own: the ledger is free while sled works.
            let changed = self.take_changed();
            if changed.is_empty() {
                return Ok(());
            }
            catalog.project(&changed)?;
        }
    }

    /// Looked for among readers first: a writer that waits holds off all others, and mostly nothing has changed.
    fn take_changed(&self) -> Vec<ChangedRow> {
        if !self.ledger().has_changed() {
            return Vec::new();
        }
        self.write().take_changed(ROWS_MAX)
    }

    /// The ledger has taken the place of `before`, which the catalog followed: what it may have of that one counts as
    /// changed. It is listed for a moment longer.
    pub(super) fn list_left_behind(&self, before: &Ledger) {
        let mut left = before.was_listed();
        loop {
            let part: Vec<RowKey> = left.by_ref().take(KEYS_MAX).collect();
            if part.is_empty() {
                return;
            }
            self.write().list(part);
        }
    }
}

fn or_none(followed: Result<Catalog, CatalogError>) -> Option<Catalog> {
    followed
        .inspect_err(|error| {
            tracing::warn!(%error, "the catalog cannot follow the ledger; it is made anew at the next start");
        })
        .ok()
}

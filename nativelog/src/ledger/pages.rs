//! Pages of open plans. The ledger keeps of a page what judging needs ([`Page`], and of each entry its kind, its mode and
//! its size); paths and targets lie in the log, and in a file once the log may forget them.
//!
//! **Guarantees.** Bytes count as a page only when they have the digest that the ledger has of it: what a page says is a
//! function of the log, wherever its bytes come from. One whose bytes are lost here stops this replica, or is fetched
//! again; it is never another verdict.

use std::io;

use bytes::Bytes;
use checkpoint::plan::{self, EntryError};
use checkpoint::{Digest, PlanEntry, digest};

use super::verdict::LedgerFault;

/// A page of an open plan, as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The attempt.
    pub attempt: u64,
    /// Its number in the plan.
    pub page: u32,
    /// The plan's entry that is its first.
    pub first: u32,
    /// Its entries.
    pub entries: u32,
    /// Log index of the record that brought it.
    pub index: u64,
    /// Length of its bytes.
    pub bytes: u32,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// Whoever has the bytes of pages. The ledger asks for them by what it knows, and believes nothing else.
pub trait PlanPages {
    /// The bytes of a page.
    ///
    /// # Errors
    /// They cannot be had here.
    fn read(&self, page: &Page) -> io::Result<Bytes>;
}

/// A page whose bytes are not here any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("page {page} of the plan of attempt {attempt} cannot be read back: {why}")]
pub struct PageLost {
    /// The attempt.
    pub attempt: u64,
    /// Number of the page.
    pub page: u32,
    /// Why.
    pub why: String,
}

impl From<PageLost> for LedgerFault {
    fn from(lost: PageLost) -> LedgerFault {
        LedgerFault::PlanLost { attempt: lost.attempt, why: lost.to_string() }
    }
}

impl Page {
    /// Whether these are its bytes.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes as usize && digest::content(bytes) == self.digest
    }

    /// Its entries, from its bytes as `pages` has them.
    ///
    /// # Errors
    /// [`PageLost`].
    pub fn read(&self, pages: &dyn PlanPages) -> Result<Vec<PlanEntry>, PageLost> {
        let lost = |why: String| PageLost { attempt: self.attempt, page: self.page, why };
        let bytes = pages.read(self).map_err(|error| lost(error.to_string()))?;
        if !self.is(&bytes) {
            return Err(lost("the bytes do not verify".into()));
        }
        let entries = take_entries(&bytes).map_err(|error| lost(error.to_string()))?;
        if entries.len() != self.entries as usize {
            return Err(lost(format!("{} entries, not {}", entries.len(), self.entries)));
        }
        Ok(entries)
    }
}

pub(super) fn take_entries(bytes: &[u8]) -> Result<Vec<PlanEntry>, EntryError> {
    plan::entries(bytes).map(|read| read.map(|read| read.entry.to_entry())).collect()
}

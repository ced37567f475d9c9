//! Pages of open plans. The ledger keeps of a page what judging needs ([`Page`], and of each entry its kind, its mode and
//! its size); paths and targets lie in the log, and in a file once the log may forget them.
//!
//! **Guarantees.** Bytes count as a page only when they have the digest that the ledger has of it: what a page says is a
//! function of the log, wherever its bytes come from. One whose bytes are lost here stops this replica, or is fetched
//! again; it is never another verdict.

use std::io;

use checkpoint::{Digest, EntryKind, PlanEntry, RelPath, digest};

use super::rows::codec::{DecodeError, Reader, Writer};
use super::verdict::LedgerFault;
use crate::compose::entry_from_proto;
use crate::record::proto;

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
    fn read(&self, page: &Page) -> io::Result<Vec<u8>>;
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

/// The bytes of the page that a record brings; `None` when an entry of it is none.
pub fn page_bytes(part: &proto::Part) -> Option<Vec<u8>> {
    let entries: Vec<PlanEntry> = part.entries.iter().map(entry_from_proto).collect::<Result<_, _>>().ok()?;
    Some(bytes_of(&entries))
}

/// A page's bytes: per entry kind, mode, size, path, target, as fields of rows are written.
pub(super) fn bytes_of(entries: &[PlanEntry]) -> Vec<u8> {
    let mut value = Writer::default();
    for entry in entries {
        let kind = match entry.kind {
            EntryKind::File => 1,
            EntryKind::Directory => 2,
            EntryKind::Symlink => 3,
        };
        value.u8(kind).u32(entry.mode).u64(entry.size);
        value.string(entry.path.as_bytes()).string(&entry.target);
    }
    value.bytes
}

fn take_entries(bytes: &[u8]) -> Result<Vec<PlanEntry>, DecodeError> {
    let mut value = Reader { rest: bytes };
    let mut entries = Vec::new();
    while !value.rest.is_empty() {
        let kind = match value.u8()? {
            1 => EntryKind::File,
            2 => EntryKind::Directory,
            3 => EntryKind::Symlink,
            _ => return Err(DecodeError("an entry of no known kind")),
        };
        let (mode, size) = (value.u32()?, value.u64()?);
        let path = RelPath::parse(value.string()?).map_err(|_| DecodeError("a path that is none"))?;
        entries.push(PlanEntry { path, kind, mode, size, target: value.string()?.to_vec() });
    }
    Ok(entries)
}

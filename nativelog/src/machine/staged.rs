//! Content that came, and lies in staging: of epochs that could not be published here yet, and in packs that could not be
//! unpacked.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use checkpoint::digest::content;
use checkpoint::store::Layout;
use checkpoint::{Digest, EntryKind, Source, Store};

use crate::dues::{Dues, aside};
use crate::ledger::PublishEpoch;
use crate::store::LogStore;

/// What of a content lies in the staging of epochs that could not be published here yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StagedCopies {
    /// Files that should have it, not verified. One may end early: the rest is zeros.
    pub files: Vec<PathBuf>,
    /// Attempts, and entries of their plans, whose packs this node still has, in its log or set aside. See
    /// [`Machine::in_pack`](super::Machine::in_pack).
    pub packed: Vec<(u64, u32)>,
    /// There may be more: for what an epoch has this node has too little of something now.
    pub unread: bool,
}

impl StagedCopies {
    /// Those, too, of a content that this epoch has.
    pub(super) fn add(&mut self, layout: &Layout, epoch: &PublishEpoch, digest: &Digest) {
        let entries = epoch.manifest.entries.iter().zip(epoch.sources.iter()).enumerate();
        let of_it = entries.filter(|(_, (entry, _))| {
            entry.kind == EntryKind::File && entry.size > 0 && entry.digest == *digest
        });
        for (file, (entry, source)) in of_it {
            match source {
                // The second one where it was uploaded.
                Source::Staged | Source::Linked => {
                    self.files.push(layout.staged_file(epoch.attempt, file as u32))
                }
                Source::Unpacked => {
                    self.packed.push((epoch.attempt, file as u32));
                    self.files.push(layout.tree_dir(epoch.attempt).join(entry.path.as_os_str()));
                }
                Source::Reused | Source::None => {}
            }
        }
    }
}

/// See [`Machine::in_pack`](super::Machine::in_pack).
pub(super) fn in_pack(
    (store, log, dues): (&Store, &LogStore, &Dues),
    attempt: u64,
    file: u32,
    digest: &Digest,
) -> io::Result<Option<Bytes>> {
    for pack in dues.half_unpacked(attempt).unwrap_or_default() {
        for (_, offset, len) in pack.files.iter().filter(|(entry, ..)| *entry == file) {
            let Some(payload) = aside::payload(store, log, attempt, pack.index)? else { continue };
            let (from, to) = (*offset as usize, *offset as usize + *len as usize);
            if payload.get(from..to).is_some_and(|data| content(data) == *digest) {
                return Ok(Some(payload.slice(from..to)));
            }
        }
    }
    Ok(None)
}

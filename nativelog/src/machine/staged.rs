//! Content that came, and lies in the staging of epochs that could not be published here yet.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use checkpoint::digest::content;
use checkpoint::{Digest, EntryKind, Source};

use super::Machine;
use crate::dues::aside;

/// What of a content lies in the staging of epochs that could not be published here yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StagedCopies {
    /// Files that should have it, not verified. One may end early: the rest is zeros.
    pub files: Vec<PathBuf>,
    /// Attempts, and entries of their plans, whose packs this node still has, in its log or set aside. See
    /// [`Machine::in_pack`].
    pub packed: Vec<(u64, u32)>,
}

impl Machine {
    /// Copies of a content that are not on the shelves: its epoch came, and could not be published here yet.
    pub fn staged_copies(&self, digest: &Digest) -> StagedCopies {
        let failed = {
            let ledger = self.ledger();
            self.dues.failed_where(|job, epoch| ledger.epoch_holds(job, epoch, digest))
        };
        let (layout, mut copies) = (self.store.layout(), StagedCopies::default());
        for epoch in failed {
            let entries = epoch.manifest.entries.iter().zip(epoch.sources.iter()).enumerate();
            let of_it = entries.filter(|(_, (entry, _))| {
                entry.kind == EntryKind::File && entry.size > 0 && entry.digest == *digest
            });
            for (file, (entry, source)) in of_it {
                match source {
                    Source::Staged => copies.files.push(layout.staged_file(epoch.attempt, file as u32)),
                    Source::Unpacked => {
                        copies.packed.push((epoch.attempt, file as u32));
                        copies.files.push(layout.tree_dir(epoch.attempt).join(entry.path.as_os_str()));
                    }
                    Source::Reused | Source::None => {}
                }
            }
        }
        copies
    }

    /// A small file of an attempt, from its pack: while packs of the attempt could not be unpacked here, some of its files
    /// are nowhere else. Checked. `None` when no pack here has it. Blocks.
    ///
    /// # Errors
    /// A pack cannot be read, or does not verify.
    pub fn in_pack(&self, attempt: u64, file: u32, digest: &Digest) -> io::Result<Option<Bytes>> {
        for pack in self.dues.half_unpacked(attempt).unwrap_or_default() {
            for (_, offset, len) in pack.files.iter().filter(|(entry, ..)| *entry == file) {
                let Some(payload) = aside::payload(&self.store, &self.log, attempt, pack.index)? else {
                    continue;
                };
                let (from, to) = (*offset as usize, *offset as usize + *len as usize);
                if payload.get(from..to).is_some_and(|data| content(data) == *digest) {
                    return Ok(Some(payload.slice(from..to)));
                }
            }
        }
        Ok(None)
    }
}

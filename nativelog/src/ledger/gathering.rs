//! Puts together beforehand what a seal judges. A million entries take a second to copy, sort and hash, and a complete
//! attempt changes no more until it ends: so it is done once, in slices, so that nobody waits for the ledger, and
//! every judge after that finds it done.

use std::sync::Arc;

use checkpoint::{Digest, ManifestEntry, store::Source};

use super::Ledger;
use super::attempt::Attempt;
use super::tree::Tree;

/// Entries that are taken from the ledger at once; a small attempt has no more, and is gathered where it is judged.
pub(super) const SLICE_ENTRIES: usize = 4096;

/// The tree of a complete attempt, all at once. `Err` with a digest that two lengths have.
pub(super) fn tree_of(attempt: &Attempt) -> Result<Tree, Digest> {
    let (mut entries, mut sources) = (Vec::new(), Vec::new());
    take(attempt, attempt.entries.len(), &mut entries, &mut sources);
    Tree::new(entries, sources)
}

/// Adds the next entries of a complete attempt.
fn take(attempt: &Attempt, most: usize, entries: &mut Vec<ManifestEntry>, sources: &mut Vec<Source>) {
    let from = entries.len();
    for file in from..attempt.entries.len().min(from + most) {
        let digest = attempt.digest_of(file as u32).unwrap_or(Digest::NONE);
        entries.push(ManifestEntry::new(&attempt.entries[file], digest));
        sources.push(attempt.source_of(file as u32));
    }
}

/// A large complete attempt's tree in the making. See [`Ledger::gathering`].
pub struct Gathering {
    attempt: u64,
    count: usize,
    entries: Vec<ManifestEntry>,
    sources: Vec<Source>,
}

/// A tree that was put together, for [`Ledger::keep_tree`].
pub struct Gathered {
    attempt: u64,
    tree: Tree,
}

impl Gathering {
    /// Takes the next slice; true when it was the last. `None` when the attempt has ended.
    pub fn take(&mut self, ledger: &Ledger) -> Option<bool> {
        let attempt = ledger.open.get(&self.attempt)?;
        take(attempt, SLICE_ENTRIES, &mut self.entries, &mut self.sources);
        Some(self.entries.len() == self.count)
    }

    /// Puts all of it together: this takes long, and needs no ledger. `None` when no such tree can be sealed, which
    /// the judge says in its words.
    pub fn finish(self) -> Option<Gathered> {
        let Gathering { attempt, entries, sources, .. } = self;
        Some(Gathered { attempt, tree: Tree::new(entries, sources).ok()? })
    }
}

impl Ledger {
    /// What a seal of this attempt has to put together first, when that is much and not done yet.
    pub fn gathering(&self, attempt: u64) -> Option<Gathering> {
        let open = self.open.get(&attempt)?;
        let count = open.entries.len();
        let wanted = open.plan_is_complete() && open.missing == 0 && open.tree.is_none();
        (wanted && count > SLICE_ENTRIES).then(|| Gathering {
            attempt,
            count,
            entries: Vec::with_capacity(count),
            sources: Vec::with_capacity(count),
        })
    }

    /// Keeps a tree with its attempt, for as long as that is open. It is no part of the state: it follows from it.
    pub fn keep_tree(&mut self, gathered: Gathered) {
        if let Some(open) = self.open.get_mut(&gathered.attempt) {
            open.tree = Some(Arc::new(gathered.tree));
        }
    }
}

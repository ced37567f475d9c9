//! Puts together beforehand what a seal judges. The pages of the plan have to be read for it, a million entries take a
//! second to copy, sort and hash, and a complete attempt changes no more until it ends: so it is done once, page by page,
//! so that nobody waits for the ledger, and every judge after that finds it done.

use std::sync::Arc;

use checkpoint::{Digest, ManifestEntry, PlanEntry, store::Source};

use super::attempt::Attempt;
use super::pages::{Page, PageLost, PlanPages};
use super::tables::Ledger;
use super::tree::Tree;
use crate::record::{Header, Kind};

/// More than so many contents or entries are worked on beforehand, and not where the ledger is locked.
pub(super) const MANY: usize = 4096;

/// A complete attempt's tree in the making. See [`Ledger::gathering`].
pub struct Gathering {
    attempt: u64,
    pages: Vec<Page>,
    /// Pages that were taken.
    taken: usize,
    entries: Vec<ManifestEntry>,
    sources: Vec<Source>,
}

/// A tree that was put together, for [`Ledger::keep_tree`].
pub struct Gathered {
    attempt: u64,
    tree: Result<Arc<Tree>, Digest>,
}

impl Gathering {
    /// The page that is wanted next; `None` when all were taken.
    pub fn next(&self) -> Option<&Page> {
        self.pages.get(self.taken)
    }

    /// Takes the entries of that page. `None` when the attempt has ended.
    ///
    /// # Panics
    /// Nothing is wanted any more.
    pub fn take(&mut self, ledger: &Ledger, entries: Vec<PlanEntry>) -> Option<()> {
        let attempt = ledger.open.get(&self.attempt)?;
        let first = self.pages[self.taken].first;
        for (file, entry) in (first..).zip(entries) {
            let digest = attempt.digest_of(file).unwrap_or(Digest::NONE);
            let PlanEntry { path, kind, mode, size, target } = entry;
            self.entries.push(ManifestEntry { path, kind, mode, size, digest, target });
            self.sources.push(attempt.source_of(file));
        }
        self.taken += 1;
        Some(())
    }

    /// Puts all of it together: this takes long, and needs no ledger.
    ///
    /// # Panics
    /// A page was not taken.
    pub fn finish(self) -> Gathered {
        let Gathering { attempt, pages, taken, entries, sources } = self;
        assert_eq!(taken, pages.len(), "every page is taken first");
        Gathered { attempt, tree: Tree::new(entries, sources).map(Arc::new) }
    }
}

impl Ledger {
    /// What a seal of this attempt has to put together first, when that is not done yet: an open attempt with everything
    /// that it needs.
    pub fn gathering(&self, attempt: u64) -> Option<Gathering> {
        let open = self.open.get(&attempt).filter(|open| open.is_complete() && open.tree.is_none())?;
        let count = open.files.len();
        Some(Gathering {
            attempt,
            pages: open.all_pages(attempt).collect(),
            taken: 0,
            entries: Vec::with_capacity(count),
            sources: Vec::with_capacity(count),
        })
    }

    /// Whether an open attempt has everything, much of it, and no tree yet: its seal would take long.
    pub fn will_take_long(&self, attempt: u64) -> bool {
        let open = self.open.get(&attempt);
        open.is_some_and(|open| open.is_complete() && open.tree.is_none() && open.files.len() > MANY)
    }

    /// Entries of this attempt's plan and of all those whose trees are here.
    pub fn gathered_with(&self, attempt: u64) -> usize {
        let counted = |(id, open): &(&u64, &Attempt)| **id == attempt || open.tree.is_some();
        self.open.iter().filter(counted).map(|(_, open)| open.files.len()).sum()
    }

    /// Keeps a tree with its attempt, until that ends or has been silent for long. It is no part of the state: it follows
    /// from it. Hands out what it has no use for: drop it when the ledger is not locked.
    #[must_use]
    pub fn keep_tree(&mut self, gathered: Gathered) -> Option<Gathered> {
        match self.open.get_mut(&gathered.attempt) {
            Some(open) if open.tree.is_none() => {
                open.tree = Some(gathered.tree);
                None
            }
            _ => Some(gathered),
        }
    }

    /// The attempt whose tree has to be put together before this record can be judged.
    pub fn ungathered(&self, header: &Header) -> Option<u64> {
        let Some(Kind::Seal(seal)) = &header.kind else { return None };
        let open = self.open.get(&seal.attempt)?;
        (open.is_complete() && open.tree.is_none()).then_some(seal.attempt)
    }

    /// Puts together what judging this record needs, all at once: for whoever has the ledger alone.
    ///
    /// # Errors
    /// [`PageLost`].
    pub fn gather(&mut self, header: &Header, pages: &dyn PlanPages) -> Result<(), PageLost> {
        let Some(mut gathering) = self.ungathered(header).and_then(|attempt| self.gathering(attempt)) else {
            return Ok(());
        };
        while let Some(page) = gathering.next() {
            let entries = page.read(pages)?;
            gathering.take(self, entries).expect("nothing has ended meanwhile");
        }
        drop(self.keep_tree(gathering.finish()));
        Ok(())
    }

    /// Trees of attempts that nobody has sealed for so long: they take much memory, and can be put together again.
    pub(super) fn drop_idle_trees(&mut self) {
        let (now_ms, silent_ms) = (self.log_ms, self.limits().writer_silent_ms);
        let idle = self.open.values_mut().filter(|open| now_ms - open.last_ms >= silent_ms);
        self.gone.trees.extend(idle.filter_map(|open| open.tree.take()).flatten());
    }
}

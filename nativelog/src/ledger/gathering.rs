//! Puts together beforehand what a seal judges. The pages of the plan have to be read for it, a million entries take a
//! second to copy, sort and hash, and what an attempt has covered never changes: so it is done once, page by page,
//! so that nobody waits for the ledger, and every judge after that finds it done. It may begin when the plan is there,
//! and goes as far as all content of the pages is: the rest is left for later.

use std::sync::Arc;

use checkpoint::{Digest, ManifestEntry, PlanEntry};

use super::attempt::Attempt;
use super::pages::{Page, PageLost, PlanPages};
use super::tables::Ledger;
use super::tree::{Half, Kept, Tree};
use crate::record::{Header, Kind};

/// More than so many contents or entries are worked on beforehand, and not where the ledger is locked.
pub(super) const MANY: usize = 4096;

/// So many more entries have to be covered, before it is worth the while to go on with an attempt that is not complete.
const STEP: u64 = 16 << 10;

/// An attempt's tree in the making. See [`Ledger::gathering`].
pub struct Gathering {
    attempt: u64,
    pages: Vec<Page>,
    half: Box<Half>,
}

/// A tree that was put together, for [`Ledger::keep_tree`].
pub struct Gathered {
    attempt: u64,
    tree: Result<Arc<Tree>, Digest>,
}

impl Gathering {
    /// The page that is wanted next; `None` when all were taken.
    pub fn next(&self) -> Option<&Page> {
        self.pages.get(self.half.pages)
    }

    /// Whether that page can be taken: all of its content is here. Also when the attempt has ended, as taking it says.
    ///
    /// # Panics
    /// Nothing is wanted any more.
    pub fn is_ready(&self, ledger: &Ledger) -> bool {
        let page = self.pages[self.half.pages].page;
        ledger.open.get(&self.attempt).is_none_or(|open| open.is_complete() || open.is_covered_page(page))
    }

    /// Takes the entries of that page. `None` when the attempt has ended.
    ///
    /// # Panics
    /// Nothing is wanted any more.
    pub fn take(&mut self, ledger: &Ledger, entries: Vec<PlanEntry>) -> Option<()> {
        let attempt = ledger.open.get(&self.attempt)?;
        let first = self.pages[self.half.pages].first;
        for (file, entry) in (first..).zip(entries) {
            let digest = attempt.digest_of(file).unwrap_or(Digest::NONE);
            let PlanEntry { path, kind, mode, size, target } = entry;
            self.half.entries.push(ManifestEntry { path, kind, mode, size, digest, target });
            self.half.sources.push(attempt.source_of(file));
            self.half.links.extend(attempt.link_of(file).map(|extent| (file, extent)));
        }
        self.half.pages += 1;
        Some(())
    }

    /// Puts all of it together: this takes long, and needs no ledger.
    ///
    /// # Panics
    /// A page was not taken.
    pub fn finish(self) -> Gathered {
        let Gathering { attempt, pages, half } = self;
        assert_eq!(half.pages, pages.len(), "every page is taken first");
        let Half { entries, sources, links, .. } = *half;
        Gathered { attempt, tree: Tree::new(entries, sources, &links).map(Arc::new) }
    }
}

impl Ledger {
    /// What a seal of this attempt has to put together first, when that is not done yet: an open attempt with its whole
    /// plan. Goes on from where it was left ([`Ledger::keep_half`]).
    pub fn gathering(&mut self, attempt: u64) -> Option<Gathering> {
        let open =
            self.open.get_mut(&attempt).filter(|open| open.plan_is_complete() && open.tree.is_none())?;
        let mut half = open.half.0.take().unwrap_or_default();
        half.unread = false;
        if half.entries.is_empty() {
            half.entries.reserve_exact(open.files.len());
            half.sources.reserve_exact(open.files.len());
        }
        Some(Gathering { attempt, pages: open.all_pages(attempt).collect(), half })
    }

    /// Keeps with its attempt what was put together, until the next page is complete. Hands it back when that has come
    /// meanwhile, or the attempt has ended.
    ///
    /// # Panics
    /// Nothing is wanted any more.
    #[must_use]
    pub fn keep_half(&mut self, gathering: Gathering) -> Option<Gathering> {
        if gathering.is_ready(self) {
            return Some(gathering);
        }
        let Gathering { attempt, mut half, .. } = gathering;
        let open = self.open.get_mut(&attempt).expect("one that has ended is handed back");
        half.covered = open.covered();
        open.half = Kept(Some(half));
        None
    }

    /// Leaves a tree of which the next page cannot be read here: what was read is kept, and nobody tries that page again
    /// before the attempt is complete. Hands it back when that has ended.
    ///
    /// # Panics
    /// Nothing is wanted any more.
    #[must_use]
    pub fn keep_unread(&mut self, gathering: Gathering) -> Option<Gathering> {
        assert!(gathering.next().is_some(), "a page is wanted");
        let open = self.open.get_mut(&gathering.attempt).filter(|open| open.tree.is_none());
        let Some(open) = open else { return Some(gathering) };
        let mut half = gathering.half;
        half.covered = open.covered();
        half.unread = true;
        open.half = Kept(Some(half));
        None
    }

    /// Whether so much more of an open attempt has come that its tree should be gone on with, before it is complete.
    pub fn has_much_more(&self, attempt: u64) -> bool {
        let open = self.open.get(&attempt).filter(|open| open.plan_is_complete() && open.tree.is_none());
        open.is_some_and(|open| {
            let (seen, unread) = open.half.0.as_ref().map_or((0, false), |half| (half.covered, half.unread));
            !unread && open.files.len() > MANY && open.covered() >= seen + STEP
        })
    }

    /// Whether an open attempt has everything, much of it, and no tree yet: its seal would take long.
    pub fn will_take_long(&self, attempt: u64) -> bool {
        let open = self.open.get(&attempt);
        open.is_some_and(|open| open.is_complete() && open.tree.is_none() && open.files.len() > MANY)
    }

    /// Entries of this attempt's plan and of all those whose trees, or halves of them, are here.
    pub fn gathered_with(&self, attempt: u64) -> usize {
        let counted =
            |(id, open): &(&u64, &Attempt)| **id == attempt || open.tree.is_some() || open.half.0.is_some();
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
        let Some(attempt) = self.ungathered(header) else { return Ok(()) };
        let mut gathering = self.gathering(attempt).expect("it is open, with its plan, and has no tree");
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
        for open in self.open.values_mut().filter(|open| now_ms - open.last_ms >= silent_ms) {
            self.gone.trees.extend(open.tree.take().into_iter().flatten());
            if open.half.0.is_some() {
                self.gone.halves.push(std::mem::take(&mut open.half));
            }
        }
    }
}

//! Sealed epochs that are no directory here, and directories whose epochs are gone.

use checkpoint::Digest;
use checkpoint::store::StoreError;

use super::Ground;
use super::overview::{Absent, Directories, Origin, Overview, Surplus, directories};

impl Ground<'_> {
    /// Compares what was sealed at the start with the directories. True when there are folders to remove. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn compare_with_disk(&self, overview: &Overview) -> Result<bool, StoreError> {
        let there = directories(self.store)?;
        self.note_absent(overview, &there);
        self.dues.looked();
        Ok(self.owe(overview.surplus(self.store, &there), []))
    }

    /// Content was brought for an epoch that expired meanwhile: its directory, if it was published all the same, and
    /// whatever lies on the shelves and is not known is owed. True when there are folders to remove. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn owe_surplus(&self) -> Result<bool, StoreError> {
        let there = directories(self.store)?;
        let overview = Overview::of(&self.ledger());
        let known = |digest: &Digest| self.ledger().content(digest).is_some();
        let strays = overview.strays(self.store, &there, &known)?.unwrap_or_default();
        Ok(self.owe(overview.surplus(self.store, &there), strays))
    }

    fn owe(&self, surplus: Vec<Surplus>, strays: impl IntoIterator<Item = (Digest, u64)>) -> bool {
        let ledger = self.ledger();
        let Some(applied) = ledger.applied() else { return false };
        let contents: Vec<(Digest, u64)> =
            surplus.iter().flat_map(|gone| gone.contents.clone()).chain(strays).collect();
        let free = |content: &(Digest, u64)| ledger.content(&content.0).is_none();
        let expired = surplus.into_iter().map(|gone| ((gone.job, gone.epoch), gone.until));
        self.dues.owe(applied.index, contents.into_iter().filter(free), expired)
    }

    /// Takes note of sealed epochs whose directories are not among those that were `there`: also of those of which the
    /// disk does not say, lest one of them keeps all others unknown.
    pub fn note_absent(&self, overview: &Overview, there: &Directories) {
        for Absent { job, epoch, sealed, why } in overview.absent(there) {
            // It may have come back since the folders were listed.
            let why = match self.store.envelope(&job, epoch) {
                Ok(Some(found)) if Origin::of(&found) == sealed => continue,
                Ok(_) => why.to_owned(),
                Err(error) => error.to_string(),
            };
            // While the ledger is held, no record can expire it.
            let ledger = self.ledger();
            if ledger.epoch(&job, epoch).is_some_and(|info| info.sealed.attempt == sealed.attempt) {
                tracing::warn!(%job, epoch, why, "a sealed epoch has no directory here");
                self.dues.note_missing(job, epoch, sealed.attempt, sealed.root, &why);
            }
        }
    }
}

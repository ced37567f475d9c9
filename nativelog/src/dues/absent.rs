//! Sealed epochs that are no directory here, and directories whose epochs are gone.

use checkpoint::Digest;
use checkpoint::store::StoreError;

use super::epoch::Origin;
use super::overview::{Absent, Directories, Overview, Surplus, directories};
use super::shared::Ground;
use super::slices::in_slices;

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
        let (mut contents, mut expired) = (Vec::new(), Vec::new());
        for gone in surplus {
            contents.extend(gone.contents);
            expired.push(((gone.job, gone.epoch), gone.until));
        }
        contents.extend(strays);
        in_slices(contents, |mut slice| {
            // The index is that of the last record that was asked, so that none that released any of it stands above.
            // What a later one holds or releases is found out when it is to be unlinked, or owed by that record.
            let applied = {
                let ledger = self.ledger();
                slice.retain(|(digest, _)| ledger.content(digest).is_none());
                ledger.applied()
            };
            if let Some(applied) = applied {
                self.dues.owe(applied.index, slice, []);
            }
        });
        // Where nothing is applied nothing has expired.
        let applied = self.ledger().applied();
        applied.is_some_and(|applied| self.dues.owe(applied.index, [], expired))
    }

    /// Takes note of sealed epochs whose directories are not among those that were `there`: also of those of which the
    /// disk does not say, lest one of them keeps all others unknown.
    pub fn note_absent(&self, overview: &Overview, there: &Directories) {
        for absent in overview.absent(there) {
            // It may have come back since the folders were listed.
            let why = match self.store.envelope(&absent.job, absent.epoch) {
                Ok(Some(found)) if Origin::of(&found) == absent.sealed => continue,
                Ok(_) => absent.why.to_owned(),
                Err(error) => error.to_string(),
            };
            if self.note(&absent, &why) {
                let Absent { job, epoch, .. } = absent;
                tracing::warn!(%job, epoch, why, "a sealed epoch has no directory here");
            }
        }
    }

    /// False when it is no epoch of the ledger any more, or somebody here knew of it first: whoever publishes or adopts it
    /// from here on finds the note and takes it back.
    fn note(&self, absent: &Absent, why: &str) -> bool {
        let Absent { job, epoch, sealed, .. } = absent;
        // While the ledger is held, no record can expire it.
        let ledger = self.ledger();
        let is_sealed = ledger.epoch(job, *epoch).is_some_and(|info| info.sealed.attempt == sealed.attempt);
        is_sealed && self.dues.looked_in_vain(job.clone(), *epoch, sealed.attempt, sealed.root, why)
    }
}

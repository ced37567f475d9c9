//! What a ledger says of epochs, compared with what lies on this disk.
//!
//! A number may have named an epoch of an earlier life of its job, which was removed and made anew; and the folder of one
//! that had to wait, or that this node never heard the end of, is still there. So a directory is never judged by its name:
//! its manifest says which attempt it was, and where that was sealed.

use std::collections::BTreeMap;

use checkpoint::store::StoreError;
use checkpoint::{Digest, EntryKind, JobName, Manifest, Store};

use super::epoch::{EpochKey, Origin};
use crate::ledger::Ledger;

/// What a ledger says of epochs.
pub struct Overview {
    /// By job the high-water mark, and its sealed epochs by number.
    jobs: BTreeMap<JobName, (u64, BTreeMap<u64, Origin>)>,
    /// Index of the last record that it knows.
    applied: Option<u64>,
}

/// The directories in `epochs/`, and which epochs they are, as their manifests say; nothing where one cannot be read.
pub type Directories = BTreeMap<EpochKey, Option<Origin>>;

/// What a directory is to a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Of the epoch that is sealed under its number.
    Sealed,
    /// Of an epoch that the ledger had and has no more. What lies there up to this log index may go.
    Expired { until: u64 },
    /// Of an epoch that was sealed above the ledger: none of its business.
    Above,
    /// It does not say, or something that no record of this log can have said.
    Unsure,
}

/// An epoch with a directory here that has expired.
pub struct Surplus {
    pub job: JobName,
    pub epoch: u64,
    /// Log index up to which what lies in the directory's place may go: an epoch that was sealed later stays.
    pub until: u64,
    /// Its content, as far as its manifest can be read.
    pub contents: Vec<(Digest, u64)>,
}

/// A sealed epoch without a directory.
pub struct Absent {
    pub job: JobName,
    pub epoch: u64,
    pub sealed: Origin,
    pub why: &'static str,
}

impl Overview {
    pub fn of(ledger: &Ledger) -> Overview {
        let jobs = ledger.jobs().filter_map(|job| {
            let sealed = ledger.sealed(job).map(|sealed| {
                let sealed_at = sealed.position.index;
                (sealed.epoch, Origin { attempt: sealed.attempt, sealed_at, root: sealed.root })
            });
            Some((job.clone(), (ledger.high_water(job)?, sealed.collect())))
        });
        Overview { jobs: jobs.collect(), applied: ledger.applied().map(|id| id.index) }
    }

    /// At or below the mark a number is spent, so that a record has decided what it names. So it is when a record that
    /// the ledger knows has sealed what lies there, of a job that was removed since, or before the epoch that has the
    /// number now. What was sealed later is none of its business.
    fn standing(&self, (job, epoch): &EpochKey, found: Option<Origin>) -> Standing {
        let (mark, sealed) = match self.jobs.get(job) {
            Some((mark, sealed)) => (Some(*mark), sealed.get(epoch)),
            None => (None, None),
        };
        let spent = mark.is_some_and(|mark| *epoch <= mark);
        match (found, sealed, self.applied) {
            (Some(found), Some(sealed), _) if found == *sealed => Standing::Sealed,
            (Some(_), _, None) => Standing::Above,
            (Some(found), _, Some(applied)) if found.sealed_at > applied => Standing::Above,
            (Some(found), Some(sealed), _) if found.sealed_at >= sealed.sealed_at => Standing::Unsure,
            (Some(found), _, _) => Standing::Expired { until: found.sealed_at },
            (None, None, Some(applied)) if spent => Standing::Expired { until: applied },
            (None, None, _) => Standing::Above,
            (None, Some(_), _) => Standing::Unsure,
        }
    }

    /// Directories of epochs that the ledger does not have any more.
    pub fn surplus(&self, store: &Store, there: &Directories) -> Vec<Surplus> {
        let expired = there.iter().filter_map(|(key, found)| match self.standing(key, *found) {
            Standing::Expired { until } => Some((key, until)),
            Standing::Sealed | Standing::Above | Standing::Unsure => None,
        });
        expired
            .map(|((job, epoch), until)| {
                let (job, epoch) = (job.clone(), *epoch);
                let contents = match store.manifest(&job, epoch) {
                    Ok(Some((_, manifest))) => contents(&manifest),
                    Ok(None) => Vec::new(),
                    Err(error) => {
                        tracing::warn!(%job, epoch, %error, "an expired epoch does not say what it holds");
                        Vec::new()
                    }
                };
                Surplus { job, epoch, until, contents }
            })
            .collect()
    }

    /// Attempts whose epochs are directories here although they are above the ledger's marks, with the log index of the
    /// seal: an earlier life made them of what the log has above its snapshot, and is about to be applied again. One
    /// that does not say whose it is is left out.
    pub fn published_above(&self, store: &Store) -> BTreeMap<u64, u64> {
        let there = store.published_epochs().unwrap_or_default();
        let above =
            there.iter().filter(|(job, epoch)| self.jobs.get(job).is_none_or(|(mark, _)| epoch > mark));
        above
            .filter_map(|(job, epoch)| store.envelope(job, *epoch).ok()?)
            .map(|found| (found.attempt, found.position.index))
            .collect()
    }

    /// What lies on the shelves, is not `known` to the ledger whose overview this is, and is in no directory that was
    /// sealed above it: content that records up to the ledger's position let go of, or that came for an earlier ledger.
    /// With its bytes. `None` while such a directory has a manifest that cannot be read: what it holds is unknown.
    pub fn strays(
        &self,
        store: &Store,
        there: &Directories,
        known: &dyn Fn(&Digest) -> bool,
    ) -> Result<Option<BTreeMap<Digest, u64>>, StoreError> {
        let mut strays = store.shelved_besides(known)?;
        let above = there.iter().filter(|(key, found)| self.standing(key, **found) == Standing::Above);
        for ((job, epoch), _) in above {
            match store.manifest(job, *epoch) {
                Ok(None) => {}
                Ok(Some((_, manifest))) => {
                    for (digest, _) in contents(&manifest) {
                        strays.remove(&digest);
                    }
                }
                Err(error) => {
                    tracing::warn!(%job, epoch, %error, "a manifest cannot be read; nothing on the shelves is looked through");
                    return Ok(None);
                }
            }
        }
        Ok(Some(strays))
    }

    /// Sealed epochs without a directory that says that it is theirs.
    pub fn absent(&self, there: &Directories) -> Vec<Absent> {
        let sealed = self.jobs.iter().flat_map(|(job, (_, sealed))| {
            sealed.iter().map(move |(epoch, sealed)| ((job.clone(), *epoch), *sealed))
        });
        let absent = sealed.filter_map(|(key, sealed)| {
            let why = match there.get(&key).map(|found| self.standing(&key, *found)) {
                Some(Standing::Sealed) => return None,
                None => "its directory is not there",
                Some(Standing::Expired { .. }) => "a directory of an earlier epoch of its number is there",
                Some(Standing::Above) => "a directory of a later epoch of its number is there",
                Some(Standing::Unsure) => "its directory does not say that it is of this epoch",
            };
            let (job, epoch) = key;
            Some(Absent { job, epoch, sealed, why })
        });
        absent.collect()
    }
}

/// What a tree holds: digest and bytes of every file that is not empty.
fn contents(manifest: &Manifest) -> Vec<(Digest, u64)> {
    let files = manifest.entries.iter().filter(|entry| entry.kind == EntryKind::File && entry.size > 0);
    files.map(|entry| (entry.digest, entry.size)).collect()
}

/// Everything in `epochs/`.
///
/// # Errors
/// It cannot be listed.
pub fn directories(store: &Store) -> Result<Directories, StoreError> {
    let with_origin = |(job, epoch): EpochKey| {
        let found = store.envelope(&job, epoch).unwrap_or_else(|error| {
            tracing::warn!(%job, epoch, %error, "a directory does not say which epoch it is");
            None
        });
        ((job, epoch), found.as_ref().map(Origin::of))
    };
    Ok(store.published_epochs()?.into_iter().map(with_origin).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(attempt: u64) -> Origin {
        Origin { attempt, sealed_at: attempt + 5, root: Digest::NONE }
    }

    #[test]
    fn a_directory_is_judged_by_what_it_says_it_is() {
        // Epoch 1 is of the second life of its job, 2 has expired in it, 3 was never sealed in it.
        let name: JobName = "job".parse().unwrap();
        let sealed = BTreeMap::from([(1, origin(50))]);
        let overview = Overview { jobs: BTreeMap::from([(name.clone(), (2, sealed))]), applied: Some(100) };
        let standing = |job: &JobName, epoch, found| overview.standing(&(job.clone(), epoch), found);
        let expired = |until| Standing::Expired { until };
        for (epoch, found, expected) in [
            (1, Some(origin(50)), Standing::Sealed),
            (1, Some(origin(10)), expired(15)),
            (1, Some(origin(200)), Standing::Above),
            (1, Some(origin(60)), Standing::Unsure),
            (1, None, Standing::Unsure),
            (2, Some(origin(60)), expired(65)),
            (2, Some(origin(200)), Standing::Above),
            (2, None, expired(100)),
            (3, Some(origin(10)), expired(15)),
            (3, Some(origin(200)), Standing::Above),
            (3, None, Standing::Above),
        ] {
            assert_eq!(standing(&name, epoch, found), expected, "{epoch} {found:?}");
        }
        let gone: JobName = "gone".parse().unwrap();
        assert_eq!(standing(&gone, 1, Some(origin(10))), expired(15));
        assert_eq!(standing(&gone, 1, None), Standing::Above);
        let nothing = Overview { jobs: BTreeMap::new(), applied: None };
        assert_eq!(nothing.standing(&(gone, 1), Some(origin(0))), Standing::Above);
        let there = Directories::from([((name, 1), Some(origin(10)))]);
        assert_eq!(overview.absent(&there).len(), 1, "an earlier one does not pass for it");
    }
}

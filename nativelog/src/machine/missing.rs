//! Sealed epochs that are no directory here, and directories whose epochs are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::store::StoreError;
use checkpoint::{Digest, EntryKind, Envelope, JobName, Manifest, Publish, Source, Store, Unpublished};

use super::Machine;
use crate::ledger::Ledger;
use crate::performer::Reader;

/// An epoch that is sealed but no directory here, and what is known of it.
#[derive(Debug, Clone)]
pub struct Missing {
    /// The job.
    pub job: JobName,
    /// The epoch.
    pub epoch: u64,
    /// Its attempt.
    pub attempt: u64,
    /// Its root.
    pub root: Digest,
    /// Envelope and tree, when this node has them.
    pub manifest: Option<(Envelope, Arc<Manifest>)>,
    /// Why it is no directory.
    pub why: String,
}

/// What a ledger says of epochs: by job the high-water mark, and attempt and root of each sealed epoch.
pub(super) struct Overview(BTreeMap<JobName, (u64, Sealed)>);

/// By epoch: attempt and root.
type Sealed = BTreeMap<u64, (u64, Digest)>;

/// An epoch with a directory here that has expired.
pub(super) struct Surplus {
    pub job: JobName,
    pub epoch: u64,
    /// Its content, as far as its manifest can be read.
    pub contents: Vec<(Digest, u64)>,
}

impl Overview {
    pub fn of(ledger: &Ledger) -> Overview {
        let jobs = ledger.jobs().filter_map(|job| {
            let sealed = ledger.sealed(job).map(|sealed| (sealed.epoch, (sealed.attempt, sealed.root)));
            Some((job.clone(), (ledger.high_water(job)?, sealed.collect())))
        });
        Overview(jobs.collect())
    }

    /// Directories of epochs that the ledger does not have any more: at or below the mark a number is spent, so
    /// that a record has decided it. What is above the mark is none of its business.
    pub fn surplus(&self, store: &Store, there: &BTreeSet<(JobName, u64)>) -> Vec<Surplus> {
        let expired = there.iter().filter(|(job, epoch)| {
            let known = self.0.get(job);
            known.is_some_and(|(mark, sealed)| epoch <= mark && !sealed.contains_key(epoch))
        });
        expired
            .map(|(job, epoch)| {
                let (job, epoch) = (job.clone(), *epoch);
                let contents = match store.manifest(&job, epoch) {
                    Ok(Some((_, manifest))) => contents(&manifest),
                    Ok(None) => Vec::new(),
                    Err(error) => {
                        tracing::warn!(%job, epoch, %error, "an expired epoch does not say what it holds");
                        Vec::new()
                    }
                };
                Surplus { job, epoch, contents }
            })
            .collect()
    }

    /// What lies on the shelves, is not `known` to the ledger whose overview this is, and is in no directory above its
    /// marks: content that records up to the ledger's position let go of, or that came for an earlier ledger. With its
    /// bytes. `None` while such a directory has a manifest that cannot be read: what it holds is unknown.
    pub fn strays(
        &self,
        store: &Store,
        there: &BTreeSet<(JobName, u64)>,
        known: &dyn Fn(&Digest) -> bool,
    ) -> Result<Option<BTreeMap<Digest, u64>>, StoreError> {
        let mut strays = store.shelved_besides(known)?;
        let above = there.iter().filter(|(job, epoch)| self.0.get(job).is_none_or(|(mark, _)| epoch > mark));
        for (job, epoch) in above {
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

    /// Sealed epochs without a directory.
    pub fn absent(&self, there: &BTreeSet<(JobName, u64)>) -> Vec<(JobName, u64, u64, Digest)> {
        let sealed = self.0.iter().flat_map(|(job, (_, sealed))| {
            sealed.iter().map(move |(epoch, (attempt, root))| (job.clone(), *epoch, *attempt, *root))
        });
        sealed.filter(|(job, epoch, ..)| !there.contains(&(job.clone(), *epoch))).collect()
    }
}

/// What a tree holds: digest and bytes of every file that is not empty.
fn contents(manifest: &Manifest) -> Vec<(Digest, u64)> {
    let files = manifest.entries.iter().filter(|entry| entry.kind == EntryKind::File && entry.size > 0);
    files.map(|entry| (entry.digest, entry.size)).collect()
}

/// Everything in `epochs/`.
pub(super) fn directories(store: &Store) -> Result<BTreeSet<(JobName, u64)>, StoreError> {
    Ok(store.published_epochs()?.into_iter().collect())
}

impl Machine {
    /// Compares what was sealed at the start with the directories.
    pub(super) fn compare_with_disk(&self, overview: &Overview) -> Result<(), StoreError> {
        let there = directories(&self.store)?;
        self.note_absent(overview, &there)?;
        self.performer.looked();
        self.owe(overview.surplus(&self.store, &there), []);
        Ok(())
    }

    /// Content was brought for an epoch that expired meanwhile: its directory, if it was published all the same, and
    /// whatever lies on the shelves and is not known is owed. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn owe_surplus(&self) -> Result<(), StoreError> {
        let there = directories(&self.store)?;
        let overview = Overview::of(&self.ledger());
        let known = |digest: &Digest| self.ledger().content(digest).is_some();
        let strays = overview.strays(&self.store, &there, &known)?.unwrap_or_default();
        self.owe(overview.surplus(&self.store, &there), strays);
        Ok(())
    }

    fn owe(&self, surplus: Vec<Surplus>, strays: impl IntoIterator<Item = (Digest, u64)>) {
        let ledger = self.ledger();
        let Some(applied) = ledger.applied() else { return };
        let contents: Vec<(Digest, u64)> =
            surplus.iter().flat_map(|gone| gone.contents.clone()).chain(strays).collect();
        let free = |content: &(Digest, u64)| ledger.content(&content.0).is_none();
        let expired = surplus.into_iter().map(|gone| (gone.job, gone.epoch));
        self.performer.owe(applied.index, contents.into_iter().filter(free), expired);
    }

    pub(super) fn note_absent(
        &self,
        overview: &Overview,
        there: &BTreeSet<(JobName, u64)>,
    ) -> Result<(), StoreError> {
        for (job, epoch, attempt, root) in overview.absent(there) {
            // It may have come back since the folders were listed.
            if self.store.published(&job, epoch)? == Some(root) {
                continue;
            }
            // While the ledger is held, no record can expire it.
            let ledger = self.ledger();
            if ledger.epoch(&job, epoch).is_some() {
                tracing::warn!(%job, epoch, "a sealed epoch has no directory here");
                self.performer.note_missing(job, epoch, attempt, root, "its directory is not there");
            }
        }
        Ok(())
    }

    /// Sealed epochs that are no directory here and are not just being published.
    pub fn missing(&self) -> Vec<Missing> {
        let unpublished = self.performer.unpublished().into_iter().map(|(epoch, why)| Missing {
            job: epoch.job,
            epoch: epoch.epoch,
            attempt: epoch.attempt,
            root: epoch.envelope.root,
            manifest: Some((epoch.envelope, epoch.manifest)),
            why,
        });
        let absent = self.performer.missing().into_iter().map(|((job, epoch), attempt, root, why)| Missing {
            job,
            epoch,
            attempt,
            root,
            manifest: None,
            why,
        });
        unpublished.chain(absent).collect()
    }

    /// Publishes an epoch whose content is all on the shelves, as the snapshot that is about to be installed or
    /// the ledger says it. Blocks.
    ///
    /// # Errors
    /// Content that is not there after all.
    pub fn adopt(
        &self,
        attempt: u64,
        envelope: Envelope,
        manifest: Arc<Manifest>,
    ) -> Result<(), Unpublished> {
        let (job, epoch) = (envelope.job.clone(), envelope.epoch);
        {
            // It may have packs of this attempt to unpack into the very tree.
            let _paused = self.performer.pause();
            adopt(&self.store, attempt, envelope, manifest)?;
        }
        self.performer.adopted(&job, epoch);
        Ok(())
    }

    /// The directory of an epoch was mended on the shelves: it is not missing any more.
    pub fn mended(&self, job: &JobName, epoch: u64) {
        self.performer.adopted(job, epoch);
    }

    /// Keeps the directory of an epoch while the answer lives, if it is there: the caller looks afterwards. A record
    /// that expires it counts at once; here it goes when its last reader has left.
    pub fn read_epoch(&self, job: &JobName, epoch: u64) -> Reader {
        self.performer.reader(job, epoch)
    }

    /// Tries now what could not be published before.
    pub fn publish_again(&self) {
        self.performer.retry_now();
    }
}

/// As [`Machine::adopt`], where no machine runs.
///
/// # Errors
/// Content that is not there after all.
pub fn adopt(
    store: &Store,
    attempt: u64,
    envelope: Envelope,
    manifest: Arc<Manifest>,
) -> Result<(), Unpublished> {
    let sources = manifest.entries.iter().map(|entry| match entry.kind {
        EntryKind::File if entry.size > 0 => Source::Reused,
        _ => Source::None,
    });
    let sources = Arc::new(sources.collect());
    let mut results = store.publish(&[Publish { attempt, envelope, manifest, sources }]);
    results.pop().expect("publish answers for every epoch")
}

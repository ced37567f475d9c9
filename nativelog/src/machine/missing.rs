//! Sealed epochs that are no directory here, and how they become one.

use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::store::StoreError;
use checkpoint::{Digest, EntryKind, Envelope, JobName, Manifest, Publish, Source, Store, Unpublished};

use super::Machine;
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

/// What of a content lies in the staging of epochs that could not be published here yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StagedCopies {
    /// Files that should have it, not verified. One may end early: the rest is zeros.
    pub files: Vec<PathBuf>,
    /// It came in a pack, which this node still has.
    pub packed: bool,
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
                        copies.packed = true;
                        copies.files.push(layout.tree_dir(epoch.attempt).join(entry.path.as_os_str()));
                    }
                    Source::Reused | Source::None => {}
                }
            }
        }
        copies
    }

    /// Content was brought for an epoch that expired meanwhile: its directory, if it was published all the same, and
    /// whatever lies on the shelves and is not known is owed. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn owe_surplus(&self) -> Result<(), StoreError> {
        if self.ground().owe_surplus()? {
            self.performer.retry_now();
        }
        Ok(())
    }

    /// A sealed epoch has no directory here, and why: what it lacks is owed.
    pub fn note_missing(&self, job: &JobName, epoch: u64, why: &str) {
        // While the ledger is held, no record can expire it.
        let ledger = self.ledger();
        if let Some(info) = ledger.epoch(job, epoch) {
            let sealed = info.sealed;
            self.dues.note_missing(job.clone(), epoch, sealed.attempt, sealed.root, why);
        }
    }

    /// Sealed epochs that are no directory here and are not just being published.
    pub fn missing(&self) -> Vec<Missing> {
        let unpublished = self.dues.still_unpublished().into_iter().map(|(epoch, why)| Missing {
            job: epoch.job,
            epoch: epoch.epoch,
            attempt: epoch.attempt,
            root: epoch.envelope.root,
            manifest: Some((epoch.envelope, epoch.manifest)),
            why,
        });
        let absent = self.dues.missing().into_iter().map(|absent| Missing {
            job: absent.job,
            epoch: absent.epoch,
            attempt: absent.attempt,
            root: absent.root,
            manifest: None,
            why: absent.why,
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
        self.mended(&job, epoch);
        Ok(())
    }

    /// The directory of an epoch was mended on the shelves: it is not missing any more.
    pub fn mended(&self, job: &JobName, epoch: u64) {
        self.dues.adopted(job, epoch);
        // Whoever failed before finds it there, and settles its own accounts.
        self.performer.retry_now();
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

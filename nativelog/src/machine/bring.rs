//! What comes from elsewhere while the machine runs: for the open attempts of a ledger, and for sealed epochs that are no
//! directory here. And what lies in staging that others may want.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::disk::says_nothing;
use checkpoint::store::{StoreError, Unpacked};
use checkpoint::{Digest, Envelope, JobName, Manifest, Unpublished};

use super::lacking::{AttemptLacks, lacking_of_attempts};
use super::missing::{Missing, adopt};
use super::staged::{self, StagedCopies};
use super::state::Machine;
use crate::dues::{Origin, aside};
use crate::ledger::Ledger;
use crate::performer::Reader;

/// The ledger is asked about so many epochs at a time.
const FAILED_SLICE: usize = 1024;

impl Machine {
    /// What the open attempts of `ledger` lack on this disk. Reads and checks all that they have. Blocks.
    ///
    /// What is in their trees stays from now on. The performer may still have packs of them to unpack: the first of
    /// an attempt that began in this life clears what an earlier life left there, and that must not come after this.
    /// What could not be unpacked here is set aside and not lacking: the log, which has it, goes with the install.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn lacking_of_attempts(&self, ledger: &Ledger) -> io::Result<Vec<AttemptLacks>> {
        {
            let _paused = self.performer.pause();
            for info in ledger.attempts() {
                if self.dues.has_old_tree(info.id) {
                    self.store.discard(info.id).map_err(io::Error::other)?;
                }
                self.dues.begin_tree(info.id);
            }
        }
        self.ground().set_aside()?;
        let mut all = lacking_of_attempts(&self.store, ledger)?;
        for lacks in all.iter_mut().filter(|lacks| !lacks.packed.is_empty()) {
            let held = aside::held(&self.store, &self.dues, lacks.attempt);
            lacks.packed.retain(|file| !held.contains(&(file.file, file.digest)));
        }
        all.retain(|lacks| !lacks.is_nothing());
        Ok(all)
    }

    /// Writes packed files of an open attempt into its tree, while the performer stands still. They are still to be
    /// synced. Blocks.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError> {
        let _paused = self.performer.pause();
        self.store.unpack(attempt, files)
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

    /// What is missing could not be brought, and why. An epoch that has come meanwhile is not missing any more.
    pub fn still_missing(&self, job: &JobName, epoch: u64, why: &str) {
        self.dues.still_missing(job, epoch, why.to_owned());
    }

    /// As [`Machine::still_missing`], of the epoch that was this attempt, which the log has brought and that could not be
    /// published.
    pub fn still_unpublished(&self, attempt: u64, why: &str) {
        self.dues.still_fails(attempt, why.to_owned());
    }

    /// Sealed epochs that are no directory here and are not just being published.
    pub fn missing(&self) -> Vec<Missing> {
        let unpublished = self.dues.still_unpublished().into_iter().map(|owed| Missing {
            job: owed.job,
            epoch: owed.epoch,
            attempt: owed.origin.attempt,
            root: owed.origin.root,
            has_tree: true,
            verifying: self.store.is_verifying(owed.origin.attempt),
            why: owed.why,
        });
        let absent = self.dues.missing().into_iter().map(|absent| Missing {
            job: absent.job,
            epoch: absent.epoch,
            attempt: absent.attempt,
            root: absent.root,
            has_tree: false,
            verifying: false,
            why: absent.why,
        });
        unpublished.chain(absent).collect()
    }

    /// Envelope and tree of an epoch that could not be published here; `None` when they are lost. Blocks.
    ///
    /// # Errors
    /// They cannot be read now.
    pub fn tree_of(&self, attempt: u64) -> io::Result<Option<(Envelope, Arc<Manifest>)>> {
        let tree = self.dues.tree(&self.store, attempt)?;
        Ok(tree.map(|epoch| (epoch.envelope, epoch.manifest)))
    }

    /// How many sealed epochs nobody has looked for yet, since the start: each may be a directory here or not. 0 a moment
    /// later.
    pub fn not_looked(&self) -> u64 {
        self.dues.not_looked()
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
        self.mended(&job, epoch, attempt);
        Ok(())
    }

    /// The directory of the epoch that was this attempt is good on the shelves: it is not missing any more.
    pub fn mended(&self, job: &JobName, epoch: u64, attempt: u64) {
        let before = self.ledger().epoch(job, epoch).filter(|info| info.sealed.attempt < attempt);
        match before {
            None => self.dues.adopted(job, epoch, attempt),
            // What the ledger here has under that number is of an earlier life of the job, and gone.
            Some(_) => self.note_missing(job, epoch, "an epoch of a later life of its job is in its place"),
        }
        // Whoever failed before finds it there, and settles its own accounts.
        self.performer.retry_behind(attempt);
    }

    /// Keeps the directory of an epoch while the answer lives, if it is there: the caller looks afterwards. A record
    /// that expires it counts at once; here it goes when its last reader has left.
    pub fn read_epoch(&self, job: &JobName, epoch: u64) -> Reader {
        self.performer.reader(job, epoch)
    }

    /// Copies of a content that are not on the shelves: its epoch came, and could not be published here yet. Blocks.
    pub fn staged_copies(&self, digest: &Digest) -> StagedCopies {
        // Hardly ever any: asked for every blob that is served.
        let failed = self.dues.failed_keys();
        let mut wanted = Vec::new();
        for slice in failed.chunks(FAILED_SLICE) {
            let ledger = self.ledger();
            // What was sealed after it was brought for the last time has only reused it, and is not looked into.
            let newest = ledger.brought(digest);
            let may_have = |origin: &Origin, (job, epoch): &(JobName, u64)| {
                let brought = newest.is_some_and(|newest| origin.sealed_at <= newest);
                // Of one that has expired, and is still to be let go of here, the ledger does not know any more what it
                // holds.
                ledger.sealed_as(job, *epoch).is_none()
                    || (brought && ledger.epoch_holds(job, *epoch, digest))
            };
            let has = |(origin, key): &&(Origin, Option<(JobName, u64)>)| match key {
                Some(key) => may_have(origin, key),
                None => self.dues.needs(origin.attempt, digest),
            };
            wanted.extend(slice.iter().filter(has).map(|(origin, _)| origin.attempt));
        }
        let mut copies = StagedCopies::default();
        for attempt in wanted {
            match self.dues.recent_tree(&self.store, attempt) {
                Ok(Some(epoch)) => copies.add(self.store.layout(), &epoch, digest),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(attempt, %error, "the tree of an epoch that may have a content cannot be read");
                    copies.unread |= says_nothing(&error);
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
        staged::in_pack((&self.store, &self.log, &self.dues), attempt, file, digest)
    }

    /// Whether packs of this attempt are still to be unpacked once more, so that a small file which is not good here may
    /// come.
    pub fn unpacks_again(&self, attempt: u64) -> bool {
        self.dues.half_unpacked(attempt).is_some_and(|packs| !packs.is_empty())
    }

    /// Tries now to publish the epoch of this attempt, if it could not be before: what it lacked may be here.
    pub fn publish_now(&self, attempt: u64) {
        self.performer.retry(attempt);
    }

    /// Tries now what could not be published before.
    pub fn publish_again(&self) {
        self.performer.retry_now();
    }
}

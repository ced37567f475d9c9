//! A node's shelves: sealed content as blobs, attempts in staging, published
//! epochs as trees of hard links to blobs, content that is brought from
//! elsewhere. The log decides what is here; the store obeys, and every verb may
//! be repeated. It deletes only what it is told to, its own temporary names, and
//! what lies in `trash/`.
//!
//! A tour, from below:
//! - `layout` says where everything lies, `shelves` what this process has of it: the disk, what is known of blobs, and the
//!   lock of names, `Names`, which whatever changes them asks for;
//! - `blobs` and `verified`, `syncing`, `envelopes` and `manifests`, `jobs`: looked at, read, made durable;
//! - `link`, `folders`, `aside`, `staging`: names given and moved; `latest`, `expire`: moved and taken away;
//! - `verifying`, then `publish`: a sealed epoch becomes a directory. [`Store`] is the handle of all this;
//! - verbs of [`Store`] in files of their own: content comes (`incoming`, `shelve`) and goes (`reclaim`), damage is mended
//!   (`mend_manifest`, `heal`, `mend`), room is kept (`ballast`).

mod arriving;
mod aside;
mod ballast;
mod blobs;
mod envelopes;
mod error;
mod expire;
mod folders;
mod heal;
mod incoming;
mod jobs;
mod latest;
pub mod layout;
mod link;
mod linked;
mod manifests;
mod mend;
mod mend_manifest;
mod publish;
mod reclaim;
mod recover;
mod sealed;
mod shelve;
mod shelves;
mod staged;
mod staging;
mod syncing;
mod verified;
mod verifying;

pub use crate::verify::{Problem, VerifyReport};
pub use error::{StoreError, Unpublished};
pub use heal::{Healed, Unread};
pub use incoming::{Content, Incoming, IncomingError, SYNC_BYTES};
pub use layout::Layout;
pub use manifests::{ManifestFile, Walk};
pub use reclaim::Reclaimed;
pub use sealed::{Publish, Source};
pub use staging::Unpacked;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::digest::Digest;
use crate::disk::{Disk, Fault, StrictDisk};
use crate::epoch::{EntryKind, JobName};
use crate::manifest::{Envelope, Manifest};
use crate::verify::verify_tree;
use manifests::Manifests;
use shelves::Shelves;
use verifying::Verifier;

/// The shelves of one node. Clones share them.
#[derive(Clone, Debug)]
pub struct Store {
    shelves: Arc<Shelves>,
    // Reads what is reused before it is published.
    verifier: Arc<Verifier>,
    // Manifests that were read whole lately.
    manifests: Arc<Manifests>,
    // Held while the ballast changes.
    ballast: Arc<Mutex<()>>,
}

impl Store {
    /// Makes the folders that are missing, durably; empties `trash/`. Deletes nothing else. Where each `latest` points is
    /// for [`Store::heal_latest`], once it is known what to avoid.
    pub fn open(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Store, StoreError> {
        let layout = Layout::new(data_dir);
        let strict = StrictDisk::over(disk);
        recover::open(&strict, &layout)?;
        Ok(Store {
            shelves: Arc::new(Shelves::new(strict, layout)),
            verifier: Arc::default(),
            manifests: Arc::default(),
            ballast: Arc::default(),
        })
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.shelves.layout
    }

    /// The first sync below this store that failed. It is final: whoever runs the store stops.
    pub fn fault(&self) -> &Fault {
        &self.shelves.fault
    }

    /// The disk underneath: a failed sync there is a fault of this store.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.shelves.disk
    }

    /// Writes small files into the attempt's tree, making directories (0700) as needed. Not synced: publishing
    /// does that. What is there already is replaced.
    pub fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError> {
        staging::unpack(self.disk().as_ref(), &self.layout().tree_dir(attempt), files)?;
        Ok(self.shelves.made(files.len())?)
    }

    /// Bytes that come back with the folder of an attempt: of its staged files that have no other name. Nothing for what
    /// cannot be looked at.
    pub fn staged_bytes(&self, attempt: u64) -> u64 {
        staging::staged_bytes(&self.shelves, attempt)
    }

    /// Publishes epochs, several with the syncs of one. An epoch appears complete, by one rename, or not at all;
    /// one that cannot be published does not hinder the others. Repeating is harmless. A folder in its place whose
    /// manifest cannot be read is moved aside, and goes with the epoch when that expires; one without a manifest is moved to
    /// `N.found`, and stays.
    pub fn publish(&self, batch: &[Publish]) -> Vec<Result<(), Unpublished>> {
        publish::publish(&self.shelves, &self.verifier, batch)
    }

    /// Why an epoch that was told to come again ([`Unpublished::Verifying`]) need not come yet: who asks first saves a tree
    /// that it would have to read.
    pub fn still_verifying(&self, attempt: u64) -> Option<Unpublished> {
        self.verifier.goes_on(&self.shelves, attempt)
    }

    /// Whether an epoch was told to come again, and has not: what it lacks is not known before it has.
    pub fn is_verifying(&self, attempt: u64) -> bool {
        self.verifier.has_begun(attempt)
    }

    /// The epoch of this attempt does not come again, whatever was read for it: something else is in its way.
    pub fn verified_in_vain(&self, attempt: u64) {
        self.verifier.forget(attempt);
    }

    /// The root of a published epoch, from the envelope of its manifest alone.
    pub fn published(&self, job: &JobName, epoch: u64) -> Result<Option<Digest>, StoreError> {
        Ok(self.envelope(job, epoch)?.map(|envelope| envelope.root))
    }

    /// The envelope of a published epoch.
    pub fn envelope(&self, job: &JobName, epoch: u64) -> Result<Option<Envelope>, StoreError> {
        envelopes::read_envelope(self.disk().as_ref(), &self.layout().manifest_file(job, epoch))
    }

    /// Envelope and tree of a published epoch, checked against each other.
    pub fn manifest(&self, job: &JobName, epoch: u64) -> Result<Option<(Envelope, Manifest)>, StoreError> {
        manifests::read(&self.shelves, job, epoch)
    }

    /// The manifest of a published epoch, to be sent in ranges or read entry by entry: takes no memory for them. One that
    /// was not looked at lately is compared with its root first, all of it.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn manifest_file(&self, job: &JobName, epoch: u64) -> Result<Option<ManifestFile>, StoreError> {
        self.manifests.open(&self.shelves, job, epoch)
    }

    /// The numbers of the epochs of a job that are published here, rising.
    pub fn epochs(&self, job: &JobName) -> Result<Vec<u64>, StoreError> {
        Ok(jobs::epochs(self.disk().as_ref(), &self.layout().job_dir(job))?)
    }

    /// Takes an epoch away: into `trash/` by one rename, `latest` to the newest that is left, then its names one by
    /// one. Nothing there is fine. It never appears again once this is done. A `latest` that cannot be moved is no error. A
    /// folder without a manifest in its place is not ours: it is moved to `N.found`, and nothing of it is removed.
    pub fn expire(&self, job: &JobName, epoch: u64) -> Result<(), StoreError> {
        expire::expire(&self.shelves, job, epoch)
    }

    /// As [`Store::expire`], unless what is there was sealed above log index `index`: then the number is another epoch's
    /// by now, and it stays. A directory that does not say when it was sealed goes (or makes way, where it has no manifest),
    /// unless `is_later` says that an epoch of this number was sealed above `index`: asked only then, with the names locked.
    ///
    /// # Errors
    /// The disk refuses: another try may do it.
    pub fn expire_until(
        &self,
        job: &JobName,
        epoch: u64,
        index: u64,
        is_later: &dyn Fn() -> bool,
    ) -> Result<(), StoreError> {
        expire::expire_until(&self.shelves, job, epoch, index, is_later)
    }

    /// From now on, until the next start, `latest` of the job points to its newest published epoch that is none of
    /// these, and to none when there is no other. Takes the place of what was said of the job before; an epoch that
    /// expires is to be avoided no more, and nothing of a job that is removed.
    pub fn avoid(&self, job: &JobName, epochs: BTreeSet<u64>) -> Result<(), StoreError> {
        latest::avoid(&self.shelves, job, epochs)
    }

    /// As [`Store::avoid`] of every job at once: of those that are not named, no epoch is to be avoided. For a start,
    /// because a power cut may have taken the last move of a `latest`, though not the epoch. What fails is a warning: no
    /// epoch depends on it.
    pub fn heal_latest(&self, avoid: BTreeMap<JobName, BTreeSet<u64>>) {
        latest::heal_latest(&self.shelves, avoid);
    }

    /// Whether some `latest` could not be moved: [`Store::point_latest_again`].
    pub fn is_latest_behind(&self) -> bool {
        !self.shelves.behind().is_empty()
    }

    /// Tries again to move what could not be moved before.
    pub fn point_latest_again(&self) {
        latest::point_again(&self.shelves);
    }

    /// The epoch has expired: what was said of it to [`Store::avoid`] is not said of a later one of its number.
    pub fn avoid_no_more(&self, job: &JobName, epoch: u64) {
        latest::avoid_no_more(&self.shelves, job, epoch);
    }

    /// Removes the folder of a job that has no epochs any more. One that is not empty stays.
    pub fn remove_job(&self, job: &JobName) -> Result<(), StoreError> {
        expire::remove_job(&self.shelves, job)
    }

    /// Removes what was built for an attempt (its tree and manifest). Staged files stay: the log names them.
    pub fn discard(&self, attempt: u64) -> Result<(), StoreError> {
        self.verifier.forget(attempt);
        expire::discard(&self.shelves, attempt)
    }

    /// Reads a published epoch again and compares it with its manifest: kinds, modes, digests, targets, names
    /// that are missing or too many. The content of what is wrong is trusted no more.
    pub fn verify(&self, job: &JobName, epoch: u64) -> Result<VerifyReport, StoreError> {
        self.verify_watched(job, epoch, &|| ())
    }

    /// As [`Store::verify`]; `on` hears of every step, at least every few MiB that were read, and of none while the disk
    /// does not answer.
    ///
    /// # Errors
    /// It could not be looked at. What is wrong with it is in the report.
    pub fn verify_watched(
        &self,
        job: &JobName,
        epoch: u64,
        on: &dyn Fn(),
    ) -> Result<VerifyReport, StoreError> {
        let (envelope, manifest) = self
            .manifest(job, epoch)?
            .ok_or_else(|| StoreError::NotPublished { job: job.to_string(), epoch })?;
        self.verified(&envelope, &manifest, on)
    }

    /// As [`Store::verify`], of a directory whose manifest may be missing or unreadable.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn verify_by(&self, envelope: &Envelope, manifest: &Manifest) -> Result<VerifyReport, StoreError> {
        self.verified(envelope, manifest, &|| ())
    }

    fn verified(
        &self,
        envelope: &Envelope,
        manifest: &Manifest,
        on: &dyn Fn(),
    ) -> Result<VerifyReport, StoreError> {
        let files = self.layout().files_dir(&envelope.job, envelope.epoch);
        let report = verify_tree(self.disk().as_ref(), &files, manifest, on)?;
        if !report.is_good() {
            let named: BTreeSet<&str> = report.problems.iter().map(|problem| problem.path.as_str()).collect();
            let files = manifest.entries.iter().filter(|entry| entry.kind == EntryKind::File);
            files
                .filter(|entry| named.contains(entry.path.to_string().as_str()))
                .for_each(|entry| self.distrust(entry.digest));
        }
        Ok(report)
    }

    /// A copy of this content was found bad: that this process has verified a blob of it says nothing any more. Every
    /// one is read again before it is used again.
    pub fn distrust(&self, digest: Digest) {
        self.shelves.known.forget(digest);
    }

    /// A blob of this content, of any mode; not verified.
    pub fn blob_path(&self, digest: Digest) -> Option<PathBuf> {
        blobs::any_mode(self.disk().as_ref(), self.layout(), digest).ok().flatten()
    }

    /// All blobs of this content, of every mode; not verified.
    ///
    /// # Errors
    /// The shelf cannot be read.
    pub fn blob_paths(&self, digest: Digest) -> io::Result<Vec<PathBuf>> {
        blobs::all_modes(self.disk().as_ref(), self.layout(), digest)
    }
}

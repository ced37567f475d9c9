//! A node's shelves: sealed content as blobs, attempts in staging, published
//! epochs as trees of hard links to blobs, content that is brought from
//! elsewhere. The log decides what is here; the store obeys, and every verb may
//! be repeated. It deletes only what it is told to, its own temporary names, and
//! what lies in `trash/`.

mod aside;
mod ballast;
mod blobs;
mod expire;
mod folders;
mod heal;
mod incoming;
pub mod layout;
mod link;
mod manifests;
mod mend;
mod publish;
mod reclaim;
mod recover;
mod shelve;
mod staging;
mod syncing;
mod verified;
mod verify;
mod verifying;

pub use crate::error::{StoreError, Unpublished};
pub use heal::{Healed, Unread};
pub use incoming::{Content, Incoming, IncomingError, SYNC_BYTES};
pub use layout::Layout;
pub use manifests::{ManifestFile, Walk};
pub use reclaim::Reclaimed;
pub use verify::{Problem, VerifyReport};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use crate::digest::Digest;
use crate::disk::{Disk, DiskFile, Fault, Open, StrictDisk, is_rot};
use crate::epoch::{EntryKind, JobName, RelPath};
use crate::error::at;
use crate::manifest::{ENVELOPE_BYTES_MAX, Envelope, Manifest, ManifestError};

// Largest manifest that is read back, bytes: a million entries of longest paths are below.
const MANIFEST_BYTES_MAX: u64 = 4 << 30;

/// Where the content of a manifest's entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Chunks, in the staged file of this entry; what is missing at the end is zeros.
    Staged,
    /// A pack, unpacked into the attempt's tree.
    Unpacked,
    /// Sealed before: a blob.
    Reused,
    /// Nothing to come: directories, symlinks, empty files.
    None,
}

/// An epoch to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The attempt that was sealed.
    pub attempt: u64,
    /// Name and origin.
    pub envelope: Envelope,
    /// The tree.
    pub manifest: Arc<Manifest>,
    /// One per entry of the manifest.
    pub sources: Arc<Vec<Source>>,
}

/// A small file to write into an attempt's tree.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked<'a> {
    /// Where.
    pub path: &'a RelPath,
    /// Permission bits.
    pub mode: u32,
    /// The whole content. Files of one call that share the same slice and mode share an inode.
    pub data: &'a [u8],
}

/// The shelves of one node. Clones share them.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    layout: Layout,
    // Held while names of blobs and epochs change.
    names: Mutex<()>,
    // Since everything was synced last.
    unsynced_files: AtomicUsize,
    fault: Fault,
    blobs: blobs::Known,
    verifier: Arc<verifying::Verifier>,
    manifests: manifests::Manifests,
    // Content that is being brought. Locked for moments only, never while names are waited for.
    arriving: Mutex<incoming::Arrivals>,
    // Held while the ballast changes.
    ballast: Mutex<()>,
    // By job: epochs that `latest` does not point to.
    avoided: Mutex<BTreeMap<JobName, BTreeSet<u64>>>,
    // Jobs whose `latest` could not be moved.
    behind: Mutex<BTreeSet<JobName>>,
}

impl Inner {
    fn arriving(&self) -> MutexGuard<'_, incoming::Arrivals> {
        self.arriving.lock().expect("a thread panicked while it looked for what arrives")
    }

    fn all_avoided(&self) -> MutexGuard<'_, BTreeMap<JobName, BTreeSet<u64>>> {
        self.avoided.lock().expect("a thread panicked while it noted what to avoid")
    }

    fn avoided(&self, job: &JobName) -> BTreeSet<u64> {
        self.all_avoided().get(job).cloned().unwrap_or_default()
    }

    fn behind(&self) -> MutexGuard<'_, BTreeSet<JobName>> {
        self.behind.lock().expect("a thread panicked while it noted where a `latest` points")
    }

    fn lock_names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().expect("a thread panicked while it changed names")
    }
}

impl Store {
    /// Makes the folders that are missing, durably; empties `trash/`. Deletes nothing else. Where each `latest` points is
    /// for [`Store::heal_latest`], once it is known what to avoid.
    pub fn open(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Store, StoreError> {
        let layout = Layout::new(data_dir);
        let strict = StrictDisk::over(disk);
        let fault = strict.fault().clone();
        recover::open(&strict, &layout)?;
        let inner = Inner {
            disk: Arc::new(strict),
            layout,
            names: Mutex::default(),
            unsynced_files: AtomicUsize::new(0),
            fault,
            blobs: blobs::Known::default(),
            verifier: Arc::default(),
            manifests: manifests::Manifests::default(),
            arriving: Mutex::default(),
            ballast: Mutex::default(),
            avoided: Mutex::default(),
            behind: Mutex::default(),
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The first sync below this store that failed. It is final: whoever runs the store stops.
    pub fn fault(&self) -> &Fault {
        &self.inner.fault
    }

    /// The disk underneath: a failed sync there is a fault of this store.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    /// Writes small files into the attempt's tree, making directories (0700) as needed. Not synced: publishing
    /// does that. What is there already is replaced.
    pub fn unpack(&self, attempt: u64, files: &[Unpacked<'_>]) -> Result<(), StoreError> {
        staging::unpack(self.disk().as_ref(), &self.layout().tree_dir(attempt), files)?;
        Ok(self.inner.made(files.len())?)
    }

    /// Publishes epochs, several with the syncs of one. An epoch appears complete, by one rename, or not at all;
    /// one that cannot be published does not hinder the others. Repeating is harmless. A folder in its place whose
    /// manifest cannot be read is moved aside, and goes with the epoch when that expires.
    pub fn publish(&self, batch: &[Publish]) -> Vec<Result<(), Unpublished>> {
        publish::publish(&self.inner, batch)
    }

    /// Why an epoch that was told to come again ([`Unpublished::Verifying`]) need not come yet: who asks first saves a tree
    /// that it would have to read.
    pub fn still_verifying(&self, attempt: u64) -> Option<Unpublished> {
        verifying::goes_on(&self.inner, attempt)
    }

    /// The root of a published epoch, from the envelope of its manifest alone.
    pub fn published(&self, job: &JobName, epoch: u64) -> Result<Option<Digest>, StoreError> {
        Ok(self.envelope(job, epoch)?.map(|envelope| envelope.root))
    }

    /// The envelope of a published epoch.
    pub fn envelope(&self, job: &JobName, epoch: u64) -> Result<Option<Envelope>, StoreError> {
        read_envelope(self.disk().as_ref(), &self.layout().manifest_file(job, epoch))
    }

    /// Envelope and tree of a published epoch, checked against each other.
    pub fn manifest(&self, job: &JobName, epoch: u64) -> Result<Option<(Envelope, Manifest)>, StoreError> {
        let path = self.layout().manifest_file(job, epoch);
        match self.disk().open(&path, Open::Read) {
            Ok(file) => manifests::decode(&*file, &path).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unread(&path)(e)),
        }
    }

    /// The manifest of a published epoch, to be sent in ranges or read entry by entry: takes no memory for them. One that
    /// was not looked at lately is compared with its root first, all of it.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn manifest_file(&self, job: &JobName, epoch: u64) -> Result<Option<ManifestFile>, StoreError> {
        manifests::open(&self.inner, job, epoch)
    }

    /// The numbers of the epochs of a job that are published here, rising.
    pub fn epochs(&self, job: &JobName) -> Result<Vec<u64>, StoreError> {
        Ok(expire::epochs(self.disk().as_ref(), &self.layout().job_dir(job))?)
    }

    /// Takes an epoch away: into `trash/` by one rename, `latest` to the newest that is left, then its names one by
    /// one. Nothing there is fine. It never appears again once this is done. A `latest` that cannot be moved is no error.
    pub fn expire(&self, job: &JobName, epoch: u64) -> Result<(), StoreError> {
        expire::expire(&self.inner, job, epoch)
    }

    /// As [`Store::expire`], unless what is there was sealed above log index `index`: then the number is another epoch's
    /// by now, and it stays. A directory that does not say when it was sealed goes, unless `is_later` says that an epoch of
    /// this number was sealed above `index`: asked only then, with the names locked.
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
        expire::expire_until(&self.inner, job, epoch, index, is_later)
    }

    /// From now on, until the next start, `latest` of the job points to its newest published epoch that is none of
    /// these, and to none when there is no other. Takes the place of what was said of the job before; an epoch that
    /// expires is to be avoided no more, and nothing of a job that is removed.
    pub fn avoid(&self, job: &JobName, epochs: BTreeSet<u64>) -> Result<(), StoreError> {
        expire::avoid(&self.inner, job, epochs)
    }

    /// As [`Store::avoid`] of every job at once: of those that are not named, no epoch is to be avoided. For a start,
    /// because a power cut may have taken the last move of a `latest`, though not the epoch. What fails is a warning: no
    /// epoch depends on it.
    pub fn heal_latest(&self, avoid: BTreeMap<JobName, BTreeSet<u64>>) {
        expire::heal_latest(&self.inner, avoid);
    }

    /// Whether some `latest` could not be moved: [`Store::point_latest_again`].
    pub fn is_latest_behind(&self) -> bool {
        !self.inner.behind().is_empty()
    }

    /// Tries again to move what could not be moved before.
    pub fn point_latest_again(&self) {
        expire::point_again(&self.inner);
    }

    /// The epoch has expired: what was said of it to [`Store::avoid`] is not said of a later one of its number.
    pub fn avoid_no_more(&self, job: &JobName, epoch: u64) {
        expire::avoid_no_more(&self.inner, job, epoch);
    }

    /// Removes the folder of a job that has no epochs any more. One that is not empty stays.
    pub fn remove_job(&self, job: &JobName) -> Result<(), StoreError> {
        expire::remove_job(&self.inner, job)
    }

    /// Removes what was built for an attempt (its tree and manifest). Staged files stay: the log names them.
    pub fn discard(&self, attempt: u64) -> Result<(), StoreError> {
        self.inner.verifier.forget(attempt);
        expire::discard(&self.inner, attempt)
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
        let report = verify::verify_tree(self.disk().as_ref(), &files, manifest, on)?;
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
        self.inner.blobs.forget(digest);
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

pub(crate) use verify::verify_tree;

fn read_envelope(disk: &dyn Disk, path: &Path) -> Result<Option<Envelope>, StoreError> {
    match disk.open(path, Open::Read) {
        Ok(file) => open_envelope(&*file, path).map(|(envelope, _)| Some(envelope)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unread(path)(e)),
    }
}

/// Why a manifest file could not be read. What no other try will read is damage of it: another one is to take its place.
fn unread(path: &Path) -> impl Fn(io::Error) -> StoreError + '_ {
    move |error| {
        let wrong = |source| StoreError::Manifest { path: path.to_path_buf(), source };
        match error.kind() {
            // It was cut.
            io::ErrorKind::UnexpectedEof => {
                wrong(ManifestError::Malformed { at: 0, why: "it ends too early" })
            }
            _ if is_rot(&error) || is_no_file(&error) => wrong(ManifestError::Unreadable(error)),
            _ => at("read", path)(error).into(),
        }
    }
}

/// A link, which is never followed, or a folder is in a file's place.
fn is_no_file(error: &io::Error) -> bool {
    let kinds = [Errno::LOOP, Errno::ISDIR].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| kinds.contains(&number))
}

// The envelope at the front of a manifest file, and its bytes.
fn open_envelope(file: &dyn DiskFile, path: &Path) -> Result<(Envelope, u64), StoreError> {
    let wrong = |source| StoreError::Manifest { path: path.to_path_buf(), source };
    let mut head = [0; 16];
    file.read_exact_at(&mut head, 0).map_err(unread(path))?;
    let len = Envelope::encoded_len(&head).map_err(wrong)?;
    if len > ENVELOPE_BYTES_MAX {
        return Err(wrong(ManifestError::Damaged("the envelope is far too long")));
    }
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(unread(path))?;
    let (envelope, used) = Envelope::decode(&bytes).map_err(wrong)?;
    Ok((envelope, used as u64))
}

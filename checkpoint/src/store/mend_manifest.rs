//! A manifest that is damaged, or is not the one that the log knows, makes room for the one that belongs there.

use std::io;

use super::envelopes::read_envelope;
use super::link::Linker;
use super::shelves::Names;
use super::{Store, StoreError, aside, manifests};
use crate::disk::Open;
use crate::io_error::at;
use crate::manifest::{Envelope, Manifest, write_file};

impl Store {
    /// Puts the manifest of an epoch that is published here in the place of one that is missing, cannot be read or says
    /// something else of this epoch than `envelope`. Whoever has a manifest passes for good: the tree is mended first,
    /// see [`Store::verify_by`], [`Store::damaged_by`], [`Store::heal_by`].
    ///
    /// # Errors
    /// [`StoreError::NotPublished`]: nothing of that name is here, or an epoch that was sealed before this one, which
    /// goes when this one is published. An epoch that was sealed later is there, or another root, or the disk refuses.
    pub fn mend_manifest(&self, envelope: &Envelope, manifest: &Manifest) -> Result<(), StoreError> {
        let names = self.shelves.lock_names();
        if says_so(&names, envelope, manifest)? {
            return Ok(());
        }
        let (job, epoch) = (&envelope.job, envelope.epoch);
        let (dir, path) = (names.layout.epoch_dir(job, epoch), names.layout.manifest_file(job, epoch));
        let temp = Linker::new(&names).temp_name();
        let write = names.disk.open(&temp, Open::CreateNew).and_then(|file| {
            write_file(&*file, envelope, manifest)?;
            file.set_mode(0o644)
        });
        write.map_err(at("write", &temp))?;
        names.sync_file(&temp)?;
        aside::folder_makes_way(&names, &path, "manifest.aside")?;
        names.disk.rename(&temp, &path).map_err(at("replace", &path))?;
        Ok(names.sync_dir(&dir)?)
    }

    /// Whether [`Store::mend_manifest`] would put this manifest in place, or leave the same one there.
    ///
    /// # Errors
    /// As there.
    pub fn may_mend(&self, envelope: &Envelope, manifest: &Manifest) -> Result<(), StoreError> {
        says_so(&self.shelves.lock_names(), envelope, manifest).map(drop)
    }
}

/// Whether the manifest of a directory that is here is this one, and whole. Errors are those of
/// [`Store::mend_manifest`].
pub(super) fn says_so(
    names: &Names<'_>,
    envelope: &Envelope,
    manifest: &Manifest,
) -> Result<bool, StoreError> {
    let (job, epoch) = (&envelope.job, envelope.epoch);
    let path = names.layout.manifest_file(job, epoch);
    // A link that leads elsewhere is none: it makes way when the epoch is published.
    if !aside::is_real(&*names.disk, &names.layout, job, epoch) {
        return Err(StoreError::NotPublished { job: job.to_string(), epoch });
    }
    let root = manifest.root();
    let refuse = |why| Err(at("mend", &path)(io::Error::new(io::ErrorKind::InvalidInput, why)).into());
    if root != envelope.root {
        return refuse(format!("root {root} where {} belongs", envelope.root));
    }
    match readable(read_envelope(&*names.disk, &path))? {
        None => Ok(false),
        // Within one life of its job a number has one epoch: this one is of an earlier life, and has expired.
        Some(there) if there.position.index < envelope.position.index => {
            Err(StoreError::NotPublished { job: job.to_string(), epoch })
        }
        Some(there) if there.position.index > envelope.position.index => {
            refuse("an epoch that was sealed later is there".into())
        }
        Some(there) if there.root != root => refuse(format!("root {root} where {} belongs", there.root)),
        Some(there) => Ok(there == *envelope && readable(manifests::read(names, job, epoch))?.is_some()),
    }
}

/// Nothing for a manifest that is damaged, lost by the device, or a link or a folder in its place: another is to take its
/// place.
fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Manifest { .. }) => Ok(None),
        read => read,
    }
}

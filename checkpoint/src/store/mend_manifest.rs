//! A manifest that is damaged, or is not the one that the log knows, makes room for the one that belongs there.

use std::io;

use super::aside::{self, Occupant, Unnamed};
use super::link::Linker;
use super::shelves::Names;
use super::{Store, StoreError, manifests};
use crate::disk::Open;
use crate::io_error::at;
use crate::manifest::{Envelope, Manifest, write_file};

impl Store {
    /// Puts the manifest of an epoch that is published here in the place of one that is missing, cannot be read or says
    /// something else of this epoch than `envelope`. Whoever has a manifest passes for good: the tree is mended first,
    /// see [`Store::verify_by`], [`Store::damaged_by`], [`Store::heal_by`]. A directory without a manifest may be somebody's:
    /// it gets one only when it verifies as it is, for nothing in it is mended.
    ///
    /// # Errors
    /// [`StoreError::NotPublished`]: nothing of that name is here, or what makes way when this epoch is published: an epoch
    /// that was sealed before it, or a folder without a manifest that has more than `files`. An epoch that was sealed later is there, or another root, or the disk refuses.
    pub fn mend_manifest(&self, envelope: &Envelope, manifest: &Manifest) -> Result<(), StoreError> {
        let names = self.shelves.lock_names();
        if says(&names, envelope, manifest)? == Says::It {
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
        names.disk.rename(&temp, &path).map_err(at("replace", &path))?;
        Ok(names.sync_dir(&dir)?)
    }

    /// Whether [`Store::mend_manifest`] would put this manifest in place, or leave the same one there.
    ///
    /// # Errors
    /// As there.
    pub fn may_mend(&self, envelope: &Envelope, manifest: &Manifest) -> Result<(), StoreError> {
        says(&self.shelves.lock_names(), envelope, manifest).map(drop)
    }
}

/// What a directory that may get a manifest says by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// This manifest, and whole.
    It,
    /// Something that cannot be read, or something else of the same epoch.
    Otherwise,
    /// It has no manifest.
    Nothing,
}

/// For who changes what is in a directory's tree: in one without a manifest nothing is changed. Errors are those of
/// [`Store::mend_manifest`].
pub(super) fn may_change(
    names: &Names<'_>,
    envelope: &Envelope,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    match says(names, envelope, manifest)? {
        Says::It | Says::Otherwise => Ok(()),
        Says::Nothing => {
            Err(StoreError::NotPublished { job: envelope.job.to_string(), epoch: envelope.epoch })
        }
    }
}

/// What the directory in an epoch's place says. Errors are those of [`Store::mend_manifest`].
fn says(names: &Names<'_>, envelope: &Envelope, manifest: &Manifest) -> Result<Says, StoreError> {
    let (job, epoch) = (&envelope.job, envelope.epoch);
    let (disk, layout) = (&*names.disk, &names.layout);
    let path = layout.manifest_file(job, epoch);
    let not_published = || Err(StoreError::NotPublished { job: job.to_string(), epoch });
    let refuse = |why| Err(at("mend", &path)(io::Error::new(io::ErrorKind::InvalidInput, why)).into());
    // A link that leads elsewhere is no directory: it makes way when the epoch is published.
    let occupant = aside::occupant(disk, layout, job, epoch)?;
    if matches!(occupant, Occupant::Nobody) {
        return not_published();
    }
    let root = manifest.root();
    if root != envelope.root {
        return refuse(format!("root {root} where {} belongs", envelope.root));
    }
    match occupant {
        Occupant::Unnamed(Unnamed::Unread) => Ok(Says::Otherwise),
        Occupant::Unnamed(Unnamed::Foreign) if aside::has_files_alone(disk, layout, job, epoch)? => {
            Ok(Says::Nothing)
        }
        Occupant::Unnamed(Unnamed::Foreign) | Occupant::Nobody => not_published(),
        // Within one life of its job a number has one epoch: this one is of an earlier life, and has expired.
        Occupant::Epoch(there) if there.position.index < envelope.position.index => not_published(),
        Occupant::Epoch(there) if there.position.index > envelope.position.index => {
            refuse("an epoch that was sealed later is there".into())
        }
        Occupant::Epoch(there) if there.root != root => {
            refuse(format!("root {root} where {} belongs", there.root))
        }
        Occupant::Epoch(there) => {
            let is_it = *there == *envelope && readable(manifests::read(names, job, epoch))?.is_some();
            Ok(if is_it { Says::It } else { Says::Otherwise })
        }
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

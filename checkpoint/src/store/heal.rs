//! Rot, found and mended: every place in published trees and in staging that has a bad inode of some content
//! gets a link to a good one, by rename. Nothing is ever written in place.
//!
//! Which places those are, the manifests say: a file of a published tree is what its entry says, and the staged
//! file `f<i>` of the attempt that was sealed as that epoch is what entry `i` says. So an inode is never
//! recognised by its number alone. Places of epochs that are not published (any more) are not touched: publishing
//! falls back to the blob, and the log mends the payloads it still names.
//!
//! Stopped anywhere, it is simply done again; temporary names are in `trash/`, never in a user's tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::blobs::{self, Found, Held};
use super::error::{Step, StoreError, Unpublished};
use super::folders::Folders;
use super::incoming::Content;
use super::link::{Linker, corrupt, missing, store_error};
use super::mend_manifest::may_change;
use super::shelves::Names;
use super::{Store, manifests};
use crate::digest::Digest;
use crate::disk::FileKind;
use crate::epoch::{EntryKind, JobName};
use crate::io_error::at;
use crate::manifest::{Envelope, Manifest, ManifestEntry};

// A name that should have some content.
struct Place {
    entry: ManifestEntry,
    // What `path` must not lead out of.
    root: PathBuf,
    path: PathBuf,
    // Staged files that are gone are not made again.
    staged: bool,
}

/// An epoch whose manifest cannot be read, and why: it is to be mended as a whole.
pub type Unread = (JobName, u64, String);

/// What healing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// Names that lead to good content now, and did not before.
    pub names: u64,
    /// Epochs that were left out.
    pub unread: Vec<Unread>,
}

impl Store {
    /// After [`Store::shelve`] put a good blob of `content` on the shelf: makes every other name of that digest
    /// here (files of published trees, of any mode, also those that are missing, and staged files of published
    /// epochs) a link to a good inode. Modes of read-only folders are kept. Returns how many names were changed.
    ///
    /// # Errors
    /// The disk refuses, or there is no good blob of that content.
    pub fn heal(&self, content: Content) -> Result<u64, StoreError> {
        self.heal_all(&[content]).map(|healed| healed.names)
    }

    /// As [`Store::heal`] for several contents, reading each manifest once.
    ///
    /// # Errors
    /// The disk refuses, or there is no good blob of one of them: then nothing is changed.
    pub fn heal_all(&self, contents: &[Content]) -> Result<Healed, StoreError> {
        self.heal_places(contents, None)
    }

    /// As [`Store::heal_all`], and of one directory that is here, whatever its own manifest says.
    ///
    /// # Errors
    /// As [`Store::heal_all`] and [`Store::damaged_by`].
    pub fn heal_by(
        &self,
        contents: &[Content],
        envelope: &Envelope,
        manifest: &Manifest,
    ) -> Result<Healed, StoreError> {
        self.heal_places(contents, Some((envelope, manifest)))
    }

    fn heal_places(
        &self,
        contents: &[Content],
        told: Option<(&Envelope, &Manifest)>,
    ) -> Result<Healed, StoreError> {
        let shelves = &*self.shelves;
        let mut wanted = BTreeSet::new();
        for content in contents {
            let Content { digest, mode, size } = *content;
            match blobs::find_good(&*shelves.disk, &shelves.known, &shelves.layout, digest, mode, size)? {
                Held::Good(..) => wanted.insert(digest),
                Held::Missing | Held::Corrupt(..) => {
                    let path = shelves.layout.blob(digest, mode, 0);
                    let none = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no good blob");
                    return Err(at("heal from", &path)(none).into());
                }
            };
        }
        let (places, unread) = self.places(&wanted, told)?;
        let names = shelves.lock_names();
        // Another epoch may have its number by now.
        told.map(|(envelope, manifest)| may_change(&names, envelope, manifest)).transpose()?;
        let mut healing = Healing {
            names: &names,
            linker: Linker::new(&names),
            folders: Folders::new(&names),
            good: BTreeMap::new(),
            changed: 0,
        };
        // What is staged, durably, before the trees: once those verify again, nobody would come back for it.
        for staged in [true, false] {
            let mut these = places.iter().filter(|place| place.staged == staged);
            let result = these.try_for_each(|place| healing.heal(place));
            // Also after an error: folders are closed again, and what was changed is durable.
            healing.folders.finish()?;
            result.map_err(|e| store_error(&shelves.layout.epochs_dir(), e))?;
        }
        Ok(Healed { names: healing.changed, unread })
    }

    // Every name that should have one of these contents. An epoch that is published later links to a good blob.
    fn places(
        &self,
        wanted: &BTreeSet<Digest>,
        told: Option<(&Envelope, &Manifest)>,
    ) -> Result<(Vec<Place>, Vec<Unread>), StoreError> {
        let (mut places, mut unread) = (Vec::new(), Vec::new());
        if let Some((envelope, manifest)) = told {
            self.places_in(envelope, manifest, wanted, &mut places);
        }
        let is_told =
            |job: &JobName, epoch| told.is_some_and(|(told, _)| (&told.job, told.epoch) == (job, epoch));
        for (job, epoch) in self.published_epochs()? {
            if is_told(&job, epoch) {
                continue;
            }
            let (envelope, manifest) = match manifests::read(&self.shelves, &job, epoch) {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(e) => {
                    tracing::warn!(%job, epoch, error = %e, "an epoch without a readable manifest is not healed");
                    unread.push((job, epoch, e.to_string()));
                    continue;
                }
            };
            self.places_in(&envelope, &manifest, wanted, &mut places);
        }
        Ok((places, unread))
    }

    fn places_in(
        &self,
        envelope: &Envelope,
        manifest: &Manifest,
        wanted: &BTreeSet<Digest>,
        places: &mut Vec<Place>,
    ) {
        let files = self.layout().files_dir(&envelope.job, envelope.epoch);
        let staging = self.layout().attempt_dir(envelope.attempt);
        for (index, entry) in manifest.entries.iter().enumerate() {
            if entry.kind != EntryKind::File || entry.size == 0 || !wanted.contains(&entry.digest) {
                continue;
            }
            let mut place = |root: &PathBuf, path, staged| {
                places.push(Place { entry: entry.clone(), root: root.clone(), path, staged });
            };
            place(&staging, self.layout().staged_file(envelope.attempt, index as u32), true);
            place(&files, files.join(entry.path.as_os_str()), false);
        }
    }
}

struct Healing<'a> {
    names: &'a Names<'a>,
    linker: Linker<'a>,
    folders: Folders<'a>,
    // Good inodes by digest and mode.
    good: BTreeMap<(Digest, u32), BTreeSet<u64>>,
    changed: u64,
}

impl Healing<'_> {
    fn heal(&mut self, place: &Place) -> Step {
        let Place { entry, root, path, staged } = place;
        if !self.folders.is_real(root, path) {
            // Its folder is missing: expired or swept meanwhile, or mended with its own epoch.
            return Ok(());
        }
        let there = match self.names.disk.stat(path) {
            Ok(stat) if stat.kind == FileKind::Directory => {
                tracing::warn!(path = %path.display(), "a folder is in the place of a file");
                return Ok(());
            }
            Ok(stat) => Some(stat.ino),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && *staged => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(at("stat", path)(e).into()),
        };
        let key = (entry.digest, entry.mode);
        if !self.good.contains_key(&key) {
            let inodes = self.good_inodes(entry)?;
            self.good.insert(key, inodes);
        }
        if there.is_some_and(|ino| self.good[&key].contains(&ino)) {
            return Ok(());
        }
        let linker = &mut self.linker;
        self.folders.change(path, || linker.link_file(entry, None, path))?;
        self.folders.touch(&self.names.layout.blob_shelf(entry.digest.as_bytes()[0]));
        let ino = self.names.disk.stat(path).map_err(at("stat", path))?.ino;
        self.good.entry(key).or_default().insert(ino);
        self.changed += 1;
        Ok(())
    }

    // The good inodes of a content and mode. Bad ones are replaced, durably: once all trees verify again, nobody
    // would come back for a blob that is still bad.
    fn good_inodes(&mut self, entry: &ManifestEntry) -> Result<BTreeSet<u64>, Unpublished> {
        let (mut inodes, mut replaced) = (BTreeSet::new(), false);
        for n in 0.. {
            let blob = self.names.layout.blob(entry.digest, entry.mode, n);
            let key = (entry.digest, entry.mode, n);
            match blobs::check(&*self.names.disk, &self.names.known, &blob, key, entry.size)? {
                Found::Good(stat) => {
                    inodes.insert(stat.ino);
                    continue;
                }
                Found::Missing if n > 0 => break,
                Found::Missing | Found::Corrupt(_) => {}
            }
            self.linker.blob_from_others(entry, &blob)?;
            replaced = true;
            match blobs::check(&*self.names.disk, &self.names.known, &blob, key, entry.size)? {
                Found::Good(stat) => inodes.insert(stat.ino),
                Found::Corrupt(why) => {
                    // What it was cloned from had been good once, and is not any more.
                    self.names.known.forget(entry.digest);
                    return Err(corrupt(entry, &blob, why));
                }
                Found::Missing => return Err(missing(entry, "the blob", &blob)),
            };
        }
        if replaced {
            let shelf = self.names.layout.blob_shelf(entry.digest.as_bytes()[0]);
            self.names.sync_dir(&shelf)?;
        }
        Ok(inodes)
    }
}

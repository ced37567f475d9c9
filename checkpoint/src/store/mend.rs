//! What is wrong with a published tree and needs nobody else: folders, symlinks, empty files and modes are made
//! again as the manifest says. A name that stands where another kind should be is replaced; a folder with something in it,
//! and names that the manifest does not have, are moved aside.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::aside::{self, Aside, Occupant};
use super::blobs::{self, Held};
use super::error::{Step, StoreError, Unpublished};
use super::folders::Folders;
use super::incoming::Content;
use super::link::{Linker, store_error};
use super::mend_manifest::may_change;
use super::shelves::Names;
use super::{Store, manifests};
use crate::digest::Digest;
use crate::disk::{Disk, FileKind, Stat, hash_file, is_rot};
use crate::durable::ignore_missing;
use crate::epoch::{EntryKind, JobName};
use crate::io_error::{IoError, at};
use crate::manifest::{Envelope, Manifest, ManifestEntry};
use crate::verify::VerifyReport;

impl Store {
    /// The contents of a published epoch that do not verify here (rotten or missing files) and have no good blob
    /// here, each digest once: bring them, [`Store::shelve`], [`Store::heal`]. `report` is one of
    /// [`Store::verify`]; the files that it names are read again. What is wrong with folders, symlinks, empty
    /// files and modes is mended at once, and so is every file whose content is on the shelf after all. What is in the tree
    /// and not of it is moved to a folder beside the epoch's, `N.found`.
    ///
    /// # Errors
    /// The epoch has no readable manifest here, or the disk refuses.
    pub fn damaged_contents(
        &self,
        job: &JobName,
        epoch: u64,
        report: &VerifyReport,
    ) -> Result<Vec<Content>, StoreError> {
        let missing = || StoreError::NotPublished { job: job.to_string(), epoch };
        let (envelope, manifest) = manifests::read(&self.shelves, job, epoch)?.ok_or_else(missing)?;
        self.damaged_by(&envelope, &manifest, report)
    }

    /// As [`Store::damaged_contents`], of a directory whose manifest may be unreadable. From such a one nothing is moved
    /// away: it may be of an earlier life of its job, and what is not of this epoch then is a part of that. It makes way as a
    /// whole when the epoch is published, with what it has.
    ///
    /// # Errors
    /// As [`Store::mend_manifest`]; [`StoreError::NotPublished`] also of any folder without a manifest: it may be
    /// somebody's, and nothing in it is changed.
    pub fn damaged_by(
        &self,
        envelope: &Envelope,
        manifest: &Manifest,
        report: &VerifyReport,
    ) -> Result<Vec<Content>, StoreError> {
        let shelves = &*self.shelves;
        let damaged = {
            let names = shelves.lock_names();
            // It may have expired since its manifest was read.
            may_change(&names, envelope, manifest)?;
            let reported = report.problems.iter().map(|problem| problem.path.as_str()).collect();
            let root = shelves.layout.files_dir(&envelope.job, envelope.epoch);
            let occupant = aside::occupant(&*names.disk, &names.layout, &envelope.job, envelope.epoch)?;
            let is_named = matches!(occupant, Occupant::Epoch(_));
            let aside = is_named.then(|| Aside::new(&names, &envelope.job, envelope.epoch));
            mend(&names, aside, &root, manifest, &reported).map_err(|e| store_error(&root, e))?
        };
        let (mut here, mut lacking) = (Vec::new(), Vec::new());
        for (digest, (mode, size)) in damaged {
            // That it was good once says nothing now.
            shelves.known.forget(digest);
            let content = Content { digest, mode, size };
            match blobs::find_good(&*shelves.disk, &shelves.known, &shelves.layout, digest, mode, size)? {
                Held::Good(..) => here.push(content),
                Held::Missing | Held::Corrupt(..) => lacking.push(content),
            }
        }
        if !here.is_empty() {
            self.heal_by(&here, envelope, manifest)?;
        }
        Ok(lacking)
    }
}

type Damaged = BTreeMap<Digest, (u32, u64)>;

fn mend<'a>(
    names: &'a Names<'a>,
    aside: Option<Aside<'a>>,
    root: &Path,
    manifest: &Manifest,
    named: &BTreeSet<&str>,
) -> Result<Damaged, Unpublished> {
    let mut mending = Mending {
        names,
        disk: &*names.disk,
        linker: Linker::new(names),
        folders: Folders::new(names),
        aside,
        damaged: BTreeMap::new(),
    };
    // A parent sorts before its content.
    let result = manifest.entries.iter().try_for_each(|entry| {
        let path = if entry.path.is_root() { root.to_path_buf() } else { root.join(entry.path.as_os_str()) };
        if !entry.path.is_root() && !mending.folders.is_real(root, &path) {
            // Below something that could not be replaced.
            return Ok(());
        }
        match entry.kind {
            EntryKind::Directory => mending.folder(entry, &path),
            EntryKind::Symlink => mending.symlink(entry, &path),
            EntryKind::File if entry.size == 0 => mending.empty(entry, &path),
            EntryKind::File => mending.file(entry, &path, named.contains(entry.path.to_string().as_str())),
        }
    });
    let result = result.and_then(|()| mending.move_out(root, manifest, named));
    mending.folders.finish()?;
    result.map(|()| mending.damaged)
}

struct Mending<'a> {
    names: &'a Names<'a>,
    disk: &'a dyn Disk,
    linker: Linker<'a>,
    folders: Folders<'a>,
    /// Where what is not of the epoch goes; nothing goes where it is not known whose the folder is.
    aside: Option<Aside<'a>>,
    damaged: Damaged,
}

impl Mending<'_> {
    fn stat(&self, path: &Path) -> Result<Option<Stat>, IoError> {
        match self.disk.stat(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at("stat", path)(e)),
        }
    }

    fn folder(&mut self, entry: &ManifestEntry, path: &Path) -> Step {
        let stat = self.stat(path)?;
        let is_folder = stat.is_some_and(|stat| stat.kind == FileKind::Directory);
        if !is_folder {
            let disk = self.disk;
            self.folders.change(path, || {
                ignore_missing(disk.unlink(path)).map_err(at("replace", path))?;
                Ok(disk.create_dir(path).map_err(at("make the folder", path))?)
            })?;
        }
        if !is_folder || stat.is_some_and(|stat| stat.mode != entry.mode) {
            self.disk.set_mode(path, entry.mode).map_err(at("set the mode of", path))?;
            self.folders.touch(path);
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &ManifestEntry, path: &Path) -> Step {
        match self.stat(path)? {
            Some(stat) if stat.kind == FileKind::Symlink && self.leads_to(path, &entry.target)? => {
                return Ok(());
            }
            Some(stat) if !self.make_way(path, &stat)? => return Ok(()),
            _ => {}
        }
        let make = |temp: &Path| self.disk.symlink(&entry.target, temp).map_err(at("make the symlink", temp));
        let temp = self.linker.temp_name();
        make(&temp)?;
        self.move_to(&temp, path)
    }

    // One that the device has lost leads nowhere.
    fn leads_to(&self, path: &Path, target: &[u8]) -> Result<bool, IoError> {
        match self.disk.read_link(path) {
            Err(e) if is_rot(&e) => Ok(false),
            found => Ok(found.map_err(at("read the link", path))? == target),
        }
    }

    fn empty(&mut self, entry: &ManifestEntry, path: &Path) -> Step {
        match self.stat(path)? {
            Some(stat) if stat.kind == FileKind::File && stat.len == 0 => {
                return if stat.mode == entry.mode { Ok(()) } else { self.set_mode(path, entry.mode) };
            }
            Some(stat) if !self.make_way(path, &stat)? => return Ok(()),
            _ => {}
        }
        let temp = self.linker.temp_name();
        self.disk.write_new(&temp, &[], entry.mode).map_err(at("make the file", &temp))?;
        self.names.sync_file(&temp)?;
        self.move_to(&temp, path)
    }

    fn file(&mut self, entry: &ManifestEntry, path: &Path, named: bool) -> Step {
        let good = match self.stat(path)? {
            None => false,
            Some(stat) if stat.kind == FileKind::Directory => {
                if !self.make_way(path, &stat)? {
                    return Ok(());
                }
                false
            }
            Some(stat) if stat.kind != FileKind::File || stat.len != entry.size => false,
            Some(stat) => {
                let good = !named || self.is_content(entry, path)?;
                if good && stat.mode != entry.mode && !self.is_blob_of_other_mode(entry, stat.ino)? {
                    return self.set_mode(path, entry.mode);
                }
                good && stat.mode == entry.mode
            }
        };
        if !good {
            self.damaged.entry(entry.digest).or_insert((entry.mode, entry.size));
        }
        Ok(())
    }

    fn is_content(&self, entry: &ManifestEntry, path: &Path) -> Result<bool, IoError> {
        match hash_file(self.disk, path) {
            Ok(found) => Ok(found == entry.digest),
            Err(e) if is_rot(&e) => Ok(false),
            // Nothing but a mode keeps its owner from reading it.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(e) => Err(at("read", path)(e)),
        }
    }

    // A file that was linked to an inode of another mode must not change that one.
    fn is_blob_of_other_mode(&self, entry: &ManifestEntry, ino: u64) -> Result<bool, IoError> {
        let layout = &self.names.layout;
        let all = blobs::all_modes(self.disk, layout, entry.digest);
        let all = all.map_err(at("list", &layout.blobs_dir()))?;
        let other = |path: &PathBuf| {
            let key = path.file_name().and_then(blobs::parse);
            key.is_some_and(|(_, mode, _)| mode != entry.mode)
                && self.disk.stat(path).is_ok_and(|stat| stat.ino == ino)
        };
        Ok(all.iter().any(other))
    }

    fn set_mode(&mut self, path: &Path, mode: u32) -> Step {
        self.disk.set_mode(path, mode).map_err(at("set the mode of", path))?;
        Ok(self.names.sync_file(path)?)
    }

    // Names in the tree that the manifest does not have, when the report named any.
    fn move_out(&mut self, root: &Path, manifest: &Manifest, named: &BTreeSet<&str>) -> Step {
        let is_named = |entry: &&ManifestEntry| named.contains(entry.path.to_string().as_str());
        if self.aside.is_none() || manifest.entries.iter().filter(is_named).count() == named.len() {
            return Ok(());
        }
        for entry in manifest.entries.iter().filter(|entry| entry.kind == EntryKind::Directory) {
            let dir =
                if entry.path.is_root() { root.to_path_buf() } else { root.join(entry.path.as_os_str()) };
            let names = if self.folders.is_real(root, &dir.join("name")) {
                self.disk.read_dir(&dir)
            } else {
                continue;
            };
            for (name, _) in names.unwrap_or_default() {
                let inner = entry.path.join(name.as_encoded_bytes());
                if !inner.is_ok_and(|path| manifest.find(&path).is_some()) {
                    self.move_aside(&dir.join(name))?;
                }
            }
        }
        Ok(())
    }

    // Whether it could be: a mount point cannot.
    fn move_aside(&mut self, path: &Path) -> Result<bool, Unpublished> {
        let Some(aside) = &mut self.aside else { return Ok(false) };
        match aside.take(path, &mut self.folders) {
            Ok(()) => Ok(true),
            Err(Unpublished::Io(error)) => {
                tracing::warn!(path = %path.display(), %error, "not of this epoch, and cannot be moved: left alone");
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    // A rename replaces anything but a folder. Whether the way is free.
    fn make_way(&mut self, path: &Path, stat: &Stat) -> Result<bool, Unpublished> {
        if stat.kind != FileKind::Directory {
            return Ok(true);
        }
        let disk = self.disk;
        match self.folders.change(path, || Ok(disk.remove_dir(path).map_err(at("replace", path))?)) {
            Ok(()) => Ok(true),
            Err(Unpublished::Io(e)) if e.source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.move_aside(path)
            }
            Err(e) => Err(e),
        }
    }

    fn move_to(&mut self, temp: &Path, path: &Path) -> Step {
        let disk = self.disk;
        let moved = self.folders.change(path, || Ok(disk.rename(temp, path).map_err(at("replace", path))?));
        if moved.is_err() {
            self.linker.drop_temp(temp);
        }
        moved
    }
}

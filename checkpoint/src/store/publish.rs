//! Publishing: sealed epochs become directories. For the whole batch, in steps:
//!
//! 0. what lies in a store and is nowhere here keeps its epoch waiting (`linked`); what is reused, or was staged for an
//!    upload, and what ends in zeros, is read, before names are locked (`verifying`, `staged`);
//! 1. prepare: directories, symlinks, empty files; staged files get length and mode;
//! 2. sync contents: nothing gets a blob's name before its bytes and mode are durable;
//! 3. link: content <-> blob <-> tree; manifest; modes of directories, bottom-up;
//! 4. sync names: everything that the epoch consists of is durable;
//! 5. one rename into `epochs/<job>/`, sync of that folder, `latest` last (should that fail, nothing else does).
//!
//! What an attempt brought and this disk has lost since (a staged or unpacked file
//! that is missing or of the wrong size) is taken from any good blob of that content.
//!
//! Stopped anywhere, an epoch is complete or invisible, and doing it all again
//! is harmless. Only syncs make one step wait for another.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blobs::Held;
use super::envelopes::read_envelope;
use super::error::{Step, StoreError, Unpublished};
use super::link::{Linker, UNPACKED, corrupt, missing};
use super::sealed::{Publish, Source};
use super::shelves::{Names, Shelves};
use super::staged::index_of;
use super::staging::{make_building, try_twice};
use super::syncing::SYNC_EACH_MAX;
use super::verifying::Verifier;
use super::{aside, expire, latest, linked, staged};
use crate::digest::Digest;
use crate::disk::{Disk, FileKind, Open};
use crate::durable::{ensure_dir, remove_tree};
use crate::epoch::{EntryKind, JobName};
use crate::io_error::{IoError, at};
use crate::manifest::{ManifestEntry, write_file};

pub(super) fn publish(
    shelves: &Arc<Shelves>,
    verifier: &Arc<Verifier>,
    batch: &[Publish],
) -> Vec<Result<(), Unpublished>> {
    let lacking = linked::lacking(shelves, batch).into_iter().zip(batch);
    let failed = lacking.map(|(lacks, epoch)| lacks.or_else(|| staged::extend_all(shelves, epoch).err()));
    let failed = verifier.before(shelves, batch, failed.collect());
    let linked = batch.iter().zip(&failed).map(|(epoch, failed)| match failed {
        Some(_) => Ok(Vec::new()),
        None => linked::staged(shelves, epoch),
    });
    let linked: Vec<_> = linked.collect();
    let names = shelves.lock_names();
    let mut work = Work { names: &names, disk: &*names.disk, linker: Linker::new(&names) };
    let mut epochs: Vec<Building<'_>> = batch.iter().map(Building::new).collect();
    for ((epoch, why), linked) in epochs.iter_mut().zip(failed).zip(linked) {
        epoch.failed = why;
        match linked {
            Ok(linked) => epoch.linked = linked,
            Err(why) => {
                epoch.failed.get_or_insert(why);
            }
        }
    }
    work.each(&mut epochs, Work::prepare);
    work.sync(&mut epochs, |epoch| std::mem::take(&mut epoch.contents));
    work.each(&mut epochs, Work::link);
    work.sync(&mut epochs, |epoch| std::mem::take(&mut epoch.names));
    work.each(&mut epochs, Work::appear);
    work.settle(&mut epochs);
    epochs.into_iter().map(|epoch| epoch.failed.map_or(Ok(()), Err)).collect()
}

// What must be durable before the next step.
enum ToSync {
    File(PathBuf),
    Dir(PathBuf),
}

// One epoch of the batch on its way.
struct Building<'a> {
    publish: &'a Publish,
    // Published by an earlier run.
    done: bool,
    failed: Option<Unpublished>,
    // By entry: whether this attempt brings the content itself, and where it is.
    own: Vec<Own>,
    // Entries whose content lies in a store, and is staged here: it was read.
    linked: Vec<usize>,
    contents: ToSyncs,
    names: ToSyncs,
}

#[derive(Clone, Copy)]
enum Own {
    No,
    // The staged file of the entry.
    Staged,
    // Its place in the tree.
    Tree,
}

// A list of up to a million: by name only as long as they are synced one by one.
#[derive(Default)]
struct ToSyncs {
    count: usize,
    few: Vec<ToSync>,
}

impl ToSyncs {
    fn push(&mut self, what: impl FnOnce() -> ToSync) {
        self.count += 1;
        if self.count <= SYNC_EACH_MAX {
            self.few.push(what());
        }
    }
}

impl<'a> Building<'a> {
    fn new(publish: &'a Publish) -> Building<'a> {
        let own = vec![Own::No; publish.manifest.entries.len()];
        let (contents, names) = (ToSyncs::default(), ToSyncs::default());
        Building { publish, done: false, failed: None, own, linked: Vec::new(), contents, names }
    }

    fn tree(&self, shelves: &Shelves) -> PathBuf {
        shelves.layout.tree_dir(self.publish.attempt)
    }

    fn fail_io(&mut self, error: &IoError) {
        self.failed = Some(error.again().into());
    }
}

struct Work<'a> {
    names: &'a Names<'a>,
    disk: &'a dyn Disk,
    linker: Linker<'a>,
}

impl Work<'_> {
    fn each(&mut self, epochs: &mut [Building<'_>], step: fn(&mut Self, &mut Building<'_>) -> Step) {
        for epoch in epochs.iter_mut().filter(|epoch| epoch.failed.is_none() && !epoch.done) {
            epoch.failed = step(self, epoch).err();
        }
    }

    // Step 1.
    fn prepare(&mut self, epoch: &mut Building<'_>) -> Step {
        let Publish { attempt, envelope, manifest, sources } = epoch.publish;
        let layout = &self.names.layout;
        aside::make_way(self.names, &envelope.job, envelope.epoch)?;
        let epoch_dir = layout.epoch_dir(&envelope.job, envelope.epoch);
        let there = layout.manifest_file(&envelope.job, envelope.epoch);
        match read_envelope(self.disk, &there) {
            // A folder without one that can be read makes way when this epoch is built.
            Ok(None) | Err(StoreError::Manifest { .. }) => {}
            // Within one life of its job a number has one epoch: this one is of an earlier life, and has expired.
            Ok(Some(found)) if found.position.index < envelope.position.index => {
                let taken = expire::take_away(self.names, &envelope.job, envelope.epoch);
                taken.map_err(|error| match error {
                    StoreError::Io(io) => Unpublished::Io(io),
                    other => Unpublished::Occupied { at: epoch_dir.clone(), found: other.to_string() },
                })?;
            }
            Ok(Some(found)) if found.root == envelope.root => {
                epoch.done = true;
                return Ok(());
            }
            Ok(Some(found)) => {
                return Err(Unpublished::Occupied { at: epoch_dir, found: found.root.to_string() });
            }
            Err(StoreError::Io(error)) => return Err(error.into()),
            Err(e) => {
                return Err(Unpublished::Corrupt { path: ".".into(), at: there, why: e.to_string() });
            }
        }
        assert_eq!(manifest.entries.len(), sources.len(), "one source per entry");
        let tree = epoch.tree(self.names);
        make_building(self.disk, &tree)?;
        for (index, (entry, source)) in manifest.entries.iter().zip(sources.iter()).enumerate() {
            let path = tree.join(entry.path.as_os_str());
            match entry.kind {
                EntryKind::Directory => self.prepare_dir(&path, entry.mode)?,
                EntryKind::Symlink => {
                    let make = || self.disk.symlink(&entry.target, &path);
                    try_twice(self.disk, &tree, &path, make).map_err(at("make the symlink", &path))?;
                }
                EntryKind::File if entry.size == 0 => {
                    let make = || self.disk.write_new(&path, &[], entry.mode);
                    try_twice(self.disk, &tree, &path, make).map_err(at("make the file", &path))?;
                    epoch.contents.push(|| ToSync::File(path));
                }
                EntryKind::File => match source {
                    Source::Staged => {
                        let file = layout.staged_file(*attempt, index_of(index));
                        match staged::prepare(self.disk, &file, entry) {
                            Ok(()) => {
                                epoch.contents.push(|| ToSync::File(file));
                                epoch.own[index] = Own::Staged;
                            }
                            Err(lost) => self.fall_back(entry, lost)?,
                        }
                    }
                    Source::Unpacked => match self.check_unpacked(&path, entry) {
                        Ok(()) => {
                            epoch.contents.push(|| ToSync::File(path));
                            epoch.own[index] = Own::Tree;
                        }
                        Err(lost) => self.fall_back(entry, lost)?,
                    },
                    Source::Linked if epoch.linked.binary_search(&index).is_ok() => {
                        let file = layout.staged_file(*attempt, index_of(index));
                        staged::prepare(self.disk, &file, entry)?;
                        epoch.contents.push(|| ToSync::File(file));
                        epoch.own[index] = Own::Staged;
                    }
                    Source::Reused | Source::Linked => self.prepare_reused(epoch, index, entry, path)?,
                    Source::None => return Err(missing(entry, "a source", &path)),
                },
            }
        }
        Ok(())
    }

    fn prepare_dir(&self, path: &Path, mode: u32) -> Step {
        let made = ensure_dir(self.disk, path).map_err(at("make the directory", path))?;
        // An earlier run may have given it its mode already, and its owner may not write there.
        if !made && mode & 0o700 != 0o700 {
            self.disk.set_mode(path, 0o700).map_err(at("set the mode of", path))?;
        }
        Ok(())
    }

    // The unpacked file: its content was verified when it came, its size is checked again.
    fn check_unpacked(&self, path: &Path, entry: &ManifestEntry) -> Step {
        match self.disk.stat(path) {
            Ok(stat) if stat.kind == FileKind::File && stat.len == entry.size => {
                if stat.mode != entry.mode {
                    self.disk.set_mode(path, entry.mode).map_err(at("set the mode of", path))?;
                }
                Ok(())
            }
            Ok(stat) => Err(corrupt(entry, path, format!("it has {} bytes, not {}", stat.len, entry.size))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(entry, UNPACKED, path)),
            Err(e) => Err(at("stat", path)(e).into()),
        }
    }

    // What the attempt brought is not here (any more): a blob of that content serves as well. It has its name, or
    // gets it now with a sync of its own, because a clone in the tree would pass for unpacked after a power cut.
    fn fall_back(&mut self, entry: &ManifestEntry, lost: Unpublished) -> Step {
        if matches!(lost, Unpublished::Io(_)) {
            return Err(lost);
        }
        let blob = self.names.layout.blob(entry.digest, entry.mode, 0);
        match self.linker.find_good(entry)? {
            Held::Good(found, _) if found == blob => Ok(()),
            Held::Good(found, _) => self.linker.clone_blob(entry, &found, &blob),
            // Another epoch of this batch may bring it; if not, step 3 says so.
            Held::Missing if matches!(lost, Unpublished::Missing { what: UNPACKED, .. }) => Ok(()),
            Held::Corrupt(..) | Held::Missing => Err(lost),
        }
    }

    // A blob of the right mode is linked in step 3. Of another mode: cloned into the tree now. Neither reads again what this
    // process has read once: that would be under the lock of all names, and what rots later it would not find either.
    fn prepare_reused(
        &mut self,
        epoch: &mut Building<'_>,
        index: usize,
        entry: &ManifestEntry,
        path: PathBuf,
    ) -> Step {
        let blob = self.names.layout.blob(entry.digest, entry.mode, 0);
        if self.linker.has_used(entry) {
            return Ok(());
        }
        match self.linker.find_good(entry)? {
            Held::Good(found, stat) if found == blob && stat.mode == entry.mode => {
                self.linker.use_first(entry, stat.ino);
            }
            Held::Good(other, _) => {
                let tree = epoch.tree(self.names);
                let clone = || self.disk.clone_file(&other, &path);
                try_twice(self.disk, &tree, &path, clone)
                    .map_err(|e| self.linker.unread(entry, &other, e))?;
                self.disk.set_mode(&path, entry.mode).map_err(at("set the mode of", &path))?;
                epoch.contents.push(|| ToSync::File(path));
                epoch.own[index] = Own::Tree;
            }
            // Content of this very batch may bear the name by the time it is linked; if not, step 3 says so.
            Held::Corrupt(..) | Held::Missing => {}
        }
        Ok(())
    }

    // Steps 2 and 4: each alone when they are few, else all at once.
    fn sync(&mut self, epochs: &mut [Building<'_>], list: fn(&mut Building<'_>) -> ToSyncs) {
        let lists: Vec<ToSyncs> = epochs.iter_mut().map(list).collect();
        let count: usize = lists.iter().map(|list| list.count).sum();
        if count > SYNC_EACH_MAX {
            if let Err(e) = self.names.sync_everything() {
                epochs.iter_mut().filter(|epoch| !epoch.done).for_each(|epoch| epoch.fail_io(&e));
            }
            return;
        }
        for (epoch, list) in epochs.iter_mut().zip(lists) {
            let result = list.few.iter().try_for_each(|what| match what {
                ToSync::File(path) => self.names.sync_file(path),
                ToSync::Dir(path) => self.names.sync_dir(path),
            });
            if let (Err(e), None) = (result, &epoch.failed) {
                epoch.failed = Some(e.into());
            }
        }
    }

    // Step 3.
    fn link(&mut self, epoch: &mut Building<'_>) -> Step {
        let Publish { attempt, envelope, manifest, .. } = epoch.publish;
        let layout = &self.names.layout;
        let tree = epoch.tree(self.names);
        let mut shelves = BTreeSet::new();
        for (index, entry) in manifest.entries.iter().enumerate() {
            if entry.kind != EntryKind::File || entry.size == 0 {
                continue;
            }
            let path = tree.join(entry.path.as_os_str());
            let own = match epoch.own[index] {
                Own::No => None,
                Own::Staged => Some(layout.staged_file(*attempt, index_of(index))),
                Own::Tree => Some(path.clone()),
            };
            match self.linker.link_file(entry, own.as_ref(), &path) {
                Err(lost @ (Unpublished::Missing { .. } | Unpublished::Corrupt { .. })) => {
                    return Err(self.unpacked_is_lost(epoch, index).unwrap_or(lost));
                }
                linked => linked?,
            }
            shelves.insert(entry.digest.as_bytes()[0]);
        }
        let building = layout.building_dir(*attempt);
        let file = building.join("manifest");
        let mut root = Digest::NONE;
        // In runs: all of its bytes would take as much memory as the manifest itself.
        let write = || {
            let open = self.disk.open(&file, Open::CreateNew)?;
            root = write_file(&*open, envelope, manifest)?;
            open.set_mode(0o644)
        };
        try_twice(self.disk, &building, &file, write).map_err(at("write", &file))?;
        if root != envelope.root {
            let why = format!("its root is not the sealed one, {}", envelope.root);
            return Err(Unpublished::Corrupt { path: ".".into(), at: tree, why });
        }
        epoch.names.push(|| ToSync::File(file));
        // A parent sorts before its content: backwards is bottom-up.
        for entry in manifest.entries.iter().rev().filter(|entry| entry.kind == EntryKind::Directory) {
            let path = if entry.path.is_root() { tree.clone() } else { tree.join(entry.path.as_os_str()) };
            if entry.mode != 0o700 {
                self.disk.set_mode(&path, entry.mode).map_err(at("set the mode of", &path))?;
            }
            epoch.names.push(|| ToSync::Dir(path));
        }
        self.disk.set_mode(&building, 0o755).map_err(at("set the mode of", &building))?;
        epoch.names.push(|| ToSync::Dir(building));
        for first in shelves {
            epoch.names.push(|| ToSync::Dir(layout.blob_shelf(first)));
        }
        Ok(())
    }

    // Of what comes behind an entry that cannot be linked, a file that was to be unpacked and is nowhere: that is told first.
    // It is in the log, perhaps, which nobody keeps for what is to come from elsewhere.
    fn unpacked_is_lost(&self, epoch: &Building<'_>, index: usize) -> Option<Unpublished> {
        let Publish { manifest, sources, .. } = epoch.publish;
        let behind = manifest.entries.iter().zip(sources.iter()).enumerate().skip(index + 1);
        let mut lost = behind
            .filter(|(at, (_, source))| **source == Source::Unpacked && matches!(epoch.own[*at], Own::No));
        lost.find_map(|(_, (entry, _))| match self.linker.find_good(entry) {
            Ok(Held::Good(..)) => None,
            Ok(Held::Corrupt(..) | Held::Missing) => {
                let path = epoch.tree(self.names).join(entry.path.as_os_str());
                Some(missing(entry, UNPACKED, &path))
            }
            Err(refused) => Some(refused),
        })
    }

    // Step 5.
    fn appear(&mut self, epoch: &mut Building<'_>) -> Step {
        let Publish { attempt, envelope, .. } = epoch.publish;
        let layout = &self.names.layout;
        let job_dir = layout.job_dir(&envelope.job);
        if ensure_dir(self.disk, &job_dir).map_err(at("make the folder", &job_dir))? {
            self.disk.set_mode(&job_dir, 0o755).map_err(at("set the mode of", &job_dir))?;
        }
        let (from, to) = (layout.building_dir(*attempt), layout.epoch_dir(&envelope.job, envelope.epoch));
        aside::unnamed_makes_way(self.names, &envelope.job, envelope.epoch)?;
        Ok(self.disk.rename(&from, &to).map_err(at("move the epoch to", &to))?)
    }

    // The end: the folders of the jobs are synced, then `latest` moves.
    fn settle(&mut self, epochs: &mut [Building<'_>]) {
        let mut newest: BTreeMap<JobName, u64> = BTreeMap::new();
        for epoch in epochs.iter().filter(|epoch| epoch.failed.is_none()) {
            let envelope = &epoch.publish.envelope;
            let top = newest.entry(envelope.job.clone()).or_default();
            *top = envelope.epoch.max(*top);
        }
        if newest.is_empty() {
            return;
        }
        let all = self.names.layout.epochs_dir();
        let mut result = self.names.sync_dir(&all);
        for (job, epoch) in newest {
            let job_dir = self.names.layout.job_dir(&job);
            result = result.and_then(|()| self.names.sync_dir(&job_dir));
            if result.is_ok() {
                latest::point_latest(self.names, &job, Some(epoch));
            }
            if let Err(e) = &result {
                let of_job =
                    |epoch: &&mut Building<'_>| epoch.failed.is_none() && epoch.publish.envelope.job == job;
                epochs.iter_mut().filter(of_job).for_each(|epoch| epoch.fail_io(e));
            }
        }
        // What an earlier run left of an epoch that it had published.
        for epoch in epochs.iter().filter(|epoch| epoch.done && epoch.failed.is_none()) {
            let building = self.names.layout.building_dir(epoch.publish.attempt);
            if let Err(e) = remove_tree(self.disk, &building) {
                tracing::warn!(path = %building.display(), error = %e, "cannot remove what was built twice");
            }
        }
    }
}

#[cfg(test)]
mod tests;

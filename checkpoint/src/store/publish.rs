//! Publishing: sealed epochs become directories. For the whole batch, in steps:
//!
//! 1. prepare: directories, symlinks, empty files; staged files get length and mode;
//! 2. sync contents: nothing gets a blob's name before its bytes and mode are durable;
//! 3. link: content <-> blob <-> tree; manifest; modes of directories, bottom-up;
//! 4. sync names: everything that the epoch consists of is durable;
//! 5. one rename into `epochs/<job>/`, sync of that folder, `latest` last.
//!
//! Stopped anywhere, an epoch is complete or invisible, and doing it all again
//! is harmless. Only syncs make one step wait for another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::blobs::{self, Found};
use super::staging::{make_building, try_twice};
use super::{Inner, Publish, Source, Unpublished, expire, read_envelope};
use crate::digest::{self, Digest, content};
use crate::disk::{Disk, FileKind, Open};
use crate::durable::ensure_dir;
use crate::epoch::{EntryKind, JobName};
use crate::error::{IoError, at};
use crate::manifest::{ManifestEntry, encode_file};

// From this many files or directories on, one sync of the file system is cheaper than one each.
const SYNC_EACH_MAX: usize = 16;

pub(super) fn publish(inner: &Inner, batch: &[Publish]) -> Vec<Result<(), Unpublished>> {
    let _names = inner.names.lock().expect("a thread panicked while it changed names");
    let mut work = Work { inner, disk: &*inner.disk, good: HashMap::new(), temp: 0 };
    let mut epochs: Vec<Building<'_>> = batch.iter().map(Building::new).collect();
    if inner.broken.load(Ordering::Relaxed) {
        return epochs.iter().map(|epoch| Err(broken(&epoch.tree(inner)).into())).collect();
    }
    work.each(&mut epochs, Work::prepare);
    work.sync(&mut epochs, |epoch| std::mem::take(&mut epoch.contents));
    work.each(&mut epochs, Work::link);
    work.sync(&mut epochs, |epoch| std::mem::take(&mut epoch.names));
    work.each(&mut epochs, Work::appear);
    work.settle(&mut epochs);
    epochs.into_iter().map(|epoch| epoch.failed.map_or(Ok(()), Err)).collect()
}

fn broken(path: &Path) -> IoError {
    at("publish", path)(io::Error::other(
        "an earlier sync failed: what is on the device is unknown until the next start",
    ))
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
    // Entries whose content has turned out to lie in the tree already.
    in_tree: BTreeSet<usize>,
    contents: Vec<ToSync>,
    names: Vec<ToSync>,
}

impl<'a> Building<'a> {
    fn new(publish: &'a Publish) -> Building<'a> {
        let (contents, names) = (Vec::new(), Vec::new());
        Building { publish, done: false, failed: None, in_tree: BTreeSet::new(), contents, names }
    }

    fn tree(&self, inner: &Inner) -> PathBuf {
        inner.layout.tree_dir(self.publish.attempt)
    }

    fn fail_io(&mut self, error: &IoError) {
        let source = io::Error::new(error.source.kind(), error.source.to_string());
        self.failed = Some(IoError { path: error.path.clone(), what: error.what, source }.into());
    }
}

struct Work<'a> {
    inner: &'a Inner,
    disk: &'a dyn Disk,
    // Blobs used in this batch: number and inode of the one that takes the next link.
    good: HashMap<(Digest, u32), (u32, u64)>,
    temp: u64,
}

type Step = Result<(), Unpublished>;

impl Work<'_> {
    fn each(&mut self, epochs: &mut [Building<'_>], step: fn(&mut Self, &mut Building<'_>) -> Step) {
        for epoch in epochs.iter_mut().filter(|epoch| epoch.failed.is_none() && !epoch.done) {
            epoch.failed = step(self, epoch).err();
        }
    }

    // Step 1.
    fn prepare(&mut self, epoch: &mut Building<'_>) -> Step {
        let Publish { attempt, envelope, manifest, sources } = epoch.publish;
        let layout = &self.inner.layout;
        let epoch_dir = layout.epoch_dir(&envelope.job, envelope.epoch);
        let there = layout.manifest_file(&envelope.job, envelope.epoch);
        match read_envelope(self.disk, &there) {
            Ok(None) => {}
            Ok(Some(found)) if found.root == envelope.root => {
                epoch.done = true;
                return Ok(());
            }
            Ok(Some(found)) => {
                return Err(Unpublished::Occupied { at: epoch_dir, found: found.root.to_string() });
            }
            Err(e) => {
                return Err(Unpublished::Corrupt { path: ".".into(), at: there, why: e.to_string() });
            }
        }
        assert_eq!(manifest.entries.len(), sources.len(), "one source per entry");
        let tree = epoch.tree(self.inner);
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
                    epoch.contents.push(ToSync::File(path));
                }
                EntryKind::File => match source {
                    Source::Staged => {
                        let file = u32::try_from(index).expect("plans are limited to u32 entries");
                        let staged = layout.staged_file(*attempt, file);
                        self.prepare_staged(&staged, entry)?;
                        epoch.contents.push(ToSync::File(staged));
                    }
                    Source::Unpacked => {
                        if self.check_unpacked(&path, entry)? {
                            epoch.contents.push(ToSync::File(path));
                            epoch.in_tree.insert(index);
                        } else {
                            self.prepare_reused(epoch, index, entry, path)?;
                        }
                    }
                    Source::Reused => self.prepare_reused(epoch, index, entry, path)?,
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

    // Length and mode; its bytes were verified and synced when they came.
    fn prepare_staged(&self, staged: &Path, entry: &ManifestEntry) -> Step {
        let stat = match self.disk.stat(staged) {
            Ok(stat) => stat,
            // Nothing but zeros never got a staged file.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if entry.digest != digest::zeros(entry.size, 0, entry.size) {
                    return Err(missing(entry, "the staged file", staged));
                }
                let make = self.disk.open(staged, Open::CreateNew).and_then(|file| {
                    file.set_len(entry.size)?;
                    file.set_mode(entry.mode)
                });
                return Ok(make.map_err(at("make", staged))?);
            }
            Err(e) => return Err(at("stat", staged)(e).into()),
        };
        if stat.kind != FileKind::File || stat.len > entry.size {
            let why = format!("it has {} bytes, more than the {} sealed", stat.len, entry.size);
            return Err(corrupt(entry, staged, why));
        }
        if stat.len < entry.size {
            if stat.mode & 0o200 == 0 {
                self.disk.set_mode(staged, 0o600).map_err(at("set the mode of", staged))?;
            }
            let extend = self.disk.open(staged, Open::Write).and_then(|file| file.set_len(entry.size));
            extend.map_err(at("extend", staged))?;
        }
        Ok(self.disk.set_mode(staged, entry.mode).map_err(at("set the mode of", staged))?)
    }

    // Whether the unpacked file is there. Its content was verified when it came, its size is checked again.
    fn check_unpacked(&self, path: &Path, entry: &ManifestEntry) -> Result<bool, Unpublished> {
        match self.disk.stat(path) {
            Ok(stat) if stat.kind == FileKind::File && stat.len == entry.size => {
                if stat.mode != entry.mode {
                    self.disk.set_mode(path, entry.mode).map_err(at("set the mode of", path))?;
                }
                Ok(true)
            }
            Ok(stat) => Err(corrupt(entry, path, format!("it has {} bytes, not {}", stat.len, entry.size))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(at("stat", path)(e).into()),
        }
    }

    // A blob of the right mode is linked in step 3. Of another mode: cloned into the tree now.
    fn prepare_reused(
        &mut self,
        epoch: &mut Building<'_>,
        index: usize,
        entry: &ManifestEntry,
        path: PathBuf,
    ) -> Step {
        let layout = &self.inner.layout;
        let blob = layout.blob(entry.digest, entry.mode, 0);
        if self.good.contains_key(&(entry.digest, entry.mode)) || self.disk.stat(&blob).is_ok() {
            return Ok(());
        }
        let others = blobs::all_modes(self.disk, layout, entry.digest);
        let others = others.map_err(at("list", &layout.blobs_dir()))?;
        let mut damaged = None;
        for other in others {
            let found = blobs::hash_file(self.disk, &other).map_err(at("read", &other))?;
            if found != entry.digest {
                damaged = Some(corrupt(entry, &other, format!("its digest is {}", found.short())));
                continue;
            }
            let tree = epoch.tree(self.inner);
            let clone = || self.disk.clone_file(&other, &path);
            try_twice(self.disk, &tree, &path, clone).map_err(at("clone into", &path))?;
            self.disk.set_mode(&path, entry.mode).map_err(at("set the mode of", &path))?;
            epoch.contents.push(ToSync::File(path));
            epoch.in_tree.insert(index);
            return Ok(());
        }
        // Content of this very batch may bear the name by the time it is linked; if not, step 3 says so.
        damaged.map_or(Ok(()), Err)
    }

    // Steps 2 and 4: each alone when they are few, else all at once.
    fn sync(&mut self, epochs: &mut [Building<'_>], list: fn(&mut Building<'_>) -> Vec<ToSync>) {
        let lists: Vec<Vec<ToSync>> = epochs.iter_mut().map(list).collect();
        let count: usize = lists.iter().map(Vec::len).sum();
        if count > SYNC_EACH_MAX {
            let data = self.inner.layout.data_dir();
            if let Err(e) = self.disk.sync_fs(data).map_err(at("sync the file system of", data)) {
                self.inner.broken.store(true, Ordering::Relaxed);
                epochs.iter_mut().filter(|epoch| !epoch.done).for_each(|epoch| epoch.fail_io(&e));
            }
            return;
        }
        for (epoch, list) in epochs.iter_mut().zip(lists) {
            let result = list.iter().try_for_each(|what| match what {
                ToSync::File(path) => {
                    let file = self.disk.open(path, Open::Read).map_err(at("open", path))?;
                    self.synced(file.sync_all(), path)
                }
                ToSync::Dir(path) => self.synced(self.disk.sync_dir(path), path),
            });
            if let (Err(e), None) = (result, &epoch.failed) {
                epoch.failed = Some(e.into());
            }
        }
    }

    // A sync that failed is final: nothing more is published before the next start.
    fn synced(&self, result: io::Result<()>, path: &Path) -> Result<(), IoError> {
        if result.is_err() {
            self.inner.broken.store(true, Ordering::Relaxed);
        }
        result.map_err(at("sync", path))
    }

    // Step 3.
    fn link(&mut self, epoch: &mut Building<'_>) -> Step {
        let Publish { attempt, envelope, manifest, sources } = epoch.publish;
        let layout = &self.inner.layout;
        let tree = epoch.tree(self.inner);
        let mut shelves = BTreeSet::new();
        for (index, (entry, source)) in manifest.entries.iter().zip(sources.iter()).enumerate() {
            if entry.kind != EntryKind::File || entry.size == 0 {
                continue;
            }
            let path = tree.join(entry.path.as_os_str());
            let staged = layout.staged_file(*attempt, index as u32);
            let own = match source {
                Source::Staged => Some(&staged),
                _ => epoch.in_tree.contains(&index).then_some(&path),
            };
            self.link_file(entry, own, &path)?;
            shelves.insert(entry.digest.as_bytes()[0]);
        }
        let bytes = manifest.encode();
        if content(&bytes) != envelope.root {
            let why = format!("its root is not the sealed one, {}", envelope.root);
            return Err(Unpublished::Corrupt { path: ".".into(), at: tree, why });
        }
        let building = layout.building_dir(*attempt);
        let file = building.join("manifest");
        let bytes = encode_file(envelope, &bytes);
        let write = || self.disk.write_new(&file, &bytes, 0o644);
        try_twice(self.disk, &building, &file, write).map_err(at("write", &file))?;
        epoch.names.push(ToSync::File(file));
        // A parent sorts before its content: backwards is bottom-up.
        for entry in manifest.entries.iter().rev().filter(|entry| entry.kind == EntryKind::Directory) {
            let path = if entry.path.is_root() { tree.clone() } else { tree.join(entry.path.as_os_str()) };
            if entry.mode != 0o700 {
                self.disk.set_mode(&path, entry.mode).map_err(at("set the mode of", &path))?;
            }
            epoch.names.push(ToSync::Dir(path));
        }
        self.disk.set_mode(&building, 0o755).map_err(at("set the mode of", &building))?;
        epoch.names.push(ToSync::Dir(building));
        epoch.names.extend(shelves.into_iter().map(|first| ToSync::Dir(layout.blob_shelf(first))));
        Ok(())
    }

    // Links the content of an entry to its place in the tree, by way of its blob. `own` is content of this attempt,
    // durable with its mode: a staged file, or the place in the tree itself.
    fn link_file(&mut self, entry: &ManifestEntry, own: Option<&PathBuf>, to: &Path) -> Step {
        let mut n = 0;
        if let Some((number, ino)) = self.good.get(&(entry.digest, entry.mode)).copied() {
            if self.place(entry, number, ino, to)? {
                return Ok(());
            }
            n = number + 1;
        }
        loop {
            let key = (entry.digest, entry.mode, n);
            let blob = self.inner.layout.blob(entry.digest, entry.mode, n);
            if let Some(own) = own {
                match self.disk.link(own, &blob) {
                    Ok(()) => {
                        if own != to {
                            self.remember_own(key, &blob)?;
                            continue_with(self, entry, key, &blob, to)?;
                        }
                        return Ok(());
                    }
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    // Unpacking has used up its links: the blob gets an inode of its own.
                    Err(e) if full(&e) => {
                        self.clone_blob(entry, own, &blob)?;
                        continue;
                    }
                    Err(e) => return Err(at("link to", &blob)(e).into()),
                }
                // An earlier run got this far with the same inode: nothing to verify.
                if self.same_inode(own, &blob)? {
                    if own != to {
                        self.remember_own(key, &blob)?;
                    } else {
                        return Ok(());
                    }
                }
            }
            let found = {
                let mut known = self.inner.blobs.lock().expect("a thread panicked while it checked a blob");
                blobs::check(self.disk, &mut known, &blob, key, entry.size)?
            };
            match (found, own) {
                (Found::Good(stat), _) => {
                    self.good.insert((entry.digest, entry.mode), (n, stat.ino));
                    if self.place(entry, n, stat.ino, to)? {
                        return Ok(());
                    }
                    n += 1;
                }
                // Content of another mode, brought by an epoch of this very batch.
                (Found::Missing, None) if n == 0 => match self.other_mode(entry)? {
                    Some(other) => self.clone_blob(entry, &other, &blob)?,
                    None => return Err(missing(entry, "the blob", &blob)),
                },
                (Found::Missing, _) if n == 0 => return Err(missing(entry, "the blob", &blob)),
                // Every inode is full, and there is no content of our own: another inode is cloned.
                (Found::Missing, _) => {
                    let before = self.inner.layout.blob(entry.digest, entry.mode, n - 1);
                    self.clone_blob(entry, &before, &blob)?;
                }
                // Ours is good: it takes the place of the damaged one, whose other links stay for repair.
                (Found::Corrupt(why), Some(own)) => {
                    tracing::warn!(blob = %blob.display(), why, "replacing a corrupt blob");
                    let temp = self.temp_name();
                    self.disk.link(own, &temp).map_err(at("link to", &temp))?;
                    self.disk.rename(&temp, &blob).map_err(at("replace", &blob))?;
                }
                (Found::Corrupt(why), None) => return Err(corrupt(entry, &blob, why)),
            }
        }
    }

    fn other_mode(&self, entry: &ManifestEntry) -> Result<Option<PathBuf>, Unpublished> {
        let layout = &self.inner.layout;
        let others = blobs::all_modes(self.disk, layout, entry.digest);
        for other in others.map_err(at("list", &layout.blobs_dir()))? {
            if blobs::hash_file(self.disk, &other).map_err(at("read", &other))? == entry.digest {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    fn remember_own(&self, key: blobs::Key, blob: &Path) -> Step {
        let stat = self.disk.stat(blob).map_err(at("stat", blob))?;
        self.inner.blobs.lock().expect("a thread panicked while it checked a blob").remember(key, &stat);
        Ok(())
    }

    fn same_inode(&self, a: &Path, b: &Path) -> Result<bool, Unpublished> {
        let of = |path: &Path| self.disk.stat(path).map(|stat| stat.ino).map_err(at("stat", path));
        Ok(of(a)? == of(b)?)
    }

    // Gives a verified blob its name in the tree. False: the inode has no room for another link.
    fn place(&mut self, entry: &ManifestEntry, n: u32, ino: u64, to: &Path) -> Result<bool, Unpublished> {
        let blob = self.inner.layout.blob(entry.digest, entry.mode, n);
        match self.disk.link(&blob, to) {
            Ok(()) => return Ok(true),
            Err(e) if full(&e) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at("link to", to)(e).into()),
        }
        if self.disk.stat(to).map_err(at("stat", to))?.ino == ino {
            return Ok(true);
        }
        // Another inode is there, of this attempt: replaced only once the blob has taken the link.
        let temp = self.temp_name();
        match self.disk.link(&blob, &temp) {
            Ok(()) => {}
            Err(e) if full(&e) => return Ok(false),
            Err(e) => return Err(at("link to", &temp)(e).into()),
        }
        self.disk.rename(&temp, to).map_err(at("replace", to))?;
        Ok(true)
    }

    // A further inode of a content, durable before it has its name.
    fn clone_blob(&mut self, entry: &ManifestEntry, from: &Path, to: &Path) -> Step {
        let temp = self.temp_name();
        self.disk.clone_file(from, &temp).map_err(at("clone", from))?;
        self.disk.set_mode(&temp, entry.mode).map_err(at("set the mode of", &temp))?;
        let file = self.disk.open(&temp, Open::Read).map_err(at("open", &temp))?;
        self.synced(file.sync_all(), &temp)?;
        Ok(self.disk.rename(&temp, to).map_err(at("make", to))?)
    }

    fn temp_name(&mut self) -> PathBuf {
        self.temp += 1;
        let temp = self.inner.layout.trash_dir().join(format!("link-{}", self.temp));
        // Left by an earlier batch that failed; a start would have emptied the trash.
        let _ = self.disk.unlink(&temp);
        temp
    }

    // Step 5.
    fn appear(&mut self, epoch: &mut Building<'_>) -> Step {
        let Publish { attempt, envelope, .. } = epoch.publish;
        let layout = &self.inner.layout;
        let job_dir = layout.job_dir(&envelope.job);
        if ensure_dir(self.disk, &job_dir).map_err(at("make the folder", &job_dir))? {
            self.disk.set_mode(&job_dir, 0o755).map_err(at("set the mode of", &job_dir))?;
        }
        let (from, to) = (layout.building_dir(*attempt), layout.epoch_dir(&envelope.job, envelope.epoch));
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
        let all = self.inner.layout.epochs_dir();
        let mut result = self.synced(self.disk.sync_dir(&all), &all);
        for (job, epoch) in newest {
            let job_dir = self.inner.layout.job_dir(&job);
            if result.is_ok() {
                result = self.synced(self.disk.sync_dir(&job_dir), &job_dir).and_then(|()| {
                    expire::point_latest(self.disk, &job_dir, Some(epoch))
                        .map_err(at("point `latest` in", &job_dir))
                });
            }
            if let Err(e) = &result {
                let of_job =
                    |epoch: &&mut Building<'_>| epoch.failed.is_none() && epoch.publish.envelope.job == job;
                epochs.iter_mut().filter(of_job).for_each(|epoch| epoch.fail_io(e));
            }
        }
        // What an earlier run left of an epoch that it had published.
        for epoch in epochs.iter().filter(|epoch| epoch.done && epoch.failed.is_none()) {
            let building = self.inner.layout.building_dir(epoch.publish.attempt);
            if let Err(e) = crate::durable::remove_tree(self.disk, &building) {
                tracing::warn!(path = %building.display(), error = %e, "cannot remove what was built twice");
            }
        }
    }
}

// A staged file has just become its blob: its tree name is made from it.
fn continue_with(
    work: &mut Work<'_>,
    entry: &ManifestEntry,
    key: blobs::Key,
    blob: &Path,
    to: &Path,
) -> Step {
    let ino = work.disk.stat(blob).map_err(at("stat", blob))?.ino;
    work.good.insert((entry.digest, entry.mode), (key.2, ino));
    if work.place(entry, key.2, ino, to)? {
        return Ok(());
    }
    Err(at("link to", to)(rustix::io::Errno::MLINK.into()).into())
}

fn full(e: &io::Error) -> bool {
    e.raw_os_error() == Some(rustix::io::Errno::MLINK.raw_os_error())
}

fn missing(entry: &ManifestEntry, what: &'static str, at: &Path) -> Unpublished {
    Unpublished::Missing { path: entry.path.to_string(), what, at: at.to_path_buf() }
}

fn corrupt(entry: &ManifestEntry, at: &Path, why: String) -> Unpublished {
    Unpublished::Corrupt { path: entry.path.to_string(), at: at.to_path_buf(), why }
}

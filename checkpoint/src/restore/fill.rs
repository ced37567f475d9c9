//! Fills the temporary directory: first everything that lies on this machine, then, in one go, what has to be fetched,
//! so that its source can be told beforehand what will be asked for. Durable and with its modes in the end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fchmod, openat, symlinkat, syncfs};
use rustix::io::retry_on_intr;

use super::known::{mark, mark_symlink};
use super::steps::{Step, sync};
use super::write::{Writer, local_file};
use super::{ContentSource, RestoreError, RestoreOptions, Restored, Stop};
use crate::beneath::{make_dir, open_beneath, open_parent};
use crate::epoch::EntryKind;
use crate::io_error::at;
use crate::manifest::{Manifest, ManifestEntry};

// From this many files on, one sync of the file system is cheaper than one each.
const SYNC_EACH_MAX: usize = 16;
// How often a restore that waits for the disk looks whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The entries that are wanted, by their place in the manifest: those that match, and the directories above them.
pub(super) fn choose(manifest: &Manifest, options: &RestoreOptions) -> Result<Vec<usize>, RestoreError> {
    let all = 0..manifest.entries.len();
    let Some(patterns) = &options.only else { return Ok(all.collect()) };
    let mut wanted = vec![false; all.len()];
    for (index, entry) in manifest.entries.iter().enumerate() {
        if !patterns.iter().any(|pattern| pattern.matches(&entry.path)) {
            continue;
        }
        wanted[index] = true;
        let mut above = entry.path.parent();
        while let Some(path) = above {
            // Those above one that is wanted are wanted already.
            match manifest.entries.binary_search_by(|entry| entry.path.cmp(&path)) {
                Ok(at) if !wanted[at] => wanted[at] = true,
                _ => break,
            }
            above = path.parent();
        }
    }
    let chosen: Vec<usize> = all.filter(|index| wanted[*index]).collect();
    if chosen.is_empty() { Err(RestoreError::NothingMatches) } else { Ok(chosen) }
}

// A file with content that lies on this machine, if blocks are to be shared with it.
fn first_local<'a>(
    manifest: &'a Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
    source: &dyn ContentSource,
) -> Result<Option<(&'a ManifestEntry, File)>, RestoreError> {
    let mut chosen = chosen.iter().map(|index| &manifest.entries[*index]);
    let Some(entry) = chosen.find(|entry| entry.size > 0).filter(|_| options.link) else { return Ok(None) };
    match source.local(entry).and_then(|path| local_file(&path)) {
        Some(file) => Ok(Some((entry, file))),
        None => Err(RestoreError::Link(
            "there is no replica on this machine whose files this user can read".into(),
        )),
    }
}

fn cannot_share(path: &Path, error: &io::Error) -> RestoreError {
    RestoreError::Link(format!(
        "{} and the replica do not lie on one file system that lets files share blocks ({error})",
        path.parent().unwrap_or(path).display()
    ))
}

/// Refuses before anything is made or swept, if it can be told by then: that blocks cannot be shared where that is asked
/// for. `nearest` is a directory on the file system of the target `path`.
pub(super) fn may_link(
    manifest: &Manifest,
    chosen: &[usize],
    options: &RestoreOptions,
    source: &dyn ContentSource,
    nearest: &OwnedFd,
    path: &Path,
) -> Result<(), RestoreError> {
    let Some((_, file)) = first_local(manifest, chosen, options, source)? else { return Ok(()) };
    // A file without a name; file systems that have none tell later.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(probe) = openat(nearest, c".", flags, Mode::RUSR | Mode::WUSR) else { return Ok(()) };
    reflink_copy::reflink_file(&file, &File::from(probe)).map_err(|e| cannot_share(path, &e))
}

/// What is made, and where.
pub(super) struct Filling<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) chosen: &'a [usize],
    pub(super) options: &'a RestoreOptions,
    /// The directory that is filled, and what it is called.
    pub(super) root: &'a OwnedFd,
    pub(super) path: &'a Path,
    /// What is at the target, if it may be used.
    pub(super) old: Option<&'a OwnedFd>,
    /// Directories up to this depth keep the mode that they were made with: the root the one by which it is swept, and
    /// what has to be moved one in which it can be.
    pub(super) open_depth: usize,
    pub(super) restored: Restored,
    // Files that are not synced yet.
    pub(super) files: Vec<OwnedFd>,
}

impl Filling<'_> {
    /// Does it all.
    pub(super) fn run(
        mut self,
        source: &mut dyn ContentSource,
        progress: &dyn Fn(u64),
    ) -> Result<Restored, RestoreError> {
        self.may_link(source)?;
        let mut to_fetch = Vec::new();
        for index in self.chosen.iter().copied() {
            self.options.stop.check()?;
            if !self.here(index, source)? {
                to_fetch.push(index);
            }
            progress(self.restored.bytes);
        }
        if !to_fetch.is_empty() {
            source.expect(&self.ranges(&to_fetch));
        }
        for index in to_fetch {
            self.options.stop.check()?;
            let entry = &self.manifest.entries[index];
            let full = self.full(entry);
            let dir = open_parent(self.root, &entry.path).map_err(at("open the parent of", &full))?;
            let writer = Writer { dir: dir.as_fd(), entry, full: &full, stop: &self.options.stop };
            let file = writer.fetch(index, source)?;
            self.restored.fetched_bytes += entry.size;
            self.made(entry, file);
            progress(self.restored.bytes);
        }
        self.finish()?;
        Ok(self.restored)
    }

    fn full(&self, entry: &ManifestEntry) -> PathBuf {
        self.path.join(entry.path.as_os_str())
    }

    // Before anything is written: where nobody could tell before anything was made.
    fn may_link(&self, source: &dyn ContentSource) -> Result<(), RestoreError> {
        let Some((entry, file)) = first_local(self.manifest, self.chosen, self.options, source)? else {
            return Ok(());
        };
        let full = self.full(entry);
        let probe = Writer { dir: self.root.as_fd(), entry, full: &full, stop: &self.options.stop };
        probe.can_share(&file)?.map_err(|e| cannot_share(self.path, &e))
    }

    // Makes an entry from what is on this machine. False: its content has to be fetched.
    fn here(&mut self, index: usize, source: &dyn ContentSource) -> Result<bool, RestoreError> {
        let entry = &self.manifest.entries[index];
        let full = self.full(entry);
        match entry.kind {
            EntryKind::Directory if entry.path.is_root() => {}
            EntryKind::Directory => {
                let made =
                    open_parent(self.root, &entry.path).and_then(|dir| make_dir(dir, entry.path.name()));
                made.map_err(at("make the directory", &full))?;
            }
            EntryKind::Symlink => {
                let made = open_parent(self.root, &entry.path).and_then(|dir| {
                    symlinkat(&entry.target[..], &dir, entry.path.name())?;
                    mark_symlink(&dir, entry.path.name());
                    Ok(())
                });
                made.map_err(at("make the symlink", &full))?;
            }
            EntryKind::File => {
                let Some(file) = self.file(entry, source, &full)? else { return Ok(false) };
                self.made(entry, file);
            }
        }
        Ok(true)
    }

    fn file(
        &self,
        entry: &ManifestEntry,
        source: &dyn ContentSource,
        full: &Path,
    ) -> Result<Option<File>, RestoreError> {
        let dir = open_parent(self.root, &entry.path).map_err(at("open the parent of", full))?;
        let writer = Writer { dir: dir.as_fd(), entry, full, stop: &self.options.stop };
        if entry.size == 0 {
            return writer.empty().map(Some);
        }
        // What is at the target already, if it is what it should be. Never linked: whoever has it open for writing, or
        // owns it, would have the restored file too.
        if let Some(old) = self.old
            && let Ok(fd) = open_beneath(old, &entry.path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
            && let Some(done) = writer.take_over(&File::from(fd))?
        {
            return Ok(Some(done));
        }
        match source.local(entry).and_then(|path| local_file(&path)) {
            Some(file) => writer.take_over(&file),
            None => Ok(None),
        }
    }

    fn made(&mut self, entry: &ManifestEntry, file: File) {
        mark(&file);
        self.restored.files += 1;
        self.restored.bytes += entry.size;
        // More than a few are synced all together in the end.
        if self.files.len() <= SYNC_EACH_MAX {
            self.files.push(file.into());
        }
    }

    // What will be fetched, as few ranges: entries that have no content may lie in them.
    fn ranges(&self, indexes: &[usize]) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for index in indexes.iter().copied() {
            match ranges.last_mut() {
                Some(last) if self.manifest.entries[last.end..index].iter().all(|entry| entry.size == 0) => {
                    last.end = index + 1;
                }
                _ => ranges.push(index..index + 1),
            }
        }
        ranges
    }

    fn finish(&mut self) -> Result<(), RestoreError> {
        let is_dir = |index: &&usize| self.manifest.entries[**index].kind == EntryKind::Directory;
        let dirs: Vec<usize> = self.chosen.iter().filter(is_dir).copied().collect();
        let mut to_sync = std::mem::take(&mut self.files);
        let all = to_sync.len() + dirs.len() > SYNC_EACH_MAX;
        // A parent sorts before its content: backwards is bottom-up.
        for index in dirs.into_iter().rev() {
            let entry = &self.manifest.entries[index];
            let full = self.full(entry);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let dir =
                open_beneath(self.root, &entry.path, flags, Mode::empty()).map_err(at("open", &full))?;
            if entry.path.depth() > self.open_depth {
                fchmod(&dir, Mode::from_raw_mode(entry.mode))
                    .map_err(|e| at("set the mode of", &full)(e.into()))?;
            }
            mark(&dir);
            if !all {
                to_sync.push(dir);
            }
        }
        let root = self.root.try_clone().map_err(at("open", self.path))?;
        let sync_all = move || -> io::Result<()> {
            if all {
                return Ok(retry_on_intr(|| syncfs(&root))?);
            }
            to_sync.iter().try_for_each(|file| -> io::Result<()> { Ok(sync(Step::SyncNew, file)?) })
        };
        unless_stopped(&self.options.stop, sync_all)?.map_err(at("sync what was written to", self.path))?;
        Ok(())
    }
}

// A sync may take long and cannot be ended: whoever shall end does not wait for it.
fn unless_stopped<T: Send + 'static>(
    stop: &Stop,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RestoreError> {
    let (done, ended) = channel();
    std::thread::spawn(move || {
        // Nobody hears it when the restore has ended.
        let _ = done.send(work());
    });
    loop {
        match ended.recv_timeout(LOOK_EVERY) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Timeout) => stop.check()?,
            Err(RecvTimeoutError::Disconnected) => panic!("a sync has panicked"),
        }
    }
}

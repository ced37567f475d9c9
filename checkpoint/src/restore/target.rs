//! From nothing to a directory at the target: a temporary sibling, filled,
//! synced, moved into place, the old one removed last.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, fchmod, open, renameat_with, symlinkat, syncfs};
use rustix::io::Errno;

use super::write::{Writer, local_file};
use super::{ContentSource, RestoreError, RestoreOptions, Restored};
use crate::beneath::{make_dir, open_beneath, open_parent};
use crate::disk::RealDisk;
use crate::durable::remove_tree;
use crate::epoch::{EntryKind, RelPath};
use crate::error::at;
use crate::manifest::{Manifest, ManifestEntry};

// From this many files on, one sync of the file system is cheaper than one each.
const SYNC_EACH_MAX: usize = 16;

pub(super) fn restore(
    manifest: &Manifest,
    target: &Path,
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    let wrong = |why: &str| RestoreError::Target { path: target.to_path_buf(), why: why.to_owned() };
    let name = target.file_name().ok_or_else(|| wrong("a directory with a name is needed"))?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let old = match std::fs::symlink_metadata(target) {
        Ok(_) if !options.force => return Err(RestoreError::Exists(target.to_path_buf())),
        Ok(there) if !there.is_dir() => return Err(wrong("is there and no directory: remove it first")),
        Ok(_) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(at("look at", target)(e).into()),
    };
    let temp = parent.join(temp_name(name.as_bytes()));
    let result = fill(manifest, &temp, old.then_some(target), options, source, progress)
        .and_then(|restored| appear(&temp, target, &parent, old).map(|()| restored));
    // Now the old directory, if there was one; after an error, what was written so far.
    if let Err(e) = remove_tree(&RealDisk, &temp) {
        tracing::warn!(path = %temp.display(), error = %e, "cannot remove a temporary directory");
    }
    result
}

fn temp_name(name: &[u8]) -> std::ffi::OsString {
    let random = RandomState::new().hash_one(std::process::id());
    // The name may be as long as names can be.
    let mut temp = b".".to_vec();
    temp.extend_from_slice(&name[..name.len().min(200)]);
    temp.extend_from_slice(format!(".epochlog-tmp-{random:016x}").as_bytes());
    std::ffi::OsString::from_vec(temp)
}

fn appear(temp: &Path, target: &Path, parent: &Path, old: bool) -> Result<(), RestoreError> {
    let flags = if old { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, temp, CWD, target, flags) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(RestoreError::Exists(target.to_path_buf())),
        // File systems without these flags: the old one moves aside first.
        Err(Errno::INVAL | Errno::NOSYS) => {
            let aside = temp.with_file_name({
                let mut name = temp.file_name().unwrap_or_default().to_os_string();
                name.push("-old");
                name
            });
            if old {
                std::fs::rename(target, &aside).map_err(at("move aside", target))?;
            }
            if let Err(e) = std::fs::rename(temp, target) {
                if old {
                    std::fs::rename(&aside, target).map_err(at("move back", &aside))?;
                }
                return Err(at("move into place", target)(e).into());
            }
            if old {
                std::fs::rename(&aside, temp).map_err(at("move away", &aside))?;
            }
        }
        Err(e) => return Err(at("move into place", target)(e.into()).into()),
    }
    let dir = File::open(parent).map_err(at("open", parent))?;
    Ok(dir.sync_all().map_err(at("sync", parent))?)
}

// Makes everything below `temp`, durable and with its modes.
fn fill(
    manifest: &Manifest,
    temp: &Path,
    old: Option<&Path>,
    options: &RestoreOptions,
    source: &mut dyn ContentSource,
    progress: &dyn Fn(u64),
) -> Result<Restored, RestoreError> {
    make_dir(CWD, temp.as_os_str().as_bytes()).map_err(at("make the directory", temp))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = open(temp, flags, Mode::empty()).map_err(|e| at("open", temp)(e.into()))?;
    let old_root = old.map(|old| open(old, flags, Mode::empty()).map_err(|e| at("open", old)(e.into())));
    let mut filling = Filling {
        root,
        temp,
        old: old_root.transpose()?,
        options,
        restored: Restored::default(),
        files: Vec::new(),
    };
    let wanted = wanted(manifest, options);
    for (index, entry) in manifest.entries.iter().enumerate() {
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&entry.path)) {
            continue;
        }
        filling.entry(index, entry, source)?;
        progress(filling.restored.bytes);
    }
    let chosen = |path: &RelPath| wanted.as_ref().is_none_or(|wanted| wanted.contains(path));
    filling.finish(manifest, chosen)?;
    Ok(filling.restored)
}

// The chosen paths and all directories above them.
fn wanted(manifest: &Manifest, options: &RestoreOptions) -> Option<BTreeSet<RelPath>> {
    let patterns = options.only.as_ref()?;
    let mut wanted = BTreeSet::from([RelPath::root()]);
    for entry in &manifest.entries {
        if patterns.iter().any(|pattern| pattern.matches(&entry.path)) {
            let mut path = Some(entry.path.clone());
            while let Some(at) = path {
                path = at.parent();
                wanted.insert(at);
            }
        }
    }
    Some(wanted)
}

struct Filling<'a> {
    root: OwnedFd,
    temp: &'a Path,
    old: Option<OwnedFd>,
    options: &'a RestoreOptions,
    restored: Restored,
    // Files that are not synced yet.
    files: Vec<OwnedFd>,
}

impl Filling<'_> {
    fn full(&self, entry: &ManifestEntry) -> PathBuf {
        self.temp.join(entry.path.as_os_str())
    }

    fn entry(
        &mut self,
        index: usize,
        entry: &ManifestEntry,
        source: &mut dyn ContentSource,
    ) -> Result<(), RestoreError> {
        let full = self.full(entry);
        match entry.kind {
            EntryKind::Directory if entry.path.is_root() => {}
            EntryKind::Directory => {
                let made =
                    open_parent(&self.root, &entry.path).and_then(|dir| make_dir(dir, entry.path.name()));
                made.map_err(at("make the directory", &full))?;
            }
            EntryKind::Symlink => {
                let made = open_parent(&self.root, &entry.path)
                    .and_then(|dir| Ok(symlinkat(&entry.target[..], dir, entry.path.name())?));
                made.map_err(at("make the symlink", &full))?;
            }
            EntryKind::File => self.file(index, entry, source, &full)?,
        }
        Ok(())
    }

    fn file(
        &mut self,
        index: usize,
        entry: &ManifestEntry,
        source: &mut dyn ContentSource,
        full: &Path,
    ) -> Result<(), RestoreError> {
        let dir = open_parent(&self.root, &entry.path).map_err(at("open the parent of", full))?;
        let writer = Writer { dir: dir.as_fd(), entry, full };
        let mut done = None;
        // What is at the target already, if it is what it should be.
        if let Some(old) = &self.old
            && let Ok(fd) = open_beneath(old, &entry.path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
        {
            done = writer.take_over(File::from(fd), true)?;
        }
        if done.is_none()
            && let Some(path) = source.local(entry)
            && let Some(file) = local_file(&path)
        {
            done =
                if self.options.link { writer.link(file, &path)? } else { writer.take_over(file, false)? };
        }
        let file = match done {
            Some(file) => file,
            None => {
                self.restored.fetched_bytes += entry.size;
                writer.fetch(index, source)?
            }
        };
        self.restored.files += 1;
        self.restored.bytes += entry.size;
        // More than a few are synced all together in the end.
        if let Some(file) = file
            && self.files.len() <= SYNC_EACH_MAX
        {
            self.files.push(file.into());
        }
        Ok(())
    }

    fn finish(&mut self, manifest: &Manifest, chosen: impl Fn(&RelPath) -> bool) -> Result<(), RestoreError> {
        let dirs: Vec<&ManifestEntry> =
            manifest.entries.iter().filter(|e| e.kind == EntryKind::Directory && chosen(&e.path)).collect();
        let all = self.files.len() + dirs.len() > SYNC_EACH_MAX;
        // A parent sorts before its content: backwards is bottom-up.
        for entry in dirs.into_iter().rev() {
            let full = self.full(entry);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let dir =
                open_beneath(&self.root, &entry.path, flags, Mode::empty()).map_err(at("open", &full))?;
            fchmod(&dir, Mode::from_raw_mode(entry.mode))
                .map_err(|e| at("set the mode of", &full)(e.into()))?;
            if !all {
                rustix::fs::fsync(&dir).map_err(|e| at("sync", &full)(e.into()))?;
            }
        }
        if all {
            syncfs(&self.root).map_err(|e| at("sync the file system of", self.temp)(e.into()))?;
        } else {
            for file in &self.files {
                rustix::fs::fsync(file).map_err(|e| at("sync a file below", self.temp)(e.into()))?;
            }
        }
        Ok(())
    }
}

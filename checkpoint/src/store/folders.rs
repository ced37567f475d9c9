//! Folders of published trees while names in them are changed: one that its owner may not write is opened up
//! for that long, and all that were touched are synced in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Step, Unpublished};
use super::shelves::Names;
use crate::disk::FileKind;
use crate::io_error::{IoError, at};

pub(super) struct Folders<'a> {
    names: &'a Names<'a>,
    // Opened up, with the mode to go back to.
    opened: BTreeMap<PathBuf, u32>,
    touched: BTreeSet<PathBuf>,
    // Seen to be a folder, and every one above it, up to a tree's root.
    real: BTreeSet<PathBuf>,
}

impl<'a> Folders<'a> {
    pub(super) fn new(names: &'a Names<'a>) -> Folders<'a> {
        Folders { names, opened: BTreeMap::new(), touched: BTreeSet::new(), real: BTreeSet::new() }
    }

    /// Whether every folder from `root` down to the parent of `path` is one: no symlink may lead outside.
    pub(super) fn is_real(&mut self, root: &Path, path: &Path) -> bool {
        let above = path.ancestors().skip(1).take_while(|dir| dir.starts_with(root));
        let unseen: Vec<&Path> = above.take_while(|dir| !self.real.contains(*dir)).collect();
        // Outermost first.
        unseen.into_iter().rev().all(|dir| {
            let real = self.names.disk.stat(dir).is_ok_and(|stat| stat.kind == FileKind::Directory);
            real && self.real.insert(dir.to_path_buf())
        })
    }

    /// Changes a name; once more with its folder opened up when that is closed.
    pub(super) fn change(&mut self, path: &Path, mut change: impl FnMut() -> Step) -> Step {
        let Some(parent) = path.parent() else { return change() };
        self.touched.insert(parent.to_path_buf());
        match change() {
            Err(Unpublished::Io(e)) if e.source.kind() == io::ErrorKind::PermissionDenied => {
                self.open_up(parent)?;
                change()
            }
            result => result,
        }
    }

    /// Its own mode or names were changed.
    pub(super) fn touch(&mut self, dir: &Path) {
        self.touched.insert(dir.to_path_buf());
    }

    fn open_up(&mut self, dir: &Path) -> Result<(), IoError> {
        let mode = self.names.disk.stat(dir).map_err(at("stat", dir))?.mode;
        self.opened.entry(dir.to_path_buf()).or_insert(mode);
        self.names.disk.set_mode(dir, mode | 0o700).map_err(at("set the mode of", dir))
    }

    /// Closes what was opened up and makes everything durable.
    pub(super) fn finish(&mut self) -> Result<(), IoError> {
        for (dir, mode) in std::mem::take(&mut self.opened) {
            self.names.disk.set_mode(&dir, mode).map_err(at("set the mode of", &dir))?;
        }
        self.names.sync_dirs(&std::mem::take(&mut self.touched))
    }
}

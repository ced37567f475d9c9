//! Links between content, blob and tree. A blob is verified before it takes a
//! link, an inode without room gets a further one beside it, and a name that is
//! taken changes hands by one rename. Nothing is ever written in place.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::blobs::{self, Found, Held};
use super::error::{Step, StoreError, Unpublished};
use super::shelves::Names;
use super::verified::Key;
use crate::digest::Digest;
use crate::disk::{Disk, is_rot};
use crate::durable::ignore_missing;
use crate::io_error::at;
use crate::manifest::ManifestEntry;

// A name whose content is bad again after this many replacements is given up.
const REPLACED_MAX: u32 = 3;

/// What is missing when a file was to be unpacked and is not there.
pub(super) const UNPACKED: &str = "the unpacked file";

/// Makes links.
pub(super) struct Linker<'a> {
    names: &'a Names<'a>,
    disk: &'a dyn Disk,
    // Blobs used so far: number and inode of the one that takes the next link.
    good: HashMap<(Digest, u32), (u32, u64)>,
    temp: u64,
}

impl<'a> Linker<'a> {
    pub(super) fn new(names: &'a Names<'a>) -> Linker<'a> {
        Linker { names, disk: &*names.disk, good: HashMap::new(), temp: 0 }
    }

    /// Takes a blob that was checked just now for the links to come.
    pub(super) fn use_first(&mut self, entry: &ManifestEntry, ino: u64) {
        self.good.insert((entry.digest, entry.mode), (0, ino));
    }

    /// Whether this blob has been used already.
    pub(super) fn has_used(&self, entry: &ManifestEntry) -> bool {
        self.good.contains_key(&(entry.digest, entry.mode))
    }

    /// Links the content of an entry to its place in the tree, by way of its blob. `own` is content of this attempt,
    /// durable with its mode: a staged file, or the place in the tree itself.
    pub(super) fn link_file(&mut self, entry: &ManifestEntry, own: Option<&PathBuf>, to: &Path) -> Step {
        let mut n = 0;
        if let Some((number, ino)) = self.good.get(&(entry.digest, entry.mode)).copied() {
            if self.place(entry, number, ino, to)? {
                return Ok(());
            }
            n = number + 1;
        }
        let mut replaced = 0;
        loop {
            if let Some(own) = own
                && self.becomes_blob(entry, own, n, to)?
            {
                return Ok(());
            }
            let blob = self.names.layout.blob(entry.digest, entry.mode, n);
            let key = (entry.digest, entry.mode, n);
            let found = blobs::check(self.disk, &self.names.known, &blob, key, entry.size)?;
            if let Found::Corrupt(why) = &found {
                // What it was cloned from had been good once, and is not any more.
                self.names.known.forget(entry.digest);
                replaced += 1;
                if replaced > REPLACED_MAX {
                    return Err(corrupt(entry, &blob, why.clone()));
                }
            }
            match (found, own) {
                (Found::Good(stat), _) => {
                    self.good.insert((entry.digest, entry.mode), (n, stat.ino));
                    if self.place(entry, n, stat.ino, to)? {
                        return Ok(());
                    }
                    n += 1;
                }
                // Ours is good: it takes the place of the damaged one, whose other links stay for repair.
                (Found::Corrupt(why), Some(own)) => {
                    tracing::warn!(blob = %blob.display(), why, "replacing a corrupt blob");
                    self.replace(own, &blob)?;
                }
                (Found::Missing, Some(_)) if n == 0 => return Err(missing(entry, "the blob", &blob)),
                // Every inode before is full: another one is cloned.
                (Found::Missing | Found::Corrupt(_), _) if n > 0 => {
                    let before = self.names.layout.blob(entry.digest, entry.mode, n - 1);
                    self.clone_blob(entry, &before, &blob)?;
                }
                (Found::Missing | Found::Corrupt(_), _) => self.blob_from_others(entry, &blob)?,
            }
        }
    }

    // Content of this attempt becomes the blob of number `n`, if that name is free. Whether all is done.
    fn becomes_blob(
        &mut self,
        entry: &ManifestEntry,
        own: &Path,
        n: u32,
        to: &Path,
    ) -> Result<bool, Unpublished> {
        let blob = self.names.layout.blob(entry.digest, entry.mode, n);
        let key = (entry.digest, entry.mode, n);
        match self.disk.link(own, &blob) {
            Ok(()) => {
                if own != to {
                    let ino = self.remember(key, &blob)?;
                    self.good.insert((entry.digest, entry.mode), (n, ino));
                    if !self.place(entry, n, ino, to)? {
                        return Err(at("link to", to)(rustix::io::Errno::MLINK.into()).into());
                    }
                }
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            // Unpacking has used up its links: the blob gets an inode of its own.
            Err(e) if is_full(&e) => {
                self.clone_blob(entry, own, &blob)?;
                return Ok(false);
            }
            Err(e) => return Err(at("link to", &blob)(e).into()),
        }
        // An earlier run got this far with the same inode: nothing to verify.
        let of = |path: &Path| self.disk.stat(path).map(|stat| stat.ino).map_err(at("stat", path));
        if of(own)? == of(&blob)? {
            if own == to {
                return Ok(true);
            }
            self.remember(key, &blob)?;
        }
        Ok(false)
    }

    /// Another inode of this content, of any mode or number, becomes the blob: one that has this mode is missing
    /// or bad.
    pub(super) fn blob_from_others(&mut self, entry: &ManifestEntry, blob: &Path) -> Step {
        match self.find_good(entry)? {
            Held::Good(other, _) => self.clone_blob(entry, &other, blob),
            Held::Corrupt(path, why) => Err(corrupt(entry, &path, why)),
            Held::Missing => Err(missing(entry, "the blob", blob)),
        }
    }

    /// An inode with the content of an entry, of any mode or number.
    pub(super) fn find_good(&self, entry: &ManifestEntry) -> Result<Held, Unpublished> {
        let (known, layout) = (&self.names.known, &self.names.layout);
        Ok(blobs::find_good(self.disk, known, layout, entry.digest, entry.mode, entry.size)?)
    }

    fn remember(&self, key: Key, blob: &Path) -> Result<u64, Unpublished> {
        let token = self.names.known.token(&key.0);
        let stat = self.disk.stat(blob).map_err(at("stat", blob))?;
        self.names.known.remember(key, &stat, token);
        Ok(stat.ino)
    }

    // Gives a verified blob its name in the tree. False: the inode has no room for another link.
    fn place(&mut self, entry: &ManifestEntry, n: u32, ino: u64, to: &Path) -> Result<bool, Unpublished> {
        let blob = self.names.layout.blob(entry.digest, entry.mode, n);
        match self.disk.link(&blob, to) {
            Ok(()) => return Ok(true),
            Err(e) if is_full(&e) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at("link to", to)(e).into()),
        }
        if self.disk.stat(to).map_err(at("stat", to))?.ino == ino {
            return Ok(true);
        }
        // Another inode is there: replaced only once the blob has taken the link.
        match self.replace(&blob, to) {
            Err(Unpublished::Io(e)) if is_full(&e.source) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Puts another link to `from` in the place of `to`, by one rename.
    fn replace(&mut self, from: &Path, to: &Path) -> Step {
        let temp = self.temp_name();
        self.disk.link(from, &temp).map_err(at("link to", &temp))?;
        self.move_to(&temp, to)
    }

    /// Moves what was made under a temporary name to its place; on failure nothing of it is left.
    fn move_to(&mut self, temp: &Path, to: &Path) -> Step {
        self.disk.rename(temp, to).map_err(|e| {
            self.drop_temp(temp);
            at("replace", to)(e).into()
        })
    }

    /// A further inode of a content, durable before it has its name. What was there is replaced.
    pub(super) fn clone_blob(&mut self, entry: &ManifestEntry, from: &Path, to: &Path) -> Step {
        let temp = self.temp_name();
        let made = self.disk.clone_file(from, &temp).map_err(|e| self.unread(entry, from, e));
        let made = made.and_then(|()| {
            self.disk.set_mode(&temp, entry.mode).map_err(at("set the mode of", &temp))?;
            Ok(self.names.sync_file(&temp)?)
        });
        if let Err(e) = made {
            // Half a clone would hold space that a full disk does not have.
            self.drop_temp(&temp);
            return Err(e);
        }
        self.move_to(&temp, to)
    }

    /// What an error of cloning says. Content that was read once, and that the device has lost since, is no content: it is
    /// read again before it is used again.
    pub(super) fn unread(&self, entry: &ManifestEntry, from: &Path, error: io::Error) -> Unpublished {
        if !is_rot(&error) {
            return at("clone", from)(error).into();
        }
        self.names.known.forget(entry.digest);
        corrupt(entry, from, format!("it cannot be read: {error}"))
    }

    /// A name in the trash that is free: whatever is left there is removed at the next start.
    pub(super) fn temp_name(&mut self) -> PathBuf {
        self.temp += 1;
        let temp = self.names.layout.trash_dir().join(format!("{TEMP_PREFIX}{}", self.temp));
        // Left by an earlier batch that failed; a start would have emptied the trash.
        self.drop_temp(&temp);
        temp
    }

    pub(super) fn drop_temp(&self, temp: &Path) {
        if let Err(e) = ignore_missing(self.disk.unlink(temp)) {
            tracing::warn!(path = %temp.display(), error = %e, "cannot remove a temporary name");
        }
    }
}

/// What our temporary names in the trash start with; used only while the names are locked.
pub(super) const TEMP_PREFIX: &str = "link-";

fn is_full(e: &io::Error) -> bool {
    e.raw_os_error() == Some(rustix::io::Errno::MLINK.raw_os_error())
}

pub(super) fn missing(entry: &ManifestEntry, what: &'static str, at: &Path) -> Unpublished {
    let (path, at) = (entry.path.to_string(), at.to_path_buf());
    Unpublished::Missing { path, what, at, content: entry.digest }
}

pub(super) fn corrupt(entry: &ManifestEntry, at: &Path, why: String) -> Unpublished {
    Unpublished::Corrupt { path: entry.path.to_string(), at: at.to_path_buf(), why }
}

/// What linking says of one entry, as an error of the store.
pub(super) fn store_error(root: &Path, e: Unpublished) -> StoreError {
    match e {
        Unpublished::Io(e) => e.into(),
        other => at("mend a file below", root)(io::Error::other(other.to_string())).into(),
    }
}

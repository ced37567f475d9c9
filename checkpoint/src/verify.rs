//! Comparing a directory with its manifest, entry by entry. Reads everything,
//! changes nothing, follows no symlink.

use std::io;
use std::path::Path;

use crate::digest::{Digest, FileHasher};
use crate::disk::{Disk, FileKind, Open, RealDisk, hash_range, is_rot, says_nothing};
use crate::epoch::{EntryKind, RelPath, escape};
use crate::io_error::{IoError, at};
use crate::manifest::{Manifest, ManifestEntry};

/// So many bytes of a file are read between two signs of life.
const STEP_BYTES: u64 = 16 << 20;

/// Something that is not as the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path, escaped.
    pub path: String,
    /// What does not fit.
    pub why: String,
}

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Regular files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Everything that does not fit; empty when the directory is what it should be.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Whether everything fits.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Compares a directory of this machine with a manifest: kinds, modes, digests, targets, names.
///
/// # Errors
/// It could not be looked at. What is wrong with it is in the report.
pub fn verify_dir(dir: &Path, manifest: &Manifest) -> Result<VerifyReport, IoError> {
    verify_tree(&RealDisk, dir, manifest, &|| ())
}

/// Compares the directory `dir` with `manifest`; `on` hears of every step.
pub(crate) fn verify_tree(
    disk: &dyn Disk,
    dir: &Path,
    manifest: &Manifest,
    on: &dyn Fn(),
) -> Result<VerifyReport, IoError> {
    let mut report = VerifyReport::default();
    let mut seen = 0;
    let mut left = vec![RelPath::root()];
    while let Some(path) = left.pop() {
        on();
        let full = dir.join(path.as_os_str());
        let full = if path.is_root() { dir.to_path_buf() } else { full };
        let Some(entry) = manifest.find(&path) else {
            report.add(&path, "it should not be there");
            continue;
        };
        seen += 1;
        if !report.compare(disk, &full, entry, on)? || entry.kind != EntryKind::Directory {
            continue;
        }
        let names = match disk.read_dir(&full) {
            Ok(names) => names,
            Err(e) if is_damage(&e) => {
                report.add(&path, format!("it cannot be listed: {e}"));
                continue;
            }
            Err(e) => return Err(at("list", &full)(e)),
        };
        for (name, _) in names {
            match path.join(name.as_encoded_bytes()) {
                Ok(inner) => left.push(inner),
                Err(e) => report.problems.push(Problem { path: e.path, why: e.why.to_owned() }),
            }
        }
    }
    if seen < manifest.entries.len() {
        for entry in &manifest.entries {
            let full = dir.join(entry.path.as_os_str());
            if disk.stat(&full).is_err() {
                report.add(&entry.path, "it is missing");
            }
        }
    }
    Ok(report)
}

// A device that has lost something, or a folder whose mode is wrong: that is for the report.
fn is_damage(e: &io::Error) -> bool {
    is_rot(e) || e.kind() == io::ErrorKind::PermissionDenied
}

impl VerifyReport {
    fn add(&mut self, path: &RelPath, why: impl Into<String>) {
        self.problems.push(Problem { path: path.to_string(), why: why.into() });
    }

    // Whether kind and place fit, so that looking inside makes sense.
    fn compare(
        &mut self,
        disk: &dyn Disk,
        full: &Path,
        entry: &ManifestEntry,
        on: &dyn Fn(),
    ) -> Result<bool, IoError> {
        let stat = match disk.stat(full) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.add(&entry.path, "it is missing");
                return Ok(false);
            }
            Err(e) if is_damage(&e) => {
                self.add(&entry.path, format!("it cannot be looked at: {e}"));
                return Ok(false);
            }
            Err(e) => return Err(at("stat", full)(e)),
        };
        let kind = match stat.kind {
            FileKind::File => Some(EntryKind::File),
            FileKind::Directory => Some(EntryKind::Directory),
            FileKind::Symlink => Some(EntryKind::Symlink),
            FileKind::Other => None,
        };
        if kind != Some(entry.kind) {
            self.add(&entry.path, format!("it is {:?}, not {:?}", stat.kind, entry.kind));
            return Ok(false);
        }
        if entry.kind != EntryKind::Symlink && stat.mode != entry.mode {
            self.add(&entry.path, format!("its mode is {:o}, not {:o}", stat.mode, entry.mode));
        }
        match entry.kind {
            EntryKind::Directory => {}
            EntryKind::Symlink => match disk.read_link(full) {
                Ok(target) if target == entry.target => {}
                Ok(target) => self.add(&entry.path, format!("it points to {}", escape(&target))),
                Err(e) if is_rot(&e) => self.add(&entry.path, format!("it cannot be read: {e}")),
                Err(e) => return Err(at("read the link", full)(e)),
            },
            EntryKind::File if stat.len != entry.size => {
                self.add(&entry.path, format!("it has {} bytes, not {}", stat.len, entry.size));
            }
            EntryKind::File => {
                self.files += 1;
                self.bytes += entry.size;
                match hash_watched(disk, full, on) {
                    Ok(found) if found == entry.digest => {}
                    Ok(found) => self.add(
                        &entry.path,
                        format!("its digest is {}, not {}", found.short(), entry.digest.short()),
                    ),
                    // That this process has no descriptor or memory left says nothing of the file.
                    Err(e) if says_nothing(&e) => return Err(at("read", full)(e)),
                    Err(e) => self.add(&entry.path, format!("it cannot be read: {e}")),
                }
            }
        }
        Ok(true)
    }
}

/// The digest of a file's content, with a sign of life now and then.
fn hash_watched(disk: &dyn Disk, path: &Path, on: &dyn Fn()) -> io::Result<Digest> {
    let file = disk.open(path, Open::Read)?;
    let (mut hasher, mut at) = (FileHasher::new(), 0);
    loop {
        let to = at + STEP_BYTES;
        at = hash_range(&*file, at, to, &mut hasher)?;
        on();
        if at < to {
            return Ok(hasher.finish());
        }
    }
}

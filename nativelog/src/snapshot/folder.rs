//! The files in `snapshots/`: at most two good ones, damaged ones under another name, no temporary ones.
//!
//! A snapshot has its name only after its bytes are durable, and counts as kept only after its name is. The
//! one it replaces becomes the [`Spare`] after that, or is unlinked; after a failed sync none is ever kept again (`checkpoint::disk::StrictDisk`). A damaged one is renamed, never unlinked before two newer are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::disk::{Disk, FileKind, is_rot};
use checkpoint::durable::ignore_missing;
use rustix::io::Errno;

use super::capture::{Capture, SnapshotError, SnapshotMeta};
use super::file::{self, Wrong};
use super::spare::Spare;
use crate::dues::Debts;
use crate::ledger::Ledger;

const TEMP: &str = ".tmp";
const DAMAGED: &str = ".damaged";
/// Largest snapshot that is read back, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 8 << 30;

/// The parts of a whole file, the ledger if it was wanted; or what is wrong with it.
type Looked = Result<(Capture, Debts, Option<Ledger>), String>;
/// Index and number in a file's name; they sort by age.
type Name = (u64, u32);

/// A snapshot that is on disk, whole when it was looked at.
#[derive(Debug, Clone)]
struct Kept {
    name: Name,
    meta: SnapshotMeta,
}

/// The folder of one group.
#[derive(Debug)]
pub struct Folder {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Newest first.
    kept: Vec<Kept>,
    spare: Spare,
}

/// A snapshot as it was found at a start.
#[derive(Debug)]
pub struct FoundSnapshot {
    pub capture: Capture,
    pub debts: Debts,
    pub ledger: Ledger,
}

/// Why the folder cannot be opened.
#[derive(Debug)]
pub enum OpenFault {
    /// A whole snapshot that another version wrote.
    Version(String),
    /// The disk refuses.
    Io { what: String, source: io::Error },
}

fn file_name((index, number): Name) -> String {
    format!("{index:016x}-{number}.snap")
}

fn parse_name(name: &str) -> Option<Name> {
    let (index, number) = name.strip_suffix(".snap")?.split_once('-')?;
    let name_of = (u64::from_str_radix(index, 16).ok()?, number.parse().ok()?);
    (file_name(name_of) == name).then_some(name_of)
}

/// What the newest good snapshot in `dir` is of. Changes nothing, and looks at no ledger.
pub fn newest_meta(disk: &dyn Disk, dir: &Path) -> Result<Option<SnapshotMeta>, OpenFault> {
    let listed = match disk.read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        listed => listed.map_err(|e| fault("list", dir, e))?,
    };
    let mut names: Vec<Name> = listed.iter().filter_map(|(name, _)| parse_name(name.to_str()?)).collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    for name in names {
        let path = dir.join(file_name(name));
        let bytes = match disk.read_file(&path, SNAPSHOT_BYTES_MAX) {
            // A start takes the next older one, too.
            Err(error) if is_damage(&error) || error.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(|e| fault("read", &path, e))?,
        };
        match file::decode(bytes.into()) {
            Ok((capture, _)) => return Ok(Some(capture.meta)),
            Err(Wrong::Version) => return Err(OpenFault::Version(path.display().to_string())),
            Err(Wrong::Damaged(_)) => {}
        }
    }
    Ok(None)
}

impl Folder {
    /// Opens the folder: temporary files go, damaged snapshots get another name, all but the two newest good ones go.
    /// Answers with the newest that decodes, and what was found damaged. Blocks for another one are kept in `spare`.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        spare: PathBuf,
    ) -> Result<(Folder, Option<FoundSnapshot>, Vec<String>), OpenFault> {
        let spare = Spare::new(disk.clone(), spare);
        let mut folder = Folder { disk, dir, kept: Vec::new(), spare };
        let names = folder.list()?;
        let (mut newest, mut damaged) = (None, Vec::new());
        for name in names {
            if folder.kept.len() == 2 {
                folder.unlink(&folder.path(name));
                continue;
            }
            match folder.look(name, newest.is_none())? {
                Ok((capture, debts, ledger)) => {
                    folder.kept.push(Kept { name, meta: capture.meta.clone() });
                    if let Some(ledger) = ledger {
                        newest = Some(FoundSnapshot { capture, debts, ledger });
                    }
                }
                Err(why) => {
                    let path = folder.path(name);
                    tracing::error!(snapshot = %path.display(), why, "a snapshot is damaged; the older one and the log serve");
                    folder.set_aside(name).map_err(|e| fault("rename", &path, e))?;
                    damaged.push(format!("{}: {why}", file_name(name)));
                }
            }
        }
        folder.spare.keep_enough_for(folder.newest_bytes());
        Ok((folder, newest, damaged))
    }

    /// Names of snapshots, newest first; what a crash left behind is removed.
    fn list(&self) -> Result<Vec<Name>, OpenFault> {
        let listed = self.disk.read_dir(&self.dir).map_err(|e| fault("list", &self.dir, e))?;
        let mut names = Vec::new();
        for (name, _) in listed {
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(TEMP) {
                // Whoever writes one of that name removes it first.
                self.unlink(&self.dir.join(name));
            }
            names.extend(parse_name(name));
        }
        // The process before may have died between a rename and its sync: what is relied on here must stay.
        self.disk.sync_dir(&self.dir).map_err(|e| fault("sync", &self.dir, e))?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// Reads one; the ledger too when it is `wanted`. The inner error is damage.
    fn look(&self, name: Name, wanted: bool) -> Result<Looked, OpenFault> {
        let path = self.path(name);
        let bytes = match self.disk.read_file(&path, SNAPSHOT_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if is_damage(&error) => return Ok(Err(error.to_string())),
            Err(error) => return Err(fault("read", &path, error)),
        };
        let (capture, debts) = match file::decode(bytes.into()) {
            Ok(parts) => parts,
            Err(Wrong::Version) => return Err(OpenFault::Version(path.display().to_string())),
            Err(Wrong::Damaged(why)) => return Ok(Err(why.to_owned())),
        };
        if capture.meta.position.index != name.0 {
            return Ok(Err("it is of another position than its name says".to_owned()));
        }
        if !wanted {
            return Ok(Ok((capture, debts, None)));
        }
        match ledger_of(&capture) {
            Ok(ledger) => Ok(Ok((capture, debts, Some(ledger)))),
            Err(why) => Ok(Err(why)),
        }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.dir.join(file_name(name))
    }

    fn set_aside(&self, name: Name) -> io::Result<()> {
        let path = self.path(name);
        self.disk.rename(&path, &self.dir.join(format!("{}{DAMAGED}", file_name(name))))?;
        self.disk.sync_dir(&self.dir)
    }

    /// What the newest is of.
    pub fn newest(&self) -> Option<&SnapshotMeta> {
        self.kept.first().map(|kept| &kept.meta)
    }

    /// What the older of the two is of, when there are two.
    pub fn older(&self) -> Option<&SnapshotMeta> {
        self.kept.get(1).map(|kept| &kept.meta)
    }

    /// Writes a snapshot, durably, and drops all but the two newest.
    pub fn keep(&mut self, capture: &Capture, debts: &Debts) -> Result<(), SnapshotError> {
        let index = capture.meta.position.index;
        let before = self.kept.iter().filter(|kept| kept.name.0 == index).map(|kept| kept.name.1 + 1);
        let name = (index, before.max().unwrap_or(0));
        let parts = file::parts(capture, debts);
        self.write(name, &parts)?;
        self.kept.insert(0, Kept { name, meta: capture.meta.clone() });
        for old in self.kept.split_off(self.kept.len().min(2)) {
            let old = self.path(old.name);
            match self.spare.take(&old) {
                // Before its length changes: a power cut that undoes the rename finds a whole snapshot.
                Ok(true) => {
                    self.disk.sync_dir(&self.dir).map_err(|source| io_error("sync", &self.dir, source))?
                }
                Ok(false) | Err(_) => self.unlink(&old),
            }
        }
        self.forget_damaged();
        self.spare.keep_enough_for(bytes_of(&parts));
        Ok(())
    }

    /// Has blocks allocated for this snapshot with these debts.
    pub fn make_ready(&self, capture: &Capture, debts: &Debts) -> io::Result<()> {
        self.spare.allocate_for(bytes_of(&file::parts(capture, debts)))
    }

    fn newest_bytes(&self) -> u64 {
        let newest = self.kept.first().and_then(|kept| self.disk.stat(&self.path(kept.name)).ok());
        newest.map_or(0, |stat| stat.len)
    }

    fn write(&mut self, name: Name, parts: &[Bytes]) -> Result<(), SnapshotError> {
        let path = self.path(name);
        let temp = self.dir.join(format!("{}{TEMP}", file_name(name)));
        let written = self.spare.write(&self.dir, &temp, &path, parts);
        written.map_err(|source| io_error("write", &path, source))?;
        self.disk.sync_dir(&self.dir).map_err(|source| io_error("sync", &self.dir, source))
    }

    /// Damaged snapshots below two good ones are of no use to anybody.
    fn forget_damaged(&self) {
        let Some(older) = self.kept.get(1) else { return };
        let Ok(listed) = self.disk.read_dir(&self.dir) else { return };
        // A folder in the place of one may hold something: it stays.
        for (name, _) in listed.into_iter().filter(|(_, kind)| *kind != FileKind::Directory) {
            let damaged = name.to_str().and_then(|name| parse_name(name.strip_suffix(DAMAGED)?));
            if damaged.is_some_and(|damaged| damaged < older.name) {
                self.unlink(&self.dir.join(name));
            }
        }
    }

    /// What cannot be removed now is removed at the next start.
    fn unlink(&self, path: &Path) {
        if let Err(error) = ignore_missing(self.disk.unlink(path)) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old snapshot; the next start does");
        }
    }

    /// Reads the newest again, checked. One that has rotted is set aside: it is not kept any more.
    pub fn read(&mut self) -> Result<Option<(Capture, Debts)>, SnapshotError> {
        let Some(newest) = self.kept.first().cloned() else { return Ok(None) };
        let path = self.path(newest.name);
        let why = match self.disk.read_file(&path, SNAPSHOT_BYTES_MAX) {
            Ok(bytes) => match file::decode(bytes.into()) {
                Ok(parts) => return Ok(Some(parts)),
                Err(Wrong::Damaged(why)) => why.to_owned(),
                Err(Wrong::Version) => "it was replaced by one of another version".to_owned(),
            },
            Err(error) if is_damage(&error) || error.kind() == io::ErrorKind::NotFound => error.to_string(),
            Err(source) => return Err(io_error("read", &path, source)),
        };
        tracing::error!(snapshot = %path.display(), why, "the newest snapshot has rotted; another one is needed");
        self.kept.remove(0);
        if let Err(error) = self.set_aside(newest.name) {
            tracing::warn!(path = %path.display(), %error, "cannot rename it; the next start does");
        }
        Err(SnapshotError::Damaged { name: file_name(newest.name), why })
    }
}

/// Whether an error of reading says that the device has lost the file, or that a folder or a link stands in its place.
fn is_damage(error: &io::Error) -> bool {
    let no_file = [Errno::ISDIR, Errno::LOOP].map(Errno::raw_os_error);
    is_rot(error) || error.raw_os_error().is_some_and(|raw| no_file.contains(&raw))
}

fn bytes_of(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The ledger in a capture, which must stand where the capture says.
pub fn ledger_of(capture: &Capture) -> Result<Ledger, String> {
    let ledger = Ledger::decode(&capture.ledger).map_err(|error| error.to_string())?;
    if ledger.applied() != Some(capture.meta.position) {
        return Err("the ledger in it stands at another position".to_owned());
    }
    Ok(ledger)
}

fn fault(what: &str, path: &Path, source: io::Error) -> OpenFault {
    OpenFault::Io { what: format!("{what} {}", path.display()), source }
}

fn io_error(what: &str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { what: format!("{what} {}", path.display()), source }
}

//! What stands where the folder of a job or of an epoch belongs and is no folder: a symlink above all, which would lead
//! what is published here to somewhere else. It is moved aside by one rename, never followed and never removed. So is
//! what is found in a published tree and is not of it; and so is a folder in an epoch's place that does not say which one it
//! is, once the epoch that is to stand there is built. One whose manifest cannot be read may be of an earlier life of its
//! job, and nothing of it becomes part of another. One without a manifest of ours is foreign: nobody has the right to change
//! or remove anything of it, whether an epoch is published in its place, mended, or has expired.

use std::io;
use std::path::{Path, PathBuf};

use super::envelopes::read_envelope;
use super::error::{Step, StoreError};
use super::folders::Folders;
use super::jobs::{is_folder, kind_of};
use super::layout::Layout;
use super::shelves::Names;
use crate::disk::{Disk, FileKind, Open, is_rot};
use crate::epoch::JobName;
use crate::io_error::{IoError, at};
use crate::manifest::Envelope;

/// Moves aside what is no folder.
pub(super) fn make_way(names: &Names<'_>, job: &JobName, epoch: u64) -> Result<(), IoError> {
    let (disk, layout) = (&*names.disk, &names.layout);
    // No job has a name with a leading dot, no epoch one that is no number.
    let places = [
        (layout.job_dir(job), layout.epochs_dir(), format!(".{job}.aside")),
        (layout.epoch_dir(job, epoch), layout.job_dir(job), format!("{epoch}.aside")),
    ];
    for (path, parent, aside) in places {
        match disk.stat(&path) {
            Ok(stat) if stat.kind == FileKind::Directory => {}
            Ok(_) => {
                let to = names.free_name(&parent, &aside)?;
                tracing::warn!(path = %path.display(), to = %to.display(), "no folder: it is moved aside");
                disk.rename(&path, &to).map_err(at("move aside", &path))?;
                names.sync_dir(&parent)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(at("stat", &path)(e)),
        }
    }
    Ok(())
}

/// A folder beside an epoch's, made when it is needed, for what is not of its tree: somebody else's, so that it stays when
/// the epoch goes.
pub(super) struct Aside<'a> {
    names: &'a Names<'a>,
    job_dir: PathBuf,
    name: String,
    dir: Option<PathBuf>,
}

impl<'a> Aside<'a> {
    pub(super) fn new(names: &'a Names<'a>, job: &JobName, epoch: u64) -> Aside<'a> {
        Aside { names, job_dir: names.layout.job_dir(job), name: format!("{epoch}.found"), dir: None }
    }

    /// Moves what is at `path` in the tree there.
    pub(super) fn take(&mut self, path: &Path, folders: &mut Folders<'_>) -> Step {
        let disk = &*self.names.disk;
        let dir = self.dir()?;
        // Another folder of the tree may have had the same name.
        let own = path.file_name().and_then(|name| name.to_str()).unwrap_or("other");
        let to = self.names.free_name(&dir, own)?;
        tracing::warn!(path = %path.display(), to = %to.display(), "not of this epoch: it is moved aside");
        folders.touch(&dir);
        folders.change(path, || Ok(disk.rename(path, &to).map_err(at("move aside", path))?))
    }

    // Durable before anything is moved there.
    fn dir(&mut self) -> Result<PathBuf, IoError> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let disk = &*self.names.disk;
        let own = self.job_dir.join(&self.name);
        // One of before serves again: what cannot be moved is tried with every mend.
        let dir = match disk.stat(&own) {
            Ok(stat) if stat.kind == FileKind::Directory => own,
            _ => self.names.free_name(&self.job_dir, &self.name)?,
        };
        if let Err(error) = disk.create_dir(&dir)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(at("make", &dir)(error));
        }
        self.names.sync_dir(&self.job_dir)?;
        Ok(self.dir.insert(dir).clone())
    }
}

/// What stands in an epoch's place.
#[derive(Debug)]
pub(super) enum Occupant {
    /// No folder. What is none makes way when the epoch is published.
    Nobody,
    /// The folder of an epoch that was sealed under this number, as its manifest says.
    Epoch(Box<Envelope>),
    /// A folder that does not say which epoch it is.
    Unnamed(Unnamed),
}

/// Why a folder in an epoch's place does not say which epoch it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// There is no manifest of ours in it. Somebody may keep it there, so that nothing of it is ever changed or removed:
    /// it makes way as a whole (`N.found`), or stays where it is.
    Foreign,
    /// One of ours that cannot be read.
    Unread,
}

/// Who stands in an epoch's place. Each name is looked at before what is below it is opened: a file or a link in the place
/// of one of ours could never be read, and would be tried for ever. An error is one that another try may not meet: what the
/// device has lost is none.
pub(super) fn occupant(
    disk: &dyn Disk,
    layout: &Layout,
    job: &JobName,
    epoch: u64,
) -> Result<Occupant, IoError> {
    if !is_folder(disk, &layout.job_dir(job))? || !is_folder(disk, &layout.epoch_dir(job, epoch))? {
        return Ok(Occupant::Nobody);
    }
    let manifest = layout.manifest_file(job, epoch);
    // No link is followed here, as nowhere in the store: where it leads is not what was published.
    match kind_of(disk, &manifest) {
        Ok(Some(FileKind::File)) => {}
        Ok(_) => return Ok(Occupant::Unnamed(Unnamed::Foreign)),
        Err(error) if is_rot(&error.source) => return Ok(Occupant::Unnamed(Unnamed::Unread)),
        Err(error) => return Err(error),
    }
    match read_envelope(disk, &manifest) {
        Ok(Some(envelope)) => Ok(Occupant::Epoch(Box::new(envelope))),
        Ok(None) | Err(StoreError::NotPublished { .. }) => Ok(Occupant::Unnamed(Unnamed::Foreign)),
        Err(StoreError::Manifest { source, .. }) => {
            let why = if is_ours(disk, &manifest)? { Unnamed::Unread } else { Unnamed::Foreign };
            tracing::warn!(%job, epoch, error = %source, ?why, "a folder does not say which epoch it is");
            Ok(Occupant::Unnamed(why))
        }
        Err(StoreError::Io(error)) => Err(error),
    }
}

/// Whether a manifest that cannot be read is one of ours: as far as it goes it begins as they all do. Of what the device has
/// lost nobody can say more than that it has the name.
fn is_ours(disk: &dyn Disk, manifest: &Path) -> Result<bool, IoError> {
    let begins = || {
        let file = disk.open(manifest, Open::Read)?;
        let mut head = vec![0; file.len()?.min(16) as usize];
        file.read_exact_at(&mut head, 0)?;
        Ok(Envelope::is_begun_by(&head))
    };
    match begins() {
        Err(error) if is_rot(&error) => Ok(true),
        found => found.map_err(at("read", manifest)),
    }
}

/// Whether a folder without a manifest has nothing at its top but `files`, as one that only lost its manifest.
pub(super) fn has_files_alone(
    disk: &dyn Disk,
    layout: &Layout,
    job: &JobName,
    epoch: u64,
) -> Result<bool, IoError> {
    let dir = layout.epoch_dir(job, epoch);
    let names = disk.read_dir(&dir).map_err(at("list", &dir))?;
    let files = layout.files_dir(job, epoch);
    Ok(names.iter().all(|(name, _)| Some(name.as_os_str()) == files.file_name()))
}

/// Moves aside the folder in an epoch's place that does not say which epoch it is. One that does stays: whoever comes finds
/// it in the way. For who has all that takes its place. A foreign one stays when the epoch goes, as what is found in a tree
/// does.
pub(super) fn unnamed_makes_way(names: &Names<'_>, job: &JobName, epoch: u64) -> Result<(), IoError> {
    let (disk, layout) = (&*names.disk, &names.layout);
    let Occupant::Unnamed(why) = occupant(disk, layout, job, epoch)? else { return Ok(()) };
    let (dir, parent) = (layout.epoch_dir(job, epoch), layout.job_dir(job));
    let to = match why {
        Unnamed::Foreign => format!("{epoch}.found"),
        Unnamed::Unread => format!("{epoch}.aside"),
    };
    if folder_makes_way(names, &dir, &to)? {
        names.sync_dir(&parent)?;
    }
    Ok(())
}

/// Moves a folder aside in the one that it lies in, under a name that is free there. Whether there was one.
pub(super) fn folder_makes_way(names: &Names<'_>, path: &Path, to: &str) -> Result<bool, IoError> {
    let disk = &*names.disk;
    match disk.stat(path) {
        Ok(stat) if stat.kind == FileKind::Directory => {}
        Ok(_) => return Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(at("stat", path)(e)),
    }
    let parent = path.parent().expect("a folder of ours lies in another");
    let to = names.free_name(parent, to)?;
    tracing::warn!(path = %path.display(), to = %to.display(), "a folder that does not belong there is moved aside");
    disk.rename(path, &to).map_err(at("move aside", path))?;
    Ok(true)
}

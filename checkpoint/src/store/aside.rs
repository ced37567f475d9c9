//! What stands where the folder of a job or of an epoch belongs and is no folder: a symlink above all, which would lead
//! what is published here to somewhere else. It is moved aside by one rename, never followed and never removed. So is
//! what is found in a published tree and is not of it; and so is the folder of an epoch that does not say which one it is
//! (its manifest cannot be read, or is not there), once the epoch that is to stand there is built: it may be of an earlier
//! life of its job, and nothing of it becomes part of another.

use std::io;
use std::path::{Path, PathBuf};

use super::envelopes::read_envelope;
use super::error::{Step, StoreError};
use super::folders::Folders;
use super::layout::Layout;
use super::shelves::Names;
use crate::disk::{Disk, FileKind};
use crate::epoch::JobName;
use crate::io_error::{IoError, at};

/// Whether job and epoch have folders here, each of them a real one.
pub(super) fn is_real(disk: &dyn Disk, layout: &Layout, job: &JobName, epoch: u64) -> bool {
    let is_folder = |path: &Path| disk.stat(path).is_ok_and(|stat| stat.kind == FileKind::Directory);
    is_folder(&layout.job_dir(job)) && is_folder(&layout.epoch_dir(job, epoch))
}

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

/// Why a folder in an epoch's place does not say which epoch it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// It has no manifest.
    NoManifest,
    /// One that cannot be read, or a link or a folder in its place.
    Unread,
}

/// Whether the folder in an epoch's place does not say which epoch it is. Nothing where there is none.
pub(super) fn unnamed(
    disk: &dyn Disk,
    layout: &Layout,
    job: &JobName,
    epoch: u64,
) -> Result<Option<Unnamed>, IoError> {
    if !is_real(disk, layout, job, epoch) {
        return Ok(None);
    }
    match read_envelope(disk, &layout.manifest_file(job, epoch)) {
        Ok(None) => Ok(Some(Unnamed::NoManifest)),
        Err(StoreError::Manifest { .. }) => Ok(Some(Unnamed::Unread)),
        Ok(Some(_)) | Err(StoreError::NotPublished { .. }) => Ok(None),
        Err(StoreError::Io(error)) => Err(error),
    }
}

/// Moves aside the folder in an epoch's place that does not say which epoch it is. One that does stays: whoever comes finds
/// it in the way. For who has all that takes its place. One without a manifest may be somebody's who put it there: it
/// stays when the epoch goes, as what is found in a tree does.
pub(super) fn unnamed_makes_way(names: &Names<'_>, job: &JobName, epoch: u64) -> Result<(), IoError> {
    let (disk, layout) = (&*names.disk, &names.layout);
    let Some(why) = unnamed(disk, layout, job, epoch)? else { return Ok(()) };
    let (dir, parent) = (layout.epoch_dir(job, epoch), layout.job_dir(job));
    let to = match why {
        Unnamed::NoManifest => format!("{epoch}.found"),
        Unnamed::Unread => format!("{epoch}.aside"),
    };
    if folder_makes_way(names, &dir, &to)? {
        tracing::warn!(path = %dir.display(), ?why, "it did not say which epoch it was: another is published in its place");
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

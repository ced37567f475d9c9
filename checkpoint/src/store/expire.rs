//! Taking away: published epochs by way of `trash/`, and what was built for an
//! attempt. Staged files and blobs are not touched. Works on a full disk, as
//! often as it is asked. What of the trash cannot be removed now is removed
//! later; it is never moved back.

use std::io;
use std::path::{Path, PathBuf};

use super::aside::{Occupant, Unnamed, occupant, unnamed_makes_way};
use super::error::StoreError;
use super::jobs::{epochs, is_folder, number};
use super::latest::point_latest;
use super::shelves::{Names, Shelves};
use crate::disk::{Disk, FileKind};
use crate::durable::remove_tree;
use crate::epoch::JobName;
use crate::io_error::at;

pub(super) fn expire(shelves: &Shelves, job: &JobName, epoch: u64) -> Result<(), StoreError> {
    take_away(&shelves.lock_names(), job, epoch)
}

/// As [`expire`], for what was sealed at or below a log index.
///
/// A folder that does not say when that was goes only as long as the caller knows of no later epoch of its number: then a
/// record has decided what is to go. (Of a later one that the caller does not know yet the log tells it afterwards, and
/// publishes it anew.) Else it may be the later one's: it stays, to be mended as that.
pub(super) fn expire_until(
    shelves: &Shelves,
    job: &JobName,
    epoch: u64,
    index: u64,
    is_later: &dyn Fn() -> bool,
) -> Result<(), StoreError> {
    let names = shelves.lock_names();
    let occupant = occupant(&*names.disk, &names.layout, job, epoch)?;
    match &occupant {
        Occupant::Epoch(there) if there.position.index > index => return Ok(()),
        Occupant::Unnamed(_) if is_later() => {
            let path = names.layout.epoch_dir(job, epoch);
            tracing::warn!(path = %path.display(), "it does not say when it was sealed, and a later epoch has its number: it stays");
            return Ok(());
        }
        Occupant::Epoch(_) | Occupant::Unnamed(_) | Occupant::Nobody => {}
    }
    remove(&names, job, epoch, &occupant)
}

/// As [`expire`], for who holds the names.
pub(super) fn take_away(names: &Names<'_>, job: &JobName, epoch: u64) -> Result<(), StoreError> {
    remove(names, job, epoch, &occupant(&*names.disk, &names.layout, job, epoch)?)
}

/// What of the epoch is ours goes to the trash. A foreign folder in its place makes way and stays: no record of ours has
/// decided on it.
fn remove(names: &Names<'_>, job: &JobName, epoch: u64, occupant: &Occupant) -> Result<(), StoreError> {
    let (disk, layout) = (&*names.disk, &names.layout);
    let (dir, job_dir) = (layout.epoch_dir(job, epoch), layout.job_dir(job));
    if !is_folder(disk, &job_dir)? {
        return Ok(());
    }
    let in_trash = || names.free_name(&layout.trash_dir(), &format!("epoch-{job}.{epoch}"));
    let mut trashed = Vec::new();
    // What is no folder is not what was published, and not ours to remove; a publish moves it aside.
    if !matches!(occupant, Occupant::Nobody) {
        for aside in asides(disk, &job_dir, epoch) {
            let to = in_trash()?;
            match disk.rename(&aside, &to) {
                Ok(()) => trashed.push(to),
                Err(e) => tracing::warn!(path = %aside.display(), error = %e, "it stays aside"),
            }
        }
    }
    match occupant {
        Occupant::Nobody => {}
        Occupant::Unnamed(Unnamed::Foreign) => {
            // Nothing of the epoch is there: where it cannot be moved nothing is owed.
            if let Err(error) = unnamed_makes_way(names, job, epoch) {
                tracing::warn!(path = %dir.display(), %error, "a folder without a manifest stays in an epoch's place");
            }
        }
        Occupant::Epoch(_) | Occupant::Unnamed(Unnamed::Unread) => {
            let to = in_trash()?;
            match disk.rename(&dir, &to) {
                Ok(()) => trashed.push(to),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                    let what = "move to the trash from another file system or a lower layer of this one";
                    return Err(at(what, &dir)(e).into());
                }
                Err(e) => return Err(at("move to the trash", &dir)(e).into()),
            }
        }
    }
    // On a full disk there may be no room for a symlink before the epoch's own is given back.
    let pointed = point_latest(names, job, None);
    names.sync_dir(&job_dir)?;
    for path in trashed {
        if let Err(e) = remove_tree(disk, &path) {
            // It is gone from the epochs for good; what is left of it lies in the trash.
            tracing::warn!(path = %path.display(), error = %e, "cannot remove an expired epoch yet");
        }
    }
    if !pointed && point_latest(names, job, None) {
        names.sync_dir(&job_dir)?;
    }
    Ok(())
}

/// Folders that made way for this epoch, because they did not say which one they were (`aside`): they go with it, for
/// the record that ends it decides all that its number ever named. What is no folder was never ours.
fn asides(disk: &dyn Disk, job_dir: &Path, epoch: u64) -> Vec<PathBuf> {
    let aside = format!("{epoch}.aside");
    let names = disk.read_dir(job_dir).unwrap_or_else(|e| {
        tracing::warn!(path = %job_dir.display(), error = %e, "what lies aside stays: cannot list");
        Vec::new()
    });
    // As a free name is made, and no other: whoever has looked at one may have given it a name of his own.
    let is_number = |rest: &str| rest.strip_prefix('.').is_some_and(|rest| number(rest.as_bytes()).is_some());
    let is_ours =
        |name: &str| name.strip_prefix(&aside).is_some_and(|rest| rest.is_empty() || is_number(rest));
    let folders = names.into_iter().filter(|(_, kind)| *kind == FileKind::Directory);
    folders
        .filter(|(name, _)| name.to_str().is_some_and(is_ours))
        .map(|(name, _)| job_dir.join(name))
        .collect()
}

/// Removes a job's folder when nothing is in it.
pub(super) fn remove_job(shelves: &Shelves, job: &JobName) -> Result<(), StoreError> {
    let names = shelves.lock_names();
    let job_dir = names.layout.job_dir(job);
    // Also where the folder stays: a job that is made later under the name has other epochs.
    names.all_avoided().remove(job);
    if !is_folder(&*names.disk, &job_dir)? {
        return Ok(());
    }
    match epochs(&*names.disk, &job_dir) {
        Ok(epochs) if epochs.is_empty() => {}
        Ok(_) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    // Where something else lies in it, it stays.
    match names.disk.remove_dir(&job_dir) {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            return Ok(());
        }
        Err(e) => return Err(at("remove", &job_dir)(e).into()),
    }
    let all = names.layout.epochs_dir();
    Ok(names.sync_dir(&all)?)
}

/// Removes what was built for an attempt.
pub(super) fn discard(shelves: &Shelves, attempt: u64) -> Result<(), StoreError> {
    let names = shelves.lock_names();
    let building = names.layout.building_dir(attempt);
    Ok(remove_tree(&*names.disk, &building).map_err(at("remove", &building))?)
}

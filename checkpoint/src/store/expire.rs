//! Taking away: published epochs by way of `trash/`, what was built for an
//! attempt, and where `latest` points. Staged files and blobs are not touched.
//! Works on a full disk, as often as it is asked. What of the trash cannot be
//! removed now is removed later; it is never moved back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{Inner, StoreError, read_envelope};
use crate::disk::{Disk, FileKind, is_rot};
use crate::durable::{ignore_missing, remove_tree};
use crate::epoch::JobName;
use crate::error::{IoError, at};

/// The temporary name of a `latest` that is about to be moved into place.
const LATEST_TEMP: &str = ".latest.epochlog-tmp";

/// The numbers of the epochs in a job's folder, rising.
pub(super) fn epochs(disk: &dyn Disk, job_dir: &Path) -> Result<Vec<u64>, IoError> {
    let names = match disk.read_dir(job_dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(at("list", job_dir)(e)),
    };
    let dirs = names.into_iter().filter(|(_, kind)| *kind == FileKind::Directory);
    let mut epochs: Vec<u64> = dirs.filter_map(|(name, _)| parse(name.as_encoded_bytes())).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

// A number as we write it: no sign, no leading zero.
fn parse(name: &[u8]) -> Option<u64> {
    let number: u64 = std::str::from_utf8(name).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == name).then_some(number)
}

/// Points `latest` to the newest published epoch that is not to be avoided; removes it when there is none. `new` was
/// published just now. What stands there and is no link is moved aside. For who holds the names.
///
/// Where it points is a convenience: no epoch and no start fails because this does. It is noted then, for
/// [`point_again`]. Whether it is done.
pub(super) fn point_latest(inner: &Inner, job: &JobName, new: Option<u64>) -> bool {
    let job_dir = inner.layout.job_dir(job);
    match move_latest(&*inner.disk, &job_dir, new, &inner.avoided(job)) {
        Ok(()) => {
            inner.behind().remove(job);
            true
        }
        Err(e) => {
            tracing::warn!(%job, error = %e, "`latest` cannot be moved yet");
            inner.behind().insert(job.clone());
            false
        }
    }
}

/// Does what [`point_latest`] could not do.
pub(super) fn point_again(inner: &Inner) {
    let _names = inner.lock_names();
    let jobs = std::mem::take(&mut *inner.behind());
    for job in jobs {
        // One that is gone has no `latest` any more; one that cannot be looked at is looked at again.
        match is_folder(&*inner.disk, &inner.layout.job_dir(&job)) {
            Ok(false) => {}
            Ok(true) => {
                point_latest(inner, &job, None);
            }
            Err(_) => {
                inner.behind().insert(job);
            }
        }
    }
}

fn move_latest(disk: &dyn Disk, job_dir: &Path, new: Option<u64>, avoid: &BTreeSet<u64>) -> io::Result<()> {
    let link = job_dir.join("latest");
    let current = match disk.read_link(&link) {
        Ok(target) => Some(target),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let to = free_name(disk, job_dir, "latest.aside").map_err(|e| e.source)?;
            tracing::warn!(path = %link.display(), to = %to.display(), "no link: it is moved aside");
            disk.rename(&link, &to)?;
            None
        }
        Err(e) => return Err(e),
    };
    let there = |epoch: u64| {
        let found = disk.stat(&job_dir.join(epoch.to_string()));
        found.is_ok_and(|stat| stat.kind == FileKind::Directory)
    };
    let pointed = current.as_deref().and_then(parse);
    let newest = match (new, pointed) {
        // The usual case needs no look at the whole folder.
        (Some(new), Some(old)) if new > old && !avoid.contains(&new) => Some(new),
        (Some(_), Some(old)) if there(old) && !avoid.contains(&old) => Some(old),
        _ => {
            let there = epochs(disk, job_dir).map_err(|e| e.source)?;
            there.into_iter().rev().find(|epoch| !avoid.contains(epoch))
        }
    };
    if newest == pointed && newest.is_some() == current.is_some() {
        return Ok(());
    }
    let Some(newest) = newest else { return disk.unlink(&link) };
    let temp = job_dir.join(LATEST_TEMP);
    ignore_missing(disk.unlink(&temp))?;
    disk.symlink(newest.to_string().as_bytes(), &temp)?;
    disk.rename(&temp, &link)
}

pub(super) fn expire(inner: &Inner, job: &JobName, epoch: u64) -> Result<(), StoreError> {
    let _names = inner.lock_names();
    take_away(inner, job, epoch)
}

/// As [`expire`], for what was sealed at or below a log index.
///
/// A folder that does not say when that was is removed only as long as the caller knows of no later epoch of its number:
/// then a record has decided what is to go, whatever lies there. (Of a later one that the caller does not know yet the log
/// tells it afterwards, and publishes it anew.) Else it may be the later one's: it stays, to be mended as that.
pub(super) fn expire_until(
    inner: &Inner,
    job: &JobName,
    epoch: u64,
    index: u64,
    is_later: &dyn Fn() -> bool,
) -> Result<(), StoreError> {
    let _names = inner.lock_names();
    match sealed_at(inner, job, epoch)? {
        Sealed::At(sealed) if sealed > index => return Ok(()),
        Sealed::Unknown if is_later() => {
            let path = inner.layout.epoch_dir(job, epoch);
            tracing::warn!(path = %path.display(), "it does not say when it was sealed, and a later epoch has its number: it stays");
            return Ok(());
        }
        Sealed::At(_) | Sealed::Unknown | Sealed::NotHere => {}
    }
    take_away(inner, job, epoch)
}

/// The log index at which what is in an epoch's place was sealed.
enum Sealed {
    At(u64),
    /// There is a folder without a manifest that can be read.
    Unknown,
    /// There is no folder of ours.
    NotHere,
}

/// Each name is looked at before what is below it is opened: a file or a link in the place of one of ours could never be
/// read, and would be tried for ever. An error is one that another try may not meet: what the device has lost is none,
/// and if it comes back, no more is gone than what a record has decided.
fn sealed_at(inner: &Inner, job: &JobName, epoch: u64) -> Result<Sealed, StoreError> {
    let (disk, layout) = (&*inner.disk, &inner.layout);
    let manifest = layout.manifest_file(job, epoch);
    if !is_folder(disk, &layout.job_dir(job))? || !is_folder(disk, &layout.epoch_dir(job, epoch))? {
        return Ok(Sealed::NotHere);
    }
    // No link is followed here, as nowhere in the store: where it leads is not what was published.
    match kind_of(disk, &manifest) {
        Ok(Some(FileKind::File)) => {}
        Ok(_) => return Ok(Sealed::Unknown),
        Err(error) if is_rot(&error.source) => return Ok(Sealed::Unknown),
        Err(error) => return Err(error.into()),
    }
    match read_envelope(disk, &manifest) {
        Ok(there) => Ok(there.map_or(Sealed::Unknown, |there| Sealed::At(there.position.index))),
        Err(error @ StoreError::Manifest { .. }) => {
            tracing::warn!(%job, epoch, %error, "an expired epoch does not say when it was sealed");
            Ok(Sealed::Unknown)
        }
        Err(error) => Err(error),
    }
}

fn kind_of(disk: &dyn Disk, path: &Path) -> Result<Option<FileKind>, IoError> {
    match disk.stat(path) {
        Ok(stat) => Ok(Some(stat.kind)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("stat", path)(e)),
    }
}

/// Whether a job or an epoch has a folder here. What somebody has put in its place is none: a symlink would lead to names
/// that are not ours. Nothing of it is there, and nothing there is changed.
fn is_folder(disk: &dyn Disk, dir: &Path) -> Result<bool, IoError> {
    Ok(match kind_of(disk, dir)? {
        Some(FileKind::Directory) => true,
        Some(_) => {
            tracing::warn!(path = %dir.display(), "no folder of ours: it is left alone");
            false
        }
        None => false,
    })
}

/// As [`expire`], for who holds the names.
pub(super) fn take_away(inner: &Inner, job: &JobName, epoch: u64) -> Result<(), StoreError> {
    let (disk, layout) = (&*inner.disk, &inner.layout);
    let (dir, job_dir) = (layout.epoch_dir(job, epoch), layout.job_dir(job));
    if !is_folder(disk, &job_dir)? {
        return Ok(());
    }
    let in_trash = || free_name(disk, &layout.trash_dir(), &format!("epoch-{job}.{epoch}"));
    let mut trashed = Vec::new();
    // What is no folder is not what was published, and not ours to remove; a publish moves it aside.
    if is_folder(disk, &dir)? {
        for aside in asides(disk, &job_dir, epoch) {
            let to = in_trash()?;
            match disk.rename(&aside, &to) {
                Ok(()) => trashed.push(to),
                Err(e) => tracing::warn!(path = %aside.display(), error = %e, "it stays aside"),
            }
        }
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
    // On a full disk there may be no room for a symlink before the epoch's own is given back.
    let pointed = point_latest(inner, job, None);
    inner.sync_dir(&job_dir)?;
    for path in trashed {
        if let Err(e) = remove_tree(disk, &path) {
            // It is gone from the epochs for good; what is left of it lies in the trash.
            tracing::warn!(path = %path.display(), error = %e, "cannot remove an expired epoch yet");
        }
    }
    if !pointed && point_latest(inner, job, None) {
        inner.sync_dir(&job_dir)?;
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
    let is_ours =
        |name: &str| name.strip_prefix(&aside).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let folders = names.into_iter().filter(|(_, kind)| *kind == FileKind::Directory);
    folders
        .filter(|(name, _)| name.to_str().is_some_and(is_ours))
        .map(|(name, _)| job_dir.join(name))
        .collect()
}

/// Removes a job's folder when nothing is in it.
pub(super) fn remove_job(inner: &Inner, job: &JobName) -> Result<(), StoreError> {
    let _names = inner.lock_names();
    let job_dir = inner.layout.job_dir(job);
    // Also where the folder stays: a job that is made later under the name has other epochs.
    inner.all_avoided().remove(job);
    if !is_folder(&*inner.disk, &job_dir)? {
        return Ok(());
    }
    match epochs(&*inner.disk, &job_dir) {
        Ok(epochs) if epochs.is_empty() => {}
        Ok(_) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    // Where something else lies in it, it stays.
    match inner.disk.remove_dir(&job_dir) {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            return Ok(());
        }
        Err(e) => return Err(at("remove", &job_dir)(e).into()),
    }
    let all = inner.layout.epochs_dir();
    Ok(inner.sync_dir(&all)?)
}

/// A name in a folder that nothing has, `name` or with a number: what could not be removed earlier must not stand in
/// the way.
pub(super) fn free_name(disk: &dyn Disk, dir: &Path, name: &str) -> Result<PathBuf, IoError> {
    let mut path = dir.join(name);
    for n in 1_u64.. {
        match disk.stat(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(at("stat", &path)(e)),
            Ok(_) => path = dir.join(format!("{name}.{n}")),
        }
    }
    Ok(path)
}

/// From now on `latest` of the job points to none of these epochs.
pub(super) fn avoid(inner: &Inner, job: &JobName, epochs: BTreeSet<u64>) -> Result<(), StoreError> {
    let _names = inner.lock_names();
    let job_dir = inner.layout.job_dir(job);
    match epochs.is_empty() {
        true => drop(inner.all_avoided().remove(job)),
        false => drop(inner.all_avoided().insert(job.clone(), epochs)),
    }
    if !is_folder(&*inner.disk, &job_dir)? {
        return Ok(());
    }
    point_latest(inner, job, None);
    Ok(inner.sync_dir(&job_dir)?)
}

/// See [`Store::heal_latest`](super::Store::heal_latest).
pub(super) fn heal_latest(inner: &Inner, avoid: BTreeMap<JobName, BTreeSet<u64>>) {
    let _names = inner.lock_names();
    let (disk, epochs) = (&*inner.disk, inner.layout.epochs_dir());
    *inner.all_avoided() = avoid;
    let jobs = disk.read_dir(&epochs).unwrap_or_else(|e| {
        tracing::warn!(path = %epochs.display(), error = %e, "no `latest` is looked at: cannot list");
        Vec::new()
    });
    for (name, _) in jobs.into_iter().filter(|(_, kind)| *kind == FileKind::Directory) {
        let Some(job) = name.to_str().and_then(|name| JobName::try_from(name).ok()) else { continue };
        if let Err(e) = ignore_missing(disk.unlink(&epochs.join(&name).join(LATEST_TEMP))) {
            tracing::warn!(%job, error = %e, "a `latest` that was begun stays");
        }
        point_latest(inner, &job, None);
    }
}

/// This epoch has expired.
pub(super) fn avoid_no_more(inner: &Inner, job: &JobName, epoch: u64) {
    let mut avoided = inner.all_avoided();
    if let Some(epochs) = avoided.get_mut(job) {
        epochs.remove(&epoch);
        if epochs.is_empty() {
            avoided.remove(job);
        }
    }
}

pub(super) fn discard(inner: &Inner, attempt: u64) -> Result<(), StoreError> {
    let _names = inner.lock_names();
    let building = inner.layout.building_dir(attempt);
    Ok(remove_tree(&*inner.disk, &building).map_err(at("remove", &building))?)
}

//! Where `latest` of each job points: to its newest published epoch that is not to be avoided.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::error::StoreError;
use super::jobs::{epochs, is_folder, number};
use super::shelves::{Names, Shelves};
use crate::disk::FileKind;
use crate::durable::ignore_missing;
use crate::epoch::JobName;

/// The temporary name of a `latest` that is about to be moved into place.
const LATEST_TEMP: &str = ".latest.epochlog-tmp";

/// Points `latest` to the newest published epoch that is not to be avoided; removes it when there is none. `new` was
/// published just now. What stands there and is no link is moved aside.
///
/// Where it points is a convenience: no epoch and no start fails because this does. It is noted then, for
/// [`point_again`]. Whether it is done.
pub(super) fn point_latest(names: &Names<'_>, job: &JobName, new: Option<u64>) -> bool {
    let job_dir = names.layout.job_dir(job);
    match move_latest(names, &job_dir, new, &names.avoided(job)) {
        Ok(()) => {
            names.behind().remove(job);
            true
        }
        Err(e) => {
            tracing::warn!(%job, error = %e, "`latest` cannot be moved yet");
            names.behind().insert(job.clone());
            false
        }
    }
}

/// Does what [`point_latest`] could not do.
pub(super) fn point_again(shelves: &Shelves) {
    let names = shelves.lock_names();
    let jobs = std::mem::take(&mut *names.behind());
    for job in jobs {
        // One that is gone has no `latest` any more; one that cannot be looked at is looked at again.
        match is_folder(&*names.disk, &names.layout.job_dir(&job)) {
            Ok(false) => {}
            Ok(true) => {
                point_latest(&names, &job, None);
            }
            Err(_) => {
                names.behind().insert(job);
            }
        }
    }
}

fn move_latest(names: &Names<'_>, job_dir: &Path, new: Option<u64>, avoid: &BTreeSet<u64>) -> io::Result<()> {
    let disk = &*names.disk;
    let link = job_dir.join("latest");
    let current = match disk.read_link(&link) {
        Ok(target) => Some(target),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            let to = names.free_name(job_dir, "latest.aside").map_err(|e| e.source)?;
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
    let pointed = current.as_deref().and_then(number);
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

/// From now on `latest` of the job points to none of these epochs.
pub(super) fn avoid(shelves: &Shelves, job: &JobName, epochs: BTreeSet<u64>) -> Result<(), StoreError> {
    let names = shelves.lock_names();
    let job_dir = names.layout.job_dir(job);
    match epochs.is_empty() {
        true => drop(names.all_avoided().remove(job)),
        false => drop(names.all_avoided().insert(job.clone(), epochs)),
    }
    if !is_folder(&*names.disk, &job_dir)? {
        return Ok(());
    }
    point_latest(&names, job, None);
    Ok(names.sync_dir(&job_dir)?)
}

/// See `Store::heal_latest`.
pub(super) fn heal_latest(shelves: &Shelves, avoid: BTreeMap<JobName, BTreeSet<u64>>) {
    let names = shelves.lock_names();
    let (disk, epochs) = (&*names.disk, names.layout.epochs_dir());
    *names.all_avoided() = avoid;
    let jobs = disk.read_dir(&epochs).unwrap_or_else(|e| {
        tracing::warn!(path = %epochs.display(), error = %e, "no `latest` is looked at: cannot list");
        Vec::new()
    });
    for (name, _) in jobs.into_iter().filter(|(_, kind)| *kind == FileKind::Directory) {
        let Some(job) = name.to_str().and_then(|name| JobName::try_from(name).ok()) else { continue };
        if let Err(e) = ignore_missing(disk.unlink(&epochs.join(&name).join(LATEST_TEMP))) {
            tracing::warn!(%job, error = %e, "a `latest` that was begun stays");
        }
        point_latest(&names, &job, None);
    }
}

/// This epoch has expired.
pub(super) fn avoid_no_more(shelves: &Shelves, job: &JobName, epoch: u64) {
    let mut avoided = shelves.all_avoided();
    if let Some(epochs) = avoided.get_mut(job) {
        epochs.remove(&epoch);
        if epochs.is_empty() {
            avoided.remove(job);
        }
    }
}

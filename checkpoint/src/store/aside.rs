//! What stands where the folder of a job or of an epoch belongs and is no folder: a symlink above all, which would lead
//! what is published here to somewhere else. It is moved aside by one rename, never followed and never removed.

use std::io;

use super::expire::free_name;
use super::{Inner, Layout};
use crate::disk::{Disk, FileKind};
use crate::epoch::JobName;
use crate::error::{IoError, at};

/// Whether job and epoch have folders here, each of them a real one.
pub(super) fn is_real(disk: &dyn Disk, layout: &Layout, job: &JobName, epoch: u64) -> bool {
    let is_folder =
        |path: &std::path::Path| disk.stat(path).is_ok_and(|stat| stat.kind == FileKind::Directory);
    is_folder(&layout.job_dir(job)) && is_folder(&layout.epoch_dir(job, epoch))
}

/// Moves aside what is no folder. For who holds the names.
pub(super) fn make_way(inner: &Inner, job: &JobName, epoch: u64) -> Result<(), IoError> {
    let (disk, layout) = (&*inner.disk, &inner.layout);
    // No job has a name with a leading dot, no epoch one that is no number.
    let places = [
        (layout.job_dir(job), layout.epochs_dir(), format!(".{job}.aside")),
        (layout.epoch_dir(job, epoch), layout.job_dir(job), format!("{epoch}.aside")),
    ];
    for (path, parent, aside) in places {
        match disk.stat(&path) {
            Ok(stat) if stat.kind == FileKind::Directory => {}
            Ok(_) => {
                let to = free_name(disk, &parent, &aside)?;
                tracing::warn!(path = %path.display(), to = %to.display(), "no folder: it is moved aside");
                disk.rename(&path, &to).map_err(at("move aside", &path))?;
                inner.sync_dir(&parent)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(at("stat", &path)(e)),
        }
    }
    Ok(())
}

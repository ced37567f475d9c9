//! What a start does on the shelves: folders, trash, our own temporary names,
//! `latest`. What was being brought (`incoming/`) stays for whoever goes on with
//! it. Absence or strangeness of anything else never leads to a deletion.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use super::expire;
use super::layout::Layout;
use crate::disk::{Disk, FileKind};
use crate::durable::{create_dir_all, ignore_missing, remove_tree};
use crate::error::{IoError, at};

/// The temporary name of a `latest` that is about to be moved into place.
pub(super) const LATEST_TEMP: &str = ".latest.epochlog-tmp";

pub(super) fn open(disk: &dyn Disk, layout: &Layout) -> Result<(), IoError> {
    let data = layout.data_dir();
    for dir in [
        layout.staging_dir(),
        layout.blobs_dir(),
        layout.trash_dir(),
        layout.incoming_dir(),
        layout.snapshots_dir(),
        layout.capture_dir(),
        layout.epochs_dir(),
    ] {
        create_dir_all(disk, data, &dir).map_err(at("make the folder", &dir))?;
    }
    let blobs = layout.blobs_dir();
    let shelves = disk.read_dir(&blobs).map_err(at("list", &blobs))?;
    let shelves: BTreeSet<OsString> = shelves.into_iter().map(|(name, _)| name).collect();
    for first in 0..=u8::MAX {
        if !shelves.contains(OsStr::new(&format!("{first:02x}"))) {
            let shelf = layout.blob_shelf(first);
            disk.create_dir(&shelf).map_err(at("make the folder", &shelf))?;
        }
    }
    disk.sync_dir(&blobs).map_err(at("sync", &blobs))?;
    let trash = layout.trash_dir();
    for (name, _) in disk.read_dir(&trash).map_err(at("list", &trash))? {
        let path = trash.join(name);
        // What cannot be removed now can be at the next start.
        if let Err(e) = remove_tree(disk, &path) {
            tracing::warn!(path = %path.display(), error = %e, "cannot empty the trash");
        }
    }
    let epochs = layout.epochs_dir();
    for (job, kind) in disk.read_dir(&epochs).map_err(at("list", &epochs))? {
        if kind == FileKind::Directory {
            let job_dir = epochs.join(job);
            heal_latest(disk, &job_dir).map_err(at("point `latest` in", &job_dir))?;
        }
    }
    Ok(())
}

// A power cut may have taken the last move of `latest`, though not the epoch.
fn heal_latest(disk: &dyn Disk, job_dir: &Path) -> io::Result<()> {
    ignore_missing(disk.unlink(&job_dir.join(LATEST_TEMP)))?;
    expire::point_latest(disk, job_dir, None, &Default::default())
}

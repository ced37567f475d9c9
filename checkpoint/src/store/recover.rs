//! What a start does on the shelves: folders, and trash. What was being brought
//! (`incoming/`) stays for whoever goes on with it. Absence or strangeness of
//! anything else never leads to a deletion.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use super::layout::Layout;
use crate::disk::Disk;
use crate::durable::{create_dir_all, remove_tree};
use crate::io_error::{IoError, at};

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
    // What cannot be removed now can be at the next start: nobody waits for it.
    let trash = layout.trash_dir();
    let names = disk.read_dir(&trash).unwrap_or_else(|e| {
        tracing::warn!(path = %trash.display(), error = %e, "cannot list the trash");
        Vec::new()
    });
    for (name, _) in names {
        let path = trash.join(name);
        if let Err(e) = remove_tree(disk, &path) {
            tracing::warn!(path = %path.display(), error = %e, "cannot empty the trash");
        }
    }
    Ok(())
}

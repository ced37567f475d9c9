//! The files of a snapshot from elsewhere, put on a disk.

use std::io;

use checkpoint::store::{Store, StoreError};

use crate::dues::{Debts, Expected, out_of_quarantine, succession};
use crate::ledger::Ledger;
use crate::snapshot::{Capture, Folder, OpenFault, SnapshotError, ledger_of};

/// Writes the snapshot files that a node starts from which lost its own, or whose log was damaged: all that the
/// snapshot refers to must be in `store`, checked and fsynced. No machine runs over `store`. Blocks.
///
/// # Errors
/// [`SnapshotError`]; what is on disk before stays.
pub fn plant(store: &Store, capture: &Capture) -> Result<(), SnapshotError> {
    let ledger = checked(capture)?;
    let dir = store.layout().snapshots_dir();
    let spare = store.layout().spare_snapshot();
    let (mut folder, found, _) =
        Folder::open(store.disk().clone(), dir.clone(), spare).map_err(|fault| match fault {
            OpenFault::Version(path) => {
                SnapshotError::NotNow(format!("{path} was made by another version of this program"))
            }
            OpenFault::Io { what, source } => SnapshotError::Io { what, source },
        })?;
    let mut expected = Expected::read(&**store.disk(), &dir)
        .map_err(|source| SnapshotError::Io { what: "read what was expected".into(), source })?;
    let (debts, healing) = match found {
        Some(found) => (found.debts, out_of_quarantine(&found.ledger, &ledger)),
        None => Default::default(),
    };
    let (mut debts, _) = succession(store, debts, &ledger).map_err(unlisted)?;
    debts.healing.extend(healing);
    sync_everything(store)?;
    keep_twice(&mut folder, capture, &debts)?;
    expected.superseded(&**store.disk());
    Ok(())
}

/// What was brought is durable, names included.
pub fn sync_everything(store: &Store) -> Result<(), SnapshotError> {
    let synced = store.disk().sync_fs(store.layout().data_dir());
    synced.map_err(|source| SnapshotError::Io { what: "sync the file system".into(), source })
}

/// The ledger of it.
pub fn checked(capture: &Capture) -> Result<Ledger, SnapshotError> {
    let name = || format!("of {}", capture.meta.position);
    ledger_of(capture).map_err(|why| SnapshotError::Damaged { name: name(), why })
}

/// What is here cannot be listed.
pub fn unlisted(error: StoreError) -> SnapshotError {
    let what = "list what is published and on the shelves".into();
    SnapshotError::Io { what, source: io::Error::other(error) }
}

/// Two files, so that one that rots costs nothing and the log can be purged at once. On a disk that is full the second
/// may have to wait: the first is durable, and the next snapshot is the other one.
pub fn keep_twice(folder: &mut Folder, capture: &Capture, debts: &Debts) -> Result<(), SnapshotError> {
    folder.keep(capture, debts)?;
    match folder.keep(capture, debts) {
        Err(error) if error.lacks_room() => {
            tracing::warn!(%error, "a snapshot from elsewhere is kept once, there is no room for a second file");
            Ok(())
        }
        kept => kept,
    }
}

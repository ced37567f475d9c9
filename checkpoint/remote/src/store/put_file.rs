//! An object of a folder: a file that is written beside its name, synced, and renamed.
//!
//! What failed on the way is not looked at: a file that can be read need not be durable, and after a sync that failed
//! the next one may say that all is well. Another key is taken then, as after a kill.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use object_store::path::Path as Key;

use super::files::{make_folders, sync_folder};
use super::uploading::{Outcome, Uploading};
use crate::backend::BackendKind;
use crate::error::StoreError;
use crate::line::{Failure, Tries};

enum Stop {
    Failure(Failure),
    Error(StoreError),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failure(failure)
    }
}

/// Writes the file.
pub(super) async fn put_file(
    way: &Uploading<'_>,
    key: &Key,
    tries: &mut Tries,
) -> Result<Outcome, StoreError> {
    let BackendKind::Folder { root, .. } = &way.store.backend().kind else {
        unreachable!("only folders have files");
    };
    match write(way, root, &root.join(key.as_ref())).await {
        Ok(()) => match way.compare(key).await?.into() {
            Some(outcome) => Ok(outcome),
            None => Ok(Outcome::Spoiled("it was written and is not there".into())),
        },
        Err(Stop::Failure(failure)) => {
            let why = failure.why.clone();
            way.again(failure, tries).await?;
            Ok(Outcome::Unknown(why))
        }
        Err(Stop::Error(error)) => Err(error),
    }
}

async fn write(way: &Uploading<'_>, root: &Path, at: &Path) -> Result<(), Stop> {
    let (store, patience) = (way.store, &way.patience);
    let (root, path) = (root.to_path_buf(), at.to_path_buf());
    let (mut file, beside) = store.on_files(0, patience, move || begin(&root, &path)).await?;
    for index in 0..way.plan.leaves().len() {
        let leaf = way.leaf(index).await.map_err(Stop::Error)?;
        let data = leaf.data.clone();
        let written = store.on_files(data.len() as u64, patience, move || {
            file.write_all(&data)?;
            // Leaf by leaf, or the end would be one long silence.
            file.sync_data()?;
            Ok(file)
        });
        file = written.await?;
    }
    let at = at.to_path_buf();
    let end = move || {
        file.sync_all()?;
        drop(file);
        std::fs::rename(&beside, &at)?;
        at.parent().map_or(Ok(()), sync_folder)
    };
    // What a file system has only promised may have to go through the wire now.
    Ok(store.on_files(way.plan.len_bytes(), patience, end).await?)
}

// The file beside the name, and what it is called: as the crate calls it, so that no listing shows it.
fn begin(root: &Path, at: &Path) -> io::Result<(File, PathBuf)> {
    let folder = at.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_folders(root, folder)?;
    for number in 1u32.. {
        let beside = PathBuf::from(format!("{}#{number}", at.display()));
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            file => return Ok((file?, beside)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

//! The files of a folder. The crate below reads and writes them, too, but on threads that wait for a file system that
//! hangs, without an end and without a bound on how many; and what it made durable it does not say.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::durable::ignore_missing;
use object_store::path::Path as Key;

use super::Store;
use crate::backend::BackendKind;
use crate::line::{Failure, Kind, Patience};
use crate::runtime::blocking;

impl Store {
    /// Where the file of a key lies; `None` of what is no folder.
    pub(super) fn file_of(&self, key: &Key) -> Option<PathBuf> {
        match &self.backend().kind {
            BackendKind::Folder { root, .. } => Some(root.join(key.as_ref())),
            _ => None,
        }
    }

    /// Does something with files: one try, which ends when it takes too long for so many bytes. The thread may stay
    /// behind then; as many may as requests.
    pub(super) async fn on_files<T: Send + 'static>(
        &self,
        bytes: u64,
        patience: &Patience,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let call = async {
            let thread = Arc::clone(&self.inner.threads).acquire_owned().await;
            let done = blocking(move || {
                let _thread = thread;
                work()
            });
            let done = done.await;
            // Whatever it is: the file system has answered.
            self.counts().heard();
            done.map_err(|e| object_store::Error::Generic { store: "folder", source: e.into() })
        };
        self.line().once(bytes, patience, call).await.map(|(done, _)| done)
    }

    /// As [`Store::on_files`], again while that may help.
    pub(super) async fn on_files_until_answered<T: Send + 'static>(
        &self,
        patience: &Patience,
        work: impl Fn() -> io::Result<T> + Clone + Send + 'static,
    ) -> Result<T, Failure> {
        let mut tries = crate::line::Tries::default();
        loop {
            match self.on_files(0, patience, work.clone()).await {
                Err(failure) => self.line().again(failure, patience, &mut tries).await?,
                done => return done,
            }
        }
    }

    /// The bytes of a range of a file; fewer when it ends before.
    pub(super) async fn read_file(
        &self,
        file: PathBuf,
        range: Range<u64>,
        patience: &Patience,
    ) -> Result<Bytes, Failure> {
        let len = range.end - range.start;
        self.on_files(len, patience, move || {
            let file = File::open(&file)?;
            let mut data = vec![0; len as usize];
            let mut done = 0;
            while done < data.len() {
                match file.read_at(&mut data[done..], range.start + done as u64) {
                    Ok(0) => break,
                    Ok(read) => done += read,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            data.truncate(done);
            Ok(data.into())
        })
        .await
    }

    /// Removes files, so that they stay away; of each why it did not.
    pub(super) async fn remove_files(&self, keys: &[Key], patience: &Patience) -> Vec<Option<Failure>> {
        let mut failures = Vec::with_capacity(keys.len());
        for file in keys.iter().filter_map(|key| self.file_of(key)) {
            let remove = move || {
                ignore_missing(std::fs::remove_file(&file))?;
                // Also of one that was gone: its name may come back with the power.
                file.parent().map_or(Ok(()), |folder| ignore_missing(sync_folder(folder)))
            };
            failures.push(self.on_files(0, patience, remove).await.err());
        }
        failures
    }

    /// Removes folders that are empty, in this order; best effort. A bucket has none.
    pub(crate) async fn remove_folders(&self, keys: &[Key]) {
        for folder in keys.iter().filter_map(|key| self.file_of(key)) {
            let _ = self.on_files(0, &Patience::new(), move || std::fs::remove_dir(&folder)).await;
        }
    }

    /// The length of a file; `None` when it is not there.
    pub(super) async fn file_len(&self, file: PathBuf, patience: &Patience) -> Result<Option<u64>, Failure> {
        let len = move || std::fs::metadata(&file).map(|meta| meta.len());
        match self.on_files_until_answered(patience, len).await {
            Ok(len) => Ok(Some(len)),
            Err(failure) if failure.kind == Kind::Missing => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// Makes the folder `below` the root and what is between, and syncs every parent: also of those that were there,
/// because whoever made them may not have come so far.
pub(super) fn make_folders(root: &Path, below: &Path) -> io::Result<()> {
    let names = below.strip_prefix(root).map_err(io::Error::other)?;
    let mut at = root.to_path_buf();
    for name in names.components() {
        let parent = at.clone();
        at.push(name);
        match std::fs::create_dir(&at) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => sync_folder(&parent)?,
        }
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

//! The part of a prefix that a check writes to.

use std::sync::Mutex;

use bytes::Bytes;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};

use super::report::Verdict;
use crate::backend::BackendKind;
use crate::line::{Failure, Patience};
use crate::store::Store;
use crate::tap::{self, Facts};

/// What came of a probe, or why that is not known.
pub(super) type Answer = Result<(Verdict, String), Failure>;

/// Keys of one check.
pub(super) struct Scratch<'a> {
    pub store: &'a Store,
    folder: Path,
    // Uploads that may be open.
    uploads: Mutex<Vec<(Path, String)>>,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(store: &'a Store) -> Scratch<'a> {
        let folder = store.path_below(&format!("epochlog-check/{:016x}", rand::random::<u64>()));
        Scratch { store, folder, uploads: Mutex::default() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.folder))
    }

    /// Bytes that no two calls share.
    pub(super) fn data(&self, len: usize) -> Bytes {
        use rand::RngCore;
        let mut data = vec![0; len];
        rand::rng().fill_bytes(&mut data);
        data.into()
    }

    /// Writes, whatever is there; again until it is answered.
    pub(super) async fn put(&self, path: &Path, data: &Bytes) -> Result<Facts, Failure> {
        let objects = &self.store.backend().objects;
        let put = || objects.put_opts(path, PutPayload::from(data.clone()), PutOptions::default());
        let put = self.store.line().until_answered(data.len() as u64, &Patience::new(), put).await;
        put.map(|(_, facts)| facts)
    }

    /// Creates; one try.
    pub(super) async fn create(&self, path: &Path, data: &Bytes) -> Result<(), Failure> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let create = self.store.backend().objects.put_opts(path, PutPayload::from(data.clone()), options);
        self.store.line().once(data.len() as u64, &Patience::new(), create).await.map(|_| ())
    }

    /// Writes with a bit changed on the way; one try.
    pub(super) async fn put_spoiled(&self, path: &Path, data: &Bytes) -> Result<Facts, Failure> {
        let objects = &self.store.backend().objects;
        let put = objects.put_opts(path, PutPayload::from(data.clone()), PutOptions::default());
        let put = self.store.line().once(data.len() as u64, &Patience::new(), tap::spoiling(put)).await;
        put.map(|(_, facts)| facts)
    }

    /// What is there, whole.
    pub(super) async fn get(&self, path: &Path, bytes_max: u64) -> Result<Option<Bytes>, Failure> {
        let got = self.store.small(path, bytes_max, &Patience::new()).await?;
        Ok(got.map(|(data, _)| data))
    }

    /// Deletes; whether none failed.
    pub(super) async fn delete(&self, paths: &[Path]) -> Result<(), Failure> {
        let failures = self.store.delete_paths(paths).await;
        failures.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// The keys below a folder of the check.
    pub(super) async fn list(&self, folder: &Path) -> Result<Vec<Path>, Failure> {
        let (mut keys, mut from) = (Vec::new(), None);
        loop {
            let (objects, next) = self.store.list_below(folder, from).await?;
            keys.extend(objects.into_iter().map(|meta| meta.location));
            match next {
                Some(next) => from = Some(next),
                None => return Ok(keys),
            }
        }
    }

    pub(super) fn multipart(&self) -> Option<&dyn MultipartStore> {
        match &self.store.backend().kind {
            BackendKind::Cloud { parts, .. } => Some(&**parts),
            _ => None,
        }
    }

    /// Begins an upload, which is ended at the latest when the check is.
    pub(super) async fn begin_upload(
        &self,
        parts: &dyn MultipartStore,
        path: &Path,
    ) -> Result<String, Failure> {
        let begin = || parts.create_multipart(path);
        let (id, _) = self.store.line().until_answered(0, &Patience::new(), begin).await?;
        self.uploads
            .lock()
            .expect("no thread panics while it notes an upload")
            .push((path.clone(), id.clone()));
        Ok(id)
    }

    /// Removes all of it; whether nothing is left.
    pub(super) async fn clean(&self) -> bool {
        let uploads =
            std::mem::take(&mut *self.uploads.lock().expect("no thread panics while it notes an upload"));
        if let Some(parts) = self.multipart() {
            for (path, id) in uploads {
                // Most were completed or ended; what is open then, a listing of uploads shows.
                let _ = self.store.line().once(0, &Patience::new(), parts.abort_multipart(&path, &id)).await;
            }
        }
        // Those whose ids never arrived.
        if let (Some(parts), Some(list)) = (self.multipart(), &self.store.backend().uploads) {
            let page =
                self.store.line().once(0, &Patience::new(), list.page(self.folder.as_ref(), None)).await;
            for (key, id) in page.map(|(page, _)| page.uploads).unwrap_or_default() {
                let path = Path::from(key);
                let _ = self.store.line().once(0, &Patience::new(), parts.abort_multipart(&path, &id)).await;
            }
        }
        let Ok(keys) = self.list(&self.folder).await else { return false };
        let gone = keys.is_empty() || self.delete(&keys).await.is_ok();
        self.store.remove_folders(&[self.path("list"), self.folder.clone()]).await;
        gone
    }
}

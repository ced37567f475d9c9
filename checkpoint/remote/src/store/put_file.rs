//! A large object of a folder: a file that is written beside its name, then renamed.

use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use super::uploading::{COMPLETE_FASTER, Outcome, Uploading};
use crate::error::StoreError;

/// A file of a folder: written beside its name, then renamed.
pub(super) async fn put_file(way: &Uploading<'_>, path: &Path) -> Result<Outcome, StoreError> {
    let objects = &way.store.backend().objects;
    let line = way.store.line();
    let begun = line.until_answered(0, &way.patience, || objects.put_multipart(path)).await;
    let (mut file, _) = begun.map_err(|failure| way.fail(failure))?;
    let written = async {
        for index in 0..way.plan.leaves().len() {
            let leaf = way.leaf(index).await?;
            let part = file.put_part(PutPayload::from(leaf.data.clone()));
            let put = line.once(leaf.data.len() as u64, &way.patience, part).await;
            put.map_err(|failure| way.fail(failure))?;
        }
        let done = line.once(way.plan.len_bytes() / COMPLETE_FASTER, &way.patience, file.complete()).await;
        done.map_err(|failure| way.fail(failure))
    };
    let written = written.await;
    if written.is_err() {
        // Best effort; the sweep before the next try takes what stays.
        let _ = file.abort().await;
    }
    match way.compare(path).await?.into() {
        Some(outcome) => Ok(outcome),
        None => match written {
            Ok(_) => Ok(Outcome::Spoiled("it was written and is not there".into())),
            Err(error) => Err(error),
        },
    }
}

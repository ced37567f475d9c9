//! A large object of a cloud: parts, put together at the end.

use futures::TryStreamExt;
use object_store::PutPayload;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;

use super::uploading::{COMPLETE_FASTER, Outcome, Uploading};
use crate::error::StoreError;
use crate::journal::PartDone;
use crate::line::{Failure, Kind, Tries};

/// An upload in parts.
pub(super) async fn put_parts(
    way: &Uploading<'_>,
    parts: &dyn MultipartStore,
    path: &Path,
) -> Result<Outcome, StoreError> {
    let line = way.store.line();
    let id = match way.entry(|entry| entry.tried.last().and_then(|tried| tried.upload.clone())) {
        Some(id) => id,
        None => {
            // One whose answer is lost stays open, empty, and is found by listing.
            let begun = line.until_answered(0, &way.patience, || parts.create_multipart(path)).await;
            let (id, _) = begun.map_err(|failure| way.fail(failure))?;
            let journaled = id.clone();
            if let Err(error) = way.write(move |entry| entry.upload(journaled)).await {
                // Nobody would know of it.
                let _ = line.once(0, &way.patience, parts.abort_multipart(path, &id)).await;
                return Err(error);
            }
            id
        }
    };
    if let Some(spoiled) = send_parts(way, parts, path, &id).await? {
        return Ok(spoiled);
    }
    let ids = way.entry(|entry| {
        let tried = entry.tried.last().expect("a key was journaled");
        tried.parts.values().map(|part| PartId { content_id: part.id.clone() }).collect::<Vec<_>>()
    });
    assert_eq!(ids.len(), way.plan.leaves().len(), "every part was acknowledged");
    let mut tries = Tries::default();
    loop {
        let complete = parts.complete_multipart(path, &id, ids.clone());
        let failure = match line.once(way.plan.len_bytes() / COMPLETE_FASTER, &way.patience, complete).await {
            Ok(_) => Failure::new(Kind::Broken, "it was completed, the store said, and is not there"),
            Err(failure) => failure,
        };
        // Success or not, what is there counts.
        if let Some(outcome) = way.compare(path).await?.into() {
            return Ok(outcome);
        }
        // Some say so in an answer of success.
        let lost = ["NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall", "InvalidBlockList"];
        if failure.kind == Kind::Missing || failure.code.as_deref().is_some_and(|code| lost.contains(&code)) {
            return Ok(Outcome::Spoiled(format!("the store lost the upload: {}", failure.why)));
        }
        let failure =
            if failure.kind == Kind::Exists { Failure { kind: Kind::Broken, ..failure } } else { failure };
        way.again(failure, &mut tries).await?;
    }
}

// Sends what the store has not acknowledged. `Some`: the store does not know the upload any more.
async fn send_parts(
    way: &Uploading<'_>,
    parts: &dyn MultipartStore,
    path: &Path,
    id: &String,
) -> Result<Option<Outcome>, StoreError> {
    let line = way.store.line();
    let have = way.entry(|entry| {
        let tried = entry.tried.last().expect("a key was journaled");
        tried.parts.keys().copied().collect::<Vec<_>>()
    });
    let missing = (0..way.plan.leaves().len()).filter(|index| !have.contains(&(*index as u32)));
    let sent = futures::stream::iter(missing.map(Ok)).try_for_each_concurrent(
        line.limits.requests.max(1),
        |index: usize| async move {
            let leaf = way.leaf(index).await.map_err(Stop::Error)?;
            let put = || parts.put_part(path, id, index, PutPayload::from(leaf.data.clone()));
            match line.until_answered(leaf.data.len() as u64, &way.patience, put).await {
                Ok((part, _)) => {
                    let done = PartDone { id: part.content_id, sums: leaf.sums };
                    way.write(move |entry| entry.part(index as u32, done)).await.map_err(Stop::Error)
                }
                Err(failure) if failure.kind == Kind::Missing => Err(Stop::Lost(failure.why)),
                Err(failure) => Err(Stop::Error(way.fail(failure))),
            }
        },
    );
    match sent.await {
        Ok(()) => Ok(None),
        Err(Stop::Error(error)) => Err(error),
        // Lost, or completed by a try whose answer never came.
        Err(Stop::Lost(why)) => Ok(Some(match way.compare(path).await?.into() {
            Some(outcome) => outcome,
            None => Outcome::Spoiled(format!("the store lost the upload: {why}")),
        })),
    }
}

enum Stop {
    Error(StoreError),
    Lost(String),
}

//! Deleting, in batches.
//!
//! A key that is deleted never comes back, so a delete may be repeated, and one that arrives late does no harm.
//! Whether keys may be deleted at all, and on whose word, is the ledger's business; the marker of the prefix is checked
//! by [`Store::begin_deletes`](super::Store::begin_deletes).

use futures::{FutureExt, StreamExt};
use object_store::path::Path;

use super::Store;
use crate::error::{StoreError, Trouble};
use crate::line::{Failure, Kind, Patience, Tries};
use crate::name::ObjectName;
use crate::tap;

/// What became of one key.
#[derive(Debug)]
pub enum Deleted {
    /// It is not there (any more).
    Gone,
    /// It may be there still; why. `Denied` will be said again: not to be repeated before somebody changed something.
    Stays(StoreError),
}

impl Store {
    /// Deletes objects; each has its answer, in the order of the names. One that fails does not keep the others.
    pub async fn delete(&self, names: &[ObjectName]) -> Vec<(ObjectName, Deleted)> {
        if let Err(refused) = self.writable("deleting") {
            let stays = |name: &ObjectName| {
                let error =
                    StoreError::new(refused.trouble(), refused.what(), refused.why(), refused.advice());
                (*name, Deleted::Stays(error))
            };
            return names.iter().map(stays).collect();
        }
        // Boxed, or no thread but the caller's could wait for it.
        let batches = names.chunks(self.backend().delete_batch).map(|batch| self.delete_batch(batch).boxed());
        let mut batches =
            futures::stream::iter(batches.collect::<Vec<_>>()).buffered(self.line().limits.requests.max(1));
        let mut answers = Vec::with_capacity(names.len());
        while let Some((batch, failures)) = batches.next().await {
            answers.extend(batch.iter().zip(failures).map(|(name, failure)| match failure {
                None => (*name, Deleted::Gone),
                Some(failure) => {
                    (*name, Deleted::Stays(self.line().error(format!("deleting {name}"), failure)))
                }
            }));
        }
        answers
    }

    async fn delete_batch<'a>(&self, batch: &'a [ObjectName]) -> (&'a [ObjectName], Vec<Option<Failure>>) {
        let paths: Vec<Path> = batch.iter().map(|name| self.path(name)).collect();
        (batch, self.delete_paths(&paths).await)
    }

    // One failure or none for each path.
    pub(crate) async fn delete_paths(&self, paths: &[Path]) -> Vec<Option<Failure>> {
        let mut answers: Vec<Option<Failure>> = vec![None; paths.len()];
        let mut open: Vec<usize> = (0..paths.len()).collect();
        let (patience, mut tries) = (Patience::new(), Tries::default());
        while !open.is_empty() {
            let batch: Vec<Path> = open.iter().map(|at| paths[*at].clone()).collect();
            let failures = match self.delete_once(&batch, &patience).await {
                // The gate knows nothing of a key that was busy: the pause is ours.
                Ok(failures) => failures.into_iter().map(|failure| failure.map(not_busy)).collect(),
                Err(failure) => vec![Some(failure); batch.len()],
            };
            let mut again = None;
            open = open
                .into_iter()
                .zip(failures)
                .filter_map(|(at, failure)| {
                    answers[at] = failure.filter(|failure| failure.kind != Kind::Missing);
                    let failure = answers[at].as_ref()?;
                    let repeat =
                        matches!(failure.kind, Kind::Busy | Kind::Broken | Kind::Exists | Kind::Denied);
                    repeat.then(|| {
                        again.get_or_insert_with(|| failure.clone());
                        at
                    })
                })
                .collect();
            // Final, or no patience left: the answers stand as they are.
            if let Some(failure) = again.map(|failure| match failure.kind {
                Kind::Exists => Failure { kind: Kind::Broken, ..failure },
                _ => failure,
            }) && self.line().again(failure, &patience, &mut tries).await.is_err()
            {
                break;
            }
        }
        answers
    }

    async fn delete_once(
        &self,
        batch: &[Path],
        patience: &Patience,
    ) -> Result<Vec<Option<Failure>>, Failure> {
        let objects = &self.backend().objects;
        let call = async {
            let paths: Vec<object_store::Result<Path>> = batch.iter().cloned().map(Ok).collect();
            let results = objects.delete_stream(futures::stream::iter(paths).boxed());
            let mut results: Vec<_> = results.collect().await;
            // The request as a whole failed, and the stream ended with that; of a batch of one only its status tells.
            if results.len() != batch.len() || batch.len() == 1 && tap::has_failed() {
                let failed = results.iter().position(Result::is_err);
                if let Some(Err(error)) = failed.map(|at| results.swap_remove(at)) {
                    return Err(error);
                }
            }
            Ok(results)
        };
        let (results, facts) = self.line().once(0, patience, call).await?;
        let mask = &self.line().mask;
        if results.len() != batch.len() {
            return Err(Failure::new(Kind::Broken, "not every key was answered"));
        }
        let failure = |(path, result): (&Path, object_store::Result<Path>)| {
            let error = result.err()?;
            match facts.not_deleted.iter().find(|other| other.key == path.as_ref()) {
                Some(other) => Some(of_code(&other.code)),
                None => Some(Failure::of_one(&error, mask)),
            }
        };
        Ok(batch.iter().zip(results).map(failure).collect())
    }
}

fn not_busy(failure: Failure) -> Failure {
    if failure.kind == Kind::Busy { Failure { kind: Kind::Broken, ..failure } } else { failure }
}

// What the answer to a batch says of one key.
fn of_code(code: &str) -> Failure {
    let kind = match code {
        "NoSuchKey" | "NoSuchVersion" => Kind::Missing,
        "AccessDenied" => Kind::Denied,
        "SlowDown" | "ServerBusy" => Kind::Busy,
        "InternalError" | "RequestTimeout" => Kind::Broken,
        _ => Kind::Refused,
    };
    let advice = match kind {
        Kind::Denied => Some("allow DeleteObject below the prefix; an object lock or a hold refuses it, too"),
        _ => None,
    };
    Failure { code: Some(code.into()), advice, ..Failure::new(kind, format!("the store answered {code}")) }
}

impl Deleted {
    /// Whether asking again without anybody changing anything is useless.
    pub fn is_denied(&self) -> bool {
        matches!(self, Deleted::Stays(error) if error.trouble() == Trouble::Denied)
    }
}

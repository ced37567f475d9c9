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
        loop {
            let batch: Vec<Path> = open.iter().map(|at| paths[*at].clone()).collect();
            let failures = match self.delete_once(&batch, &patience).await {
                Ok(failures) => failures,
                Err(failure) => vec![Some(failure); batch.len()],
            };
            for (at, failure) in open.iter().zip(failures) {
                answers[*at] = failure.filter(|failure| failure.kind != Kind::Missing);
            }
            // Each by what it was answered: what may not be deleted does not end the tries for the others.
            let denied = open.iter().filter_map(|at| answers[*at].as_ref()).find(|f| f.kind == Kind::Denied);
            let let_in = denied.is_some_and(|failure| self.line().may_be_let_in(failure, &mut tries));
            open.retain(|at| match answers[*at].as_ref().map(|failure| failure.kind) {
                Some(Kind::Busy | Kind::Broken | Kind::Exists) => true,
                Some(Kind::Denied) => let_in,
                _ => false,
            });
            let passing = open.iter().filter_map(|at| answers[*at].clone()).find(|f| f.kind != Kind::Denied);
            match passing {
                // Without a condition a conflict is one of the store's own, and passes. The gate knows nothing of a key
                // that was busy: the pause is ours.
                Some(failure) => {
                    let failure = Failure { kind: Kind::Broken, ..failure };
                    if self.line().again(failure, &patience, &mut tries).await.is_err() {
                        return answers;
                    }
                }
                None if open.is_empty() => return answers,
                None => {}
            }
        }
    }

    async fn delete_once(
        &self,
        batch: &[Path],
        patience: &Patience,
    ) -> Result<Vec<Option<Failure>>, Failure> {
        if self.is_folder() {
            return Ok(self.remove_files(batch, patience).await);
        }
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
        let (results, facts) = match self.line().once(0, patience, call).await {
            Ok(done) => done,
            // Not found is the place where many are deleted at once, and nothing is said of any key.
            Err(failure) if failure.kind == Kind::Missing && self.backend().delete_batch > 1 => {
                let advice = Some(WITHOUT_BULK);
                return Err(Failure { kind: Kind::Refused, advice, ..failure });
            }
            Err(failure) => return Err(failure),
        };
        if results.len() != batch.len() {
            return Err(Failure::new(Kind::Broken, "not every key was answered"));
        }
        let mut failures = Vec::with_capacity(batch.len());
        for (at, (path, result)) in batch.iter().zip(results).enumerate() {
            let Err(error) = result else {
                // An answer to many names what was deleted; one that names nothing may have done nothing. One to a
                // single delete has nothing to say: a page that some proxy leads to has.
                let sure = match &facts.deleted {
                    Some(deleted) => deleted.contains(path.as_ref()),
                    None => facts.status != Some(200),
                };
                failures.push(if sure { None } else { self.still_there(path, patience).await });
                continue;
            };
            let said = facts.not_deleted.iter().find(|other| other.key == path.as_ref());
            let status = facts.statuses.get(&at).filter(|status| **status >= 300);
            failures.push(Some(match (said, status) {
                (Some(other), _) => of_code(&other.code),
                (None, Some(status)) => Failure::of_part(*status),
                (None, None) => Failure::of_one(&error, &self.line().mask),
            }));
        }
        Ok(failures)
    }

    // Whether a key that is said to be deleted is gone.
    async fn still_there(&self, path: &Path, patience: &Patience) -> Option<Failure> {
        match self.head_of(path, patience).await {
            Ok(None) => None,
            Ok(Some(_)) => {
                let why = "the store answered as if it were deleted, and it is there";
                let advice = (self.backend().delete_batch > 1).then_some(WITHOUT_BULK);
                Some(Failure { advice, ..Failure::new(Kind::Refused, why) })
            }
            Err(failure) => Some(failure),
        }
    }
}

const WITHOUT_BULK: &str = "write disable_bulk_delete = true: each key takes a request then";

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

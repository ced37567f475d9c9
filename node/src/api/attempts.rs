//! Open attempts: who writes what, how far it is, and an end to one that nobody goes on with.

use checkpoint::JobName;
use client::{Code, Failure, pb};
use nativelog::compose;
use nativelog::ledger::{Ledger, Reason, Spoken, Verdict};
use nativelog::machine::Machine;

use super::call::{current, job_name};
use super::write::{no_answer, rejection};
use crate::epochs;
use crate::limits::{ATTEMPTS_MAX, REASON_BYTES_MAX};
use crate::node::Node;

/// Leading bytes of a commit id that are told: enough to know one's own by. With all of them anybody could write in its
/// place, for a writer's fence is derived from it.
const COMMIT_ID_SHOWN: usize = 4;

/// Lists open attempts, oldest first.
pub async fn list(node: &Node, request: pb::AttemptsRequest) -> Result<pb::AttemptsReply, Failure> {
    let wanted = if request.job.is_empty() { None } else { Some(job_name(&request.job)?) };
    current(node, request.stale, "list open attempts").await?;
    let listed = move |machine: &Machine| listed(&machine.ledger(), wanted.as_ref());
    let mut attempts = epochs::elsewhere(node.replica.machine(), listed).await;
    let cut = attempts.len() > ATTEMPTS_MAX;
    attempts.truncate(ATTEMPTS_MAX);
    Ok(pb::AttemptsReply { attempts, stale: request.stale, cut })
}

/// One more than an answer holds, if there are as many.
fn listed(ledger: &Ledger, job: Option<&JobName>) -> Vec<pb::OpenAttempt> {
    let wanted = ledger.spoken().filter(|spoken| job.is_none_or(|job| spoken.info.job == *job));
    wanted.take(ATTEMPTS_MAX + 1).map(|spoken| attempt_pb(ledger, spoken)).collect()
}

fn attempt_pb(ledger: &Ledger, Spoken { info, bytes }: Spoken) -> pb::OpenAttempt {
    pb::OpenAttempt {
        job: info.job.to_string(),
        epoch: info.epoch,
        attempt: info.id,
        commit_id: info.commit.as_bytes()[..COMMIT_ID_SHOWN].to_vec().into(),
        age_ms: info.age_ms,
        silent_ms: info.idle_ms,
        declared_bytes: info.declared_bytes,
        brought_bytes: info.covered_bytes,
        spoken_for_bytes: bytes,
        entries: u64::from(info.plan_entries),
        store: info.store.and_then(|id| ledger.store(id)).map(|store| store.name).unwrap_or_default(),
    }
}

/// Ends an open attempt by a record. The log has one order: where its writer seals first, the answer is that it did, and
/// where this comes first, that is what the writer is told.
pub async fn abort(node: &Node, request: pb::AbortRequest) -> Result<pb::AbortReply, Failure> {
    let job = job_name(&request.job)?;
    let what = format!("abort {job}@{}", request.epoch);
    if request.reason.len() > REASON_BYTES_MAX {
        return Err(Failure::new(Code::Usage, "too much for one call")
            .what(what)
            .why(format!("a reason has at most {REASON_BYTES_MAX} bytes"))
            .fix("give a shorter one"));
    }
    // Which one is open may change until it is ended: somebody has to have seen the one that is meant.
    let Some(attempt) = request.attempt else {
        return Err(Failure::new(Code::Usage, "which attempt? nothing was aborted")
            .what(what)
            .why("an attempt is ended by its id alone: another one may have begun at this epoch since")
            .fix("give the attempt's id, as `epochlog ls --open` lists it"));
    };
    current(node, false, &what).await?;
    is_of(&node.replica.machine().ledger(), attempt, &job, request.epoch)
        .map_err(|why| not_open(&what, why))?;
    let reason = if request.reason.is_empty() { "somebody aborted it".to_owned() } else { request.reason };
    match node.replica.propose(compose::abort(attempt, reason)).await {
        Ok((position, Verdict::Accepted(_))) => {
            let position = Some(pb::Position { term: position.term, index: position.index });
            Ok(pb::AbortReply { attempt, position })
        }
        Ok((_, Verdict::Rejected(sealed))) if sealed.reason == Reason::Conflict => Err(committed(&what)),
        Ok((_, Verdict::Rejected(no))) if no.reason == Reason::NotFound => Err(not_open(&what, no.detail)),
        Ok((_, Verdict::Rejected(no))) => Err(rejection(&what, &no)),
        Err(error) => Err(no_answer(node, &what, &error)),
    }
}

/// Whether an attempt is of this epoch, as far as the ledger knows it still: open, or sealed. For good: an id is given once.
fn is_of(ledger: &Ledger, attempt: u64, job: &JobName, epoch: u64) -> Result<(), String> {
    let open = ledger.attempt(attempt).map(|open| (open.job, open.epoch));
    let of = open.or_else(|| ledger.sealed_attempt(attempt).map(|sealed| (sealed.job, sealed.epoch)));
    match of {
        Some((of, at)) if of != *job || at != epoch => Err(format!("attempt {attempt} is of {of}@{at}")),
        _ => Ok(()),
    }
}

fn committed(what: &str) -> Failure {
    Failure::new(Code::Conflict, "the epoch is committed, nothing was aborted")
        .what(what)
        .why("its writer has sealed it: it is an epoch, and no attempt any more")
        .fix("leave it; or remove it with `epochlog rm`")
}

fn not_open(what: &str, why: String) -> Failure {
    Failure::new(Code::NotFound, "there is no such open attempt")
        .what(what)
        .why(why)
        .fix("`epochlog ls --open` lists those that are open; it may have ended already")
}

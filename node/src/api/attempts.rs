//! Open attempts: who writes what, how far it is, and an end to one that nobody goes on with.

use checkpoint::JobName;
use client::{Code, Failure, pb};
use nativelog::compose;
use nativelog::ledger::{Ledger, Reason, Spoken, Verdict};
use nativelog::machine::Machine;

use super::write::{no_answer, rejection};
use super::{current, job_name};
use crate::epochs;
use crate::node::Node;

/// A reason in a record is at most so long.
const REASON_BYTES_MAX: usize = 1024;
/// Attempts in one answer.
const ATTEMPTS_MAX: usize = 10_000;

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
    wanted.take(ATTEMPTS_MAX + 1).map(attempt_pb).collect()
}

fn attempt_pb(Spoken { info, bytes }: Spoken) -> pb::OpenAttempt {
    pb::OpenAttempt {
        job: info.job.to_string(),
        epoch: info.epoch,
        attempt: info.id,
        commit_id: info.commit.as_bytes().to_vec().into(),
        age_ms: info.age_ms,
        silent_ms: info.idle_ms,
        declared_bytes: info.declared_bytes,
        brought_bytes: info.covered_bytes,
        spoken_for_bytes: bytes,
        entries: u64::from(info.plan_entries),
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
    current(node, false, &what).await?;
    let attempt = match request.attempt {
        Some(attempt) => attempt,
        None => open_at(&node.replica.machine().ledger(), &job, request.epoch, &what)?,
    };
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

/// The attempt that is open at this epoch.
fn open_at(ledger: &Ledger, job: &JobName, epoch: u64, what: &str) -> Result<u64, Failure> {
    match ledger.attempt_by(job, epoch) {
        Some(open) => Ok(open.id),
        None if ledger.epoch(job, epoch).is_some() => Err(committed(what)),
        None => Err(not_open(what, "no attempt is open at this epoch".to_owned())),
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

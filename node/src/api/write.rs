//! Calls that propose one record.

use checkpoint::CommitId;
use checkpoint::limits::LABEL_BYTES_MAX;
use client::{Code, Failure, pb};
use nativelog::compose;
use nativelog::ledger::{Accepted, Reason, Rejected, Verdict};
use nativelog::record::{LogId, LogRecord};
use raft::ProposeError;

use super::call::{current, job_name};
use super::{published, read};
use crate::epochs;
use crate::limits::EXPIRE_MAX;
use crate::node::Node;

/// Opens a writer and answers its token.
pub async fn open_writer(
    node: &Node,
    request: pb::OpenWriterRequest,
) -> Result<pb::OpenWriterReply, Failure> {
    let job = job_name(&request.job)?;
    let id = CommitId::from_slice(&request.commit_id)
        .ok_or_else(|| Failure::new(Code::Usage, "a commit id has 16 bytes").what("open a writer"))?;
    let born = match request.born {
        Some(born) => born,
        // Never sent before: it is born now.
        None => read::reached(node, pb::ReachedRequest { current: true }).await?.applied,
    };
    match propose(node, compose::open_writer(&job, id, born), "open a writer").await?.1 {
        Accepted::Opened { token } => Ok(pb::OpenWriterReply { token }),
        other => Err(Failure::new(Code::Internal, "this is a bug in epochlog").why(format!("{other:?}"))),
    }
}

/// Ends epochs by hand.
pub async fn expire(node: &Node, request: pb::ExpireRequest) -> Result<pb::ExpireReply, Failure> {
    let job = job_name(&request.job)?;
    let what = format!("rm {job}");
    if request.epochs.len() > EXPIRE_MAX || request.reason.len() > LABEL_BYTES_MAX {
        return Err(Failure::new(Code::Usage, "too much for one call")
            .what(what)
            .why(format!("at most {EXPIRE_MAX} epochs, and a reason of {LABEL_BYTES_MAX} bytes"))
            .fix("name fewer epochs at a time"));
    }
    current(node, false, &what).await?;
    let of = job.clone();
    let newest = epochs::elsewhere(node.replica.machine(), move |machine| epochs::newest(machine, &of)).await;
    let published_on = match newest.map(|found| found.sealed) {
        Some(newest) => published::published_now(node, &job, newest.epoch, newest.root).await,
        None => Vec::new(),
    };
    let record = compose::expire(&job, request.epochs.clone(), true, request.reason, published_on);
    let (position, _) = propose(node, record, &what).await?;
    let position = pb::Position { term: position.term, index: position.index };
    Ok(pb::ExpireReply { position: Some(position), epochs: request.epochs })
}

/// Forgets a job that has nothing left.
pub async fn remove_job(node: &Node, request: pb::RemoveJobRequest) -> Result<pb::RemoveJobReply, Failure> {
    let job = job_name(&request.job)?;
    let what = format!("job rm {job}");
    if request.reason.len() > LABEL_BYTES_MAX {
        return Err(Failure::new(Code::Usage, "too much for one call")
            .what(what)
            .why(format!("a reason has at most {LABEL_BYTES_MAX} bytes"))
            .fix("give a shorter one"));
    }
    let position = match node.replica.propose(compose::remove_job(&job, request.reason)).await {
        Ok((position, Verdict::Accepted(_))) => position,
        Ok((_, Verdict::Rejected(no))) if no.reason == Reason::Protected => {
            return Err(Failure::new(Code::Refused, "the job is not empty, nothing was changed")
                .what(what)
                .why(no.detail)
                .fix("remove its epochs with `epochlog rm`; `epochlog ls --open` shows its open attempts, `epochlog abort JOB@EPOCH` ends one"));
        }
        Ok((_, Verdict::Rejected(no))) if no.reason == Reason::NotFound => {
            return Err(Failure::new(Code::NotFound, "there is no such job")
                .what(what)
                .why(no.detail)
                .fix("`epochlog ls` lists the epochs of all jobs; it may be removed already"));
        }
        Ok((_, Verdict::Rejected(no))) => return Err(rejection(&what, &no)),
        Err(error) => return Err(no_answer(node, &what, &error)),
    };
    Ok(pb::RemoveJobReply { position: Some(pb::Position { term: position.term, index: position.index }) })
}

async fn propose(node: &Node, record: LogRecord, what: &str) -> Result<(LogId, Accepted), Failure> {
    match node.replica.propose(record).await {
        Ok((position, Verdict::Accepted(accepted))) => Ok((position, accepted)),
        Ok((_, Verdict::Rejected(rejected))) => Err(rejection(what, &rejected)),
        Err(error) => Err(no_answer(node, what, &error)),
    }
}

pub(super) fn no_answer(node: &Node, what: &str, error: &ProposeError) -> Failure {
    let (code, sentence) = match error {
        ProposeError::Unavailable { .. } | ProposeError::Fault { .. } => node.no_way(),
        ProposeError::Unknown { .. } => (Code::Timeout, "no quorum has answered"),
    };
    Failure::new(code, sentence)
        .what(what)
        .why(error.to_string())
        .fix("see `epochlog status`, then repeat the command")
}

pub(super) fn rejection(what: &str, rejected: &Rejected) -> Failure {
    let (code, sentence, fix) = match rejected.reason {
        Reason::NotFound => (Code::NotFound, "there is no such epoch", "`epochlog ls` lists what there is"),
        Reason::Protected => (
            Code::Refused,
            "the epoch is protected, nothing was changed",
            "see what protects it with `epochlog show`",
        ),
        Reason::Fenced => (Code::Fenced, "a newer writer holds the job", "stop this writer"),
        Reason::Conflict | Reason::Busy => {
            (Code::Conflict, "this contradicts what is there", "see the reason above")
        }
        Reason::NoSpace => (Code::NoSpace, "no space", "see the reason above"),
        Reason::Quota => (Code::QuotaExceeded, "over a limit", "see the reason above"),
        Reason::TooOld => (
            Code::TooOld,
            "too old to know: whether it was done is not remembered",
            "look at what is there, then go on under a new id",
        ),
        _ => (Code::Refused, "refused, nothing was changed", "see the reason above"),
    };
    Failure::new(code, sentence).what(what).why(rejected.detail.clone()).fix(fix)
}

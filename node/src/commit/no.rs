//! Every way in which a commit says no, or does not know, in words for people.

use checkpoint::Digest;
use checkpoint::IoError;
use checkpoint::limits::EPOCH_MAX;
use client::{Certainty, Code, Commit, Failure, SPLIT_OR_RAISE};
use nativelog::ledger::{Reason, Rejected};
use nativelog::record::LogId;
use remote::{StoreError, Trouble};

use super::Order;

/// What to do about a job whose numbers are spent.
const ANOTHER_JOB: &str = "commit under another --job; once nothing of this one is needed any more, `epochlog job rm` lets its \
     numbers start anew";
const UNTOUCHED: &str = "Your directory is untouched.";
/// What to do about attempts of others that are in the way.
const END_ONE: &str = "`epochlog ls --open` shows the open attempts, `epochlog abort JOB@EPOCH` ends one that nobody goes on with";

/// The ledger rejected a record: certainly not committed by it, unless it is too old to know.
pub fn rejected(what: &str, rejected: &Rejected) -> Failure {
    let current = rejected.current;
    if rejected.reason == Reason::TooOld {
        return too_old(what, &rejected.detail);
    }
    let (code, sentence, why, fix) = match rejected.reason {
        Reason::Fenced => (
            Code::Fenced,
            "fenced by a newer writer, the epoch was NOT committed",
            format!("the job's current writer has token {current}"),
            "stop this writer; or take the job over with --take-over".to_owned(),
        ),
        Reason::Conflict => match rejected.root {
            Some(root) => (
                Code::Conflict,
                "this epoch is committed with other content, yours was NOT committed",
                format!("the committed root is {root}"),
                "commit under another epoch number".to_owned(),
            ),
            None => (
                Code::Conflict,
                "another commit is in the way, the epoch was NOT committed",
                rejected.detail.clone(),
                "repeat with the directory as it was then, or take the job over with --take-over".to_owned(),
            ),
        },
        Reason::TooLate => (
            Code::TooLate,
            "too late, the epoch was NOT committed",
            format!("{}: epoch {current}", rejected.detail),
            above(current),
        ),
        Reason::Subsumed => (
            Code::Subsumed,
            "a later epoch came first, this epoch was NOT committed",
            format!("epoch {current} of the job is committed"),
            above(current),
        ),
        Reason::Ended => (
            Code::Conflict,
            "the attempt was aborted, the epoch was NOT committed",
            rejected.detail.clone(),
            format!("repeat the command. {UNTOUCHED}"),
        ),
        // Other attempts are in the way, not a limit of its own.
        Reason::Quota if current != 0 => (
            Code::QuotaExceeded,
            "too many open attempts, the epoch was NOT committed",
            rejected.detail.clone(),
            format!("{END_ONE}; or repeat when one of them has been silent for 5 minutes. {UNTOUCHED}"),
        ),
        Reason::Quota => (
            Code::QuotaExceeded,
            "over a limit, the epoch was NOT committed",
            rejected.detail.clone(),
            SPLIT_OR_RAISE.to_owned(),
        ),
        Reason::NoSpace => {
            let end_one = if current == 0 { String::new() } else { format!("{END_ONE}; or ") };
            (
                Code::NoSpace,
                "no space, the epoch was NOT committed",
                rejected.detail.clone(),
                format!(
                    "{end_one}make room on the node named, or remove old epochs with `epochlog rm`. {UNTOUCHED}"
                ),
            )
        }
        Reason::NotFound => (
            Code::Unavailable,
            "content it refers to is gone, the epoch was NOT committed",
            rejected.detail.clone(),
            format!("repeat the command: it sends the content itself then. {UNTOUCHED}"),
        ),
        Reason::Overlap => (
            Code::Conflict,
            "this commit has begun with other content, the epoch was NOT committed",
            rejected.detail.clone(),
            "repeat with the directory as it was then, or take the job over with --take-over".to_owned(),
        ),
        Reason::Busy => (
            Code::Conflict,
            "another commit is writing this epoch, yours was NOT committed",
            format!("{} s", rejected.detail),
            "commit under another epoch number; a repeat takes its place once it has been silent for so long, \
             --take-over at once"
                .to_owned(),
        ),
        Reason::Malformed
        | Reason::Incomplete
        | Reason::WrongRoot
        | Reason::NotActive
        | Reason::Protected
        | Reason::TooOld
        | Reason::Identity => (
            Code::Refused,
            "refused, the epoch was NOT committed",
            rejected.detail.clone(),
            "correct what is named, then repeat the command".to_owned(),
        ),
    };
    let failure = Failure::new(code, sentence).what(what).why(why).fix(fix).committed(Certainty::No);
    // An older token, a number that is spent: whatever else of this commit comes to the log is too late.
    let of_the_log = match rejected.reason {
        Reason::Fenced | Reason::TooLate | Reason::Subsumed => true,
        Reason::Conflict => rejected.root.is_some(),
        _ => false,
    };
    Failure { of_the_log, ..failure }
}

/// What to do when the job has gone on to epoch `current`.
fn above(current: u64) -> String {
    if current < EPOCH_MAX { format!("commit an epoch above {current}") } else { ANOTHER_JOB.to_owned() }
}

/// The job has used the highest number that there is.
pub fn out_of_numbers(order: &Order) -> Failure {
    Failure::new(Code::QuotaExceeded, "the job is out of epoch numbers, the epoch was NOT committed")
        .what(order.name())
        .why(format!("an epoch of the job had number {EPOCH_MAX} (2^53) or more, and numbers only rise"))
        .fix(ANOTHER_JOB)
        .committed(Certainty::No)
}

/// The log has forgotten what became of commits as old as this one.
fn too_old(what: &str, why: &str) -> Failure {
    Failure::new(Code::TooOld, "too old to know, it is UNKNOWN whether this commit was committed")
        .what(what)
        .why(why)
        .fix("look at `epochlog ls` whether the epoch is there; if it is not, commit it without --commit-id")
        .committed(Certainty::Unknown)
}

/// Input that is refused before the log sees it.
pub fn refused(what: &str, why: impl Into<String>) -> Failure {
    Failure::new(Code::Refused, "refused, the epoch was NOT committed")
        .what(what)
        .why(why)
        .fix("correct what is named, then repeat the command")
        .committed(Certainty::No)
}

/// The attempt ended under our hands.
pub fn ended(what: &str) -> Failure {
    Failure::new(Code::Conflict, "the attempt ended, the epoch was NOT committed")
        .what(what)
        .why("somebody aborted, fenced or overtook it")
        .fix(format!("look at `epochlog ls`, then repeat the command. {UNTOUCHED}"))
        .committed(Certainty::No)
}

/// The leader takes no content for want of space, and nobody else can lead. The attempt stays open.
pub fn no_space(order: &Order, why: &str) -> Failure {
    Failure::new(Code::NoSpace, "no space, the epoch was NOT committed")
        .what(order.name())
        .why(why)
        .fix(format!(
            "make room on the node named, or remove old epochs with `epochlog rm`, then repeat. {UNTOUCHED}"
        ))
        .committed(Certainty::No)
}

/// This node cannot read the directory, and the log has not acknowledged in time that it gives up what it had begun.
pub fn closed(order: &Order, why: &str) -> Failure {
    Failure::new(Code::Unavailable, "the node cannot read the directory, the epoch was NOT committed")
        .what(order.name())
        .why(format!("{why}; and its attempt could not be given up in time"))
        .fix(format!("repeat the command. {UNTOUCHED}"))
        .committed(Certainty::No)
}

/// No quorum, or none in time, and no seal on its way.
pub fn no_quorum(order: &Order, (code, sentence): (Code, &str), why: &str) -> Failure {
    Failure::new(code, format!("{sentence}, the epoch was NOT committed"))
        .what(order.name())
        .why(why)
        .fix(format!(
            "see `epochlog status`, start what is down, then repeat: {}. {UNTOUCHED}",
            command(order)
        ))
        .committed(Certainty::No)
}

/// The object store has not taken what it was given. The attempt stays open: what is there counts when the commit is repeated.
pub fn store(order: &Order, error: &StoreError) -> Failure {
    let (code, sentence) = match error.trouble() {
        Trouble::Away | Trouble::Missing => (Code::Unavailable, "the object store does not answer"),
        Trouble::Denied => (Code::Refused, "the object store denies it"),
        Trouble::Refused | Trouble::Configuration => {
            (Code::Refused, "the object store does not do what is needed")
        }
        Trouble::Foreign => (Code::Refused, "the object store is not this cluster's"),
        Trouble::Damaged => (Code::Corrupt, "the object store does not keep what it is given"),
        Trouble::Changed => (Code::Corrupt, "what was to be uploaded has changed on the node's disk"),
        Trouble::Disk => (Code::Unavailable, "the node's disk is in the way"),
    };
    of_store(order, code, sentence).why(format!("{}: {}", error.what(), error.why())).fix(format!(
        "{}; then repeat: {}. {UNTOUCHED}",
        error.advice(),
        command(order)
    ))
}

/// Nothing came from the object store for as long as anything is waited for.
pub fn store_silent(order: &Order, name: &str) -> Failure {
    of_store(order, Code::Unavailable, "the object store is silent")
        .why(format!(
            "nothing came from the store {name} for {} s; `epochlog store check {name}` says more",
            order.patience.as_secs()
        ))
        .fix(format!("see to the store, then repeat: {}. {UNTOUCHED}", command(order)))
}

/// Behind the store's address lies not what the log knows.
pub fn other_store(order: &Order, why: &str) -> Failure {
    of_store(order, Code::Refused, "the object store is not the one that the log knows").why(why).fix(format!(
        "correct the address on this node, or give the new store another name; log mode goes on. {UNTOUCHED}"
    ))
}

/// A prefix that nobody has claimed, in a store in which two could.
pub fn not_the_leader(order: &Order, name: &str) -> Failure {
    of_store(order, Code::Unavailable, "the first commit into an object store goes through the leader")
        .why(format!("nobody has committed into {name} yet, and it is not known to refuse a second claim"))
        .fix(format!("see `epochlog status` for the leader, and repeat the command there. {UNTOUCHED}"))
}

/// Some member knows no stores yet.
pub fn too_old_for_stores(order: &Order, why: &str) -> Failure {
    of_store(order, Code::Refused, "not all nodes can keep epochs in object stores")
        .why(why)
        .fix(format!("install this version there, too; then repeat the command. {UNTOUCHED}"))
}

/// The leader has not raised the rules yet.
pub fn rules_not_in_force(order: &Order, rules: u32) -> Failure {
    of_store(order, Code::Unavailable, "epochs in object stores are not known to the log yet")
        .why(format!(
            "the log goes by rules {rules}: they are raised once every node has told the leader that it knows newer ones"
        ))
        .fix(format!("see `epochlog status` for nodes that do not answer; then repeat the command. {UNTOUCHED}"))
}

/// Another call of this commit writes the same files in this process.
pub fn at_work_here(order: &Order) -> Failure {
    of_store(order, Code::Unavailable, "an earlier call of this commit is still at work on this node")
        .why("its files are being written")
        .fix(format!("repeat the command. {UNTOUCHED}"))
}

/// What is to be uploaded cannot be put down on this node's disk.
pub fn unstaged(order: &Order, error: &IoError) -> Failure {
    let failure = Failure::from_io(error);
    // By *permission denied* a client would be sent to stream, which does not help here.
    let code = if failure.code == Code::NoSpace { Code::NoSpace } else { Code::Unavailable };
    let sentence = "the node's disk does not take it, the epoch was NOT committed";
    Failure { code, ..failure }.sentence(sentence).what(order.name()).committed(Certainty::No)
}

fn of_store(order: &Order, code: Code, sentence: &str) -> Failure {
    let failure = Failure::new(code, format!("{sentence}, the epoch was NOT committed"));
    Failure { epoch: order.epoch, ..failure.what(order.name()).committed(Certainty::No) }
}

/// This commit sealed its epoch, but what the directory holds now is not that.
pub fn changed_since(order: &Order, root: &Digest, position: LogId, why: &str) -> Failure {
    Failure {
        epoch: order.epoch,
        ..Failure::new(Code::Partial, "the epoch is COMMITTED, but the directory has changed since")
            .what(order.name())
            .why(format!(
                "commit {} sealed root {root} at position {}.{}; now: {why}",
                order.commit_id, position.term, position.index
            ))
            .fix(
                "nothing has to be done for that epoch; commit the directory as it is now under a new number",
            )
            .committed(Certainty::Yes)
    }
}

/// A commit came back to its attempt with other bytes than it began with.
pub fn changed_meanwhile(order: &Order) -> Failure {
    Failure::new(Code::SourceChanged, "the source changed, the epoch was NOT committed")
        .what(order.name())
        .why("the directory does not hold any more what this commit has sent of it before")
        .fix(format!("repeat the command when nobody writes to it: it begins anew. {UNTOUCHED}"))
        .committed(Certainty::No)
}

/// No answer to a seal in time.
pub fn unknown(order: &Order, why: &str) -> Failure {
    Failure {
        epoch: order.epoch,
        ..Failure::new(Code::Timeout, "no answer, it is UNKNOWN whether the epoch was committed")
            .what(order.name())
            .why(why)
            .fix(format!("repeat, it is idempotent: {}", command(order)))
            .committed(Certainty::Unknown)
    }
}

/// The command that repeats it, as far as this node knows it.
fn command(order: &Order) -> String {
    let commit = Commit {
        epoch: order.epoch,
        token: order.token,
        commit_id: order.commit_id,
        born: order.born,
        labels: order.labels.clone(),
        depends_on: order.depends_on.clone(),
        take_over: order.take_over,
        if_not_exists: order.if_not_exists,
        choice: order.choice.clone(),
        immutable: order.immutable,
        ..Commit::new(order.job.clone())
    };
    commit.command("DIR", &[])
}

//! `abort JOB@EPOCH`: ends an open attempt, so that its room is free.

use std::io::IsTerminal;
use std::time::Duration;

use client::{Client, Code, Failure, pb};
use serde_json::json;

use super::output::Output;
use super::rm;
use super::target::{Target, Which};
use crate::units;

/// Arguments of `abort`.
#[derive(Debug, clap::Args)]
pub struct AbortArgs {
    /// JOB@EPOCH, as `ls --open` lists it
    target: Target,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs the command.
pub async fn run(args: &AbortArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let what = format!("abort {}", args.target);
    let Some(Which::Exactly(epoch)) = args.target.which else {
        return Err(Failure::new(Code::Usage, "which attempt? nothing was aborted")
            .what(what)
            .why("an attempt is named by its job and the number of its epoch")
            .fix(format!("write {}@EPOCH, as `epochlog ls --open` lists it", args.target.job)));
    };
    let job = args.target.job.to_string();
    let listed = client.attempts(pb::AttemptsRequest { job: job.clone(), stale: false }).await;
    let listed = listed.map_err(|failure| nothing_aborted(&what, failure))?;
    let Some(open) = listed.attempts.into_iter().find(|open| open.epoch == epoch) else {
        return Err(none_open(&what, &args.target, client).await);
    };
    if !args.yes {
        ask(&what, &open)?;
    }
    // By its id: one that was begun at this epoch since is none of this command's business.
    let attempt = Some(open.attempt);
    let request = pb::AbortRequest { job: job.clone(), epoch, attempt, reason: args.reason.clone() };
    let reply = client.abort(request).await?;
    let spoken_for = open.spoken_for_bytes;
    if output.is_json() {
        output.outcome(json!({
            "type": "summary", "job": job, "epoch": epoch, "attempt": reply.attempt, "aborted": true,
            "spoken_for_bytes": spoken_for,
        }));
    } else {
        let was = match spoken_for {
            0 => String::new(),
            bytes => format!("  {} that were kept for it are free", units::size(bytes)),
        };
        output.line(format!("aborted {job}@{epoch}, attempt {}{was}", reply.attempt));
    }
    Ok(())
}

/// The failure to look an attempt up, of somebody who wants it ended.
fn nothing_aborted(what: &str, failure: Failure) -> Failure {
    // No record was proposed.
    let code = if failure.code == Code::Timeout { Code::Unavailable } else { failure.code };
    let sentence = format!("{}, nothing was aborted", failure.sentence);
    Failure { code, sentence, what: what.to_owned(), ..failure }
}

/// Nothing is proposed where nobody has seen what would be ended: it is said whether there is an epoch instead.
async fn none_open(what: &str, target: &Target, client: &Client) -> Failure {
    let request =
        pb::ShowRequest { job: target.job.to_string(), which: Some(target.to_pb()), ..Default::default() };
    match client.show(request).await {
        Ok(_) => Failure::new(Code::Conflict, "the epoch is committed, nothing was aborted")
            .what(what)
            .why("its writer has sealed it: it is an epoch, and no attempt any more")
            .fix("leave it; or remove it with `epochlog rm`"),
        Err(failure) if failure.code == Code::NotFound => {
            Failure::new(Code::NotFound, "there is no such open attempt")
                .what(what)
                .why("no attempt is open at this epoch")
                .fix("`epochlog ls --open` lists those that are open; it may have ended already")
        }
        Err(failure) => nothing_aborted(what, failure),
    }
}

fn ask(what: &str, open: &pb::OpenAttempt) -> Result<(), Failure> {
    let refuse = |why: &str| {
        Failure::new(Code::Usage, "nothing was aborted")
            .what(what)
            .why(why)
            .fix("give --yes to abort without being asked")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refuse("there is no terminal to ask on"));
    }
    let question = format!(
        "abort {}@{} ({} of {} brought, last heard of {} ago)? Its commit fails, if it still runs",
        open.job,
        open.epoch,
        units::size(open.brought_bytes),
        units::size(open.declared_bytes),
        units::age(Duration::from_millis(open.silent_ms))
    );
    match rm::said_yes(&question) {
        true => Ok(()),
        false => Err(rm::declined("nothing was aborted", what)),
    }
}

//! `rm JOB@EPOCH`: ends an epoch by hand.

use std::io::{BufRead, IsTerminal, Write};

use client::{Client, Code, Failure, pb};
use serde_json::json;

use super::output::Output;
use super::target::Target;
use crate::units;

/// Arguments of `rm`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// JOB@EPOCH; the epoch must be named
    target: Target,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs the command.
pub async fn run(args: &RmArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if args.target.which.is_none() {
        return Err(Failure::new(Code::Usage, "which epoch? nothing was removed")
            .what(format!("rm {}", args.target))
            .why("a whole job is never removed at once")
            .fix(format!(
                "write {0}@EPOCH; once it has none, `epochlog job rm {0}` forgets the job",
                args.target.job
            )));
    }
    let request = pb::ShowRequest {
        job: args.target.job.to_string(),
        which: Some(args.target.to_pb()),
        entries: false,
        stale: false,
    };
    let shown = client.show(request).await.map_err(|failure| nothing_removed(&args.target, failure));
    let epoch = shown?.epoch.unwrap_or_default();
    let name = format!("{}@{}", epoch.job, epoch.epoch);
    if !args.dry_run && !args.yes {
        ask(&name, &epoch)?;
    }
    if !args.dry_run {
        let request = pb::ExpireRequest {
            job: epoch.job.clone(),
            epochs: vec![epoch.epoch],
            reason: args.reason.clone(),
        };
        client.expire(request).await?;
    }
    if output.is_json() {
        output.outcome(json!({
            "type": "summary", "job": epoch.job, "epoch": epoch.epoch, "bytes": epoch.bytes,
            "removed": !args.dry_run,
        }));
    } else {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        output.line(format!("{verb} {name}  {}, {} files", units::size(epoch.bytes), epoch.files));
    }
    Ok(())
}

/// The failure to look an epoch up, of somebody who wants it removed.
fn nothing_removed(target: &Target, failure: Failure) -> Failure {
    // No record was proposed: whatever became of the question, the epoch is as it was.
    let code = if failure.code == Code::Timeout { Code::Unavailable } else { failure.code };
    let sentence = match code {
        Code::NoQuorum => "no quorum, nothing was removed".to_owned(),
        _ => format!("{}, nothing was removed", failure.sentence),
    };
    Failure { code, sentence, what: format!("rm {target}"), ..failure }
}

fn ask(name: &str, epoch: &pb::Epoch) -> Result<(), Failure> {
    let refuse = |why: &str| {
        Failure::new(Code::Usage, "nothing was removed")
            .what(format!("rm {name}"))
            .why(why)
            .fix("give --yes to remove without being asked")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refuse("there is no terminal to ask on"));
    }
    let which = if epoch.newest { ", the NEWEST epoch of its job" } else { "" };
    match said_yes(&format!("remove {name} ({}{which}) from all nodes?", units::size(epoch.bytes))) {
        true => Ok(()),
        false => Err(declined("nothing was removed", format!("rm {name}"))),
    }
}

/// What somebody is told who has said no: that it was heard, and no advice.
pub fn declined(sentence: &str, what: impl Into<String>) -> Failure {
    Failure::new(Code::Refused, sentence).what(what).why("the answer was no")
}

/// Asks on the terminal; anything but a yes is a no.
pub fn said_yes(question: &str) -> bool {
    let mut stderr = std::io::stderr().lock();
    // Who cannot be asked does not say yes.
    if write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).is_err() {
        return false;
    }
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

//! `job rm JOB`: forgets a job that has nothing left.

use std::io::IsTerminal;

use checkpoint::JobName;
use client::{Client, Code, Failure, pb};
use serde_json::json;

use super::output::Output;
use super::rm;

/// Arguments of `job`.
#[derive(Debug, clap::Args)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, clap::Subcommand)]
enum JobCommand {
    /// Forget a job that has no epochs and no open attempts: its numbers start anew
    Rm(JobRmArgs),
}

#[derive(Debug, clap::Args)]
struct JobRmArgs {
    /// The job
    job: JobName,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs the command.
pub async fn run(args: &JobArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let JobCommand::Rm(args) = &args.command;
    if !args.yes {
        confirm(&args.job)?;
    }
    let request = pb::RemoveJobRequest { job: args.job.to_string(), reason: args.reason.clone() };
    client.remove_job(request).await?;
    if output.is_json() {
        output.outcome(json!({ "type": "summary", "job": args.job.to_string(), "removed": true }));
    } else {
        output.line(format!("removed job {}: its epochs start anew", args.job));
    }
    Ok(())
}

fn confirm(job: &JobName) -> Result<(), Failure> {
    let refuse = |why: &str| {
        Failure::new(Code::Usage, "nothing was removed")
            .what(format!("job rm {job}"))
            .why(why)
            .fix("give --yes to remove without being asked")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refuse("there is no terminal to ask on"));
    }
    match rm::said_yes(&format!("forget job {job}, so that its numbers start anew?")) {
        true => Ok(()),
        false => Err(rm::declined("nothing was removed", format!("job rm {job}"))),
    }
}

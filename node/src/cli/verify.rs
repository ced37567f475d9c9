//! `verify [JOB[@EPOCH]]`: re-reads published directories and compares them with their manifests.

use client::{Client, Code, Failure, pb};
use serde_json::json;

use super::output::{Format, Output};
use super::target::Target;
use crate::units;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// JOB or JOB@EPOCH [default: everything]
    target: Option<Target>,
    /// On every node, not only the one that answers
    #[arg(long)]
    all_nodes: bool,
}

/// Runs the command.
pub async fn run(args: &VerifyArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let request = pb::VerifyRequest {
        job: args.target.as_ref().map(|target| target.job.to_string()).unwrap_or_default(),
        which: args.target.as_ref().filter(|target| target.which.is_some()).map(Target::to_pb),
        all_nodes: args.all_nodes,
    };
    let (mut epochs, mut bad) = (0u64, Vec::new());
    client
        .verify(request, &mut |reply| {
            epochs += 1;
            if !reply.ok {
                bad.push(format!("node {} {}@{}", reply.node, reply.job, reply.epoch));
            }
            print(&reply, output);
        })
        .await?;
    if output.format == Format::Jsonl && bad.is_empty() {
        output.json(&json!({ "type": "summary", "checked": epochs, "ok": true }));
    }
    if bad.is_empty() {
        output.note(format!("{epochs} published directories checked, all as sealed"));
        return Ok(());
    }
    Err(Failure::new(Code::Corrupt, "not everything is as it was sealed")
        .what(format!("verify: {} of {epochs} published directories are wrong", bad.len()))
        .why(bad.join("; "))
        .fix(
            "the log and the other nodes still hold the sealed content: look at the disk of the nodes named",
        ))
}

fn print(reply: &pb::VerifyReply, output: &Output) {
    let failed = reply.failed.as_ref().map(|failed| Failure::from_pb(failed.clone()).to_string());
    let problems: Vec<String> = reply.problems.iter().cloned().chain(failed).collect();
    if output.is_json() {
        output.json(&json!({
            "type": "verified",
            "node": reply.node,
            "job": reply.job,
            "epoch": reply.epoch,
            "ok": reply.ok,
            "root": units::hex(&reply.root),
            "files": reply.files,
            "bytes": reply.bytes,
            "problems": problems,
        }));
        return;
    }
    let root = units::hex(&reply.root);
    output.line(format!(
        "{}  node {}  {}@{}  {}, {} files  root {}",
        if reply.ok { "ok   " } else { "WRONG" },
        reply.node,
        reply.job,
        reply.epoch,
        units::size(reply.bytes),
        reply.files,
        &root[..root.len().min(8)]
    ));
    problems.iter().for_each(|problem| output.line(format!("       {problem}")));
}

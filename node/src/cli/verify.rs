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
    /// Fetch from other nodes what is not as sealed, and swap it in
    #[arg(long)]
    repair: bool,
}

/// Runs the command.
pub async fn run(args: &VerifyArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let request = pb::VerifyRequest {
        job: args.target.as_ref().map(|target| target.job.to_string()).unwrap_or_default(),
        which: args.target.as_ref().filter(|target| target.which.is_some()).map(Target::to_pb),
        all_nodes: args.all_nodes,
        repair: args.repair,
    };
    let (mut epochs, mut mended, mut bad) = (0u64, 0u64, Vec::new());
    client
        .verify(request, &mut |reply| {
            epochs += 1;
            mended += u64::from(!reply.mended.is_empty());
            if !reply.ok {
                bad.push(format!("node {} {}@{}", reply.node, reply.job, reply.epoch));
            }
            print(&reply, output);
        })
        .await?;
    if bad.is_empty() {
        if output.format == Format::Jsonl {
            output.json(&json!({ "type": "summary", "checked": epochs, "mended": mended, "ok": true }));
        }
        let note = if mended > 0 { format!(", {mended} of them mended now") } else { String::new() };
        output.note(format!("{epochs} published directories checked, all as sealed{note}"));
        return Ok(());
    }
    let fix = match args.repair {
        true => "start the nodes that have good copies, then repeat; look at the disk of the nodes named",
        false => {
            "the other nodes still hold the sealed content: repeat with --repair to fetch it, and look at the disk \
             of the nodes named"
        }
    };
    Err(Failure::new(Code::Corrupt, "not everything is as it was sealed")
        .what(format!("verify: {} of {epochs} published directories are wrong", bad.len()))
        .why(bad.join("; "))
        .fix(fix))
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
            "mended": reply.mended,
        }));
        return;
    }
    let root = units::hex(&reply.root);
    let verdict = match (reply.ok, reply.mended.is_empty()) {
        (false, _) => "WRONG ",
        (true, true) => "ok    ",
        (true, false) => "mended",
    };
    output.line(format!(
        "{verdict}  node {}  {}@{}  {}, {} files  root {}",
        reply.node,
        reply.job,
        reply.epoch,
        units::size(reply.bytes),
        reply.files,
        &root[..root.len().min(8)]
    ));
    problems.iter().for_each(|problem| output.line(format!("        {problem}")));
    reply.mended.iter().for_each(|problem| output.line(format!("        was: {problem}")));
}

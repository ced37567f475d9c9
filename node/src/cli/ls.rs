//! `ls [JOB]`: sealed epochs, newest first; with `--open` the attempts that have not become one.

use std::time::Duration;

use checkpoint::JobName;
use client::{Client, Code, Failure, pb};
use serde_json::json;

use super::global::Format;
use super::output::Output;
use super::{open, screen};
use crate::units;

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// The job [default: all jobs]
    job: Option<JobName>,
    /// At most so many epochs a job; 0 shows all
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Only epochs younger than this
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    since: Option<Duration>,
    /// Only epochs with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Open attempts instead: what is being written, or was begun and never ended
    #[arg(long, conflicts_with_all = ["limit", "since", "label"])]
    open: bool,
    /// Answer from the node's own knowledge, without the leader
    #[arg(long)]
    stale: bool,
}

/// Runs the command.
pub async fn run(args: &LsArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if args.open {
        let job = args.job.as_ref().map(ToString::to_string).unwrap_or_default();
        return open::run(job, args.stale, client, output).await;
    }
    let filtered = args.since.is_some() || !args.label.is_empty();
    let younger_ms =
        args.since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1));
    let request = pb::ListRequest {
        job: args.job.as_ref().map(ToString::to_string).unwrap_or_default(),
        limit: args.limit,
        stale: args.stale,
        published_on: true,
        younger_ms,
        labels: args.label.clone(),
    };
    let reply = client.list(request).await?;
    if reply.cut {
        output.note(
            "there are more epochs than one answer holds: name a job, or use --limit, --since or --label",
        );
    }
    // So that a script notices: of a job that it names it expects something.
    if reply.epochs.is_empty()
        && let Some(job) = &args.job
    {
        let (sentence, why, fix) = match filtered {
            true => (
                format!("no epoch of job {job} is as asked for"),
                "it has none that is as young, or has these labels",
                format!("`epochlog ls {job}` lists all that it has"),
            ),
            false => (
                format!("job {job} has no committed epoch"),
                "no epoch of it has been sealed, or all have been removed",
                "`epochlog ls` lists all jobs".to_owned(),
            ),
        };
        return Err(Failure::new(Code::NotFound, sentence).what(format!("ls {job}")).why(why).fix(fix));
    }
    if output.is_json() {
        for epoch in &reply.epochs {
            output.json(&epoch_json(epoch, &reply.silent));
        }
        if output.format == Format::Jsonl {
            output.outcome(json!({ "type": "summary", "epochs": reply.epochs.len() }));
        }
        return Ok(());
    }
    if reply.epochs.is_empty() {
        output.note(match filtered {
            true => "no epoch is as asked for",
            false => "there are no epochs yet: `epochlog commit DIR --job NAME` makes one",
        });
        return Ok(());
    }
    let mut rows = vec![header(args.job.is_none())];
    rows.extend(reply.epochs.iter().map(|epoch| row(epoch, &reply, args.job.is_none())));
    output.line(screen::table(&rows));
    Ok(())
}

fn header(with_job: bool) -> Vec<String> {
    let columns = ["EPOCH", "AGE", "SIZE", "NEW", "FILES", "STORED", "COPIES", "FLAGS", "ROOT"];
    with_job.then_some("JOB").into_iter().chain(columns).map(str::to_owned).collect()
}

/// So many of the nodes; with a `?` while some do not answer. Of an epoch that lies in a store that is how far it is hydrated.
fn copies(epoch: &pb::Epoch, reply: &pb::ListReply) -> String {
    let published = epoch.published_on.len();
    let hydrated = stored(epoch) != LOG && published < reply.voters as usize;
    format!(
        "{published}/{}{}{}",
        reply.voters,
        if reply.silent.is_empty() { "" } else { "?" },
        if hydrated { " hydrated" } else { "" }
    )
}

/// What every epoch was before there were others.
const LOG: &str = "log";

/// Where the content of an epoch lies. A node of a version that does not say knows one place only.
pub fn stored(epoch: &pb::Epoch) -> &str {
    if epoch.mode.is_empty() { LOG } else { &epoch.mode }
}

fn row(epoch: &pb::Epoch, reply: &pb::ListReply, with_job: bool) -> Vec<String> {
    let root = units::hex(&epoch.root);
    let flags = epoch.flags.join(",");
    let cells = [
        epoch.epoch.to_string(),
        units::age(Duration::from_millis(epoch.age_ms)),
        units::size(epoch.bytes),
        units::size(epoch.new_bytes),
        epoch.files.to_string(),
        stored(epoch).to_owned(),
        copies(epoch, reply),
        if flags.is_empty() { "-".to_owned() } else { flags },
        root[..root.len().min(8)].to_owned(),
    ];
    with_job.then(|| epoch.job.clone()).into_iter().chain(cells).collect()
}

/// Content in quarantine as an object.
pub fn quarantined_json(content: &pb::Quarantined) -> serde_json::Value {
    let found: Vec<_> =
        content.found.iter().map(|found| json!({ "node": found.node, "what": found.what })).collect();
    json!({
        "digest": units::hex(&content.digest),
        "bytes": content.bytes,
        "found": found,
        "epochs": content.epochs,
    })
}

/// One epoch as an object. What the `silent` nodes hold is not known.
pub fn epoch_json(epoch: &pb::Epoch, silent: &[u64]) -> serde_json::Value {
    let position = epoch.position.unwrap_or_default();
    let labels: serde_json::Map<String, serde_json::Value> =
        epoch.labels.iter().map(|label| (label.key.clone(), label.value.clone().into())).collect();
    json!({
        "type": "epoch",
        "job": epoch.job,
        "epoch": epoch.epoch,
        "root": units::hex(&epoch.root),
        "position": { "term": position.term, "index": position.index },
        "attempt": epoch.attempt,
        "files": epoch.files,
        "bytes": epoch.bytes,
        "new_bytes": epoch.new_bytes,
        "new_files": epoch.new_files,
        "log_bytes": epoch.log_bytes,
        "age_ms": epoch.age_ms,
        "committed_ms": (epoch.sealed_wall_ms > 0).then_some(epoch.sealed_wall_ms),
        "stored": stored(epoch),
        "store": (!epoch.store.is_empty()).then_some(&epoch.store),
        "labels": labels,
        "depends_on": epoch.depends_on,
        "flags": epoch.flags,
        "published_on": epoch.published_on,
        "silent": silent,
        "quarantined": epoch.quarantined.iter().map(quarantined_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_in_a_store_says_how_far_it_is_hydrated() {
        let reply = pb::ListReply { voters: 3, ..Default::default() };
        let epoch = |mode: &str, published_on: &[u64]| pb::Epoch {
            mode: mode.into(),
            published_on: published_on.to_vec(),
            ..Default::default()
        };
        assert_eq!(copies(&epoch("hybrid", &[2]), &reply), "1/3 hydrated");
        assert_eq!(copies(&epoch("mixed", &[1, 2, 3]), &reply), "3/3");
        assert_eq!(copies(&epoch("log", &[2]), &reply), "1/3");
        let silent = pb::ListReply { silent: vec![3], ..reply };
        assert_eq!(copies(&epoch("hybrid", &[2]), &silent), "1/3? hydrated");
        assert_eq!(stored(&epoch("", &[])), "log");
    }
}

//! `status`: the nodes, who leads, who lags, how much space there is.

use std::io::IsTerminal;
use std::time::Duration;

use client::{Client, Code, Failure, pb};
use serde_json::{Value, json};

use super::ls::quarantined_json;
use super::output::{self, Format, Output};
use crate::units;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Cursor to the upper left corner, and everything below it cleared.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Again every two seconds, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// Runs the command.
pub async fn run(args: &StatusArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if args.watch {
        return watch(client, output).await;
    }
    let reply = client.status(true).await?;
    match output.is_json() {
        true => output.json(&status_json(&reply)),
        false => output.line(text(&reply, output.verbose > 0)),
    }
    match reply.leader {
        Some(_) => Ok(()),
        None => Err(Failure::new(Code::NoQuorum, "the cluster has no leader")
            .what("status")
            .why("no node that answers leads or follows a leader")
            .fix("start the nodes that are unreachable")),
    }
}

/// Looks again and again; ends by Ctrl-C alone. A cluster that does not answer is a thing to look at, too.
async fn watch(client: &Client, output: &Output) -> Result<(), Failure> {
    let redraw = output.format == Format::Table && std::io::stdout().is_terminal();
    loop {
        let looked = client.status(true).await;
        if output.is_json() {
            output.json(
                &looked.map_or_else(|failure| output::failure_json(&failure), |reply| status_json(&reply)),
            );
        } else {
            let block = looked
                .map_or_else(|failure| output::block(&failure), |reply| text(&reply, output.verbose > 0));
            let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
            let head = if redraw { REDRAW } else { "" };
            output.line(format!("{head}{now}  {}\n", block.trim_end()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The status for people; `verbose` adds what is seldom looked for.
fn text(reply: &pb::StatusReply, verbose: bool) -> String {
    let leader = reply.leader.map_or_else(|| "none".to_owned(), |leader| format!("node {leader}"));
    let mut text = format!("cluster {}  leader {leader}  term {}\n", reply.cluster_name, reply.term);
    let columns = [
        "NODE",
        "ROLE",
        "GRPC",
        "LAG",
        "FLUSHED",
        "APPLIED",
        "PUBLISHED",
        "SNAPSHOT",
        "WAL",
        "DISK FREE",
        "MISSING",
        "CATCH-UP",
        "LEDGER",
    ];
    let more = ["HTTP", "PID"];
    let columns = columns.iter().chain(more.iter().filter(|_| verbose));
    let mut rows = vec![columns.map(|name| (*name).to_owned()).collect()];
    rows.extend(reply.nodes.iter().map(|node| row(node, verbose)));
    text.push_str(&output::table(&rows));
    for node in &reply.nodes {
        for note in
            [&node.why, &node.stalled, &node.short_of_space].into_iter().filter(|note| !note.is_empty())
        {
            text.push_str(&format!("\nnode {}: {note}", node.id));
        }
    }
    for content in &reply.quarantined {
        let found: Vec<String> =
            content.found.iter().map(|found| format!("node {}: {}", found.node, found.what)).collect();
        let digest: String = units::hex(&content.digest).chars().take(8).collect();
        text.push_str(&format!(
            "\nquarantined: content {digest} ({}) of {}: {}",
            units::size(content.bytes),
            content.epochs.join(", "),
            found.join("; ")
        ));
    }
    text
}

fn row(node: &pb::NodeStatus, verbose: bool) -> Vec<String> {
    let reached = node.role != "unreachable";
    let if_reached = |text: String| if reached { text } else { "-".to_owned() };
    let mut row = vec![
        node.id.to_string(),
        node.role.clone(),
        node.grpc.clone(),
        if_reached(node.lag.to_string()),
        if_reached(node.flushed.to_string()),
        if_reached(node.applied.to_string()),
        if_reached(node.published.to_string()),
        if_reached(node.snapshot.to_string()),
        if_reached(units::size(node.wal_bytes)),
        if_reached(disk_free(node).map_or_else(|| "?".to_owned(), units::size)),
        if_reached(missing(node)),
        if_reached(catch_up(node)),
        if_reached(node.ledger_digest.chars().take(8).collect()),
    ];
    if verbose {
        row.extend([if_reached(node.http.clone()), if_reached(node.pid.to_string())]);
    }
    row
}

/// `None` when the node could not tell.
fn disk_free(node: &pb::NodeStatus) -> Option<u64> {
    (node.disk_total > 0).then_some(node.disk_free)
}

/// How many are missing is not known before they were looked for.
fn missing(node: &pb::NodeStatus) -> String {
    if node.not_looked > 0 { "?".to_owned() } else { node.unpublished.to_string() }
}

fn catch_up(node: &pb::NodeStatus) -> String {
    if node.lacking_bytes == 0 {
        return "-".into();
    }
    let total = node.fetched_bytes.saturating_add(node.lacking_bytes);
    let percent = u128::from(node.fetched_bytes) * 100 / u128::from(total.max(1));
    format!("{percent}% of {}", units::size(total))
}

/// The status as an object.
pub fn status_json(reply: &pb::StatusReply) -> Value {
    json!({
        "cluster": reply.cluster_name,
        "leader": reply.leader,
        "term": reply.term,
        "nodes": reply.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "quarantined": reply.quarantined.iter().map(quarantined_json).collect::<Vec<_>>(),
    })
}

fn node_json(node: &pb::NodeStatus) -> Value {
    json!({
        "id": node.id,
        "role": node.role,
        "grpc": node.grpc,
        "http": node.http,
        "pid": node.pid,
        "lag": node.lag,
        "flushed": node.flushed,
        "applied": node.applied,
        "published": node.published,
        "snapshot": node.snapshot,
        "purged": node.purged,
        "wal_bytes": node.wal_bytes,
        "disk_free": disk_free(node),
        "disk_total": (node.disk_total > 0).then_some(node.disk_total),
        "disk_reserve": (node.disk_total > 0).then_some(node.disk_reserve),
        "garbage_bytes": node.garbage_bytes,
        "unpublished": node.unpublished,
        "not_looked": node.not_looked,
        "fetched_bytes": node.fetched_bytes,
        "lacking_bytes": node.lacking_bytes,
        "stalled": node.stalled,
        "short_of_space": node.short_of_space,
        "ledger_digest": node.ledger_digest,
        "voter": node.voter,
        "version": node.version,
        "why": node.why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> pb::StatusReply {
        let node = pb::NodeStatus {
            id: 1,
            role: "leader".into(),
            grpc: "a:1".into(),
            http: "a:2".into(),
            pid: 7,
            applied: 90,
            flushed: 91,
            published: 89,
            snapshot: 50,
            wal_bytes: 3 << 20,
            disk_free: 1 << 30,
            disk_total: 1 << 40,
            ledger_digest: "9f31c2d0aa".into(),
            ..pb::NodeStatus::default()
        };
        let lost = pb::NodeStatus {
            id: 3,
            role: "unreachable".into(),
            grpc: "c:1".into(),
            why: "connection refused".into(),
            ..pb::NodeStatus::default()
        };
        let blind = pb::NodeStatus {
            id: 2,
            role: "follower".into(),
            disk_free: 0,
            disk_total: 0,
            unpublished: 2,
            fetched_bytes: 1 << 20,
            lacking_bytes: 3 << 20,
            ..node.clone()
        };
        let found = pb::Finding { node: 1, what: "the blob does not verify".into() };
        let rotten = pb::Quarantined {
            digest: vec![0xab; 32].into(),
            bytes: 3 << 20,
            found: vec![found.clone(), pb::Finding { node: 2, ..found }],
            epochs: vec!["train@7".into()],
        };
        pb::StatusReply {
            quarantined: vec![rotten],
            cluster_name: "prod".into(),
            leader: Some(1),
            term: 4,
            nodes: vec![node, blind, lost],
            ..pb::StatusReply::default()
        }
    }

    #[test]
    fn what_is_not_known_is_not_called_zero() {
        insta::assert_snapshot!(text(&reply(), false), @r"
        cluster prod  leader node 1  term 4
        NODE  ROLE         GRPC  LAG  FLUSHED  APPLIED  PUBLISHED  SNAPSHOT  WAL      DISK FREE  MISSING  CATCH-UP        LEDGER
        1     leader       a:1   0    91       90       89         50        3.0 MiB  1.0 GiB    0        -               9f31c2d0
        2     follower     a:1   0    91       90       89         50        3.0 MiB  ?          2        25% of 4.0 MiB  9f31c2d0
        3     unreachable  c:1   -    -        -        -          -         -        -          -        -               -
        node 3: connection refused
        quarantined: content abababab (3.0 MiB) of train@7: node 1: the blob does not verify; node 2: the blob does not verify
        ");
        assert!(text(&reply(), true).contains("a:2   7"));
        let json = status_json(&reply());
        assert_eq!(json["nodes"][0]["disk_free"], 1 << 30);
        assert!(json["nodes"][1]["disk_free"].is_null());
        assert_eq!(json["quarantined"][0]["found"][1]["node"], 2);
    }
}

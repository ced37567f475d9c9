//! `status`: what is wrong; then the nodes, who leads, who lags, how much space there is.

mod wrong;

use std::io::IsTerminal;
use std::time::Duration;

use client::{Client, Code, Failure, pb};
use serde_json::{Value, json};

use super::global::Format;
use super::ls::quarantined_json;
use super::output::{self, Output};
use super::screen;
use crate::units;
use wrong::judge;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Again every two seconds, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

impl StatusArgs {
    /// Whether Ctrl-C is how it is meant to end.
    pub fn ends_by_ctrl_c(&self) -> bool {
        self.watch
    }
}

/// Runs the command.
pub async fn run(args: &StatusArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if args.watch {
        return tokio::select! {
            ended = watch(client, output) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let reply = client.status(true).await?;
    match output.is_json() {
        true => output.outcome(status_json(&reply)),
        false => output.line(text(&reply, output.verbose > 0)),
    }
    match judge(&reply).no_quorum {
        None => Ok(()),
        Some((why, fix)) => Err(Failure::new(Code::NoQuorum, "no quorum").what("status").why(why).fix(fix)),
    }
}

/// Looks again and again; ends by Ctrl-C, or when nobody reads on. A cluster that does not answer is a thing to look
/// at, too.
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
            let round = format!("{now}  {}\n", block.trim_end());
            match redraw {
                true => output.redraw(&round),
                false => output.line(round),
            }
        }
        if output.is_broken() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The status for people; `verbose` adds what is seldom looked for.
fn text(reply: &pb::StatusReply, verbose: bool) -> String {
    let leader = reply.leader.map_or_else(|| "none".to_owned(), |leader| format!("node {leader}"));
    let verdict = judge(reply);
    let mut text: String =
        verdict.wrong.iter().map(|wrong| format!("WRONG  {}\n", screen::cell(wrong))).collect();
    text.push_str(&format!(
        "cluster {}  leader {leader}  term {}  {} of {} voters answer\n",
        screen::cell(&reply.cluster_name),
        reply.term,
        verdict.reachable,
        verdict.voters
    ));
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
    let more = ["HTTP", "PID", "VERSION"];
    let columns = columns.iter().chain(more.iter().filter(|_| verbose));
    let mut rows = vec![columns.map(|name| (*name).to_owned()).collect()];
    rows.extend(reply.nodes.iter().map(|node| row(node, verbose)));
    text.push_str(&screen::table(&rows));
    for node in &reply.nodes {
        for note in
            [&node.why, &node.stalled, &node.short_of_space].into_iter().filter(|note| !note.is_empty())
        {
            text.push_str(&format!("\nnode {}: {}", node.id, screen::cell(note)));
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
            screen::cell(&found.join("; "))
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
        let more = [node.http.clone(), node.pid.to_string(), node.version.clone()];
        row.extend(more.map(if_reached));
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
    let verdict = judge(reply);
    json!({
        "type": "summary",
        "quorum": verdict.no_quorum.is_none(),
        "voters": verdict.voters,
        "voters_reachable": verdict.reachable,
        "wrong": verdict.wrong,
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
        "stores": node.stores.iter().map(store_json).collect::<Vec<_>>(),
    })
}

fn store_json(store: &pb::StoreStatus) -> Value {
    json!({
        "name": store.name,
        "usable": (store.usable || !store.why.is_empty()).then_some(store.usable),
        "why": store.why,
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
            version: "1.2.3".into(),
            applied: 90,
            flushed: 91,
            published: 89,
            snapshot: 50,
            wal_bytes: 3 << 20,
            disk_free: 1 << 30,
            disk_total: 1 << 40,
            ledger_digest: "9f31c2d0aa".into(),
            voter: true,
            ..pb::NodeStatus::default()
        };
        let lost = pb::NodeStatus {
            id: 3,
            role: "unreachable".into(),
            grpc: "c:1".into(),
            voter: true,
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
        }
    }

    #[test]
    fn what_is_not_known_is_not_called_zero() {
        insta::assert_snapshot!(text(&reply(), false), @r"
        WRONG  2 of 3 voters answer: one more failure stops all commits; start node 3
        WRONG  node 2: 2 epochs are missing; `epochlog verify --all-nodes` tells more
        WRONG  in quarantine, because no majority has a good copy: train@7
        cluster prod  leader node 1  term 4  2 of 3 voters answer
        NODE  ROLE         GRPC  LAG  FLUSHED  APPLIED  PUBLISHED  SNAPSHOT  WAL      DISK FREE  MISSING  CATCH-UP        LEDGER
        1     leader       a:1   0    91       90       89         50        3.0 MiB  1.0 GiB    0        -               9f31c2d0
        2     follower     a:1   0    91       90       89         50        3.0 MiB  ?          2        25% of 4.0 MiB  9f31c2d0
        3     unreachable  c:1   -    -        -        -          -         -        -          -        -               -
        node 3: connection refused
        quarantined: content abababab (3.0 MiB) of train@7: node 1: the blob does not verify; node 2: the blob does not verify
        ");
        assert!(text(&reply(), true).contains("a:2   7    1.2.3"));
        let json = status_json(&reply());
        assert_eq!(
            (&json["quorum"], &json["voters"], &json["voters_reachable"]),
            (&true.into(), &3.into(), &2.into())
        );
        assert_eq!(json["nodes"][0]["disk_free"], 1 << 30);
        assert!(json["nodes"][1]["disk_free"].is_null());
        assert_eq!(json["quarantined"][0]["found"][1]["node"], 2);
    }

    #[test]
    fn what_a_node_says_cannot_pass_for_what_the_command_says() {
        let mut reply = reply();
        reply.nodes[2].why = "away\nWRONG  all is lost\x1b[2J".into();
        let text = text(&reply, false);
        assert!(!text.contains("\nWRONG  all is lost") && !text.contains('\x1b'), "{text}");
    }
}

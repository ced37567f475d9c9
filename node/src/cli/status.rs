//! `status`: the nodes, who leads, who lags.

use std::time::Duration;

use client::{Client, Code, Failure, pb};
use serde_json::json;

use super::output::{self, Output};
use crate::units;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Again every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Runs the command.
pub async fn run(args: &StatusArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    loop {
        let reply = client.status(true).await?;
        if output.is_json() {
            output.json(&status_json(&reply));
        } else {
            print(&reply, output);
        }
        if !args.watch {
            return match reply.leader {
                Some(_) => Ok(()),
                None => Err(Failure::new(Code::NoQuorum, "the cluster has no leader")
                    .what("status")
                    .why("no node that answers leads or follows a leader")
                    .fix("start the nodes that are unreachable")),
            };
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn print(reply: &pb::StatusReply, output: &Output) {
    let leader = reply.leader.map_or_else(|| "none".to_owned(), |leader| format!("node {leader}"));
    output.line(format!("cluster {}  leader {leader}  term {}", reply.cluster_name, reply.term));
    let columns =
        ["NODE", "ROLE", "GRPC", "HTTP", "PID", "APPLIED", "LAG", "PUBLISHED", "DISK FREE", "LEDGER"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    for node in &reply.nodes {
        let reached = node.role != "unreachable";
        let if_reached = |text: String| if reached { text } else { "-".to_owned() };
        rows.push(vec![
            node.id.to_string(),
            node.role.clone(),
            node.grpc.clone(),
            if_reached(node.http.clone()),
            if_reached(node.pid.to_string()),
            if_reached(node.applied.to_string()),
            if_reached(node.lag.to_string()),
            if_reached(node.published.to_string()),
            if_reached(units::size(node.disk_free)),
            if_reached(node.ledger_digest.chars().take(8).collect()),
        ]);
    }
    output.line(output::table(&rows));
    for node in reply.nodes.iter().filter(|node| !node.why.is_empty()) {
        output.note(format!("node {}: {}", node.id, node.why));
    }
}

/// The status as an object.
pub fn status_json(reply: &pb::StatusReply) -> serde_json::Value {
    let nodes: Vec<serde_json::Value> = reply
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": node.id,
                "role": node.role,
                "grpc": node.grpc,
                "http": node.http,
                "pid": node.pid,
                "applied": node.applied,
                "flushed": node.flushed,
                "lag": node.lag,
                "published": node.published,
                "disk_free": node.disk_free,
                "ledger_digest": node.ledger_digest,
                "voter": node.voter,
                "version": node.version,
                "why": node.why,
            })
        })
        .collect();
    json!({
        "cluster": reply.cluster_name,
        "uuid": units::hex(&reply.cluster),
        "leader": reply.leader,
        "term": reply.term,
        "nodes": nodes,
    })
}

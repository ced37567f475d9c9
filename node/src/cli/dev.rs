//! `dev`: a cluster to play with, one child process a node, until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use client::{Code, Failure};
use serde_json::json;

use super::dev_folder::{self, DevFolder};
use super::local_cluster::{LocalCluster, Settings, canonical};
use super::output::Output;
use super::screen;

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Number of nodes
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Folder of all data [default: epochlog/dev in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// gRPC port of the first node; HTTP is ten above, the port for the other nodes twenty
    #[arg(long, default_value_t = 7411)]
    base_port: u16,
    /// Start with empty folders
    #[arg(long)]
    reset: bool,
}

/// Runs the command.
pub async fn run(args: &DevArgs, output: &Output) -> Result<(), Failure> {
    let dir = match &args.data {
        Some(given) => given.clone(),
        None => dev_folder::of_the_user()?,
    };
    // Ours alone as long as this lives.
    let _taken = DevFolder::take(&dir, args.reset)?;
    let settings = Settings {
        dir: canonical(&dir),
        nodes: args.nodes,
        base_port: Some(args.base_port),
        source_roots: vec![canonical(".".as_ref())],
        timing: ("500ms", "3900ms", "4400ms"),
    };
    let mut cluster = LocalCluster::start(&settings)?;
    let count = cluster.nodes.len();
    let (leader, _) = tokio::select! {
        ready = cluster.wait_ready(count, Duration::from_secs(60)) => ready.map_err(|failure| {
            // A cluster keeps its nodes and their ports: with other ones, only a new one starts.
            let fix = format!("{}; `epochlog dev --reset` begins anew with empty folders", failure.fix);
            failure.fix(fix)
        })?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    show(&cluster, leader, output);
    // Killing nodes is what a cluster to play with is for: the others go on.
    let ended = loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break Ok(()),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        for node in &mut cluster.nodes {
            if let Err(failure) = node.check_alive() {
                node.kill();
                output.note(failure.to_string());
            }
        }
        if cluster.nodes.iter().all(|node| node.pid().is_none()) {
            break Err(Failure::new(Code::Internal, "all nodes have ended")
                .what("dev")
                .why(format!("{} holds their logs", dir.display()))
                .fix("see the ends of those logs, then start it again"));
        }
    };
    output.note("stopping");
    cluster.stop();
    ended
}

fn show(cluster: &LocalCluster, leader: u64, output: &Output) {
    let endpoints = cluster.endpoints(1).join(",");
    if output.is_json() {
        for node in &cluster.nodes {
            output.json(&json!({
                "type": "node", "id": node.id, "grpc": node.grpc, "http": node.http, "pid": node.pid(),
                "data_dir": node.data.display().to_string(), "log": node.log.display().to_string(),
            }));
        }
        output.json(&json!({ "type": "ready", "leader": leader, "endpoints": endpoints }));
        return;
    }
    let mut rows = vec![["NODE", "GRPC", "HTTP", "PID", "DATA", "LOG"].map(str::to_owned).to_vec()];
    rows.extend(cluster.nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            node.grpc.clone(),
            node.http.clone(),
            node.pid().map_or_else(|| "-".into(), |pid| pid.to_string()),
            node.data.display().to_string(),
            node.log.display().to_string(),
        ]
    }));
    output.line(screen::table(&rows));
    output.line(format!("node {leader} leads. Try, in another terminal:"));
    output.line("");
    output.line(format!("  export EPOCHLOG_ENDPOINTS={endpoints}"));
    output.line("  epochlog commit ./some-directory --job try --wait all");
    output.line("  epochlog ls try");
    output.line("  epochlog restore try --to ./restored");
    output.line("  epochlog status");
    output.line("");
    output.line("Ctrl-C stops the nodes; their data stays.");
}

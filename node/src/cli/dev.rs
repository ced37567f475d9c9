//! `dev`: a cluster to play with, one child process a node, until Ctrl-C.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use checkpoint::error::IoError;
use client::{Code, Failure};
use serde_json::json;

use super::local_cluster::{LocalCluster, Settings, canonical};
use super::output::Output;
use super::screen;

/// Marks a folder that `dev` made and may therefore empty.
const MARKER: &str = "dev-cluster";

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Number of nodes
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Folder of all data [default: epochlog-dev in the temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// gRPC port of the first node; HTTP is ten above
    #[arg(long, default_value_t = 7411)]
    base_port: u16,
    /// Start with empty folders
    #[arg(long)]
    reset: bool,
}

/// Runs the command.
pub async fn run(args: &DevArgs, output: &Output) -> Result<(), Failure> {
    let dir = args.data.clone().unwrap_or_else(|| std::env::temp_dir().join("epochlog-dev"));
    prepare(&dir, args.reset)?;
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
        ready = cluster.wait_ready(count, Duration::from_secs(60)) => ready?,
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
                output.note(failure.what);
            }
        }
        if cluster.nodes.iter().all(|node| node.pid().is_none()) {
            break Err(Failure::new(Code::Internal, "all nodes have ended")
                .what("dev")
                .why("see their log files"));
        }
    };
    output.note("stopping");
    cluster.stop();
    ended
}

fn prepare(dir: &std::path::Path, reset: bool) -> Result<(), Failure> {
    let cannot = |source| {
        let failure = Failure::from_io(&IoError { path: dir.to_owned(), what: "write", source });
        let fix = format!("{}; or name another folder with --data", failure.fix);
        failure.sentence("the data folder cannot be used").what("dev").fix(fix)
    };
    let is_ours = dir.join(MARKER).exists();
    let is_empty = fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if !is_ours && !is_empty {
        return Err(Failure::new(Code::Usage, "the data folder is not one of `epochlog dev`")
            .what(dir.display().to_string())
            .why("it holds other things")
            .fix("name an empty folder with --data"));
    }
    if reset && is_ours {
        fs::remove_dir_all(dir).map_err(cannot)?;
    }
    fs::create_dir_all(dir).map_err(cannot)?;
    fs::write(dir.join(MARKER), "made by `epochlog dev`; `--reset` empties this folder\n").map_err(cannot)
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

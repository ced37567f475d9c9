//! `serve`: one node, until a signal or a fault ends it.

use std::path::PathBuf;

use client::{Code, Failure};

use super::output::Output;
use crate::config::{Config, Overrides};
use crate::{handles, node, opening, telemetry};

/// Which node it is: the flags that `serve`, `repair` and `config show` share.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// Configuration file, TOML
    #[arg(short, long, env = "EPOCHLOG_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What goes over the file
    #[command(flatten)]
    pub overrides: Overrides,
}

impl NodeArgs {
    /// The checked configuration, for the command `what`.
    pub fn load(&self, what: &str) -> Result<Config, Failure> {
        Config::load(self.config.as_deref(), &self.overrides).map_err(|error| unusable(what, error.0))
    }

    /// The file's text; empty without one.
    pub fn text(&self, what: &str) -> Result<String, Failure> {
        let Some(file) = &self.config else { return Ok(String::new()) };
        std::fs::read_to_string(file).map_err(|error| unusable(what, format!("{}: {error}", file.display())))
    }
}

fn unusable(what: &str, why: String) -> Failure {
    Failure::new(Code::Usage, "the configuration cannot be used")
        .what(what)
        .why(why)
        .fix("correct it; `epochlog serve --check` tests it without starting, `epochlog config show --origin --id 1 --data-dir DIR` without a file shows every key")
}

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Check configuration, disk and ports, then exit
    #[arg(long)]
    check: bool,
    /// Stop when stdin closes: for whoever starts nodes as children
    #[arg(long, hide = true)]
    with_parent: bool,
}

/// Runs the command.
pub async fn run(args: &ServeArgs, output: &Output, verbose: u8) -> Result<(), Failure> {
    let config = args.node.load("serve")?;
    if args.check {
        return check(&config, output).await;
    }
    telemetry::start(config.log_format, verbose);
    handles::raise();
    if args.with_parent {
        std::thread::spawn(|| {
            // Ends with the parent, however that ends: as a crash would, which loses nothing.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    node::serve(config).await.map_err(|error| error.failure("serve"))
}

/// Tests what a start would need, without touching the data folder.
async fn check(config: &Config, output: &Output) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let peers = config.secret_file.as_ref().map(|_| ("gRPC for peers", config.peers));
    for (name, address) in [("gRPC", config.grpc), ("HTTP", config.http)].into_iter().chain(peers) {
        match tokio::net::TcpListener::bind(address).await {
            Ok(_) => output.line(format!("ok     {name} can listen on {address}")),
            Err(error) => problems.push(format!("{name} cannot listen on {address}: {error}")),
        }
    }
    match (&config.secret_file, config.secret()) {
        (Some(file), Ok(_)) => output.line(format!("ok     {} holds the secret", file.display())),
        (None, Ok(_)) => {}
        (_, Err(error)) => problems.push(error.to_string()),
    }
    match opening::check_disk(config) {
        Ok(line) => output.line(format!("ok     {line}")),
        Err(why) => problems.push(why),
    }
    for problem in &problems {
        output.line(format!("WRONG  {problem}"));
    }
    if problems.is_empty() {
        output.line("ok     configuration");
        return Ok(());
    }
    Err(Failure::new(Code::Usage, "this node could not start")
        .what("serve --check")
        .why(problems.join("; "))
        .fix("correct what is named"))
}

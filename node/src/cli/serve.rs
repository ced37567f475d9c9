//! `serve`: one node, until a signal or a fault ends it.

use std::path::PathBuf;

use client::{Code, Failure};

use super::output::Output;
use crate::config::{Config, Overrides};
use crate::{node, telemetry};

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Configuration file, TOML
    #[arg(short, long, env = "EPOCHLOG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check configuration, disk and ports, then exit
    #[arg(long)]
    check: bool,
    /// Stop when stdin closes: for whoever starts nodes as children
    #[arg(long, hide = true)]
    with_parent: bool,
    /// What goes over the file
    #[command(flatten)]
    overrides: Overrides,
}

/// Runs the command.
pub async fn run(args: &ServeArgs, output: &Output, verbose: u8) -> Result<(), Failure> {
    let config = Config::load(args.config.as_deref(), &args.overrides).map_err(|error| {
        Failure::new(Code::Usage, "the configuration cannot be used")
            .what("serve")
            .why(error.0)
            .fix("correct it; `epochlog serve --check` tests it without starting")
    })?;
    if args.check {
        return check(&config, output).await;
    }
    telemetry::start(config.log_format, verbose);
    if args.with_parent {
        std::thread::spawn(|| {
            // Ends with the parent, however that ends: as a crash would, which loses nothing.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    node::serve(config).await.map_err(|error| {
        let code = if error.is_configuration() { Code::Usage } else { Code::Internal };
        Failure::new(code, error.sentence()).what("serve").why(error.to_string()).fix(error.advice())
    })
}

/// Tests what a start would need, without touching the data folder.
async fn check(config: &Config, output: &Output) -> Result<(), Failure> {
    let mut problems = Vec::new();
    for (name, address) in [("gRPC", config.grpc), ("HTTP", config.http)] {
        match tokio::net::TcpListener::bind(address).await {
            Ok(_) => output.line(format!("ok     {name} can listen on {address}")),
            Err(error) => problems.push(format!("{name} cannot listen on {address}: {error}")),
        }
    }
    match node::check_disk(config) {
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

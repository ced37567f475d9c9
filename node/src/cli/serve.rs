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

    /// The configuration as far as it goes, and the keys that it lacks; for the command `what`.
    pub fn draft(&self, what: &str) -> Result<(Config, Vec<&'static str>), Failure> {
        Config::load_draft(self.config.as_deref(), &self.overrides).map_err(|error| unusable(what, error.0))
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
        .fix("correct it; `epochlog config reference` explains every key")
}

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Say what a start would do, by configuration, ports, disk and folder, then exit
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

/// Says what a start would do, line by line, without touching the data folder.
async fn check(config: &Config, output: &Output) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let mut lines = vec![(true, "configuration".to_owned())];
    for (name, address) in [("gRPC", config.grpc), ("HTTP", config.http)] {
        match tokio::net::TcpListener::bind(address).await {
            Ok(_) => lines.push((true, format!("{name} can listen on {address}"))),
            Err(error) => lines.push((false, format!("{name} cannot listen on {address}: {error}"))),
        }
    }
    match opening::check_disk(config) {
        Ok(line) => lines.push((true, line)),
        Err(why) => lines.push((false, why)),
    }
    let mut fix = "correct what is named".to_owned();
    match opening::check_folder(config) {
        Ok(line) => lines.push((true, line)),
        Err(error) => {
            // As the start would say it.
            let failure = error.failure("serve");
            lines.push((false, failure.why));
            fix = failure.fix;
        }
    }
    for (good, line) in lines {
        output.line(format!("{} {line}", if good { "ok    " } else { "WRONG " }));
        if !good {
            problems.push(line);
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, "this node would not start")
        .what("serve --check")
        .why(problems.join("; "))
        .fix(fix))
}

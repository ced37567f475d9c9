//! The command line: what users type, one file a command.
//!
//! Data goes to stdout, everything else to stderr. A command returns a `Failure`, never prints one:
//! there is one place that turns failures into text and exit codes (`output`), and one through which all text goes on
//! its way to the terminal (`screen`).

mod abort;
mod commit;
mod completions;
mod config;
mod demo;
mod dev;
mod dev_folder;
mod digest;
pub mod exit;
mod help;
mod job;
mod local_cluster;
mod ls;
mod open;
pub mod output;
mod progress;
mod repair;
mod restore;
mod rm;
mod screen;
mod secret;
mod serve;
mod show;
mod signals;
mod status;
pub mod target;
mod usage;
mod verify;

use std::time::Duration;

use checkpoint::IoError;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use client::{Client, Failure, Options};

use crate::units;
use output::{Format, Output};

/// Keeps checkpoints alive on clusters that have no shared storage.
#[derive(Debug, Parser)]
#[command(
    name = "epochlog",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = help::OF_ALL
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Nodes to talk to; any node will do, more are tried in turn
    #[arg(
        short = 'e',
        long,
        global = true,
        env = "EPOCHLOG_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        value_parser = parse_endpoint,
        default_value = "127.0.0.1:7411",
        help_heading = GLOBAL
    )]
    pub endpoints: Vec<String>,
    /// Form of the output
    #[arg(
        short,
        long,
        global = true,
        env = "EPOCHLOG_OUTPUT",
        value_enum,
        default_value = "table",
        help_heading = GLOBAL
    )]
    pub output: Format,
    /// Only data and errors
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// More detail in `status` and in the log of `serve` and `repair`; -vv for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub verbose: u8,
    /// No progress bars
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub no_progress: bool,
    /// Give up when nothing has moved for this long
    #[arg(
        long,
        global = true,
        env = "EPOCHLOG_TIMEOUT",
        value_parser = parse_timeout,
        default_value = "30s",
        help_heading = GLOBAL
    )]
    pub timeout: Duration,
}

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// Where a node answers clients; empty when nothing is named.
fn parse_endpoint(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if plain.contains("://") {
        return Err("there is no TLS in this version: write HOST:PORT".into());
    }
    let parsed = plain.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    match parsed {
        // An IPv6 address has colons of its own, and stands in brackets.
        Some((host, Ok(port)))
            if port > 0 && !host.is_empty() && (!host.contains(':') || host.ends_with(']')) =>
        {
            Ok(plain.to_owned())
        }
        _ => Err("write HOST:PORT; a node answers clients on port 7411 unless it was told otherwise".into()),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        Duration::ZERO => Err("no time at all is too short for any answer".into()),
        time => Ok(time),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Three nodes, a dead leader, identical directories: see it work
    Demo(demo::DemoArgs),
    /// A local cluster to play with
    #[command(after_help = help::DEV)]
    Dev(dev::DevArgs),
    /// Run one node
    #[command(after_help = help::SERVE)]
    Serve(serve::ServeArgs),
    /// Make a directory a durable epoch
    #[command(after_help = help::COMMIT)]
    Commit(commit::CommitArgs),
    /// Write an epoch back as a directory
    #[command(after_help = help::RESTORE)]
    Restore(restore::RestoreArgs),
    /// List epochs, or open attempts
    #[command(after_help = help::LS)]
    Ls(ls::LsArgs),
    /// Show one epoch
    #[command(after_help = help::WHICH)]
    Show(show::ShowArgs),
    /// Show the nodes
    Status(status::StatusArgs),
    /// Root digest of any directory, without a cluster
    Digest(digest::DigestArgs),
    /// Compare published directories with their manifests
    Verify(verify::VerifyArgs),
    /// Give a stopped node a new log in place of a damaged one
    Repair(repair::RepairArgs),
    /// Remove an epoch
    Rm(rm::RmArgs),
    /// End an open attempt, of a writer that is gone
    #[command(after_help = help::ABORT)]
    Abort(abort::AbortArgs),
    /// What is done to a whole job
    Job(job::JobArgs),
    /// Show the configuration of a node, or explain every key
    Config(config::ConfigArgs),
    /// Make the secret that the nodes of a cluster share
    Secret(secret::SecretArgs),
    /// Print a script that completes commands and flags in a shell
    Completions(completions::CompletionsArgs),
}

/// Runs one command; the number is the exit code.
pub fn main() -> i32 {
    let matches = Cli::command().try_get_matches();
    let parsed = matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage::not_understood(error),
    };
    let output = Output::new(&cli.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            let error = IoError { path: "epochlog".into(), what: "start its threads", source };
            return output.end(Err(Failure::from_io(&error)));
        }
    };
    let ended = runtime.block_on(async {
        // These answer Ctrl-C themselves.
        let own_end = match &cli.command {
            Command::Status(args) => args.ends_by_ctrl_c(),
            Command::Serve(_) | Command::Dev(_) | Command::Demo(_) => true,
            Command::Commit(_) | Command::Restore(_) => true,
            _ => false,
        };
        if own_end {
            return run(&cli, &matches, &output).await;
        }
        tokio::select! {
            ended = run(&cli, &matches, &output) => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(client::Code::Interrupted, "interrupted")
                .why("Ctrl-C was pressed")
                .fix("repeat the command: it is idempotent")),
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    output.end(ended)
}

async fn run(cli: &Cli, matches: &ArgMatches, output: &Output) -> Result<(), Failure> {
    let client = || {
        let endpoints = cli.global.endpoints.iter().filter(|endpoint| !endpoint.is_empty()).cloned();
        Client::new(endpoints, Options { timeout: cli.global.timeout })
    };
    match &cli.command {
        Command::Demo(args) => demo::run(args, output).await,
        Command::Dev(args) => dev::run(args, output).await,
        Command::Serve(args) => serve::run(args, output, cli.global.verbose).await,
        Command::Commit(args) => commit::run(args, &client(), output).await,
        Command::Restore(args) => restore::run(args, &client(), output).await,
        Command::Ls(args) => ls::run(args, &client(), output).await,
        Command::Show(args) => show::run(args, &client(), output).await,
        Command::Status(args) => status::run(args, &client(), output).await,
        Command::Digest(args) => digest::run(args, output).await,
        Command::Verify(args) => verify::run(args, &client(), output).await,
        Command::Repair(args) => repair::run(args, output, cli.global.verbose).await,
        Command::Rm(args) => rm::run(args, &client(), output).await,
        Command::Abort(args) => abort::run(args, &client(), output).await,
        Command::Job(args) => job::run(args, &client(), output).await,
        Command::Config(args) => {
            let matches = matches.subcommand_matches("config").expect("it is the command");
            config::run(args, matches, output)
        }
        Command::Secret(args) => secret::run(args, output),
        Command::Completions(args) => completions::run(args, output),
    }
}

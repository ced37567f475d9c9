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
mod gc;
mod global;
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
mod store;
pub mod target;
mod usage;
mod verify;

use std::time::Duration;

use checkpoint::IoError;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use client::{Client, Failure, Options};

pub use global::{Format, Global};
use output::Output;

/// Keeps checkpoints alive on clusters that have no shared storage.
#[derive(Debug, Parser)]
#[command(
    name = "epochlog",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = help::of_all()
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
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
    /// Compare published directories with their manifests, or an object store with the log
    #[command(after_help = help::VERIFY)]
    Verify(verify::VerifyArgs),
    /// Show what lies in an object store, and delete what nothing names
    #[command(after_help = help::GC)]
    Gc(gc::GcArgs),
    /// Give a stopped node a new log in place of a damaged one
    Repair(repair::RepairArgs),
    /// Remove epochs
    Rm(rm::RmArgs),
    /// End an open attempt, of a writer that is gone
    #[command(after_help = help::ABORT)]
    Abort(abort::AbortArgs),
    /// What is done to a whole job
    Job(job::JobArgs),
    /// Show the configuration of a node, or explain every key
    Config(config::ConfigArgs),
    /// What is asked of an object store
    Store(store::StoreArgs),
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
        Command::Gc(args) => gc::run(args, &client(), output).await,
        Command::Repair(args) => repair::run(args, output, cli.global.verbose).await,
        Command::Rm(args) => rm::run(args, &client(), output).await,
        Command::Abort(args) => abort::run(args, &client(), output).await,
        Command::Job(args) => job::run(args, &client(), output).await,
        Command::Config(args) => {
            let matches = matches.subcommand_matches("config").expect("it is the command");
            config::run(args, matches, output)
        }
        Command::Store(args) => store::run(args, output).await,
        Command::Secret(args) => secret::run(args, output),
        Command::Completions(args) => completions::run(args, Cli::command(), output),
    }
}

//! `serve`: one node, until a signal or a fault ends it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use checkpoint::IoError;
use client::{Code, Failure};
use serde_json::json;

use super::output::Output;
use crate::config::{Config, Overrides};
use crate::exit::Exit;
use crate::refusal::ServeError;
use crate::{handles, opening, serve, stores, telemetry};

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
        // What the system says of the file is told in its own words.
        self.text(what)?;
        Config::load(self.config.as_deref(), &self.overrides).map_err(|error| unusable(what, error.0))
    }

    /// The configuration as far as it goes, and the keys that it lacks; for the command `what`.
    pub fn draft(&self, what: &str) -> Result<(Config, Vec<&'static str>), Failure> {
        Config::load_draft(self.config.as_deref(), &self.overrides).map_err(|error| unusable(what, error.0))
    }

    /// The file's text; empty without one.
    pub fn text(&self, what: &str) -> Result<String, Failure> {
        let Some(file) = &self.config else { return Ok(String::new()) };
        std::fs::read_to_string(file).map_err(|source| {
            Failure::from_io(&IoError { path: file.clone(), what: "read", source })
                .sentence("the configuration cannot be read")
                .what(what)
        })
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
    /// Say what a start would do, by configuration, ports, secret, disk and folder, then exit
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
    enough_files(handles::files())?;
    if args.with_parent {
        std::thread::spawn(|| {
            // Ends with the parent, however that ends: as a crash would, which loses nothing.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(Exit::Done.code());
        });
    }
    serve::serve(config).await.map_err(|error| error.failure("serve"))
}

/// Whether a node can do with so many files.
fn enough_files(files: u64) -> Result<(), Failure> {
    if files >= handles::FILES_MIN {
        return Ok(());
    }
    Err(Failure::new(Code::Refused, "this node does not start")
        .what("serve")
        .why(format!("the process may open {files} files, and a node needs {}", handles::FILES_MIN))
        .fix("raise the limit (`ulimit -Hn`, LimitNOFILE= of systemd): 4096 is plenty"))
}

/// Says what a start would do, line by line, without touching the data folder.
async fn check(config: &Config, output: &Output) -> Result<(), Failure> {
    let (mut good, mut problems) = (vec!["configuration".to_owned()], Vec::new());
    let peers = config.secret_file.as_ref().map(|_| ("gRPC for peers", config.peers));
    for (name, address) in [("gRPC", config.grpc), ("HTTP", config.http)].into_iter().chain(peers) {
        match tokio::net::TcpListener::bind(address).await {
            Ok(_) => good.push(format!("{name} can listen on {address}")),
            Err(error) => problems.push(ServeError::Listen { name, address, error }.failure("serve --check")),
        }
    }
    match (&config.secret_file, config.secret()) {
        (Some(file), Ok(_)) => good.push(format!("{} holds the secret", file.display())),
        (None, Ok(_)) => {}
        (_, Err(error)) => problems.push(ServeError::from(error).failure("serve --check")),
    }
    match enough_files(handles::files_at_most()) {
        Ok(()) => good.push("it may open enough files".into()),
        Err(failure) => problems.push(failure),
    }
    match opening::check_disk(config) {
        Ok(line) => good.push(line),
        Err(failure) => problems.push(failure),
    }
    match opening::check_folder(config) {
        Ok(line) => good.push(line),
        // As the start would say it.
        Err(error) => problems.push(error.failure("serve --check")),
    }
    let starts = problems.is_empty();
    for store in config.stores.iter().filter(|store| !store.skip_access_check()) {
        let opened = remote::Store::open(store, stores::LIMITS);
        let asked = async { opened?.check_access().await };
        match asked.await {
            Ok(()) => good.push(format!("the object store {} can be read and written", store.name())),
            Err(error) => problems.push(stores::failure("serve --check", &error)),
        }
    }
    if !output.is_json() {
        good.iter().for_each(|line| output.line(format!("ok     {line}")));
        problems.iter().for_each(|problem| output.line(format!("WRONG  {}", problem.why)));
    }
    let wrong: Vec<_> = problems.iter().map(|problem| problem.why.clone()).collect();
    output.outcome(json!({ "type": "summary", "ok": good, "wrong": wrong }));
    let Some(worst) = problems.first() else { return Ok(()) };
    let fixes: BTreeSet<_> = problems.iter().map(|problem| problem.fix.as_str()).collect();
    // One that is away keeps no node from starting.
    let sentence =
        if starts { "this node would start without an object store" } else { "this node would not start" };
    Err(Failure::new(worst.code, sentence)
        .what("serve --check")
        .why(wrong.join("; "))
        .fix(fixes.into_iter().collect::<Vec<_>>().join("; ")))
}

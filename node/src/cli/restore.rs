//! `restore JOB[@EPOCH] --to DIR`: an epoch becomes a directory again, on this machine, as this user.

use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::restore::{self, Pattern, RestoreError, RestoreOptions, Restored, SourceError};
use client::{Cause, Client, Code, Failure, Fetched, ReplicaContent, pb};
use serde_json::json;

use super::output::Output;
use super::progress::Progress;
use super::target::Target;
use crate::units;

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// JOB, JOB@EPOCH, JOB@latest or JOB@-1
    target: Target,
    /// The directory to write
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Replace a directory that is there
    #[arg(long)]
    force: bool,
    /// Hard-link local content: for read-only use
    #[arg(long)]
    link: bool,
    /// Only entries that match; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = parse_pattern)]
    only: Vec<Pattern>,
    /// No epoch yet is a success
    #[arg(long)]
    if_exists: bool,
    /// The newest epoch at or below this one
    #[arg(long, value_name = "EPOCH")]
    nearest: Option<u64>,
    /// From the node's own knowledge, without the leader
    #[arg(long)]
    stale: bool,
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() { Err("an empty pattern".into()) } else { Ok(Pattern::new(text.as_bytes())) }
}

/// Runs the command.
pub async fn run(args: &RestoreArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let which = match args.nearest {
        None => args.target.to_pb(),
        Some(_) if args.target.which.is_some() => {
            return Err(Failure::new(Code::Usage, "JOB@EPOCH and --nearest exclude each other")
                .what(format!("restore {}", args.target))
                .fix("give one of them"));
        }
        Some(epoch) => pb::Which { kind: Some(pb::which::Kind::AtOrBelow(epoch)) },
    };
    let fetched = match client.manifest(args.target.job.as_str(), which, args.stale).await {
        Err(failure) if failure.code == Code::NotFound && args.if_exists => {
            if output.is_json() {
                output.outcome(
                    json!({ "type": "summary", "job": args.target.job.as_str(), "restored": false }),
                );
            } else {
                output.note(format!("{} has no such epoch yet, nothing was restored", args.target));
            }
            return Ok(());
        }
        fetched => fetched?,
    };
    let options = RestoreOptions {
        force: args.force,
        link: args.link,
        only: (!args.only.is_empty()).then(|| args.only.clone()),
    };
    let (restored, was_local) = restore(&fetched, args.to.clone(), options, client, output).await?;
    report(args, &fetched, restored, was_local, output);
    Ok(())
}

/// Writes the directory; answers whether it came from this machine's own replica.
pub async fn restore(
    fetched: &Fetched,
    to: PathBuf,
    options: RestoreOptions,
    client: &Client,
    output: &Output,
) -> Result<(Restored, bool), Failure> {
    let what = format!("restore {}@{} to {}", fetched.head.job, fetched.head.epoch, to.display());
    let mut source = ReplicaContent::new(Arc::new(client.same()), fetched, options.only.is_some());
    let local = source.is_local();
    let progress = Progress::start(output, "restore");
    let total = fetched.manifest.bytes();
    let manifest = &fetched.manifest;
    let restored = tokio::task::block_in_place(|| {
        restore::restore(manifest, &to, &options, &mut source, &|done| progress.at(done, total))
    });
    restored.map(|restored| (restored, local)).map_err(|error| failure(&what, error))
}

fn failure(what: &str, error: RestoreError) -> Failure {
    match error {
        RestoreError::Exists(_) => Failure::new(Code::Refused, "the target is there already, nothing was restored")
            .why(error.to_string())
            .fix("name another directory, or give --force"),
        RestoreError::Target { .. } => Failure::new(Code::Refused, "the target cannot be used, nothing was restored")
            .why(error.to_string())
            .fix("name another directory"),
        RestoreError::Corrupt { .. } => Failure::new(Code::Corrupt, "the content did not verify, nothing was restored")
            .why(error.to_string())
            .fix("repeat with other --endpoints; restore an older epoch with JOB@-1; run `epochlog verify --all-nodes`"),
        RestoreError::Source { path, source: SourceError::Failed(inner) } => match inner.downcast::<Failure>() {
            Ok(failure) => Failure { sentence: format!("{}, nothing was restored", failure.sentence), ..*failure }
                .why_of(&path)
                .fix("repeat the command; restore an older epoch with JOB@-1; run `epochlog verify --all-nodes`"),
            Err(inner) => Failure::new(Code::Unavailable, "the content did not come, nothing was restored")
                .why(format!("{path}: {inner}"))
                .fix("repeat the command"),
        },
        RestoreError::Source { ref path, source: SourceError::Sink(ref source) } => {
            let cause = Cause::of(source);
            Failure::new(cause.code, "the target cannot be written, nothing was restored")
                .why(format!("{path}: {source}"))
                .fix(cause.fix)
        }
        RestoreError::Io(ref error) => {
            Failure::from_io(error).sentence("the target cannot be written, nothing was restored")
        }
    }
    .what(what)
}

fn report(args: &RestoreArgs, fetched: &Fetched, restored: Restored, was_local: bool, output: &Output) {
    let head = &fetched.head;
    let root = units::hex(&head.root);
    if output.is_json() {
        output.outcome(json!({
            "type": "summary",
            "job": head.job,
            "epoch": head.epoch,
            "root": root,
            "to": args.to.display().to_string(),
            "files": restored.files,
            "bytes": restored.bytes,
            "fetched_bytes": restored.fetched_bytes,
            "local": was_local,
            "stale": args.stale,
            "age_ms": head.age_ms,
            "restored": true,
        }));
        return;
    }
    let from = if restored.fetched_bytes > 0 || !was_local {
        format!("{} from node {}", units::size(restored.fetched_bytes), head.node)
    } else {
        "from this machine's replica".to_owned()
    };
    let age = units::age(std::time::Duration::from_millis(head.age_ms));
    let stale = if args.stale { format!("  STALE, {age} old") } else { String::new() };
    output.line(format!(
        "restored {}@{}  {}, {} files  root {}  {from}{stale}",
        head.job,
        head.epoch,
        units::size(restored.bytes),
        restored.files,
        &root[..root.len().min(8)],
    ));
}

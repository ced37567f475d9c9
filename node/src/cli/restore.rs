//! `restore JOB[@EPOCH] --to DIR`: an epoch becomes a directory again, on this machine, as this user.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::restore::{self, Pattern, RestoreError, RestoreOptions, Restored, SourceError, Stop};
use checkpoint::store::Layout;
use client::{Cause, Client, Code, Failure, Fetched, ReplicaContent, pb};
use serde_json::{Value, json};

use super::output::Output;
use super::progress::Progress;
use super::rm::said_yes;
use super::signals;
use super::target::Target;
use crate::units;

/// What to do once there is a reason to look at the copies themselves.
const OLDER: &str =
    "repeat with other --endpoints; restore an older epoch with JOB@-1; run `epochlog verify --all-nodes`";

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// JOB, JOB@EPOCH, JOB@latest or JOB@-1
    target: Target,
    /// The directory to write: a new one, an empty one or an empty mount point; missing parents are made
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Replace what an earlier restore wrote there; asks before anything else there goes
    ///
    /// The old directory goes last, when the new one is in its place for good. Cut off before (kill -9, no power), the
    /// target is as it was. Only a directory that cannot be renamed, as a mount point, may then hold a part of its old or
    /// new content or none, and a file system that cannot exchange two names may have nothing at the target: what was
    /// there before lies in a directory `….epochlog-tmp-…-old`, inside of the mount point or beside the target. Restores
    /// leave it there and name it: move it back, or remove it.
    #[arg(long)]
    force: bool,
    /// With --force: remove everything else in the directory too, without asking
    #[arg(long, requires = "force")]
    delete_others: bool,
    /// Share the blocks of this machine's replica instead of copying them (reflink); refused where that cannot be
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

pub(super) fn parse_pattern(text: &str) -> Result<Pattern, String> {
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
    let what = format!("restore {} to {}", args.target, args.to.display());
    let stop = Stop::default();
    let listening = signals::listen(&stop, "removing what was written so far").map_err(|error| {
        Failure::new(Code::Internal, "cannot listen to signals").what(&what).why(error.to_string())
    })?;
    let fetched = tokio::select! {
        fetched = client.manifest(args.target.job.as_str(), which, args.stale) => fetched,
        _ = listening => return Err(signals::interrupted(INTERRUPTED, &what)),
    };
    let fetched = match fetched {
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
        delete_others: args.delete_others,
        accepted: None,
        link: args.link,
        only: (!args.only.is_empty()).then(|| args.only.clone()),
        stop,
    };
    let (restored, was_local) = restore(&fetched, args.to.clone(), options, client, output).await?;
    report(args, &fetched, &restored, was_local, output);
    Ok(())
}

const INTERRUPTED: &str = "interrupted, nothing was restored";

/// Writes the directory; answers whether it came from this machine's own replica.
pub async fn restore(
    fetched: &Fetched,
    to: PathBuf,
    mut options: RestoreOptions,
    client: &Client,
    output: &Output,
) -> Result<(Restored, bool), Failure> {
    let what = format!("restore {}@{} to {}", fetched.head.job, fetched.head.epoch, to.display());
    if let Some(data) = data_folder_above(&to) {
        return Err(Failure::new(Code::Refused, "the target cannot be used, nothing was restored")
            .what(what)
            .why(format!("{} is the data folder of a node, and only the node writes there", data.display()))
            .fix("name another directory"));
    }
    loop {
        let mut source = ReplicaContent::new(Arc::new(client.same()), fetched);
        source.end_with(&options.stop);
        let progress = Progress::start(output, "restore");
        let (manifest, total) = (&fetched.manifest, fetched.manifest.bytes());
        let local = source.is_local();
        let restored = tokio::task::block_in_place(|| {
            restore::restore(manifest, &to, &options, &mut source, &|done| progress.at(done, total))
        });
        drop(progress);
        match restored {
            Ok(restored) => return Ok((restored, local)),
            // Nothing was changed: it may begin once more.
            Err(RestoreError::Others { others, .. }) if may_ask(output) => {
                let question = format!("remove {others} from {}, which no restore wrote?", to.display());
                let yes = tokio::select! {
                    answer = tokio::task::spawn_blocking(move || said_yes(&question)) => answer.unwrap_or(false),
                    () = signals::is_set(&options.stop) => {
                        return Err(signals::interrupted(INTERRUPTED, &what));
                    }
                };
                if !yes {
                    return Err(Failure::new(Code::Refused, "nothing was removed or restored")
                        .what(what)
                        .why(format!("{} holds {others}", to.display()))
                        .fix("name another directory"));
                }
                // To what was told; what comes meanwhile is asked for again.
                options.accepted = Some(others);
            }
            Err(error) => return Err(failure(&what, error)),
        }
    }
}

fn may_ask(output: &Output) -> bool {
    !output.is_json() && std::io::stdin().is_terminal()
}

/// The data folder of a node that the target would lie in. Its published trees are not for anybody to write to.
fn data_folder_above(to: &Path) -> Option<PathBuf> {
    let there = to.ancestors().find_map(|above| {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        std::fs::canonicalize(above).ok()
    })?;
    let is_data = |above: &&Path| {
        let layout = Layout::new(above);
        layout.identity().is_file() && layout.blobs_dir().is_dir()
    };
    there.ancestors().find(is_data).map(Path::to_path_buf)
}

fn failure(what: &str, error: RestoreError) -> Failure {
    const REFUSED: &str = "the target cannot be used, nothing was restored";
    const NOT_WRITTEN: &str = "the target cannot be written, nothing was restored";
    let why = error.to_string();
    match error {
        RestoreError::Exists(_) => {
            Failure::new(Code::Refused, "the target exists, nothing was restored").why(why).fix(
                "name another directory; or give --force, which replaces what an earlier restore wrote there",
            )
        }
        RestoreError::Others { .. } => {
            Failure::new(Code::Refused, "the target holds what no restore wrote, nothing was restored")
                .why(why)
                .fix("name another directory; or give --force --delete-others to lose it")
        }
        RestoreError::Target { fix, .. } => Failure::new(Code::Refused, REFUSED).why(why).fix(fix),
        RestoreError::Link(_) => Failure::new(Code::Refused, "blocks cannot be shared, nothing was restored")
            .why(why)
            .fix("leave out --link: the content is copied then"),
        RestoreError::NothingMatches => {
            Failure::new(Code::NotFound, "nothing matches --only, nothing was restored")
                .why(why)
                .fix("`epochlog show JOB@EPOCH --files` lists what there is; `**/NAME` matches at any depth")
        }
        RestoreError::Stopped => return signals::interrupted(INTERRUPTED, what),
        RestoreError::Left { error, left } => {
            let failure = failure(what, *error);
            let left = list(&left);
            let why = if failure.why.is_empty() { String::new() } else { format!("{}; ", failure.why) };
            return failure.why(format!("{why}could not remove {left}: look at it and remove it yourself"));
        }
        RestoreError::Corrupt { .. } => {
            Failure::new(Code::Corrupt, "the content did not verify, nothing was restored")
                .why(why)
                .fix(OLDER)
        }
        RestoreError::Source { path, source: SourceError::Failed(inner) } => {
            match inner.downcast::<Failure>() {
                Ok(failure) => {
                    let fix = if failure.code == Code::NotFound { "see `epochlog ls`" } else { OLDER };
                    Failure { sentence: format!("{}, nothing was restored", failure.sentence), ..*failure }
                        .why_of(&path)
                        .fix(fix)
                }
                Err(inner) => {
                    Failure::new(Code::Unavailable, "the content did not come, nothing was restored")
                        .why(format!("{path}: {inner}"))
                        .fix("repeat the command")
                }
            }
        }
        RestoreError::Source { source: SourceError::Sink(error), .. } => {
            let cause = Cause::of(&error);
            Failure::new(cause.code, NOT_WRITTEN).why(why).fix(cause.fix)
        }
        RestoreError::Io(error) => Failure::from_io(&error).sentence(NOT_WRITTEN),
    }
    .what(what)
}

/// What a restore took the place of, and what it could not remove.
fn went(restored: &Restored, to: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(replaced) = &restored.replaced {
        let mut line =
            format!("replaced {}: {} entries of an earlier restore", to.display(), replaced.restored);
        if replaced.others.entries > 0 {
            line.push_str(&format!(
                ", and removed {}, {}",
                replaced.others,
                units::size(replaced.others.bytes)
            ));
        }
        lines.push(line);
    }
    if !restored.left.is_empty() {
        let left = list(&restored.left);
        lines
            .push(format!("left {left}, of this restore or a killed one: look at it and remove it yourself"));
    }
    lines
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn report(args: &RestoreArgs, fetched: &Fetched, restored: &Restored, was_local: bool, output: &Output) {
    let head = &fetched.head;
    let root = units::hex(&head.root);
    let is_part = !args.only.is_empty();
    if output.is_json() {
        output.outcome(summary(args, fetched, restored, was_local));
        return;
    }
    let from = if restored.fetched_bytes > 0 || !was_local {
        format!("{} from node {}", units::size(restored.fetched_bytes), head.node)
    } else {
        "from this machine's replica".to_owned()
    };
    let age = units::age(std::time::Duration::from_millis(head.age_ms));
    let stale = if args.stale { format!("  STALE, {age} old") } else { String::new() };
    let of = if is_part { "part of root" } else { "root" };
    output.line(format!(
        "restored {}@{}  {}, {} files  {of} {}  {from}{stale}",
        head.job,
        head.epoch,
        units::size(restored.bytes),
        restored.files,
        &root[..root.len().min(8)],
    ));
    went(restored, &args.to).iter().for_each(|line| output.note(line));
}

fn summary(args: &RestoreArgs, fetched: &Fetched, restored: &Restored, was_local: bool) -> Value {
    let head = &fetched.head;
    let mut value = json!({
        "type": "summary",
        "job": head.job,
        "epoch": head.epoch,
        "root": units::hex(&head.root),
        "part": !args.only.is_empty(),
        "to": args.to.display().to_string(),
        "files": restored.files,
        "bytes": restored.bytes,
        "fetched_bytes": restored.fetched_bytes,
        "local": was_local,
        "stale": args.stale,
        "age_ms": head.age_ms,
        "restored": true,
    });
    if let Some(replaced) = &restored.replaced {
        value["replaced_entries"] = replaced.restored.into();
        value["removed_others"] = replaced.others.entries.into();
    }
    if !restored.left.is_empty() {
        let left: Vec<String> = restored.left.iter().map(|path| path.display().to_string()).collect();
        value["left"] = left.into();
    }
    value
}

//! `commit DIR`: a directory becomes a durable epoch.

use std::path::PathBuf;

use checkpoint::IoError;
use checkpoint::limits::EPOCH_MAX;
use checkpoint::{CommitId, JobName, Pattern};
use client::{Certainty, Client, Code, Commit, Done, Event, Failure, pb};
use serde_json::json;

use super::output::Output;
use super::progress::Progress;
use super::restore::parse_pattern;
use super::signals;
use crate::units;

/// When the command may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wait {
    /// Durable on a quorum
    Quorum,
    /// Published by every voter
    All,
}

/// Arguments of `commit`.
#[derive(Debug, clap::Args)]
pub struct CommitArgs {
    /// The directory; what is mounted below it is part of it
    dir: PathBuf,
    /// The job [default: the directory's name]
    #[arg(short, long, env = "EPOCHLOG_JOB")]
    job: Option<JobName>,
    /// Number of the epoch [default: the next one]
    #[arg(long, value_name = "N", value_parser = parse_epoch)]
    epoch: Option<u64>,
    /// A label; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Return when the epoch is durable on a quorum, or when all voters have published it
    #[arg(long, value_enum, default_value = "quorum")]
    wait: Wait,
    /// Only entries that match, and the directories above them; may be repeated. `*` and `?` stay within a name, `**`
    /// crosses directories, a pattern that names a directory means all that is in it
    #[arg(long, value_name = "GLOB", value_parser = parse_pattern)]
    include: Vec<Pattern>,
    /// No entry that matches, nor what is below it; may be repeated. Goes before --include. What is left out may be a
    /// socket or unreadable: it is not looked at
    #[arg(long, value_name = "GLOB", value_parser = parse_pattern)]
    exclude: Vec<Pattern>,
    /// Promise that files never change in place once written: they are held by hard links, so that the program may go on
    ///
    /// Without it a file that changes while it is read is found, also when its times are put back, and also when it is
    /// written through a mapping; not so on tmpfs, where a program that has a file mapped must stand still. What one
    /// single write call does that began before the command may go unseen.
    #[arg(long)]
    immutable: bool,
    /// Take the job over: whatever other writers have begun ends, and none of them can finish an epoch any more
    #[arg(long)]
    take_over: bool,
    /// Commit only while the writer with this token still writes the job; the client library opens writers
    #[arg(long, value_name = "N")]
    token: Option<u64>,
    /// An epoch of this number that is there already is a success, whatever it holds
    #[arg(long)]
    if_not_exists: bool,
    /// Epochs this one depends on, JOB@EPOCH; may be repeated
    #[arg(long, value_name = "NAME")]
    depends_on: Vec<String>,
    /// Id of an earlier try, to learn its outcome, as the answer to it printed it. Without its POSITION it counts as
    /// older than anything that the log may have forgotten
    #[arg(long, value_name = "ID.POSITION", value_parser = parse_commit_id)]
    commit_id: Option<(CommitId, u64)>,
    /// Never let a node read the directory itself
    #[arg(long)]
    stream: bool,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

fn parse_epoch(text: &str) -> Result<u64, String> {
    let epoch: u64 = text.parse().map_err(|_| format!("write a whole number up to {EPOCH_MAX}"))?;
    match epoch <= EPOCH_MAX {
        true => Ok(epoch),
        // One such number, and the job would have none left.
        false => Err(format!("the highest number is {EPOCH_MAX} (2^53)")),
    }
}

/// An id, and the position at which it was not in use yet; 0 when nobody says.
fn parse_commit_id(text: &str) -> Result<(CommitId, u64), String> {
    let (id, born) = text.split_once('.').unwrap_or((text, "0"));
    let born = born.parse().map_err(|_| format!("{born:?} is no position in the log"))?;
    Ok((id.parse::<CommitId>().map_err(|error| error.to_string())?, born))
}

/// Runs the command.
pub async fn run(args: &CommitArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let job = match &args.job {
        Some(job) => job.clone(),
        None => job_of(&args.dir)?,
    };
    let mut commit = Commit::new(job);
    commit.epoch = args.epoch;
    commit.token = args.token;
    if let Some((id, born)) = args.commit_id {
        (commit.commit_id, commit.born) = (id, Some(born));
    }
    commit.labels.clone_from(&args.labels);
    commit.labels.sort();
    commit.depends_on.clone_from(&args.depends_on);
    commit.wait_all = args.wait == Wait::All;
    commit.take_over = args.take_over;
    commit.if_not_exists = args.if_not_exists;
    commit.choice.include.clone_from(&args.include);
    commit.choice.exclude.clone_from(&args.exclude);
    commit.immutable = args.immutable;
    commit.by_path = !args.stream;

    let progress = Progress::start(output, "commit");
    let done = client
        .commit_until(&args.dir, commit, &|event| show(&event, args.immutable, &progress), signals::comes())
        .await?;
    drop(progress);
    report(&done, output);
    match &done.published {
        Some(_) if done.committed.expired => Ok(()),
        Some(published) if !published.missing.is_empty() || published.nodes.is_empty() => {
            Err(partial(&done, published))
        }
        _ => Ok(()),
    }
}

/// The job is named like the directory when nobody says otherwise.
fn job_of(dir: &std::path::Path) -> Result<JobName, Failure> {
    let canonical = std::fs::canonicalize(dir).map_err(|source| {
        Failure::from_io(&IoError { path: dir.to_owned(), what: "read", source })
            .sentence("the directory cannot be read, nothing was committed")
            .what("commit")
    })?;
    let name = canonical.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).ok_or_else(|| {
        Failure::new(Code::Usage, "the job is missing, nothing was committed")
            .what("commit")
            .why(format!("the name of {} is not a valid job name", canonical.display()))
            .fix("give --job NAME")
    })
}

fn show(event: &Event, immutable: bool, progress: &Progress<'_>) {
    match event {
        Event::Planned { files, bytes, captured, bits_lost } => {
            let (name, note) = match captured {
                pb::Captured::Cloned => {
                    ("cloned", Some("captured: your program may go on with the directory"))
                }
                pb::Captured::Linked => {
                    ("linked", Some("captured: your program may add and remove files now, and change none"))
                }
                pb::Captured::InPlace if immutable => (
                    "in place",
                    Some(
                        "not captured in spite of --immutable: leave the directory as it is until this returns",
                    ),
                ),
                pb::Captured::InPlace => ("in place", None),
            };
            progress.tell(&json!({
                "type": "planned", "files": files, "bytes": bytes, "captured": name,
                "bits_lost": bits_lost.as_ref().map_or(0, |lost| lost.directories),
            }));
            progress.at(0, *bytes);
            note.into_iter().for_each(|note| progress.note(note));
            if let Some(lost) = bits_lost {
                progress.note(&format!(
                    "set-gid and sticky bits of directories are not kept: {} of them, the first is {}",
                    lost.directories, lost.first
                ));
            }
        }
        Event::Progress(now) => progress.at(now.acknowledged_bytes, now.total_bytes),
        Event::Reconnecting { endpoint, why } => progress.note(&format!("{endpoint}: {why}; trying on")),
        Event::Opened(opened) if opened.resumed && opened.attempt > 0 => {
            progress.note(&format!("resuming epoch {}, attempt {}", opened.epoch, opened.attempt));
        }
        Event::Opened(_) | Event::Committed(_) => {}
    }
}

/// Prints a commit that went well.
pub fn report(done: &Done, output: &Output) {
    let committed = &done.committed;
    if output.is_json() {
        output.outcome(summary(done));
    } else {
        output.line(line(committed, done.published.as_ref()));
    }
}

/// The last line of `-o json`.
pub fn summary(done: &Done) -> serde_json::Value {
    let committed = &done.committed;
    let position = committed.position.unwrap_or_default();
    let mut value = json!({
        "type": "summary",
        "job": committed.job,
        "epoch": committed.epoch,
        "root": units::hex(&committed.root),
        "position": { "term": position.term, "index": position.index },
        "attempt": committed.attempt,
        "files": committed.files,
        "bytes": committed.bytes,
        "new_bytes": committed.new_bytes,
        "new_files": committed.new_files,
        "log_bytes": committed.log_bytes,
        "quorum_ms": committed.quorum_ms,
        "all_ms": done.published.as_ref().filter(|all| all.missing.is_empty()).map(|all| all.all_ms),
        "already": committed.already,
        "expired": committed.expired,
        "by_path": committed.by_path,
        "mode": (!committed.mode.is_empty()).then_some(&committed.mode),
        "store": (!committed.store.is_empty()).then_some(&committed.store),
        "committed": "yes",
    });
    if let Some(published) = &done.published {
        value["published_on"] = published.nodes.clone().into();
        value["missing"] = published.missing.clone().into();
    }
    value
}

/// The line people read.
pub fn line(committed: &pb::Committed, published: Option<&pb::Published>) -> String {
    let root = units::hex(&committed.root);
    if committed.expired {
        let position = committed.position.unwrap_or_default();
        return format!(
            "already committed {}@{}, and removed since  root {}  (term {}, index {})",
            committed.job,
            committed.epoch,
            &root[..root.len().min(8)],
            position.term,
            position.index
        );
    }
    let mut line = format!(
        "{} {}@{}  {}, {} files ({} new, {})  root {}  ",
        if committed.already { "already committed" } else { "committed" },
        committed.job,
        committed.epoch,
        units::size(committed.bytes),
        committed.files,
        committed.new_files,
        units::size(committed.new_bytes),
        &root[..root.len().min(8)],
    );
    if !committed.store.is_empty() {
        line.push_str(&format!("{} in {}  ", committed.mode, committed.store));
    }
    let voters = committed.voters;
    if committed.already {
        let position = committed.position.unwrap_or_default();
        line.push_str(&format!("(term {}, index {})", position.term, position.index));
    } else {
        line.push_str(&format!(
            "quorum {}/{voters} in {}",
            voters / 2 + 1,
            units::seconds(committed.quorum_ms)
        ));
    }
    if let Some(published) = published.filter(|all| all.missing.is_empty() && !all.nodes.is_empty()) {
        line.push_str(&format!(", all {} in {}", published.nodes.len(), units::seconds(published.all_ms)));
    }
    line
}

fn partial(done: &Done, published: &pb::Published) -> Failure {
    let committed = &done.committed;
    let missing: Vec<String> = published.missing.iter().map(|node| format!("node {node}")).collect();
    let who = if missing.is_empty() { "not known which nodes".to_owned() } else { missing.join(", ") };
    Failure {
        epoch: Some(committed.epoch),
        ..Failure::new(Code::Partial, "committed, but not yet published by all voters")
            .what(format!("commit {}@{} --wait all", committed.job, committed.epoch))
            .why(format!("not published yet: {who}"))
            .fix(
                "nothing has to be done about nodes that are behind: they publish when they have caught up, and `epochlog ls` \
                 shows it; what keeps a node from it `epochlog status` tells",
            )
            .committed(Certainty::Yes)
    }
}

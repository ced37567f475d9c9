//! `demo [DIR]`: three nodes on loopback, an epoch, a dead leader in the middle of the next one, and
//! the proof that all three directories are identical. Exits 0 only if all of it held.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use checkpoint::restore::RestoreOptions;
use checkpoint::{Digest, JobName};
use client::{Client, Code, Commit, Done, Event, Failure, pb};
use rand::{RngCore, SeedableRng};
use rustix::process::Signal;
use serde_json::json;

use super::local_cluster::{LocalCluster, Settings, canonical};
use super::output::Output;
use super::{commit, digest, restore};
use crate::units;

/// Bytes that are new in the epoch in whose middle the leader dies.
const CHANGED_BYTES: u64 = 256 << 20;
/// Tries to hit the middle of an epoch on a fast machine.
const TRIES_MAX: u64 = 3;
/// How long any one step may take without progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// The directory to commit [default: a generated one]
    dir: Option<PathBuf>,
    /// Keep all folders and say where they are
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub async fn run(args: &DemoArgs, output: &Output) -> Result<(), Failure> {
    // Before anything is made that would have to be removed.
    args.dir.as_deref().map(given).transpose()?;
    let temp = tempfile::Builder::new()
        .prefix("epochlog-demo-")
        .tempdir()
        .map_err(|error| broken("make a temporary folder", error))?;
    let (dir, guard) = match args.keep {
        true => (temp.keep(), None),
        false => (temp.path().to_owned(), Some(temp)),
    };
    let folder = canonical(&dir);
    let ended = tokio::select! {
        ended = story(args, &folder, output) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "interrupted")),
    };
    match guard {
        None => output.note(format!("everything is kept in {}", dir.display())),
        Some(guard) => {
            output.note("removing the demo's folders ...");
            if let Err(error) = guard.close() {
                output.note(format!("{} stays behind: {error}", dir.display()));
            }
        }
    }
    ended
}

fn broken(what: impl Into<String>, why: impl ToString) -> Failure {
    Failure::new(Code::Internal, "the demo did not hold").what(what).why(why.to_string())
}

fn say(output: &Output, text: impl AsRef<str>) {
    if output.is_json() {
        output.progress(&json!({ "type": "progress", "what": text.as_ref() }));
    } else {
        output.line(text);
    }
}

async fn story(args: &DemoArgs, dir: &Path, output: &Output) -> Result<(), Failure> {
    let started = Instant::now();
    let source = source(args, dir, output)?;
    let job = job_of(args);
    let settings = Settings {
        dir: dir.to_owned(),
        nodes: 3,
        base_port: None,
        source_roots: vec![source.clone(), dir.to_owned()],
        timing: ("200ms", "1500ms", "2s"),
    };
    let mut cluster = LocalCluster::start(&settings)?;
    let (leader, _) = cluster.wait_ready(3, PATIENCE).await?;
    for node in &cluster.nodes {
        let pid = node.pid().unwrap_or_default();
        let role = if node.id == leader { "leads" } else { "follows" };
        say(output, format!("node {} at {}, pid {pid}, {role}", node.id, node.grpc));
    }

    say(output, format!("\n1. commit {} through node {}, a follower", source.display(), other_than(leader)));
    let client = cluster.client(other_than(leader), PATIENCE);
    let mut first = Commit::new(job.clone());
    first.wait_all = true;
    let first = client.commit(&source, first, &|_| {}).await?;
    say(output, format!("   {}", commit::line(&first.committed, first.published.as_ref())));
    all_the_same(&cluster, &first.committed, output).await?;
    same("the source", root_of(&source).await?, &first.committed)?;

    say(output, "\n2. restore it, change it, and kill the leader in the middle of the next epoch");
    let work = dir.join("work");
    restore_to(&client, &job, first.committed.epoch, &work, output).await?;
    let second = next_epoch(&mut cluster, &job, &work, output).await?;

    say(output, format!("\n3. start node {} again: it catches up from the log", second.killed));
    cluster.node_mut(second.killed).spawn()?;
    cluster.wait_ready(3, PATIENCE).await?;
    let client = cluster.client(second.killed, PATIENCE);
    wait_published_everywhere(&client, &second.done.committed).await?;
    all_the_same(&cluster, &second.done.committed, output).await?;
    same("the changed source", root_of(&work).await?, &second.done.committed)?;
    done_with(args, &work).await;

    say(output, format!("\n4. restore epoch {} from the node that died", second.done.committed.epoch));
    let restored = dir.join("restored");
    restore_to(&client, &job, second.done.committed.epoch, &restored, output).await?;
    same("the restored directory", root_of(&restored).await?, &second.done.committed)?;
    say(output, "   its root is the one that was committed");
    done_with(args, &restored).await;

    cluster.stop();
    let took = units::seconds(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    let root = units::hex(&second.done.committed.root);
    if output.is_json() {
        output.outcome(json!({
            "type": "summary", "ok": true, "job": job.as_str(), "epoch": second.done.committed.epoch, "root": root,
            "killed": second.killed, "new_leader": second.leader,
            "bytes": second.done.committed.bytes, "new_bytes": second.done.committed.new_bytes,
            "log_bytes": second.done.committed.log_bytes, "committed": "yes",
        }));
    } else {
        output.line(format!(
            "\nAll of it held, in {took}: one leader dead, nothing lost, three identical directories.{}",
            if args.keep { "" } else { " (--keep leaves the folders to be looked at.)" }
        ));
    }
    Ok(())
}

fn job_of(args: &DemoArgs) -> JobName {
    let named = args.dir.as_deref().map(canonical).and_then(|dir| dir.file_name()?.to_str()?.parse().ok());
    named.unwrap_or_else(|| "demo".parse().expect("a plain name"))
}

fn other_than(leader: u64) -> u64 {
    if leader == 1 { 2 } else { 1 }
}

fn source(args: &DemoArgs, dir: &Path, output: &Output) -> Result<PathBuf, Failure> {
    if let Some(dir) = &args.dir {
        return given(dir);
    }
    let made = dir.join("source");
    generate(&made).map_err(|error| broken("generate a directory", error))?;
    say(
        output,
        "a directory of about 64 MiB was generated: large, small and empty files, a symlink, an empty directory\n",
    );
    Ok(made)
}

/// The directory that was named.
fn given(dir: &Path) -> Result<PathBuf, Failure> {
    let refuse = |why: String| {
        Failure::new(Code::Usage, "the directory cannot be used")
            .what(format!("demo {}", dir.display()))
            .why(why)
            .fix("name a directory, or none: then one is generated")
    };
    let real = fs::canonicalize(dir).map_err(|error| refuse(error.to_string()))?;
    if real.is_dir() { Ok(real) } else { Err(refuse("it is not a directory".into())) }
}

/// About 64 MiB of everything.
fn generate(dir: &Path) -> std::io::Result<()> {
    let mut random = rand::rngs::SmallRng::seed_from_u64(42);
    fs::create_dir_all(dir.join("state/small"))?;
    fs::create_dir_all(dir.join("state/empty-directory"))?;
    write_random(&dir.join("state/large-1.sst"), 40 << 20, &mut random)?;
    write_random(&dir.join("state/large-2.sst"), 16 << 20, &mut random)?;
    write_random(&dir.join("state/odd-size.sst"), (5 << 20) + 12_345, &mut random)?;
    for at in 0..1000_u64 {
        write_random(&dir.join(format!("state/small/{at:04}")), 1024 + at * 3, &mut random)?;
    }
    fs::write(dir.join("state/empty-file"), b"")?;
    fs::write(dir.join("_metadata"), b"a checkpoint of the demo\n")?;
    fs::set_permissions(dir.join("_metadata"), fs::Permissions::from_mode(0o440))?;
    symlink("state/large-1.sst", dir.join("newest"))
}

fn write_random(path: &Path, bytes: u64, random: &mut rand::rngs::SmallRng) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let mut left = bytes;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let now = left.min(buffer.len() as u64);
        let part = &mut buffer[..usize::try_from(now).expect("at most 1 MiB")];
        random.fill_bytes(part);
        file.write_all(part)?;
        left -= now;
    }
    Ok(())
}

/// An epoch in whose middle the leader was killed.
struct Survived {
    done: Done,
    killed: u64,
    leader: u64,
}

async fn next_epoch(
    cluster: &mut LocalCluster,
    job: &JobName,
    work: &Path,
    output: &Output,
) -> Result<Survived, Failure> {
    for attempt in 1..=TRIES_MAX {
        let seed = 1000 + attempt;
        change(work, seed).map_err(|error| broken("change the directory", error))?;
        let (leader, _) = cluster.wait_ready(3, PATIENCE).await?;
        let (done, killed_at) = commit_and_kill(cluster, job, work, leader, output).await?;
        cluster.node_mut(leader).kill();
        let Some(killed_at) = killed_at else {
            say(output, "   this machine was too fast: the epoch was done before the leader died; once more");
            cluster.node_mut(leader).spawn()?;
            continue;
        };
        let (new_leader, _) = cluster.wait_ready(2, PATIENCE).await?;
        if new_leader == leader {
            return Err(broken("elect a new leader", "the dead node is still said to lead"));
        }
        let committed = &done.committed;
        say(
            output,
            format!(
                "   node {leader} was killed (kill -9) with {} acknowledged; node {new_leader} leads now",
                units::size(killed_at)
            ),
        );
        say(output, format!("   {}", commit::line(committed, None)));
        let extra = committed.log_bytes.saturating_sub(committed.new_bytes);
        say(
            output,
            format!(
                "   {} of new content, {} of log overhead",
                units::size(committed.new_bytes),
                units::size(extra)
            ),
        );
        return Ok(Survived { done, killed: leader, leader: new_leader });
    }
    Err(broken("kill the leader in the middle of an epoch", "every epoch was done before the leader died"))
}

/// Commits `work` through a follower and kills the leader when half of it is acknowledged; tells how many
/// bytes were, when that was before the end.
async fn commit_and_kill(
    cluster: &LocalCluster,
    job: &JobName,
    work: &Path,
    leader: u64,
    output: &Output,
) -> Result<(Done, Option<u64>), Failure> {
    let client = cluster.client(other_than(leader), PATIENCE);
    let (killed, sealed) = (AtomicU64::new(0), AtomicBool::new(false));
    let done = client
        .commit(work, Commit::new(job.clone()), &|event| match event {
            Event::Progress(now) => {
                let half = now.acknowledged_bytes * 2 >= now.total_bytes;
                if half && killed.load(Ordering::Relaxed) == 0 && !sealed.load(Ordering::Relaxed) {
                    cluster.node(leader).signal(Signal::KILL);
                    killed.store(now.acknowledged_bytes, Ordering::Relaxed);
                }
            }
            Event::Committed(_) => sealed.store(true, Ordering::Relaxed),
            Event::Reconnecting { endpoint, why } => {
                say(output, format!("   {endpoint}: {why}; the client goes on elsewhere"))
            }
            Event::Planned { .. } | Event::Opened(_) => {}
        })
        .await?;
    let killed = killed.into_inner();
    // A seal that came from the old leader's term was there before it died.
    Ok((done, (killed > 0).then_some(killed)))
}

/// New content of about 256 MiB, one file gone, one file changed.
fn change(work: &Path, seed: u64) -> std::io::Result<()> {
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let made = work.join("changed-by-the-demo");
    if made.exists() {
        fs::remove_dir_all(&made)?;
    }
    // The directory may be read-only, as its source was.
    fs::set_permissions(work, fs::Permissions::from_mode(0o755))?;
    fs::create_dir(&made)?;
    for at in 0..4_u64 {
        write_random(&made.join(format!("{at}.sst")), CHANGED_BYTES / 4, &mut random)?;
    }
    fs::write(made.join("note"), format!("round {seed}\n"))
}

async fn restore_to(
    client: &Client,
    job: &JobName,
    epoch: u64,
    to: &Path,
    output: &Output,
) -> Result<(), Failure> {
    let which = pb::Which { kind: Some(pb::which::Kind::Exactly(epoch)) };
    let fetched = client.manifest(job.as_str(), which, false).await?;
    let options = RestoreOptions::default();
    let (restored, _) = restore::restore(&fetched, to.to_owned(), options, client, output).await?;
    say(
        output,
        format!("   restored {job}@{epoch}  {}, {} files", units::size(restored.bytes), restored.files),
    );
    Ok(())
}

/// Removes a tree of the demo's own that is not looked at any more, so that the end has less to remove.
async fn done_with(args: &DemoArgs, dir: &Path) {
    if args.keep {
        return;
    }
    let dir = dir.to_owned();
    // What cannot be removed now is tried again at the end, and told then.
    let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(dir)).await;
}

async fn root_of(dir: &Path) -> Result<Digest, Failure> {
    Ok(digest::of_directory(dir.to_owned()).await?.root())
}

fn same(what: &str, root: Digest, committed: &pb::Committed) -> Result<(), Failure> {
    if root.as_bytes()[..] == committed.root[..] {
        return Ok(());
    }
    let sealed = units::hex(&committed.root);
    Err(Failure::new(Code::Corrupt, "the demo did not hold")
        .what(format!("compare {what} with the committed epoch"))
        .why(format!("its root is {root}, the committed one {sealed}")))
}

/// Walks each node's published directory by itself and compares the roots.
async fn all_the_same(
    cluster: &LocalCluster,
    committed: &pb::Committed,
    output: &Output,
) -> Result<(), Failure> {
    for node in &cluster.nodes {
        let root = root_of(&node.published(&committed.job, committed.epoch)).await?;
        same(&format!("node {}'s directory", node.id), root, committed)?;
        say(output, format!("   node {}  root {root}", node.id));
    }
    Ok(())
}

async fn wait_published_everywhere(client: &Client, committed: &pb::Committed) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        let request = pb::ShowRequest {
            job: committed.job.clone(),
            which: Some(pb::Which { kind: Some(pb::which::Kind::Exactly(committed.epoch)) }),
            ..pb::ShowRequest::default()
        };
        let published = client.show(request).await?.epoch.unwrap_or_default().published_on;
        if published.len() == 3 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(broken(
                "wait until all three have published",
                format!("only nodes {published:?} have"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

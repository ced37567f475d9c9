//! The long forms of the stories, with progress and a closing table.
//!
//! `cargo run --release -p cluster-tests --bin trial -- [--only NAME]... [--realinputs DIR] [--seed N] [--before BINARY]`
//! An unknown name is answered with the known ones. Exits 1 when any story failed. The bars (`bars.rs`) are told only
//! by name: `scripts/bars` does that.

mod bars;
mod stage;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bars::BARS;
use cluster_tests::cluster::{Cluster, Options};
use cluster_tests::disks::Kind;
use cluster_tests::inputs::{archives, backups, real_inputs};
use cluster_tests::needs::{Need, is_root, skip, skipped};
use cluster_tests::scenario::catch_up::{self, CatchUp};
use cluster_tests::scenario::full_disk::{self, FullDisk, Whose};
use cluster_tests::scenario::kills::{self, Uploads};
use cluster_tests::scenario::restart::{self, Restart};
use cluster_tests::scenario::years::{self, Years};
use cluster_tests::scenario::{damage, hostile, identical, identity, order, purging, sources, wire, writers};
use cluster_tests::seed::{Rng, parse, run_seed};
use cluster_tests::trees::Special;
use stage::{Stage, Tell, say};

/// Name, what the project promises, and the story.
const STORIES: [(&str, &str, Tell); 28] = [
    ("real", "every folder of every archive, through a follower, identical on all nodes and restored", real),
    ("special", "the special tree in full, identical on all nodes and restored", special),
    ("user", "the special tree in full as an ordinary user", user),
    ("leader-kills", "the leader killed at 20 random moments of a 1 GiB upload", leader_kills),
    ("node-kills", "each node killed in turn, 30 rounds, in a loop of commits", node_kills),
    ("all-kills", "all nodes killed in mid-commit and started again", all_kills),
    ("publishing", "all nodes killed while they publish", publishing),
    ("order", "staged fdatasync, WAL write, WAL fdatasync, answer", |stage| {
        order::staged_then_log_then_answer("order", &mut stage.rng)
    }),
    ("slow-sync", "no answer before the followers have synced", |stage| {
        order::no_answer_before_slow_followers("slow", &mut stage.rng)
    }),
    ("eio", "EIO on either fdatasync ends the node, nothing is acknowledged", |stage| {
        order::failed_fsync_is_final("eio", &mut stage.rng)
    }),
    ("source", "SourceChanged when a file moves while it is read", |stage| {
        sources::changed("source", 256 << 20, &mut stage.rng)
    }),
    ("writers", "a paused writer never seals over a take-over", |stage| {
        writers::one_stopped("writers", 512 << 20, &mut stage.rng)
    }),
    ("many-writers", "of 8 writers of one epoch one commits, and each is told of its own root", |stage| {
        writers::many_of_one_epoch("many-writers", 200, &mut stage.rng)
    }),
    ("dead-writer", "a dead writer hinders its successor for half a minute at most", |stage| {
        writers::one_killed("dead-writer", 512 << 20, &mut stage.rng)
    }),
    ("repeats", "repeated, conflicting and late commits", |stage| {
        writers::repeats_and_conflicts("repeats", &mut stage.rng)
    }),
    ("hostile", "hostile directories and names are refused", hostile_directories),
    ("wire", "hostile messages stop nothing", hostile_messages),
    ("wiped", "a wiped folder under a known id, half a folder", wiped),
    (
        "years",
        "300 epochs come and go, nothing grows, a follower comes home for what it lacks",
        live_for_years,
    ),
    ("catch-up", "2 GiB fetched while others commit and both sides are killed", catch_up),
    ("purging", "any node killed while logs are purged and content is given back", purging),
    ("restart", "a killed node with 1,000 epochs serves and follows again within 2 s", restart),
    ("damage-ledger", "catalog and snapshots damaged in every way", |stage| {
        damage::rows("ledger", &damage::LEDGER, &mut stage.rng, &mut say)
    }),
    ("damage-log", "log, vote and identity damaged in every way", |stage| {
        damage::rows("log", &damage::LOG, &mut stage.rng, &mut say)
    }),
    ("damage-content", "staged files, blobs and published trees damaged in every way", |stage| {
        damage::rows("content", &damage::CONTENT, &mut stage.rng, &mut say)
    }),
    ("full-disk", "a full tmpfs of the leader, of a follower, of all nodes", |stage| {
        full_disk(stage, Kind::Tmpfs)
    }),
    ("full-ext4", "a full ext4 of the leader, of a follower, of all nodes", |stage| {
        full_disk(stage, Kind::LoopExt4)
    }),
    ("stranger", "a node of another cluster", |stage| {
        identity::other_cluster_is_refused("stranger", &mut stage.rng)
    }),
];

fn real(stage: &mut Stage) {
    let cluster = Cluster::start("real", Options::default());
    let mut all = real_inputs(&stage.archives, &cluster.source(""));
    all.push(backups(&cluster.source("backups"), 10 << 20, 3, &mut stage.rng));
    for series in &all {
        for (number, answer) in (1..).zip(identical::series(&cluster, series)) {
            let [bytes, log_bytes] = ["bytes", "log_bytes"].map(|name| answer.number(name));
            say(format!("{}@{number}: {bytes} bytes, {log_bytes} through the log", series.job));
        }
    }
}

fn special(stage: &mut Stage) {
    let cluster = Cluster::start("special", Options::default());
    identical::special(&cluster, Special::full(), &mut stage.rng);
}

fn user(stage: &mut Stage) {
    if !is_root() {
        return skip(Need::Root, "user", "this process is an ordinary user already: see `special`");
    }
    let cluster = Cluster::start("user", Options { user: Some((65_534, 65_534)), ..Options::default() });
    identical::special(&cluster, Special::full(), &mut stage.rng);
}

fn leader_kills(stage: &mut Stage) {
    let uploads = Uploads { moments: 20, files: 16, file_bytes: 64 << 20, per_cluster: 4 };
    kills::leader_mid_upload("leader-kills", uploads, &mut stage.rng, &mut say);
}

fn node_kills(stage: &mut Stage) {
    kills::each_node("node-kills", 30, &mut stage.rng, &mut say);
}

fn all_kills(stage: &mut Stage) {
    kills::all_and_restart("all-kills", 10, &mut stage.rng, &mut say);
}

fn publishing(stage: &mut Stage) {
    kills::while_publishing("publishing", 10, 5000, &mut stage.rng, &mut say);
}

fn hostile_directories(stage: &mut Stage) {
    for by_path in [true, false] {
        let cluster = hostile::cluster("hostile", by_path);
        hostile::directories(&cluster, &mut stage.rng);
        hostile::names(&cluster, &mut stage.rng);
    }
}

fn hostile_messages(stage: &mut Stage) {
    let mut cluster = hostile::cluster("wire", true);
    wire::garbage(&mut cluster, &mut stage.rng);
    wire::hostile_requests(&mut cluster, &mut stage.rng);
    hostile::still_serves(&cluster, &mut stage.rng);
}

fn wiped(stage: &mut Stage) {
    identity::wiped_folder_is_refused("wiped", &mut stage.rng);
    identity::half_a_folder_does_not_start("half", &mut stage.rng);
}

fn live_for_years(stage: &mut Stage) {
    let span =
        Years { epochs: 300, epoch_bytes: 8 << 20, keep: 5, early: 30, absences: 3, away: 25, limit: 1.3 };
    years::years("years", span, &mut stage.rng, &mut say);
}

fn catch_up(stage: &mut Stage) {
    let size = CatchUp { lacked: 2 << 30, epoch_bytes: 128 << 20, rounds: 10, kills: 2 };
    catch_up::killed_on_both_sides("catch-up", size, &mut stage.rng, &mut say);
}

fn purging(stage: &mut Stage) {
    purging::killed_while_purging("purging", 30, &mut stage.rng, &mut say);
}

fn restart(stage: &mut Stage) {
    let promise = Restart { epochs: 1000, rounds: 4, limit: Duration::from_secs(2) };
    restart::after_kill("restart", promise, &mut stage.rng, &mut say);
}

fn full_disk(stage: &mut Stage, kind: Kind) {
    let size = FullDisk { kind, disk_bytes: 256 << 20, epoch_bytes: 16 << 20, during_upload: true };
    for whose in [Whose::Leader, Whose::Follower, Whose::Followers, Whose::All] {
        full_disk::full("full", size, whose, &mut stage.rng, &mut say);
    }
}

/// How a story ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Held,
    Skipped,
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Held => "held",
            Outcome::Skipped => "skipped",
            Outcome::Failed => "FAILED",
        }
    }
}

/// What was asked for.
struct Asked {
    only: Vec<String>,
    archives: PathBuf,
    seed: u64,
    before: Option<PathBuf>,
}

fn asked() -> Result<Asked, String> {
    let mut asked = Asked { only: Vec::new(), archives: archives(), seed: run_seed(), before: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--only" => asked.only.push(value()?),
            "--before" => asked.before = Some(value()?.into()),
            "--realinputs" => asked.archives = value()?.into(),
            "--seed" => asked.seed = parse(&value()?).ok_or("--seed needs a 64-bit number")?,
            other => {
                return Err(format!(
                    "{other}: known are --only NAME, --realinputs DIR, --seed N, --before BINARY"
                ));
            }
        }
    }
    match asked.only.iter().find(|name| !STORIES.iter().chain(&BARS).any(|(known, _, _)| known == name)) {
        Some(unknown) => {
            let names: Vec<_> = STORIES.iter().chain(&BARS).map(|(name, _, _)| *name).collect();
            Err(format!("no story {unknown}; there are {}", names.join(", ")))
        }
        None => Ok(asked),
    }
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    println!("seed {}, real inputs {}", asked.seed, asked.archives.display());
    let mut results: Vec<(&str, &str, Outcome, Duration)> = Vec::new();
    let named = |name: &str| asked.only.iter().any(|wanted| wanted == name);
    let stories = STORIES.into_iter().filter(|(name, _, _)| asked.only.is_empty() || named(name));
    for (name, promise, tell) in stories.chain(BARS.into_iter().filter(|(name, _, _)| named(name))) {
        println!("{name}: {promise}");
        let begun = Instant::now();
        let mut stage = Stage {
            archives: asked.archives.clone(),
            before: asked.before.clone(),
            rng: Rng::new(asked.seed, name),
        };
        let skips = skipped();
        let outcome = match catch_unwind(AssertUnwindSafe(|| tell(&mut stage))) {
            Ok(()) if skipped() == skips => Outcome::Held,
            // In whole or in part: what was left out did not hold.
            Ok(()) => Outcome::Skipped,
            Err(_) => Outcome::Failed,
        };
        let took = begun.elapsed();
        println!("{name}: {} in {took:.1?}", outcome.word());
        if outcome == Outcome::Failed {
            println!("  replay: --only {name} --seed {}", asked.seed);
        }
        results.push((name, promise, outcome, took));
    }
    println!("\n{:<14} {:<7} {:>9}  PROMISE", "STORY", "RESULT", "SECONDS");
    for (name, promise, outcome, took) in &results {
        println!("{name:<14} {:<7} {:>9.1}  {promise}", outcome.word(), took.as_secs_f64());
    }
    ExitCode::from(u8::from(results.iter().any(|(_, _, outcome, _)| *outcome == Outcome::Failed)))
}

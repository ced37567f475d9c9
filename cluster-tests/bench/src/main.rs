//! Measures epochlog beside its floors and beside rsync, in interleaved rounds
//! of one run on one disk. `scripts/bench` builds and runs it.
//!
//! Fresh random content in every round, so that nothing is deduplicated. A text
//! table goes to stdout, everything that was measured to a JSON file.
//!
//! What is timed is committed through the leader, which is the shortest way. Memory is measured both ways, by path and
//! streamed, each in a cluster of its own; `scripts/bars memory` does that for every load, and names the worst.

mod catch_up;
mod clusters;
mod contenders;
mod floors;
mod latency;
mod paired;
mod report;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use catch_up::CatchUp;
use cluster_tests::counters;
use cluster_tests::inputs::random_directory;
use cluster_tests::seed::{Rng, run_seed};
use clusters::cluster;
use contenders::trees;
use report::Report;
use sources::{mixed, small};

/// Sizes of a run.
struct Sizes {
    rounds: u32,
    large: (u32, u64),
    mixed: (u32, u64),
    small_rounds: u32,
    small_files: u32,
    tiny_epochs: u32,
    memory: [u64; 2],
    catch_up: CatchUp,
}

const FULL: Sizes = Sizes {
    rounds: 5,
    large: (8, 64 << 20),
    mixed: (60, 256 << 20),
    small_rounds: 3,
    small_files: 20_000,
    tiny_epochs: 1000,
    memory: [100 << 20, 4 << 30],
    catch_up: CatchUp {
        rounds: 3,
        lacked: (8, 256 << 20),
        steady_bytes: 16 << 20,
        window: Duration::from_secs(15),
    },
};
const QUICK: Sizes = Sizes {
    rounds: 1,
    large: (4, 16 << 20),
    mixed: (12, 32 << 20),
    small_rounds: 1,
    small_files: 1000,
    tiny_epochs: 50,
    memory: [16 << 20, 256 << 20],
    catch_up: CatchUp {
        rounds: 1,
        lacked: (8, 32 << 20),
        steady_bytes: 4 << 20,
        window: Duration::from_secs(3),
    },
};

struct Asked {
    quick: bool,
    dir: PathBuf,
    json: PathBuf,
    only: Vec<String>,
    rounds: Option<u32>,
    before: Option<PathBuf>,
}

/// So long the largest of these epochs may take.
const MEMORY_PATIENCE: Duration = Duration::from_secs(600);

const SECTIONS: [&str; 6] = ["large", "mixed", "small", "tiny", "memory", "catch-up"];

fn asked() -> Result<Asked, String> {
    let mut asked = Asked {
        quick: false,
        dir: std::env::temp_dir(),
        json: "bench.json".into(),
        only: Vec::new(),
        rounds: None,
        before: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--quick" => asked.quick = true,
            "--dir" => asked.dir = value()?.into(),
            "--before" => asked.before = Some(value()?.into()),
            "--json" => asked.json = value()?.into(),
            "--only" => asked.only.push(value()?),
            "--rounds" => asked.rounds = Some(value()?.parse().map_err(|_| "--rounds needs a number")?),
            other => {
                return Err(format!(
                    "{other}: known are --dir DIR, --json FILE, --only {}, --rounds N, --quick, --before BINARY",
                    SECTIONS.join("|")
                ));
            }
        }
    }
    match asked.only.iter().find(|name| !SECTIONS.contains(&name.as_str())) {
        Some(unknown) => Err(format!("no section {unknown}; there are {}", SECTIONS.join(", "))),
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
    let mut sizes = if asked.quick { QUICK } else { FULL };
    sizes.rounds = asked.rounds.unwrap_or(sizes.rounds);
    sizes.small_rounds = asked.rounds.unwrap_or(sizes.small_rounds);
    let wanted = |name: &str| asked.only.is_empty() || asked.only.iter().any(|only| only == name);
    let seed = run_seed();
    let mut rng = Rng::new(seed, "bench");
    let mut report = Report::new(&asked.dir, seed, asked.quick);
    if let Some(before) = &asked.before {
        return compare(&asked, &sizes, before, &mut rng, report);
    }
    if !floors::rsync_is_there() {
        report.note("rsync is not installed: its rows are missing");
    }
    if wanted("large") {
        let (files, bytes) = sizes.large;
        let make = move |at: &Path, rng: &mut Rng| random_directory(at, files, bytes, rng);
        trees(
            &format!("{files} x {} MiB", bytes >> 20),
            "large",
            sizes.rounds,
            true,
            &asked.dir,
            &make,
            &mut rng,
            &mut report,
        );
    }
    if wanted("mixed") {
        let (files, bytes) = sizes.mixed;
        let make = move |at: &Path, rng: &mut Rng| mixed(at, files, bytes, rng);
        trees(
            &format!("{files} files, {} MiB", bytes >> 20),
            "mixed",
            sizes.rounds,
            true,
            &asked.dir,
            &make,
            &mut rng,
            &mut report,
        );
    }
    if wanted("small") {
        let files = sizes.small_files;
        let make = move |at: &Path, rng: &mut Rng| small(at, files, rng);
        trees(
            &format!("{files} files of 1-8 KiB"),
            "small",
            sizes.small_rounds,
            false,
            &asked.dir,
            &make,
            &mut rng,
            &mut report,
        );
    }
    if wanted("tiny") {
        latency::tiny_epochs(sizes.tiny_epochs, &asked.dir, &mut rng, &mut report);
    }
    if wanted("memory") {
        for bytes in sizes.memory {
            memory(bytes, &asked.dir, &mut rng, &mut report);
        }
    }
    if wanted("catch-up") {
        let rounds = asked.rounds.unwrap_or(sizes.catch_up.rounds);
        catch_up::catch_up(CatchUp { rounds, ..sizes.catch_up }, &asked.dir, &mut rng, &mut report);
    }
    write(&asked, &report)
}

/// Prints the tables and writes the file.
fn write(asked: &Asked, report: &Report) -> ExitCode {
    print!("{}", report.text());
    match fs::write(&asked.json, report.json().to_string()) {
        Ok(()) => {
            eprintln!("measured values: {}", asked.json.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}: {error}", asked.json.display());
            ExitCode::FAILURE
        }
    }
}

/// The sections that are times, beside another build.
fn compare(asked: &Asked, sizes: &Sizes, before: &Path, rng: &mut Rng, mut report: Report) -> ExitCode {
    let rounds = asked.rounds.unwrap_or(if asked.quick { 2 } else { paired::ROUNDS_MIN });
    if rounds < paired::ROUNDS_MIN {
        report.note("so few rounds say little");
    }
    let wanted = |name: &str| asked.only.is_empty() || asked.only.iter().any(|only| only == name);
    let mut slower = Vec::new();
    let (files, bytes) = sizes.large;
    let large = move |at: &Path, rng: &mut Rng| random_directory(at, files, bytes, rng);
    let (mixed_files, mixed_bytes) = sizes.mixed;
    let mixed = move |at: &Path, rng: &mut Rng| mixed(at, mixed_files, mixed_bytes, rng);
    let small_files = sizes.small_files;
    let small = move |at: &Path, rng: &mut Rng| small(at, small_files, rng);
    type Make<'a> = &'a dyn Fn(&Path, &mut Rng);
    let sections: [(&str, String, Make<'_>); 3] = [
        ("large", format!("{files} x {} MiB", bytes >> 20), &large),
        ("mixed", format!("{mixed_files} files, {} MiB", mixed_bytes >> 20), &mixed),
        ("small", format!("{small_files} files of 1-8 KiB"), &small),
    ];
    for (name, title, make) in sections.into_iter().filter(|(name, ..)| wanted(name)) {
        let mut pair = paired::Pair::start(format!("{name}: {title}"), &asked.dir, before);
        pair.trees(rounds, make, rng);
        slower.extend(pair.tell(&mut report));
    }
    if wanted("tiny") {
        let mut pair = paired::Pair::start("tiny: epochs of 1 KiB".into(), &asked.dir, before);
        pair.tiny(rounds, (sizes.tiny_epochs / rounds).max(25), rng);
        slower.extend(pair.tell(&mut report));
    }
    let written = write(asked, &report);
    if slower.is_empty() {
        return written;
    }
    eprintln!("slower than before:\n  {}", slower.join("\n  "));
    ExitCode::FAILURE
}

/// Peak memory of each node after one epoch in a fresh cluster, for each way to commit it.
fn memory(bytes: u64, dir: &Path, rng: &mut Rng, report: &mut Report) {
    let title = format!("one epoch of {} MiB", bytes >> 20);
    for (through_leader, streamed) in [(true, false), (false, false), (true, true), (false, true)] {
        let way = format!(
            "through {}, {}",
            if through_leader { "the leader" } else { "a follower" },
            if streamed { "streamed" } else { "by path" }
        );
        eprintln!("{title}, {way}");
        let cluster = cluster(dir);
        let source = cluster.source("memory");
        random_directory(&source, 4, bytes / 4, rng);
        floors::quiet();
        let node = if through_leader { cluster.leader() } else { cluster.follower() };
        let more: &[&str] = if streamed { &["--stream"] } else { &[] };
        let flags = [&["--wait", "all", "--timeout", "300s"], more].concat();
        let output = cluster.commit_within(MEMORY_PATIENCE, &[node], &source, "memory", 1, &flags).ok();
        assert_eq!(output.summary()["by_path"], !streamed, "{output}");
        let mib = |node| counters::peak_rss(node) as f64 / f64::from(1 << 20);
        let peaks: Vec<f64> = cluster.nodes.iter().map(mib).collect();
        report.value(&title, &format!("peak RSS of each node, {way}"), &peaks, "MiB");
    }
}

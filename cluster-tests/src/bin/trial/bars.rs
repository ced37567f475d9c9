//! The bars: heavy checks of what the project wants to reach on one machine, each under a name. Their small forms are
//! in `tests/process`.

use std::time::Duration;

use cluster_tests::scenario::cut_leader::{self, CutOff, Thin, Windows};
use cluster_tests::scenario::eio;
use cluster_tests::scenario::many_files::{self, ManyFiles};
use cluster_tests::scenario::memory::{self, Memory};
use cluster_tests::scenario::rotten::{self, Rotten};
use cluster_tests::scenario::same_epoch::{self, SameEpoch};
use cluster_tests::scenario::slow_disk::{self, SlowDisk};
use cluster_tests::scenario::small_contents::{self, SmallContents};
use cluster_tests::scenario::sparse::{self, Sparse};

use crate::stage::{Stage, Tell, say};

/// Name, what is to be reached, and the story.
pub const BARS: [(&str, &str, Tell); 15] = [
    ("many-files", "200,000 files are published, small commits keep their p99 within 5 times", many_files),
    (
        "small-contents",
        "200,000 files of 20 bytes: 256 MiB a node, half the cost, back within 2 s",
        small_contents,
    ),
    ("memory", "256 MiB a node under every load, and home in 256 MiB after having been away for all", memory),
    ("slow-leader", "the leader's disk takes 60 MB/s: 256 MiB a node, and committed", slow_leader),
    ("hanging-sync", "a sync of 30 s at the leader: another leader within 5 s, committed", |stage| {
        let (hang, limit) = (Duration::from_secs(30), Duration::from_secs(5));
        slow_disk::one_sync_hangs("hanging-sync", 64 << 20, hang, limit, &mut stage.rng, &mut say);
    }),
    ("still-disks", "all disks stand still for 10 s: at most one change of leader", |stage| {
        let still = Duration::from_secs(10);
        slow_disk::all_stand_still("still-disks", 256 << 20, still, &mut stage.rng, &mut say);
    }),
    (
        "every-eio",
        "EIO in each sync of publish, snapshot, keep, install, repair: ends, says so, comes home",
        |stage| {
            eio::every_sync("every-eio", &eio::ROWS, &mut stage.rng, &mut say);
        },
    ),
    ("rotten", "a blob rotten on every node that has it, the third comes home within 30 s", |stage| {
        rotten(stage, false);
    }),
    ("rotten-purged", "the same, the log purged past the third", |stage| rotten(stage, true)),
    ("cut-leader", "a leader cut off: another by 5 s, commits by 6 s, whoever is named first", cut_leader),
    ("windows", "a wire that is up for a second between cuts is used", windows),
    ("thin-wire", "200 MiB over 10 Mbit/s, small commits keep a p99 under 5 s", thin_wire),
    ("same-epoch", "8 writers of one epoch, 200 rounds, one root each", same_epoch),
    (
        "sparse",
        "100 GiB of hole with 320 KiB in it: committed within 2 s, everywhere as small as its source",
        sparse,
    ),
    ("writer-gone", "a dead writer hinders its successor for 30 s at most", |stage| {
        same_epoch::a_dead_writer_hinders_briefly("writer-gone", 256 << 20, &mut stage.rng, &mut say)
    }),
];

fn many_files(stage: &mut Stage) {
    let size = ManyFiles {
        files: 200_000,
        file_bytes: 100,
        quiet: Duration::from_secs(20),
        factor: Some(5.0),
        limit: Duration::from_secs(2),
    };
    many_files::others_go_on("many-files", size, &mut stage.rng, &mut say);
}

fn cut_leader(stage: &mut Stage) {
    let size = CutOff { rounds: 20, late: 1 };
    cut_leader::leader_cut_off("cut-leader", size, &mut stage.rng, &mut say);
}

fn windows(_stage: &mut Stage) {
    let size = Windows { cuts: 20, cut: Duration::from_secs(2), up: Duration::from_secs(1), missed: 0 };
    cut_leader::short_windows("windows", size, &mut say);
}

fn thin_wire(stage: &mut Stage) {
    let size = Thin {
        bits_per_s: 10_000_000,
        bytes: 200 << 20,
        span: Duration::from_secs(60),
        p99: Duration::from_secs(5),
    };
    cut_leader::thin_wire("thin-wire", size, &mut stage.rng, &mut say);
}

fn same_epoch(stage: &mut Stage) {
    let size = SameEpoch { writers: 8, rounds: 200, keep: 5 };
    same_epoch::one_root_a_round("same-epoch", size, &mut stage.rng, &mut say);
}

fn small_contents(stage: &mut Stage) {
    let size = SmallContents {
        files: 200_000,
        file_bytes: 20,
        epochs: 1000,
        rss_max: 256 << 20,
        restart_max: Duration::from_secs(2),
        disk_bytes: Some(5 << 30),
        before: stage.before.clone(),
    };
    small_contents::small_contents("small-contents", &size, &mut stage.rng, &mut say);
}

fn sparse(stage: &mut Stage) {
    let size = Sparse {
        bytes: 100 << 30,
        islands: 5,
        disk_bytes: Some(20 << 30),
        commit: Duration::from_secs(2),
        each: Duration::from_secs(5),
    };
    sparse::a_hole_costs_nothing("sparse", size, &mut stage.rng, &mut say);
}

fn memory(stage: &mut Stage) {
    let size = Memory {
        large: (16, 128 << 20),
        small: vec![20_000, 200_000],
        commits: (16, 128 << 20),
        restores: (16, 500_000),
        plans: (100, 990_000),
        rss_max: 256 << 20,
        home_bytes: 256 << 20,
    };
    memory::memory("memory", &size, &mut stage.rng, &mut say);
}

fn slow_leader(stage: &mut Stage) {
    let size = SlowDisk { bytes: 1 << 30, leader_takes: 60_000_000, rss_max: 256 << 20 };
    slow_disk::of_the_leader("slow-leader", size, &mut stage.rng, &mut say);
}

fn rotten(stage: &mut Stage, purged: bool) {
    let size = Rotten { others: 10, bytes: 8 << 20, purged, home: Duration::from_secs(30) };
    rotten::everywhere("rotten", size, &mut stage.rng, &mut say);
}

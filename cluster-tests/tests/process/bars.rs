//! The bars in small; `scripts/bars` tells them in full.

use std::time::Duration;

use cluster_tests::scenario::cut_leader::{self, CutOff, Thin, Windows};
use cluster_tests::scenario::eio;
use cluster_tests::scenario::many_files::{self, ManyFiles};
use cluster_tests::scenario::memory::{self, ManyRestores, Memory};
use cluster_tests::scenario::rotten::{self, Rotten};
use cluster_tests::scenario::slow_disk::{self, SlowDisk};
use cluster_tests::scenario::small_contents::{self, SmallContents};
use cluster_tests::scenario::sparse::{self, Sparse};

use crate::{measured_story, say, story};

#[test]
fn small_commits_go_on_beside_many_files() {
    measured_story("many_files", |rng| {
        let size = ManyFiles {
            files: 5_000,
            file_bytes: 100,
            quiet: Duration::from_secs(3),
            // Of a build for tests nothing is said but that nobody waits for long.
            factor: None,
            limit: Duration::from_secs(5),
        };
        many_files::others_go_on("many-files", size, rng, &mut say);
    });
}

#[test]
fn small_contents_take_little_memory_and_a_killed_node_is_back() {
    measured_story("small_contents", |rng| {
        let size = SmallContents {
            files: 5_000,
            file_bytes: 20,
            epochs: 50,
            rss_max: 256 << 20,
            restart_max: Duration::from_secs(5),
            disk_bytes: None,
            before: None,
        };
        small_contents::small_contents("small-contents", &size, rng, &mut say);
    });
}

#[test]
fn a_hole_of_a_hundred_gib_costs_nothing() {
    measured_story("sparse", |rng| {
        // Of a build for tests on a busy machine. Whoever reads or hashes the hole anywhere needs minutes.
        let (commit, each) = (Duration::from_secs(20), Duration::from_secs(30));
        let size = Sparse { bytes: 100 << 30, islands: 5, disk_bytes: None, commit, each };
        sparse::a_hole_costs_nothing("sparse", size, rng, &mut say);
    });
}

#[test]
fn many_restores_at_once_take_the_memory_of_a_few() {
    measured_story("many_restores", |rng| {
        let size = ManyRestores { files: 40_000, name_bytes: 200, calls: 32, grown_max: 160 << 20 };
        memory::many_restores("many-restores", size, rng, &mut say);
    });
}

#[test]
fn no_load_takes_more_memory_than_a_node_may_have() {
    measured_story("memory", |rng| {
        let size = Memory {
            large: (4, 24 << 20),
            small: vec![3_000],
            commits: (16, 4 << 20),
            restores: (16, 3_000),
            plans: (5, 20_000),
            rss_max: 256 << 20,
            home_bytes: 256 << 20,
        };
        memory::memory("memory", &size, rng, &mut say);
    });
}

#[test]
fn a_slow_disk_of_the_leader_takes_no_memory_and_loses_no_commit() {
    measured_story("a_slow_disk_of_the_leader", |rng| {
        let size = SlowDisk { bytes: 320 << 20, leader_takes: 20_000_000, rss_max: 256 << 20 };
        slow_disk::of_the_leader("slow-leader", size, rng, &mut say);
    });
}

#[test]
fn a_leader_whose_sync_hangs_hands_over() {
    measured_story("a_sync_hangs", |rng| {
        let (hang, limit) = (Duration::from_secs(15), Duration::from_secs(10));
        slow_disk::one_sync_hangs("hanging-sync", 16 << 20, hang, limit, rng, &mut say);
    });
}

#[test]
fn an_eio_in_a_sync_ends_the_node_which_says_so_and_comes_home() {
    // One of each kind; all of them by `scripts/bars every-eio`.
    let rows = ["publish: the tree", "snapshot: its file", "keep: the mark", "install: content"];
    let rows: Vec<eio::Row> = eio::ROWS.into_iter().filter(|row| rows.contains(&row.name)).collect();
    assert_eq!(rows.len(), 4);
    story("eio", |rng| eio::every_sync("eio", &rows, rng, &mut say));
}

#[test]
fn a_blob_that_rots_everywhere_keeps_nobody_from_coming_home() {
    story("rotten", |rng| {
        // Chunks, and more of them behind it than the leader still has in memory: else it is sent from there, or from
        // a pack in the log.
        let size = Rotten { others: 10, bytes: 8 << 20, purged: false, home: Duration::from_secs(60) };
        rotten::everywhere("rotten", size, rng, &mut say);
    });
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_says_that_it_has_no_quorum() {
    measured_story("cut_leader", |rng| {
        let size = CutOff { rounds: 3, late: 1 };
        cut_leader::leader_cut_off("cut-leader", size, rng, &mut say);
    });
}

#[test]
fn wires_that_are_up_for_a_second_between_cuts_are_used() {
    measured_story("wires_that_are_up_for_a_second", |_| {
        // A build for tests on a busy machine may miss one by a moment. Whoever waits for a connection that TCP
        // tries ever more seldom misses nearly all.
        let up = Duration::from_secs(1);
        let size = Windows { cuts: 5, cut: 2 * up, up, missed: 1 };
        cut_leader::short_windows("windows", size, &mut say);
    });
}

#[test]
fn small_commits_pass_a_large_epoch_on_a_thin_wire() {
    measured_story("thin_wire", |rng| {
        let size = Thin {
            bits_per_s: 10_000_000,
            bytes: 60 << 20,
            span: Duration::from_secs(20),
            p99: Duration::from_secs(8),
        };
        cut_leader::thin_wire("thin-wire", size, rng, &mut say);
    });
}

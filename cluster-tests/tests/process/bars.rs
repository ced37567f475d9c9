//! The bars in small; `scripts/bars` tells them in full.

use std::time::Duration;

use cluster_tests::scenario::cut_leader::{self, Windows};
use cluster_tests::scenario::slow_disk::{self, SlowDisk};

use crate::{measured_story, say};

#[test]
fn a_slow_disk_of_the_leader_takes_no_memory_and_loses_no_commit() {
    measured_story("a_slow_disk_of_the_leader", |rng| {
        let size = SlowDisk { bytes: 320 << 20, leader_takes: 20_000_000, rss_max: 256 << 20 };
        slow_disk::of_the_leader("slow-leader", size, rng, &mut say);
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

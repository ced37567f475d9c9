//! The bars in small; `scripts/bars` tells them in full.

use cluster_tests::scenario::slow_disk::{self, SlowDisk};

use crate::{measured_story, say};

#[test]
fn a_slow_disk_of_the_leader_takes_no_memory_and_loses_no_commit() {
    measured_story("a_slow_disk_of_the_leader", |rng| {
        let size = SlowDisk { bytes: 320 << 20, leader_takes: 20_000_000, rss_max: 256 << 20 };
        slow_disk::of_the_leader("slow-leader", size, rng, &mut say);
    });
}

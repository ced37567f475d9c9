//! A log that forgets, and nodes that were away when it did.

use std::time::Duration;

use cluster_tests::scenario::catch_up::{self, CatchUp};
use cluster_tests::scenario::purging;
use cluster_tests::scenario::restart::{self, Restart};
use cluster_tests::scenario::years::{self, Years};

use crate::{measured_story, say, story};

#[test]
fn epochs_come_and_go_and_nothing_grows() {
    measured_story("epochs_come_and_go", |rng| {
        // Everything is small here, so that pages and frames count: twice as much is still no growth.
        let span =
            Years { epochs: 60, epoch_bytes: 1 << 20, keep: 5, early: 20, absences: 1, away: 10, limit: 2.0 };
        years::years("years", span, rng, &mut say);
    });
}

#[test]
fn a_catch_up_goes_on_where_it_was_when_either_side_is_killed() {
    story("a_catch_up_goes_on", |rng| {
        let size = CatchUp { lacked: 48 << 20, epoch_bytes: 8 << 20, rounds: 3, kills: 2 };
        catch_up::killed_on_both_sides("catch-up", size, rng, &mut say);
    });
}

#[test]
fn kills_while_the_log_is_purged_lose_nothing_and_leak_nothing() {
    story("kills_while_the_log", |rng| purging::killed_while_purging("purging", 6, rng, &mut say));
}

#[test]
fn a_killed_node_with_many_epochs_is_back_at_once() {
    measured_story("a_killed_node_with", |rng| {
        let promise = Restart { epochs: 200, rounds: 2, limit: Duration::from_secs(4) };
        restart::after_kill("restart", promise, rng, &mut say);
    });
}

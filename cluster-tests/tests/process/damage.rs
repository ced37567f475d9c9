//! Damaged files on one node of three.

use cluster_tests::scenario::damage;

use crate::{say, story};

#[test]
fn a_damaged_catalog_or_snapshot_costs_nothing() {
    story("a_damaged_catalog", |rng| damage::rows("ledger", &damage::LEDGER, rng, &mut say));
}

#[test]
fn a_damaged_log_does_not_vote_and_is_repaired() {
    story("a_damaged_log", |rng| damage::rows("log", &damage::LOG, rng, &mut say));
}

#[test]
fn damaged_content_is_never_served_and_is_fetched_again() {
    story("damaged_content", |rng| damage::rows("content", &damage::CONTENT, rng, &mut say));
}

//! fsync before acknowledgement, seen from outside.

use cluster_tests::scenario::order;

use crate::story;

#[test]
fn payload_then_header_then_answer() {
    story("payload_then_header", |rng| order::staged_then_log_then_answer("order", rng));
}

#[test]
fn no_answer_before_the_followers_have_synced() {
    story("no_answer_before", |rng| order::no_answer_before_slow_followers("slow", rng));
}

#[test]
fn a_failed_fsync_ends_the_node_and_acknowledges_nothing() {
    story("a_failed_fsync", |rng| order::failed_fsync_is_final("eio", rng));
}

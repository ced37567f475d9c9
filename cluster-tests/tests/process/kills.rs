//! Death and return.

use cluster_tests::scenario::kills::{self, Uploads};

use crate::{say, story};

#[test]
fn the_leader_killed_in_mid_upload_costs_a_resume() {
    story("the_leader_killed", |rng| {
        let uploads = Uploads { moments: 3, files: 8, file_bytes: 16 << 20, per_cluster: 3 };
        kills::leader_mid_upload("upload", uploads, rng, &mut say);
    });
}

#[test]
fn each_node_killed_in_a_loop_of_commits_loses_nothing() {
    story("each_node_killed", |rng| kills::each_node("loop", 6, rng, &mut say));
}

#[test]
fn all_nodes_killed_and_started_again_lose_nothing() {
    story("all_nodes_killed", |rng| kills::all_and_restart("all", 2, rng, &mut say));
}

#[test]
fn nodes_killed_while_they_publish_publish_after_their_restart() {
    story("nodes_killed_while", |rng| kills::while_publishing("publishing", 3, 1500, rng, &mut say));
}

//! What must be refused, and by whom.

use cluster_tests::scenario::{hostile, identity, sources, wire, writers};

use crate::story;

#[test]
fn a_stopped_writer_never_seals_over_the_one_that_took_over() {
    story("a_stopped_writer", |rng| writers::one_stopped("writers", 256 << 20, rng));
}

#[test]
fn a_writer_that_was_cut_off_never_joins_the_one_that_took_over() {
    story("a_writer_cut_off", |rng| writers::one_cut_off("cut-off", 256 << 20, rng));
}

#[test]
fn of_many_writers_of_one_epoch_one_commits_and_each_is_told_the_truth() {
    story("many_writers", |rng| writers::many_of_one_epoch("many", 6, rng));
}

#[test]
fn a_killed_writer_hinders_another_of_its_epoch_for_half_a_minute_at_most() {
    story("a_killed_writer", |rng| writers::one_killed("killed", 256 << 20, rng));
}

#[test]
fn repeats_conflicts_and_late_commits_answer_as_promised() {
    story("repeats_conflicts", |rng| writers::repeats_and_conflicts("repeats", rng));
}

#[test]
fn a_source_that_changes_while_it_is_read_is_refused() {
    story("a_source_that_changes", |rng| sources::changed("changes", 160 << 20, rng));
}

#[test]
fn links_that_come_and_go_refuse_no_commit_and_change_no_digest() {
    story("links_come_and_go", |rng| sources::linked("links", 48 << 20, rng));
}

#[test]
fn what_is_overwritten_in_place_is_never_torn_also_while_links_churn() {
    story("overwritten_in_place", |rng| sources::overwritten("overwritten", 30, rng));
}

#[test]
fn what_only_the_client_may_read_is_streamed() {
    story("only_the_client", |rng| sources::forbidden("forbidden", rng));
}

#[test]
fn hostile_directories_and_names_are_refused_by_name() {
    story("hostile_directories", |rng| {
        for by_path in [true, false] {
            let cluster = hostile::cluster("hostile", by_path);
            hostile::directories(&cluster, rng);
            hostile::names(&cluster, rng);
        }
    });
}

#[test]
fn hostile_messages_stop_nothing() {
    story("hostile_messages", |rng| {
        let mut cluster = hostile::cluster("wire", true);
        wire::garbage(&mut cluster, rng);
        wire::hostile_requests(&mut cluster, rng);
        hostile::still_serves(&cluster, rng);
    });
}

#[test]
fn a_wiped_folder_under_a_known_id_is_refused() {
    story("a_wiped_folder", |rng| identity::wiped_folder_is_refused("wiped", rng));
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    story("a_node_of_another", |rng| identity::other_cluster_is_refused("stranger", rng));
}

#[test]
fn half_a_data_folder_does_not_start() {
    story("half_a_data_folder", |rng| identity::half_a_folder_does_not_start("half", rng));
}

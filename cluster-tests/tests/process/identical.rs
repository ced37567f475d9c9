//! The same directory everywhere.

use cluster_tests::cluster::{Cluster, Options};
use cluster_tests::disks::Kind;
use cluster_tests::inputs::{archives, backups, real_inputs};
use cluster_tests::needs::{Need, is_root, skip};
use cluster_tests::scenario::{identical, reflinks, restore_into};
use cluster_tests::trees::Special;

use crate::story;

#[test]
fn real_directories_committed_through_a_follower_are_identical_everywhere() {
    story("real_directories", |rng| {
        let cluster = Cluster::start("real", Options::default());
        let mut all = real_inputs(&archives(), &cluster.source(""));
        all.push(backups(&cluster.source("backups"), 10 << 20, 3, rng));
        for series in &all {
            let answers = identical::series(&cluster, series);
            if series.job.contains("rocksdb-checkpoints") {
                let last = answers.last().expect("every series has epochs");
                assert!(
                    last.number("new_bytes") < last.number("bytes"),
                    "successive epochs share content: {last}"
                );
            }
        }
    });
}

#[test]
fn the_special_tree_is_identical_everywhere() {
    story("the_special_tree", |rng| {
        let cluster = Cluster::start("special", Options::default());
        identical::special(&cluster, Special::short(), rng);
    });
}

#[test]
fn an_ordinary_user_gets_the_special_tree_everywhere_too() {
    story("an_ordinary_user", |rng| {
        if !is_root() {
            return skip(Need::Root, "an ordinary user", "this process is one: the other stories show it");
        }
        let options = Options { user: Some((65_534, 65_534)), ..Options::default() };
        let cluster = Cluster::start("user", options);
        identical::special(&cluster, Special { small_files: 200, equal_files: 200, ..Special::short() }, rng);
    });
}

#[test]
fn a_mount_point_is_restored_to_and_nobody_elses_file_is_lost() {
    story("a_mount_point", |rng| {
        for kind in [Kind::Tmpfs, Kind::LoopExt4] {
            restore_into::mount_points(kind, rng);
        }
    });
}

#[test]
fn what_is_mounted_below_a_target_is_not_entered() {
    story("mounted_below", restore_into::mounted_below);
}

#[test]
fn a_target_in_a_lower_layer_is_refused_and_one_in_the_upper_is_replaced() {
    story("restore_layers", restore_into::layers);
}

#[test]
fn what_was_cloned_may_change_at_once_and_shared_blocks_are_no_way_into_a_replica() {
    story("reflinks", |rng| reflinks::cloned_and_linked("reflinks", rng));
}

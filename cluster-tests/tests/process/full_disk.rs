//! Disks without room.

use cluster_tests::disks::Kind;
use cluster_tests::scenario::full_disk::{self, FullDisk, Whose};

use crate::{say, story};

fn tmpfs(whose: Whose) -> impl FnOnce(&mut cluster_tests::seed::Rng) {
    let size =
        FullDisk { kind: Kind::Tmpfs, disk_bytes: 96 << 20, epoch_bytes: 8 << 20, during_upload: false };
    move |rng| full_disk::full("full", size, whose, rng, &mut say)
}

#[test]
fn a_full_disk_of_the_leader_stops_nothing() {
    story("a_full_disk_of_the_leader", tmpfs(Whose::Leader));
}

#[test]
fn a_full_disk_of_a_follower_stops_nothing() {
    story("a_full_disk_of_a_follower", tmpfs(Whose::Follower));
}

#[test]
fn a_full_follower_is_freed_by_a_removal_when_another_node_is_dead() {
    story("a_full_follower_and_a_dead_leader", |rng| {
        let size =
            FullDisk { kind: Kind::Tmpfs, disk_bytes: 96 << 20, epoch_bytes: 8 << 20, during_upload: false };
        full_disk::and_another_one_dies("full-and-dead", size, rng, &mut say);
    });
}

#[test]
fn full_disks_of_both_followers_lose_nothing_and_take_removals() {
    story("full_disks_of_both_followers", tmpfs(Whose::Followers));
}

#[test]
fn full_disks_of_all_nodes_lose_nothing_and_take_removals() {
    story("full_disks_of_all", tmpfs(Whose::All));
}

#[test]
fn a_full_ext4_loses_nothing_and_takes_removals() {
    story("a_full_ext4", |rng| {
        let size = FullDisk {
            kind: Kind::LoopExt4,
            disk_bytes: 96 << 20,
            epoch_bytes: 8 << 20,
            during_upload: false,
        };
        full_disk::full("full", size, Whose::All, rng, &mut say);
    });
}

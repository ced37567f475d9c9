//! Packs that the log holds no longer: set aside, they outlive the purge for as long as this node needs them, and nobody
//! else has to have them.

use std::path::PathBuf;

use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::compose;
use nativelog::ledger::Ledger;
use nativelog::performer::Publication;

use crate::catch_up::{Source, bring, bring_pages};
use crate::directory::Directory;
use crate::house::{ENOSPC, assert_baseline, file, start};
use crate::replica::Replica;

const EBUSY: i32 = 16;

pub fn packed() -> Directory {
    Directory::parse("a:100=1 b:200=2")
}

fn open() -> Directory {
    Directory::parse("d/ d/x:100=8 d/y:200=9 later:150=10")
}

/// Nothing gets the name of the epoch's folder, as where another file system is mounted: no fault, and nothing that time
/// heals.
pub fn stand_in_the_way(disk: &CrashDisk, epoch: u64) {
    disk.refuse(OpKind::Rename, &way(epoch), EBUSY);
}

pub fn make_way(disk: &CrashDisk, epoch: u64) {
    disk.allow(&way(epoch));
}

fn way(epoch: u64) -> PathBuf {
    PathBuf::from(format!("/data/epochs/job/{epoch}"))
}

/// The log is too long for whatever holds it.
pub fn let_go(replica: &Replica) {
    replica.machine.let_go_of_log(0).unwrap();
}

/// Two snapshots, a purge as far as it may go, and everything that it allows given back.
pub fn clean_up(replica: &mut Replica) {
    replica.commit_blanks(1);
    replica.wait_performed();
    replica.try_clean_up().unwrap();
}

fn is_in_log(replica: &Replica, index: u64) -> bool {
    replica.log.headers(index..index + 1).unwrap().len() == 1
}

/// An attempt that has its first two files in one pack, which could not be unpacked; attempt and pack.
fn half_unpacked(disk: &CrashDisk, replica: &mut Replica, epoch: u64) -> (u64, u64) {
    let attempt = replica.begin(epoch, &open());
    disk.fail_next(OpKind::Create, "d/y", ENOSPC);
    let small = [file(&open(), "d/x"), file(&open(), "d/y")];
    let pack = replica.commit(compose::piece(attempt, open().pack(&small)));
    replica.wait_performed();
    (attempt, pack)
}

fn complete(replica: &mut Replica, attempt: u64) {
    replica.commit(compose::piece(attempt, open().pack(&[file(&open(), "later")])));
    replica.seal(attempt, &open());
}

/// Files of packs that were set aside.
fn set_aside(disk: &CrashDisk) -> Vec<PathBuf> {
    let is_pack = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with("packs"));
    disk.paths().into_iter().filter(is_pack).collect()
}

#[test]
fn an_epoch_whose_packs_the_log_let_go_of_is_published_when_its_way_is_free() {
    for restarts in [false, true] {
        let mut disk = CrashDisk::new();
        let mut replica = start(&disk);
        replica.whole(1, &Directory::parse("other:10"));
        stand_in_the_way(&disk, 2);
        let pack = replica.try_whole(2, &packed()).unwrap();
        replica.wait_performed();
        let_go(&replica);
        clean_up(&mut replica);
        assert!(!is_in_log(&replica, pack), "the log is not held");
        assert_eq!(set_aside(&disk).len(), 1);
        let missing = replica.machine.missing();
        assert!(missing.len() == 1 && missing[0].has_tree, "{missing:?}");
        if restarts {
            replica.stop();
            disk = disk.crash(Crash::Strict);
            replica = start(&disk);
            clean_up(&mut replica);
        }
        make_way(&disk, 2);
        replica.machine.publish_again();
        replica.wait_published(2);
        replica.assert_published(2);
        assert!(replica.machine.missing().is_empty());
        replica.empty();
        replica.stop();
        assert_baseline(&disk, "after it was published late");
    }
}

#[test]
fn what_was_set_aside_goes_with_an_epoch_that_expires_unpublished() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("other:10"));
    stand_in_the_way(&disk, 2);
    replica.try_whole(2, &packed()).unwrap();
    let (attempt, _) = half_unpacked(&disk, &mut replica, 3);
    let_go(&replica);
    clean_up(&mut replica);
    assert_eq!(set_aside(&disk).len(), 2);
    replica.commit(compose::abort(attempt, "no more"));
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after it was never published");
}

#[test]
fn an_open_attempt_is_sealed_over_packs_that_the_log_let_go_of() {
    for restarts in [false, true] {
        let mut disk = CrashDisk::new();
        let mut replica = start(&disk);
        let (attempt, first) = half_unpacked(&disk, &mut replica, 1);
        let_go(&replica);
        clean_up(&mut replica);
        assert!(!is_in_log(&replica, first), "the log is not held");
        // What comes later is not aside, and holds the log anew.
        disk.fail_next(OpKind::Create, "later", ENOSPC);
        let second = replica.commit(compose::piece(attempt, open().pack(&[file(&open(), "later")])));
        clean_up(&mut replica);
        assert!(is_in_log(&replica, second), "its pack is in the log only");
        if restarts {
            replica.stop();
            disk = disk.crash(Crash::Strict);
            replica = start(&disk);
            clean_up(&mut replica);
            assert!(is_in_log(&replica, second), "a start knows it too");
        }
        let_go(&replica);
        clean_up(&mut replica);
        assert!(!is_in_log(&replica, second));
        replica.seal(attempt, &open());
        replica.wait_performed();
        replica.assert_published(1);
        replica.empty();
        replica.stop();
        assert_baseline(&disk, "after it was sealed");
    }
}

#[test]
fn a_disk_that_is_full_lets_go_of_nothing() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("other:10"));
    stand_in_the_way(&disk, 2);
    let pack = replica.try_whole(2, &packed()).unwrap();
    clean_up(&mut replica);
    for kind in [OpKind::CreateDir, OpKind::Create, OpKind::Write] {
        disk.fail_next(kind, "/packs", ENOSPC);
        replica.machine.let_go_of_log(0).unwrap_err();
        clean_up(&mut replica);
        assert!(is_in_log(&replica, pack), "{kind:?}");
        assert!(set_aside(&disk).is_empty(), "{kind:?}: it takes room for nothing");
    }
    let_go(&replica);
    clean_up(&mut replica);
    assert!(!is_in_log(&replica, pack), "there is room again");
    make_way(&disk, 2);
    replica.machine.publish_again();
    replica.wait_published(2);
    replica.assert_published(2);
    replica.stop();
}

#[test]
fn the_power_goes_anywhere_between_letting_go_and_the_purge() {
    for cut in 0.. {
        let disk = CrashDisk::new();
        let mut replica = start(&disk);
        stand_in_the_way(&disk, 1);
        replica.try_whole(1, &packed()).unwrap();
        let (attempt, _) = half_unpacked(&disk, &mut replica, 2);
        replica.commit_blanks(1);
        replica.wait_performed();
        disk.crash_after(cut);
        let done = replica.machine.let_go_of_log(0).is_ok() && replica.try_clean_up().is_some();
        assert!(done || disk.crashed(), "after {cut}: nothing else stops it");
        replica.stop();
        for how in [Crash::Strict, Crash::Mixed(cut)] {
            let disk = disk.crash(how);
            let mut replica = start(&disk);
            complete(&mut replica, attempt);
            make_way(&disk, 1);
            replica.machine.publish_again();
            for epoch in [1, 2] {
                replica.wait_published(epoch);
                replica.assert_published(epoch);
            }
            replica.empty();
            replica.stop();
            assert_baseline(&disk, &format!("after {cut}, {how:?}"));
        }
        if done {
            return;
        }
    }
}

#[test]
fn an_install_keeps_what_this_node_has_in_packs_only() {
    for lets_go in [false, true] {
        let (source, disk) = (CrashDisk::new(), CrashDisk::new());
        let (mut leader, mut follower) = (start(&source), start(&disk));
        stand_in_the_way(&disk, 1);
        let mut attempt = 0;
        for (disk, replica) in [(&source, &mut leader), (&disk, &mut follower)] {
            replica.try_whole(1, &packed()).unwrap();
            attempt = half_unpacked(disk, replica, 2).0;
        }
        if lets_go {
            let_go(&follower);
            follower.try_clean_up().unwrap();
        }
        leader.commit_blanks(3);
        leader.keep().unwrap();
        let capture = leader.machine.read_snapshot().unwrap().unwrap();
        let ledger = Ledger::decode(&capture.ledger).unwrap();
        let pin = follower.machine.expect(&ledger).unwrap();
        bring_pages(&Source { replica: &leader, disk: &source }, &follower, &ledger).unwrap();
        assert_eq!(follower.machine.lacking_of_attempts(&ledger).unwrap(), [], "they are held here");
        follower.machine.install(&capture).unwrap();
        drop(pin);
        follower.follow_install();
        assert_eq!(set_aside(&disk).len(), 2);
        follower.stop();
        leader.stop();

        let disk = disk.crash(Crash::Strict);
        make_way(&disk, 1);
        let mut follower = start(&disk);
        complete(&mut follower, attempt);
        for epoch in [1, 2] {
            follower.wait_published(epoch);
            follower.assert_published(epoch);
        }
        follower.empty();
        follower.stop();
        assert_baseline(&disk, "after the install");
    }
}

#[test]
fn a_pack_that_has_rotted_aside_is_not_unpacked_and_its_epoch_comes_from_a_peer() {
    let (source, disk) = (CrashDisk::new(), CrashDisk::new());
    let (mut peer, mut replica) = (start(&source), start(&disk));
    let mut attempt = 0;
    for (disk, replica) in [(&source, &mut peer), (&disk, &mut replica)] {
        attempt = half_unpacked(disk, replica, 1).0;
    }
    let_go(&replica);
    replica.try_clean_up().unwrap();
    let [pack] = &set_aside(&disk)[..] else { panic!("one pack is aside") };
    assert!(disk.flip(pack, 99).unwrap());
    for replica in [&mut peer, &mut replica] {
        complete(replica, attempt);
        replica.wait_performed();
    }
    peer.assert_published(1);
    let said = replica.publication(1);
    assert!(matches!(said, Some(Publication::Unpublished(_))), "{said:?}");
    let ledger = peer.machine.ledger().clone();
    bring(&Source { replica: &peer, disk: &source }, &replica, &ledger).unwrap();
    replica.wait_published(1);
    replica.assert_published(1);
    assert!(replica.machine.missing().is_empty());
    replica.empty();
    replica.stop();
    peer.stop();
    assert_baseline(&disk, "after it came from a peer");
}

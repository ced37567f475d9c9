//! Trees of epochs that cannot be published here: in files, neither in memory nor in snapshots, for as long as this node
//! needs them.

use std::path::PathBuf;

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::compose;
use nativelog::ledger::Ledger;
use nativelog::performer::Publication;
use nativelog::snapshot::SnapshotError;

use crate::aside::{clean_up, let_go, make_way, packed, stand_in_the_way};
use crate::catch_up::{Source, bring};
use crate::directory::Directory;
use crate::house::{EMFILE, ENOSPC, assert_baseline, file, snapshots, start};
use crate::replica::{Replica, job};

const EIO: i32 = 5;
/// Entries of a large tree.
const ENTRIES: usize = 3000;
const MANY: [u64; 6] = [1, 2, 3, 4, 5, 6];

/// Many entries, of which few have bytes; no two epochs share any.
fn large(epoch: u64) -> Directory {
    let names: Vec<String> = (0..ENTRIES).map(|n| format!("f{n:05}:0")).collect();
    Directory::parse(&format!("{} z-big:64k={epoch} z-small:100={epoch}", names.join(" ")))
}

/// An epoch of a chunk and a pack.
fn commit_large(replica: &mut Replica, epoch: u64) {
    let directory = large(epoch);
    let attempt = replica.begin(epoch, &directory);
    replica.commit(compose::piece(attempt, directory.chunk(file(&directory, "z-big"), 0)));
    replica.commit(compose::piece(attempt, directory.pack(&[file(&directory, "z-small")])));
    replica.seal(attempt, &directory);
}

/// Files with trees.
fn trees(disk: &CrashDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.ends_with("sealed")).collect()
}

fn assert_failed(replica: &Replica, epoch: u64) {
    let publication = replica.publication(epoch);
    assert!(matches!(publication, Some(Publication::Unpublished(_))), "epoch {epoch}: {publication:?}");
}

fn largest_snapshot(disk: &CrashDisk) -> usize {
    let sizes = snapshots(disk).into_iter().map(|path| disk.stat(&path).unwrap().len as usize);
    sizes.max().expect("there are snapshots")
}

#[test]
fn many_large_epochs_that_cannot_be_published_are_in_no_snapshot_and_are_published_when_the_way_is_free() {
    for restarts in [false, true] {
        let mut disk = CrashDisk::new();
        let mut replica = start(&disk);
        for epoch in MANY {
            stand_in_the_way(&disk, epoch);
            commit_large(&mut replica, epoch);
        }
        replica.wait_performed();
        MANY.into_iter().for_each(|epoch| assert_failed(&replica, epoch));
        let_go(&replica);
        clean_up(&mut replica);
        let kept = replica.machine.ledger().applied().unwrap().index;
        assert!(replica.log.headers(0..kept).unwrap().is_empty(), "the log was purged");
        assert_eq!(trees(&disk).len(), MANY.len());
        let snapshot = largest_snapshot(&disk);
        assert!(snapshot < MANY.len() * ENTRIES, "less than a byte an entry: {snapshot}");
        if restarts {
            replica.stop();
            disk = disk.crash(Crash::Strict);
            replica = start(&disk);
            clean_up(&mut replica);
            MANY.into_iter().for_each(|epoch| assert_failed(&replica, epoch));
            let snapshot = largest_snapshot(&disk);
            assert!(snapshot < MANY.len() * ENTRIES, "after a start: {snapshot}");
        }
        let missing = replica.machine.missing();
        assert_eq!(missing.len(), MANY.len());
        for missing in missing {
            assert!(missing.has_tree, "{missing:?}");
            let (envelope, manifest) = replica.machine.tree_of(missing.attempt).unwrap().unwrap();
            assert_eq!((envelope.epoch, envelope.root), (missing.epoch, missing.root));
            assert_eq!(manifest.root(), missing.root);
        }
        MANY.into_iter().for_each(|epoch| make_way(&disk, epoch));
        replica.machine.publish_again();
        for epoch in MANY {
            replica.wait_published(epoch);
            replica.assert_published(epoch);
        }
        assert!(replica.machine.missing().is_empty());
        replica.empty();
        replica.stop();
        assert_baseline(&disk, "after they were published late");
    }
}

#[test]
fn what_an_expired_epoch_has_brought_is_found_by_its_tree_after_a_purge_and_a_restart() {
    for restarts in [false, true] {
        let mut disk = CrashDisk::new();
        let mut replica = start(&disk);
        let directory = Directory::parse("f:64k=1");
        // However often it is tried.
        (0..100).for_each(|_| disk.fail_next(OpKind::Link, "blobs", ENOSPC));
        for (epoch, piece) in [(1, directory.chunk(1, 0)), (2, directory.reuse(&[1]))] {
            let attempt = replica.begin(epoch, &directory);
            replica.commit(compose::piece(attempt, piece));
            replica.seal(attempt, &directory);
            replica.wait_performed();
            assert_failed(&replica, epoch);
        }
        assert_eq!(replica.machine.staged_copies(&directory.digest(1)).files.len(), 1);
        replica.try_expire(vec![1]).unwrap();
        clean_up(&mut replica);
        assert_eq!(replica.machine.staged_copies(&directory.digest(1)).files.len(), 1, "it is still needed");
        disk.clear_failures();
        if restarts {
            replica.stop();
            disk = disk.crash(Crash::Strict);
            replica = start(&disk);
        }
        replica.machine.publish_again();
        replica.wait_published(2);
        replica.assert_published(2);
        replica.commit_blanks(1);
        replica.wait_performed();
        assert_eq!(replica.store.epochs(&job()).unwrap(), [2], "the first has expired");
        replica.empty();
        replica.stop();
        assert_baseline(&disk, "after both have gone");
    }
}

#[test]
fn an_epoch_that_expires_while_its_tree_cannot_be_read_stays_for_those_who_may_need_it() {
    for (restarts, error) in [(false, EMFILE), (true, EMFILE), (false, EIO), (true, EIO)] {
        let mut disk = CrashDisk::new();
        let mut replica = start(&disk);
        let directory = Directory::parse("f:64k=1");
        // However often it is tried.
        (0..100).for_each(|_| disk.fail_next(OpKind::Link, "blobs", ENOSPC));
        let mut attempts = Vec::new();
        for (epoch, piece) in [(1, directory.chunk(1, 0)), (2, directory.reuse(&[1]))] {
            let attempt = replica.begin(epoch, &directory);
            replica.commit(compose::piece(attempt, piece));
            replica.seal(attempt, &directory);
            replica.wait_performed();
            assert_failed(&replica, epoch);
            attempts.push(attempt);
        }
        disk.fail_next(OpKind::Read, "/sealed", error);
        replica.try_expire(vec![1]).unwrap();
        clean_up(&mut replica);
        assert_eq!(*replica.log.fatal().borrow(), None, "error {error}: the node goes on");
        let folder = replica.store.layout().attempt_dir(attempts[0]);
        assert!(disk.paths().contains(&folder), "error {error}: nobody knows what it brought");
        disk.clear_failures();
        if restarts {
            replica.stop();
            disk = disk.crash(Crash::Strict);
            // It cannot be read at the start either, and can a moment later.
            disk.fail_next(OpKind::Read, "/sealed", error);
            replica = start(&disk);
        }
        replica.machine.publish_again();
        replica.wait_published(2);
        replica.assert_published(2);
        replica.commit_blanks(1);
        replica.wait_performed();
        assert_eq!(replica.store.epochs(&job()).unwrap(), [2], "error {error}: the first has expired");
        assert_eq!(*replica.log.fatal().borrow(), None);
        replica.empty();
        replica.stop();
        assert_baseline(&disk, &format!("error {error}: after both have gone"));
    }
}

#[test]
fn an_expired_epoch_that_has_brought_nothing_of_what_it_holds_is_forgotten_at_once() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let directory = Directory::parse("f:64k=1");
    let mut attempts = Vec::new();
    for (epoch, piece) in [(1, directory.chunk(1, 0)), (2, directory.reuse(&[1])), (3, directory.reuse(&[1]))]
    {
        if epoch > 1 {
            stand_in_the_way(&disk, epoch);
        }
        let attempt = replica.begin(epoch, &directory);
        replica.commit(compose::piece(attempt, piece));
        replica.seal(attempt, &directory);
        attempts.push(attempt);
    }
    replica.wait_performed();
    [2, 3].into_iter().for_each(|epoch| assert_failed(&replica, epoch));
    replica.try_expire(vec![2]).unwrap();
    clean_up(&mut replica);
    let left = |attempt| disk.paths().contains(&replica.store.layout().attempt_dir(attempt));
    assert!(!left(attempts[1]), "others hold what it held, and it has brought none of it");
    assert!(left(attempts[2]));
    make_way(&disk, 3);
    replica.machine.publish_again();
    replica.wait_published(3);
    replica.assert_published(3);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after all have gone");
}

#[test]
fn a_tree_that_finds_no_room_holds_up_the_snapshot() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    stand_in_the_way(&disk, 1);
    disk.fail_next(OpKind::Create, "/sealed", ENOSPC);
    disk.fail_next(OpKind::Write, "/sealed", ENOSPC);
    replica.try_whole(1, &packed()).unwrap();
    replica.wait_performed();
    assert_failed(&replica, 1);
    assert!(replica.machine.missing()[0].has_tree, "it is in memory");
    assert!(trees(&disk).is_empty());
    assert!(matches!(replica.keep(), Err(SnapshotError::Io { .. })));
    assert!(trees(&disk).is_empty(), "it takes room for nothing");
    assert!(snapshots(&disk).is_empty());
    let_go(&replica);
    clean_up(&mut replica);
    assert_eq!(trees(&disk).len(), 1, "there is room again");
    replica.stop();
    let disk = disk.crash(Crash::Strict);
    make_way(&disk, 1);
    let replica = start(&disk);
    replica.wait_published(1);
    replica.assert_published(1);
    replica.stop();
}

#[test]
fn a_tree_that_cannot_be_read_for_a_moment_is_not_lost() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    stand_in_the_way(&disk, 1);
    replica.try_whole(1, &packed()).unwrap();
    replica.try_whole(2, &Directory::parse("a:100=1")).unwrap();
    replica.wait_performed();
    let_go(&replica);
    clean_up(&mut replica);
    make_way(&disk, 1);
    disk.fail_next(OpKind::Read, "/sealed", EMFILE);
    replica.machine.publish_again();
    replica.commit_blanks(1);
    replica.wait_performed();
    // Whether that was the try that failed or the one after it: nothing is given up.
    replica.machine.publish_again();
    replica.wait_published(1);
    replica.assert_published(1);
    assert_eq!(*replica.log.fatal().borrow(), None);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after it was read");
}

#[test]
fn a_tree_that_has_rotted_comes_from_a_peer_or_goes_with_its_epoch() {
    for (restarts, expires) in [(false, false), (true, false), (false, true), (true, true)] {
        let (source, mut disk) = (CrashDisk::new(), CrashDisk::new());
        let (mut peer, mut replica) = (start(&source), start(&disk));
        stand_in_the_way(&disk, 1);
        for replica in [&mut peer, &mut replica] {
            replica.whole(1, &packed());
            replica.whole(2, &Directory::parse("other:10"));
        }
        let_go(&replica);
        clean_up(&mut replica);
        let [tree] = &trees(&disk)[..] else { panic!("one tree lies in a file") };
        assert!(disk.flip(tree, 99).unwrap());
        if restarts {
            replica.stop();
            disk = disk.crash(Crash::Strict);
            replica = start(&disk);
        }
        make_way(&disk, 1);
        let attempt = replica.machine.missing()[0].attempt;
        assert!(replica.machine.tree_of(attempt).unwrap().is_none(), "it is not believed");
        if expires {
            replica.try_expire(vec![1]).unwrap();
            replica.wait_performed();
            assert_eq!(replica.publication(1), None);
        } else {
            assert_failed(&replica, 1);
            let ledger = peer.machine.ledger().clone();
            bring(&Source { replica: &peer, disk: &source }, &replica, &ledger).unwrap();
            replica.wait_published(1);
            replica.assert_published(1);
        }
        assert!(replica.machine.missing().is_empty());
        assert_eq!(*replica.log.fatal().borrow(), None);
        replica.empty();
        replica.stop();
        peer.stop();
        assert_baseline(&disk, "after it came from a peer or has expired");
    }
}

#[test]
fn an_install_keeps_the_trees_that_are_in_the_log_only() {
    let (source, disk) = (CrashDisk::new(), CrashDisk::new());
    let (mut leader, mut follower) = (start(&source), start(&disk));
    stand_in_the_way(&disk, 1);
    // Until the install nothing says that they are durable, and this one is in memory.
    disk.fail_next(OpKind::Create, "/sealed", ENOSPC);
    for replica in [&mut leader, &mut follower] {
        replica.whole(1, &packed());
    }
    assert_failed(&follower, 1);
    assert!(trees(&disk).is_empty());
    leader.commit_blanks(3);
    leader.keep().unwrap();
    let capture = leader.machine.read_snapshot().unwrap().unwrap();
    let ledger = Ledger::decode(&capture.ledger).unwrap();
    let pin = follower.machine.expect(&ledger).unwrap();
    follower.machine.install(&capture).unwrap();
    drop(pin);
    follower.follow_install();
    assert_eq!(trees(&disk).len(), 1);
    follower.stop();
    leader.stop();

    let disk = disk.crash(Crash::Strict);
    make_way(&disk, 1);
    let mut follower = start(&disk);
    follower.wait_published(1);
    follower.assert_published(1);
    follower.empty();
    follower.stop();
    assert_baseline(&disk, "after the install");
}

#[test]
fn the_power_goes_anywhere_between_the_seal_and_the_purge() {
    for cut in 0.. {
        let disk = CrashDisk::new();
        let mut replica = start(&disk);
        stand_in_the_way(&disk, 1);
        disk.crash_after(cut);
        let sealed = replica.try_whole(1, &packed()).is_some();
        let done = sealed
            && replica.try_wait_performed().is_some()
            && replica.machine.let_go_of_log(0).is_ok()
            && replica.try_clean_up().is_some();
        assert!(done || disk.crashed(), "after {cut}: nothing else stops it");
        replica.stop();
        for how in [Crash::Strict, Crash::Mixed(cut)] {
            let disk = disk.crash(how);
            let mut replica = start(&disk);
            make_way(&disk, 1);
            replica.machine.publish_again();
            assert!(!sealed || replica.publication(1).is_some(), "after {cut}, {how:?}: it is lost");
            if replica.publication(1).is_some() {
                replica.wait_published(1);
                replica.assert_published(1);
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

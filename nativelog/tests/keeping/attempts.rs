//! Attempts that are open while a snapshot is taken, the log is purged, and the node starts again.

use checkpoint::CommitId;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::compose;
use nativelog::performer::Publication;

use crate::aside::clean_up;
use crate::directory::{CHUNK, Directory};
use crate::house::{EMFILE, ENOSPC, assert_baseline, file, start};
use crate::replica::{Replica, job};

fn before() -> Directory {
    Directory::parse("shared:80k=3 small:200=4")
}

/// Pieces of every kind.
fn mixed() -> Directory {
    Directory::parse("a:200k=1 d/ d/x:100=8 d/y:200=9 later:150=10 shared:80k=3 z:128k=0 e:0 l->a")
}

fn first_half(replica: &mut Replica, directory: &Directory) -> u64 {
    half_and_pack(replica, directory).0
}

/// The attempt, and the index of its pack.
fn half_and_pack(replica: &mut Replica, directory: &Directory) -> (u64, u64) {
    let attempt = replica.begin(2, directory);
    replica.commit(compose::piece(attempt, directory.chunk(file(directory, "a"), CHUNK)));
    let small = [file(directory, "d/x"), file(directory, "d/y")];
    let pack = replica.commit(compose::piece(attempt, directory.pack(&small)));
    replica.commit(compose::piece(attempt, directory.zero(file(directory, "z"), 0, CHUNK)));
    replica.commit(compose::piece(attempt, directory.reuse(&[file(directory, "shared")])));
    (attempt, pack)
}

fn second_half(replica: &mut Replica, directory: &Directory, attempt: u64) {
    for offset in [0, 2 * CHUNK, 3 * CHUNK] {
        replica.commit(compose::piece(attempt, directory.chunk(file(directory, "a"), offset)));
    }
    replica.commit(compose::piece(attempt, directory.pack(&[file(directory, "later")])));
    replica.commit(compose::piece(attempt, directory.zero(file(directory, "z"), CHUNK, CHUNK)));
    replica.seal(attempt, directory);
}

/// A first epoch, whose content the attempt reuses.
fn prepared(disk: &CrashDisk) -> Replica {
    let mut replica = start(disk);
    let first = before();
    let attempt = replica.begin(1, &first);
    replica.commit(compose::piece(attempt, first.chunk(file(&first, "shared"), 0)));
    replica.commit(compose::piece(attempt, first.chunk(file(&first, "shared"), CHUNK)));
    replica.commit(compose::piece(attempt, first.pack(&[file(&first, "small")])));
    replica.seal(attempt, &first);
    replica
}

#[test]
fn an_attempt_outlives_a_snapshot_a_purge_and_a_power_cut() {
    let disk = CrashDisk::new();
    let mut replica = prepared(&disk);
    let directory = mixed();
    let (attempt, pack) = half_and_pack(&mut replica, &directory);
    replica.try_clean_up().unwrap();
    assert!(replica.log.log_id_at(pack).is_none(), "its packs are not in the log any more");
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let mut replica = start(&disk);
    let ledger = replica.machine.ledger().clone();
    assert_eq!(replica.machine.lacking_of_attempts(&ledger).unwrap(), []);
    second_half(&mut replica, &directory, attempt);
    replica.wait_performed();
    replica.assert_published(2);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after a life over a snapshot");
}

#[test]
fn a_sync_that_could_not_be_tried_is_made_up_for_before_a_snapshot_stands_for_what_was_unpacked() {
    let disk = CrashDisk::new();
    let mut replica = prepared(&disk);
    let directory = mixed();
    let (attempt, pack) = half_and_pack(&mut replica, &directory);
    replica.wait_performed();
    disk.fail_next(OpKind::Open, "/data", EMFILE);
    let refused = replica.keep().expect_err("the file system is not synced").to_string();
    assert!(refused.contains("sync the file system"), "{refused}");
    assert_eq!(*replica.log.fatal().borrow(), None, "it was not tried, so nothing has failed");
    replica.try_clean_up().unwrap();
    assert!(replica.log.log_id_at(pack).is_none(), "its packs are not in the log any more");
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let mut replica = start(&disk);
    let ledger = replica.machine.ledger().clone();
    assert_eq!(replica.machine.lacking_of_attempts(&ledger).unwrap(), []);
    second_half(&mut replica, &directory, attempt);
    replica.wait_performed();
    replica.assert_published(2);
    replica.stop();
}

#[test]
fn a_tree_that_a_crash_left_is_taken_up_although_later_packs_are_unpacked_again() {
    let disk = CrashDisk::new();
    let mut replica = prepared(&disk);
    let directory = mixed();
    let attempt = first_half(&mut replica, &directory);
    replica.try_clean_up().unwrap();
    second_half(&mut replica, &directory, attempt);
    replica.wait_performed();
    replica.assert_published(2);
    replica.stop();

    // The second half and the seal lie above the snapshot: all that is done again, over what is published.
    let disk = disk.crash(Crash::Strict);
    let replica = start(&disk);
    replica.wait_performed();
    replica.assert_published(2);
    let building = replica.store.layout().building_dir(attempt);
    assert!(!disk.paths().contains(&building), "what was unpacked again stays for ever");
    replica.stop();
}

#[test]
fn what_cannot_be_unpacked_keeps_its_part_of_the_log() {
    let disk = CrashDisk::new();
    let mut replica = prepared(&disk);
    let directory = mixed();
    disk.fail_next(OpKind::Create, "d/y", ENOSPC);
    let (attempt, pack) = half_and_pack(&mut replica, &directory);
    replica.keep().unwrap();
    replica.keep().unwrap();
    let limit = replica.machine.purge_limit().expect("what is below its pack may go");
    assert_eq!(limit.index + 1, pack);
    assert!(replica.purge());
    assert_eq!(replica.machine.purge_limit(), None);
    replica.stop();

    // The snapshot is above the packs, and yet the next start knows that they were not all unpacked.
    let disk = disk.crash(Crash::Strict);
    let mut replica = start(&disk);
    second_half(&mut replica, &directory, attempt);
    replica.wait_performed();
    replica.assert_published(2);
    replica.keep().unwrap();
    replica.keep().unwrap();
    assert!(replica.machine.purge_limit().unwrap().index > attempt, "nothing holds the log any more");
    replica.stop();
}

#[test]
fn a_publish_that_failed_after_the_purge_keeps_the_tree() {
    let disk = CrashDisk::new();
    let mut replica = prepared(&disk);
    let directory = mixed();
    let attempt = first_half(&mut replica, &directory);
    replica.try_clean_up().unwrap();
    disk.fail_next(OpKind::Link, "blobs", ENOSPC);
    second_half(&mut replica, &directory, attempt);
    replica.wait_performed();
    assert!(matches!(replica.publication(2), Some(Publication::Unpublished(_))));
    assert_eq!(replica.machine.missing().len(), 1);
    replica.machine.publish_again();
    replica.wait_published(2);
    replica.assert_published(2);
    assert!(replica.machine.missing().is_empty());
    replica.stop();
}

#[test]
fn what_an_ended_attempt_has_staged_is_counted_until_it_goes_also_after_a_start() {
    let disk = CrashDisk::new();
    let mut replica = prepared(&disk);
    first_half(&mut replica, &mixed());
    replica.wait_performed();
    assert_eq!(replica.machine.garbage().staged, 0, "it is open");
    replica.commit(compose::open_writer(&job(), CommitId::from_bytes([9; 16]), 0));
    replica.wait_performed();
    let garbage = replica.machine.garbage();
    // A chunk of the one file that is staged; its pack is in the log.
    assert!((CHUNK..=200 << 10).contains(&garbage.staged), "{garbage:?}");
    assert_eq!(garbage.all_bytes(), garbage.bytes + garbage.staged);
    replica.keep().unwrap();
    replica.stop();

    let mut replica = start(&disk);
    assert_eq!(replica.machine.garbage().staged, garbage.staged);
    clean_up(&mut replica);
    assert_eq!(replica.machine.garbage(), Default::default());
    replica.stop();
}

#[test]
fn the_files_of_an_attempt_stay_until_the_record_that_ended_it_is_purged() {
    let disk = CrashDisk::new();
    let mut replica = prepared(&disk);
    let directory = mixed();
    let attempt = first_half(&mut replica, &directory);
    replica.keep().unwrap();
    // A newer writer ends it without naming it.
    replica.commit(compose::open_writer(&job(), CommitId::from_bytes([9; 16]), 0));
    replica.wait_performed();
    replica.keep().unwrap();
    assert!(replica.purge());
    assert!(replica.log.log_id_at(attempt).is_none(), "no entry of the log names it any more");
    replica.machine.reclaim().unwrap();
    let staged = replica.store.layout().staged_file(attempt, file(&directory, "a"));
    assert!(disk.paths().contains(&staged), "the older snapshot still has it open");
    replica.keep().unwrap();
    assert!(replica.purge());
    replica.machine.reclaim().unwrap();
    assert!(!disk.paths().contains(&staged));
    replica.stop();
}

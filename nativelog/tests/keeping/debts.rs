//! What this node owes the records below a snapshot survives a start from it.

use std::path::Path;

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::compose;
use nativelog::performer::Publication;

use crate::directory::Directory;
use crate::house::{DATA, ENOSPC, assert_baseline, open_behind, snapshots, start};
use crate::replica::job;

#[test]
fn an_epoch_that_was_not_published_below_a_snapshot_is_published_after_a_restart() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let directory = Directory::parse("a:100=1 b:200=2");
    replica.commit_blanks(3);
    disk.fail_next(OpKind::Link, "blobs", ENOSPC);
    let attempt = replica.try_whole(1, &directory).unwrap();
    replica.wait_performed();
    assert!(matches!(replica.publication(1), Some(Publication::Unpublished(_))));
    let missing = replica.machine.missing();
    assert_eq!((missing.len(), missing[0].has_tree), (1, true));
    replica.keep().unwrap();
    replica.keep().unwrap();
    assert_eq!(replica.machine.purge_limit().map(|limit| limit.index + 1), Some(attempt));
    replica.purge();
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let mut replica = start(&disk);
    replica.wait_published(1);
    replica.assert_published(1);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after it was published late");
}

#[test]
fn an_epoch_that_expired_unpublished_is_forgotten_when_nobody_needs_its_content() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("other:10"));
    disk.fail_next(OpKind::Link, "blobs", ENOSPC);
    replica.try_whole(2, &Directory::parse("a:100=1")).unwrap();
    replica.wait_performed();
    replica.try_expire(vec![2]).unwrap();
    replica.wait_performed();
    assert!(replica.machine.missing().is_empty());
    assert_eq!(replica.publication(2), None);
    replica.keep().unwrap();
    replica.keep().unwrap();
    let limit = replica.machine.purge_limit().unwrap();
    assert_eq!(Some(limit), replica.machine.ledger().applied(), "nothing holds the log");
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after it was forgotten");
}

#[test]
fn content_released_below_a_snapshot_is_given_back_after_a_restart() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &Directory::parse("b:200=2"));
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    replica.keep().unwrap();
    replica.keep().unwrap();
    replica.purge();
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let mut replica = start(&disk);
    let garbage = replica.machine.garbage();
    assert_eq!((garbage.contents, garbage.bytes), (1, 100));
    let given = replica.machine.reclaim().unwrap();
    assert_eq!((given.files, given.bytes), (1, 100));
    replica.assert_all_published("the other");
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after a restart with debts");
}

#[test]
fn content_that_came_back_is_not_given_back() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let directory = Directory::parse("a:100=1");
    replica.whole(1, &directory);
    replica.try_expire(vec![1]).unwrap();
    replica.whole(2, &directory);
    replica.try_clean_up().unwrap();
    assert_eq!(replica.machine.garbage().contents, 0);
    replica.assert_published(2);
    assert_eq!(disk.paths().iter().filter(|path| is_blob(path)).count(), 1);
    replica.stop();
}

/// Content that nobody held, and that an epoch brought anew before the power went. The newest snapshot still says that
/// it goes, and the record of that epoch is to be applied again: publishing it finds the directory there and brings
/// no blob, so that none may be gone.
#[test]
fn content_of_an_epoch_that_is_to_be_applied_again_is_not_given_back() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let directory = Directory::parse("a:100=1");
    replica.whole(1, &directory);
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    let blobs = |disk: &CrashDisk| disk.paths().iter().filter(|path| is_blob(path)).count();
    replica.try_clean_up().unwrap();
    assert_eq!((replica.machine.garbage().contents, blobs(&disk)), (0, 1));
    replica.whole(3, &directory);
    assert_eq!(blobs(&disk), 2);
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let mut replica = open_behind(&disk);
    replica.machine.reclaim().unwrap();
    assert_eq!(blobs(&disk), 2, "nobody has said yet what of the log is committed");
    replica.try_apply_all().unwrap();
    replica.machine.reclaim().unwrap();
    assert_eq!((replica.machine.garbage().contents, blobs(&disk)), (0, 2));
    // Reused by an epoch that brings nothing.
    replica.whole(4, &Directory::parse("a:100=1"));
    replica.assert_published(4);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after content that came back");
}

fn is_blob(path: &std::path::Path) -> bool {
    path.starts_with("/data/groups/main/blobs") && path.extension().is_some()
}

#[test]
fn an_expired_folder_that_could_not_be_removed_goes_after_a_restart() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &Directory::parse("b:100=2"));
    disk.fail_next(OpKind::Rename, "trash", ENOSPC);
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    assert_eq!(replica.store.epochs(&job()).unwrap(), [1, 2]);
    replica.keep().unwrap();
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let replica = start(&disk);
    let begun = std::time::Instant::now();
    while replica.store.epochs(&job()).unwrap() != [2] {
        assert!(begun.elapsed().as_secs() < 30, "the folder stays");
        std::thread::yield_now();
    }
    replica.stop();
}

#[test]
fn a_snapshot_is_written_where_blocks_are_kept_for_it() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    let spare = Path::new(DATA).join("groups/main/spare");
    for round in 0..4 {
        let had = disk.stat(&spare).unwrap().len;
        replica.commit_blanks(1);
        disk.clear_ops();
        // As on a disk that is full to the last byte.
        disk.fail_next(OpKind::Create, ".snap", ENOSPC);
        replica.keep().unwrap();
        disk.clear_failures();
        let ops = disk.ops();
        let at = |kind: OpKind, path: &str| {
            ops.iter().position(|op| op.kind == kind && op.path.to_string_lossy().contains(path)).unwrap()
        };
        // No old snapshot has its name still when it is written over.
        let (named, synced) = (at(OpKind::Rename, ".snap.tmp"), at(OpKind::SyncDir, "snapshots"));
        assert!(named < synced && synced < at(OpKind::Write, ".snap.tmp"), "round {round}");
        let written =
            ops.iter().filter(|op| op.kind == OpKind::Write && op.path.to_string_lossy().contains(".snap"));
        assert!(written.clone().count() > 0);
        assert!(written.map(|op| op.offset + op.len).all(|end| end <= had), "round {round}: {had} bytes");
        assert_eq!(snapshots(&disk).len(), 2.min(round + 1));
    }
    // What could not be written leaves it as it was.
    let had = disk.stat(&spare).unwrap().len;
    replica.commit_blanks(1);
    disk.fail_next(OpKind::Write, ".snap", ENOSPC);
    replica.keep().unwrap_err();
    assert_eq!(disk.stat(&spare).unwrap().len, had);
    assert_eq!(snapshots(&disk).len(), 2);
    replica.stop();
}

/// A replica that owes much: all that an epoch of many files brought is let go of, and lies there still.
fn owes_much(disk: &CrashDisk) -> crate::replica::Replica {
    let mut replica = start(disk);
    let files: Vec<String> = (0..2000).map(|file| format!("f{file:04}:9={}", file + 1)).collect();
    let many = Directory::parse(&files.join(" "));
    let attempt = replica.begin(1, &many);
    replica.commit(compose::piece(attempt, many.pack(&many.files())));
    replica.seal(attempt, &many);
    replica.wait_published(1);
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    replica
}

#[test]
fn an_install_writes_its_ledger_and_its_debts_where_blocks_are_kept_for_both() {
    let (leader_disk, disk) = (CrashDisk::new(), CrashDisk::new());
    let (mut leader, follower) = (owes_much(&leader_disk), owes_much(&disk));
    leader.commit_blanks(3);
    leader.keep().unwrap();
    let capture = leader.machine.read_snapshot().unwrap().unwrap();
    follower.machine.make_ready(&capture).unwrap();
    let spare = Path::new(DATA).join("groups/main/spare");
    let had = disk.stat(&spare).unwrap().len;
    assert!(had > 2 * capture.ledger.len() as u64, "the debts are the most of it");
    disk.clear_ops();
    // As on a disk that is full to the last byte: what it swaps for has to be there. The second file may wait.
    disk.fail_next(OpKind::Create, ".snap", ENOSPC);
    follower.machine.install(&capture).unwrap();
    disk.clear_failures();
    let ops = disk.ops();
    let of_snapshot = |kind: OpKind| {
        ops.iter().position(move |op| op.kind == kind && op.path.to_string_lossy().contains(".snap"))
    };
    let named = of_snapshot(OpKind::Rename).unwrap();
    let written = ops[named..].iter().filter(|op| op.kind == OpKind::Write);
    let first = written.filter(|op| op.path.to_string_lossy().contains("-0.snap"));
    assert!(first.map(|op| op.offset + op.len).max().is_some_and(|end| end > 0 && end <= had), "{had} bytes");
    follower.stop();
    leader.stop();
}

#[test]
fn blocks_for_a_snapshot_do_without_room_for_growth() {
    let (leader_disk, disk) = (CrashDisk::new(), CrashDisk::new());
    let (mut leader, follower) = (owes_much(&leader_disk), owes_much(&disk));
    leader.commit_blanks(3);
    leader.keep().unwrap();
    let capture = leader.machine.read_snapshot().unwrap().unwrap();
    // There is none for growth, and just enough for the snapshot.
    disk.fail_next(OpKind::SetLen, "spare", ENOSPC);
    follower.machine.make_ready(&capture).unwrap();
    let had = disk.stat(&Path::new(DATA).join("groups/main/spare")).unwrap().len;
    // Now that is there, nothing more is asked of the disk.
    for _ in 0..4 {
        disk.fail_next(OpKind::SetLen, "spare", ENOSPC);
    }
    follower.machine.make_ready(&capture).unwrap();
    disk.clear_failures();
    follower.machine.make_ready(&capture).unwrap();
    let grown = disk.stat(&Path::new(DATA).join("groups/main/spare")).unwrap().len;
    assert!(had < grown, "{had} and {grown} bytes");
    follower.stop();
    leader.stop();
}

#[test]
fn an_install_that_lacks_room_may_be_tried_again() {
    let (leader_disk, disk) = (CrashDisk::new(), CrashDisk::new());
    let (mut leader, mut follower) = (owes_much(&leader_disk), owes_much(&disk));
    leader.commit_blanks(3);
    leader.keep().unwrap();
    let capture = leader.machine.read_snapshot().unwrap().unwrap();
    let before = (snapshots(&disk), follower.machine.ledger().applied());
    disk.fail_next(OpKind::Write, ".snap", ENOSPC);
    let error = follower.machine.install(&capture).unwrap_err();
    assert!(error.lacks_room(), "{error}");
    assert_eq!((snapshots(&disk), follower.machine.ledger().applied()), before);
    follower.machine.install(&capture).unwrap();
    assert_eq!(follower.machine.ledger().applied(), Some(capture.meta.position));
    assert!(follower.machine.ledger().brought_bytes() > 0, "it counts on");
    follower.follow_install();
    follower.stop();
    leader.stop();
}

#[test]
fn an_old_snapshot_has_lost_its_name_before_its_length_changes() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    let spare = Path::new(DATA).join("groups/main/spare");
    for _ in 0..3 {
        replica.commit_blanks(1);
        // None is there: the old one becomes it.
        disk.unlink(&spare).unwrap();
        disk.clear_ops();
        replica.keep().unwrap();
    }
    let ops = disk.ops();
    let taken = ops.iter().position(|op| op.kind == OpKind::Rename && op.path == spare).unwrap();
    let after: Vec<_> = ops[taken..].iter().map(|op| (op.kind, op.path.clone())).collect();
    let synced =
        after.iter().position(|(kind, path)| *kind == OpKind::SyncDir && path.ends_with("snapshots"));
    let changed = after.iter().position(|(kind, path)| *kind == OpKind::SetLen && *path == spare).unwrap();
    assert!(synced.is_some_and(|synced| synced < changed), "{after:?}");
    replica.stop();
}

#[test]
fn a_full_disk_leaves_no_half_written_snapshot() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    let first = replica.keep().unwrap();
    replica.commit_blanks(1);
    let before = snapshots(&disk);
    for kind in [OpKind::Write, OpKind::Rename] {
        disk.fail_next(kind, ".snap", ENOSPC);
        let error = replica.keep().unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains(".snap"), "{error}");
        assert_eq!(snapshots(&disk), before, "{kind:?}");
        assert_eq!(replica.machine.newest_snapshot(), Some(first.clone()));
    }
    replica.keep().unwrap();
    assert_eq!(snapshots(&disk).len(), 2);
    // The name of the next one is not certain: that is a fault.
    replica.commit_blanks(1);
    disk.fail_next(OpKind::SyncDir, "snapshots", 5);
    assert!(replica.keep().is_err());
    assert!(replica.keep().is_err());
    replica.stop();
    let replica = start(&disk);
    replica.keep().unwrap();
    replica.stop();
}

//! Purge gives space back, above everything that was acknowledged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::disk::{Disk, RealDisk};
use checkpoint::store::layout::Layout;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::store::LogStore;
use nativelog::{Body, Entry};

use crate::scene::{
    OWNER, assert_wal_bytes, blank, chunk, copy, id, life_with_purges, open, options, pack, run, segments,
    shown, states, wait_append, wait_purge, wait_until,
};

fn big(index: u64) -> Entry {
    pack(1, index, &[index as u8; 3000])
}

#[test]
fn the_wal_shrinks_to_its_baseline_when_everything_is_purged() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let baseline = log.wal_bytes();
    for round in 0..5 {
        for index in round * 10..(round + 1) * 10 {
            wait_append(&log, vec![big(index)]).unwrap();
        }
        assert!(segments(&disk).len() >= 10);
        assert_wal_bytes(&log, &disk, &format!("round {round}"));
        assert!(wait_purge(&log, id(1, round * 10 + 9)));
        assert_eq!(segments(&disk).len(), 1, "round {round}");
        assert_wal_bytes(&log, &disk, &format!("round {round}"));
        assert!(log.wal_bytes() < baseline + 200, "{} bytes are left of {baseline}", log.wal_bytes());
    }
    log.shutdown();
}

#[test]
fn a_purge_deletes_oldest_first_after_it_is_durable_itself() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    for index in 0..4 {
        wait_append(&log, vec![big(index)]).unwrap();
    }
    let all = segments(&disk);
    disk.clear_ops();
    assert!(wait_purge(&log, id(1, 2)));
    let ops = disk.ops();
    let unlinked: Vec<PathBuf> =
        ops.iter().filter(|op| op.kind == OpKind::Unlink).map(|op| op.path.clone()).collect();
    assert_eq!(unlinked, all[..3], "entry 3 is still needed");
    let first_unlink = ops.iter().position(|op| op.kind == OpKind::Unlink).unwrap();
    let synced = |mark: bool| {
        let is_it = |path: &Path| path.ends_with("mark") == mark;
        ops.iter().position(|op| op.kind == OpKind::SyncData && is_it(&op.path)).unwrap()
    };
    assert!(synced(false) < synced(true) && synced(true) < first_unlink, "WAL, mark, unlink");
    assert_eq!(ops.last().map(|op| op.kind), Some(OpKind::SyncDir), "the names are gone durably");
    log.shutdown();
}

#[test]
fn an_interrupted_deletion_is_finished_whatever_is_left_of_it() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    for index in 0..4 {
        wait_append(&log, vec![big(index)]).unwrap();
    }
    let before = copy(&disk);
    assert!(wait_purge(&log, id(1, 2)));
    log.shutdown();
    let kept = segments(&disk);
    let gone: Vec<PathBuf> = segments(&before).into_iter().filter(|path| !kept.contains(path)).collect();
    assert_eq!(gone.len(), 3);
    for left in 0..1 << gone.len() {
        for rotten in [false, true] {
            let some = copy(&disk);
            for (number, path) in gone.iter().enumerate().filter(|(number, _)| left >> number & 1 == 1) {
                some.write_new(path, &before.read_file(path, 1 << 20).unwrap(), 0o600).unwrap();
                assert!(some.flip(path, 8 * (20 + number as u64)).unwrap() || !rotten);
                if !rotten {
                    some.flip(path, 8 * (20 + number as u64)).unwrap();
                }
            }
            let (log, report) =
                open(&copy(&some)).unwrap_or_else(|error| panic!("{left:b}, {rotten}: {error}"));
            assert_eq!((report.entries, log.payload(3).unwrap().len()), (1, 3000));
            log.shutdown();
            let (log, _) = open(&some).unwrap();
            log.shutdown();
            assert_eq!(segments(&some), kept, "{left:b}, {rotten}");
        }
    }
}

#[test]
fn a_log_goes_on_above_a_purge_beyond_its_end() {
    let disk = CrashDisk::new();
    let (mut log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1), big(2)]).unwrap();
    assert!(wait_purge(&log, id(3, 100)));
    assert_eq!(log.log_state(), (Some(id(3, 100)), Some(id(3, 100))));
    assert!(log.wait_flushed(100), "a snapshot covers it");
    for restarted in [false, true, true] {
        if restarted {
            log.shutdown();
            log = open(&disk).unwrap().0;
        }
        let next = log.log_state().1.unwrap().index + 1;
        assert_eq!(*log.flushed().borrow(), next);
        // Each fills a segment.
        wait_append(&log, vec![pack(3, next, &[1; 3000])]).unwrap();
        wait_append(&log, vec![pack(3, next + 1, &[2; 3000])]).unwrap();
        assert_eq!(log.headers(0..200).unwrap().len() as u64, next + 1 - 100);
        assert_eq!(*log.purged().borrow(), 101);
    }
    log.shutdown();
}

#[test]
fn a_purge_never_goes_back() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, (0..9).map(|index| blank(1, index)).collect()).unwrap();
    assert!(wait_purge(&log, id(1, 5)));
    log.purge(id(1, 2));
    wait_append(&log, vec![blank(1, 9)]).unwrap();
    assert_eq!((log.log_state().0, *log.purged().borrow()), (Some(id(1, 5)), 6));
    log.shutdown();
    let (log, report) = open(&disk).unwrap();
    assert_eq!((log.log_state().0, report.entries), (Some(id(1, 5)), 4));
    log.shutdown();
}

#[test]
fn entries_that_are_purged_while_they_wait_leave_no_hole() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    // The writer waits for room with the first of these, while the others come and go.
    (0..1000).for_each(|_| disk.fail_next(OpKind::Write, ".wal", 28));
    log.append(vec![blank(1, 1)], Box::new(|_| {}));
    let stalled = log.stalled();
    wait_until(&log, "the writer is busy", || stalled.borrow().is_some());
    for index in 2..40 {
        log.append(vec![blank(1, index)], Box::new(|_| {}));
    }
    log.purge(id(1, 30));
    disk.clear_failures();
    wait_append(&log, vec![blank(1, 40)]).unwrap();
    log.shutdown();
    let (log, report) = open(&disk.crash(Crash::Strict)).unwrap();
    assert_eq!((log.log_state(), report.entries), ((Some(id(1, 30)), Some(id(1, 40))), 10));
    log.shutdown();
}

#[test]
fn a_purged_membership_is_the_snapshots() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let members =
        |index, name| Entry { id: id(1, index), body: Body::Membership(bytes::Bytes::from_static(name)) };
    wait_append(&log, vec![members(0, b"one"), blank(1, 1), members(2, b"two"), blank(1, 3)]).unwrap();
    let held = |log: &LogStore, upto| log.last_membership(upto).unwrap().map(|(at, bytes)| (at.index, bytes));
    assert_eq!(held(&log, 1), Some((0, "one".into())));
    assert!(wait_purge(&log, id(1, 1)));
    assert_eq!((held(&log, 1), held(&log, 3)), (None, Some((2, "two".into()))));
    assert!(wait_purge(&log, id(1, 2)));
    assert_eq!(held(&log, 3), None);
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    assert_eq!(held(&log, 3), None);
    log.shutdown();
}

#[test]
fn deleted_segments_are_not_kept_open() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().canonicalize().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (log, _) = LogStore::open(disk.clone(), &Layout::new(&data), OWNER, options()).unwrap();
    for index in 0..8 {
        wait_append(&log, vec![big(index)]).unwrap();
    }
    for index in 0..8 {
        assert_eq!(log.payload(index).unwrap().len(), 3000);
    }
    assert!(wait_purge(&log, id(1, 7)));
    let open =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let deleted: Vec<PathBuf> = open
        .filter(|path| {
            path.starts_with(&data) && path.to_str().is_some_and(|path| path.ends_with(" (deleted)"))
        })
        .collect();
    assert!(deleted.is_empty(), "{deleted:?}");
    log.shutdown();
}

#[test]
fn a_purged_log_shows_what_it_should_after_every_step() {
    let steps = life_with_purges();
    let states = states(&steps);
    let disk = CrashDisk::new();
    for (number, step) in steps.iter().enumerate() {
        let (log, _) = open(&disk).unwrap();
        run(&log, std::slice::from_ref(step));
        log.shutdown();
        let (log, _) = open(&disk.crash(Crash::Mixed(number as u64))).unwrap();
        assert!(shown(&log, &states).is_some_and(|shown| shown > number), "after step {number}");
        log.shutdown();
    }
}

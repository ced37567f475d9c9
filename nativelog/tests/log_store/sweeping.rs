//! Folders of ended attempts go to the trash, unless an entry names them.

use std::path::PathBuf;

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::store::LogStore;

use crate::scene::{answered, blank, chunk, copy, id, layout, open, wait_append, wait_purge};

fn sweep(log: &LogStore, attempts: &[u64]) -> std::io::Result<Vec<u64>> {
    answered(|done| log.sweep(attempts.to_vec(), done))
}

fn trash(disk: &CrashDisk) -> Vec<PathBuf> {
    let trash = layout().trash_dir();
    disk.paths().into_iter().filter(|path| path.parent() == Some(&trash)).collect()
}

/// A log whose only chunks, of attempt 2, are purged.
fn ended_attempt() -> CrashDisk {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1), chunk(1, 2, 2, 0, 2), blank(1, 3)]).unwrap();
    assert!(wait_purge(&log, id(1, 2)));
    log.shutdown();
    copy(&disk)
}

#[test]
fn an_attempt_is_swept_only_when_no_entry_names_it() {
    let disk = CrashDisk::new();
    let (mut log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1), chunk(1, 2, 1, 0, 50), blank(1, 3)]).unwrap();
    assert_eq!(sweep(&log, &[2, 77]).unwrap(), [77], "what is not there is gone");
    assert!(wait_purge(&log, id(1, 1)));
    for restarted in [false, true] {
        if restarted {
            log.shutdown();
            log = open(&disk).unwrap().0;
        }
        assert!(sweep(&log, &[2]).unwrap().is_empty(), "an aside payload lies there");
        assert_eq!(log.payload(2).unwrap()[0], 50);
    }
    assert!(wait_purge(&log, id(1, 2)));
    assert_eq!(sweep(&log, &[2]).unwrap(), [2]);
    assert!(disk.stat(&layout().attempt_dir(2)).is_err());
    assert_eq!(trash(&disk), [layout().trash_dir().join("attempt.2")]);
    log.shutdown();
}

#[test]
fn a_queued_entry_names_its_attempt() {
    let disk = ended_attempt();
    let (log, _) = open(&disk).unwrap();
    // Nobody waits for the append: it names the attempt from now on.
    log.append(vec![chunk(1, 4, 1, 0, 9)], Box::new(|_| {}));
    assert!(sweep(&log, &[2]).unwrap().is_empty());
    assert_eq!(log.payload(4).unwrap()[0], 9);
    log.shutdown();
}

#[test]
fn a_purge_that_is_not_durable_frees_no_attempt() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1)]).unwrap();
    disk.fail_next(OpKind::SyncData, "/mark", 5);
    assert!(!wait_purge(&log, id(1, 1)));
    assert!(sweep(&log, &[2]).is_err(), "the store has failed");
    log.shutdown();
    assert!(disk.stat(&layout().staged_file(2, 1)).is_ok());
}

#[test]
fn an_attempt_that_goes_on_after_its_sweep_has_a_durable_folder_again() {
    let disk = ended_attempt();
    let (log, _) = open(&disk).unwrap();
    for (round, index) in (4..7).enumerate() {
        assert_eq!(sweep(&log, &[2]).unwrap(), [2]);
        assert_eq!(trash(&disk).len(), round + 1, "each finds a name in the trash");
        wait_append(&log, vec![chunk(1, index, 1, 0, index as u8)]).unwrap();
        let after = disk.crash(Crash::Strict);
        let (again, _) = open(&after).unwrap();
        assert_eq!(again.payload(index).unwrap()[0], index as u8, "round {round}");
        again.shutdown();
        assert!(wait_purge(&log, id(1, index)));
    }
    log.shutdown();
}

#[test]
fn a_sweep_that_the_disk_refuses_stops_nothing() {
    let disk = ended_attempt();
    let (log, _) = open(&disk).unwrap();
    disk.fail_next(OpKind::Rename, "trash/", 28);
    assert_eq!(sweep(&log, &[2]).expect_err("no room").raw_os_error(), Some(28));
    for folder in ["/main", "/staging"] {
        disk.fail_next(OpKind::Open, folder, 24);
        assert_eq!(sweep(&log, &[2]).expect_err("no handle").raw_os_error(), Some(24), "{folder}");
    }
    assert_eq!(*log.stalled().borrow(), None);
    wait_append(&log, vec![blank(1, 4)]).unwrap();
    assert_eq!(sweep(&log, &[2]).unwrap(), [2]);
    disk.fail_next(OpKind::SyncDir, "staging", 5);
    wait_append(&log, vec![chunk(1, 5, 1, 0, 9)]).expect_err("a failed fsync is final");
    log.shutdown();
}

#[test]
fn a_sweep_is_done_or_not_at_any_operation() {
    let base = ended_attempt();
    let whole = copy(&base);
    let (log, _) = open(&whole).unwrap();
    let from = whole.op_count();
    assert_eq!(sweep(&log, &[2]).unwrap(), [2]);
    let ops = whole.op_count() - from;
    log.shutdown();
    assert!(ops >= 3, "{ops}");
    for at in 0..=ops {
        let disk = copy(&base);
        let (log, _) = open(&disk).unwrap();
        disk.crash_after(at);
        let swept = sweep(&log, &[2]).is_ok_and(|swept| swept == [2]);
        log.shutdown();
        for how in [Crash::Strict, Crash::Mixed(1), Crash::Mixed(2), Crash::Mixed(3)] {
            let after = disk.crash(how);
            let (log, _) = open(&after).unwrap();
            let staged = after.stat(&layout().staged_file(2, 1)).is_ok();
            let trashed = after.stat(&layout().trash_dir().join("attempt.2/f1")).is_ok();
            assert!(staged != trashed, "cut after {at}, {how:?}: it is in one place, whole");
            assert!(trashed || !swept, "cut after {at}, {how:?}");
            assert_eq!(sweep(&log, &[2]).unwrap(), [2]);
            log.shutdown();
        }
    }
}

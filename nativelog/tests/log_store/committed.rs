//! The committed position: never fsynced on its own, and never in the way of what is.

use checkpoint::testing::{Crash, CrashDisk};

use crate::scene::{blank, id, life, open, run, wait_append};

#[test]
fn positions_saved_between_appends_never_keep_the_log_from_opening() {
    for seed in 0..400 {
        let disk = CrashDisk::new();
        let (log, _) = open(&disk).unwrap();
        wait_append(&log, vec![blank(1, 0), blank(1, 1), blank(1, 2)]).unwrap();
        disk.crash_after(seed % 10);
        let mut acknowledged = 2;
        for index in 3..6 {
            log.save_committed(Some(id(1, index - 2)));
            if wait_append(&log, vec![blank(1, index)]).is_ok() {
                acknowledged = index;
            }
            log.save_committed(Some(id(1, index - 1)));
        }
        log.shutdown();
        let (log, _) =
            open(&disk.crash(Crash::Mixed(seed))).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let last = log.log_state().1.unwrap();
        assert!(last.index >= acknowledged, "seed {seed}: {acknowledged} was acknowledged, {last} is left");
        assert!(log.committed().is_none_or(|committed| committed <= last), "seed {seed}");
        log.shutdown();
    }
}

#[test]
fn the_last_committed_position_outlives_an_orderly_stop() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    run(&log, &life());
    log.shutdown();
    let (log, _) = open(&disk.crash(Crash::Strict)).unwrap();
    assert_eq!(log.committed(), Some(id(2, 8)));
    log.shutdown();
}

//! Who may write which range of a staged file.

use checkpoint::disk::{Disk, Open};
use checkpoint::testing::{Crash, CrashDisk};
use nativelog::store::LogStore;
use nativelog::{Body, Entry};

use crate::scene::{CHUNK, blank, chunk, chunk_of, id, layout, open, wait_append, zeros};

fn assert_served(log: &LogStore, entries: &[Entry]) {
    for entry in entries {
        let Body::Record(record) = &entry.body else { continue };
        assert_eq!(log.payload(entry.id.index).unwrap(), record.payload, "{}", entry.id);
    }
}

/// File 1 of the attempt, as it is staged.
fn staged(disk: &CrashDisk) -> Vec<u8> {
    let file = disk.open(&layout().staged_file(2, 1), Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn chunks_of_different_length_that_overlap_both_read_back() {
    let (long, short) = (0..2 * CHUNK, CHUNK..2 * CHUNK);
    for (first, second) in [(long.clone(), short.clone()), (short, long)] {
        let disk = CrashDisk::new();
        let (log, _) = open(&disk).unwrap();
        let entries =
            [blank(1, 0), chunk_of(1, 1, 1, first.clone(), 1), chunk_of(1, 2, 1, second.clone(), 50)];
        wait_append(&log, entries.to_vec()).unwrap();
        assert!(disk.stat(&layout().aside_file(2, 1)).is_err(), "{first:?} came first");
        let aside = disk.stat(&layout().aside_file(2, 2)).unwrap();
        assert_eq!(aside.len, second.end - second.start, "{second:?} has lost its range");
        assert_served(&log, &entries);
        log.shutdown();
        let (log, _) = open(&disk.crash(Crash::Strict)).unwrap();
        assert_served(&log, &entries);
        log.shutdown();
    }
}

#[test]
fn a_run_of_zeros_is_durable_over_what_a_truncated_chunk_left() {
    for (range, restarted) in
        [(CHUNK..2 * CHUNK, false), (0..4 * CHUNK, false), (CHUNK..2 * CHUNK, true), (0..4 * CHUNK, true)]
    {
        let disk = CrashDisk::new();
        let (mut log, _) = open(&disk).unwrap();
        wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 1, 7)]).unwrap();
        assert!(staged(&disk).iter().any(|byte| *byte != 0));
        log.truncate_after(Some(id(1, 0)));
        if restarted {
            log.shutdown();
            log = open(&disk).unwrap().0;
        }
        wait_append(&log, vec![zeros(2, 1, 1, range.clone())]).unwrap();
        let after = disk.crash(Crash::Strict);
        log.shutdown();
        assert!(staged(&after).iter().all(|byte| *byte == 0), "{range:?}, restarted: {restarted}");
    }
}

#[test]
fn a_run_of_zeros_leaves_the_chunks_of_the_log_alone() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let entries = [blank(1, 0), chunk(1, 1, 1, 1, 7), zeros(1, 2, 1, 0..4 * CHUNK)];
    wait_append(&log, entries.to_vec()).unwrap();
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    assert_served(&log, &entries);
    log.shutdown();
}

//! Who may write which range of a staged file.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::disk::{Disk, Open};
use checkpoint::durable::create_dir_all;
use checkpoint::limits::ZERO_BYTES_MAX;
use checkpoint::store::layout::Layout;
use checkpoint::testing::{Crash, CrashDisk};
use checkpoint::{RealDisk, digest};
use nativelog::record::{Kind, proto};
use nativelog::store::{Brought, LogStore, Placed};
use nativelog::{Body, Entry, LogRecord};

use crate::scene::{
    CHUNK, OWNER, answered, blank, chunk, chunk_of, id, layout, open, options, wait_append, zeros,
};

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

/// On a real disk: 64 GiB are not written. In the run is the place of a chunk that never came to stand, behind it one
/// that did.
#[test]
fn long_runs_of_zeros_hold_up_nothing() {
    const FILE_BYTES: u64 = 1 << 37;
    const HALF: u64 = FILE_BYTES / 2;
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    create_dir_all(&*disk, dir.path(), &layout.staging_dir()).unwrap();
    let (log, _) = LogStore::open(disk.clone(), &layout, OWNER, options()).unwrap();
    let piece = |index, kind, payload: Vec<u8>| Entry {
        id: id(1, index),
        body: Body::Record(LogRecord::new(kind, payload.into())),
    };
    let chunk = |index, offset| {
        let payload = vec![7; CHUNK as usize];
        let digest = digest::subtree(FILE_BYTES, offset, &payload).as_bytes().to_vec().into();
        let (len, file_bytes) = (CHUNK as u32, FILE_BYTES);
        let chunk = proto::Chunk { attempt: 2, file: 1, offset, len, digest, file_bytes };
        piece(index, Kind::Chunk(chunk), payload)
    };
    let len = ZERO_BYTES_MAX;
    let digest: Bytes = digest::zeros(FILE_BYTES, 0, len).as_bytes().to_vec().into();
    let run = |number: u64| {
        // The digest of the first run for all of them: the log store asks for none, and 64 GiB are not hashed here.
        let (offset, digest) = (number * len, digest.clone());
        let zero = proto::Zero { attempt: 2, file: 1, offset, len, digest, file_bytes: FILE_BYTES };
        piece(2 + number, Kind::Zero(zero), Vec::new())
    };
    wait_append(&log, vec![blank(1, 0), chunk(1, HALF), chunk(2, 5 * CHUNK)]).unwrap();
    log.truncate_after(Some(id(1, 1)));
    wait_append(&log, (0..HALF / len).map(run).collect()).unwrap();
    let staged = disk.open(&layout.staged_file(2, 1), Open::Read).unwrap();
    let mut bytes = vec![1; CHUNK as usize];
    staged.read_exact_at(&mut bytes, 5 * CHUNK).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    // Brought by a catch-up it is the same.
    let placed = Placed { attempt: 2, file: 1, offset: 0, data: Brought::Zeros(HALF) };
    answered(|done| log.place(vec![placed], done)).unwrap();
    assert_eq!(log.payload(1).unwrap(), vec![7; CHUNK as usize]);
    assert!(disk.stat(&layout.staged_file(2, 1)).unwrap().blocks * 512 < 64 * CHUNK);
    log.shutdown();
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

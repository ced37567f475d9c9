//! Rules 1, 2 and 5, seen on the recorded operations: payload, fsync, header, fsync, answer.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::store::Vote;

use crate::scene::{blank, chunk, id, open, pack, wait_append};

const EIO: i32 = 5;

/// What the operations on the log and on staged files were, in one letter each.
fn letters(disk: &CrashDisk) -> String {
    disk.ops()
        .iter()
        .filter_map(|op| {
            let path = op.path.to_str().unwrap();
            let staged = path.contains("/staging");
            let wal = path.ends_with(".wal");
            Some(match op.kind {
                OpKind::Write if staged => 'p',
                OpKind::SyncData if staged => 's',
                OpKind::SyncDir if staged => 'd',
                OpKind::Write if wal => 'W',
                OpKind::SyncData if wal => 'S',
                _ => return None,
            })
        })
        .collect()
}

#[test]
fn payload_then_its_fsync_then_its_name_then_header_then_fsync_then_the_answer() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    disk.clear_ops();
    let seen = disk.clone();
    let (answer, answered) = mpsc::channel();
    let entries = vec![chunk(1, 1, 1, 0, 1), chunk(1, 2, 1, 1, 2), chunk(1, 3, 2, 0, 3)];
    log.append(entries, Box::new(move |_| drop(answer.send(letters(&seen)))));
    let letters = answered.recv_timeout(Duration::from_secs(20)).unwrap();
    // Two names are new: that of the attempt's folder, and those of the files in it. The log gets zeros for the next
    // frames, then this one.
    assert_eq!(letters, "pppssddWWS");
    log.shutdown();
}

#[test]
fn a_truncation_is_durable_before_the_next_payload_byte() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1)]).unwrap();
    disk.clear_ops();
    log.truncate_after(Some(id(1, 0)));
    wait_append(&log, vec![chunk(2, 1, 1, 0, 200)]).unwrap();
    assert_eq!(letters(&disk), "WSpsWS");
    assert_eq!(log.payload(1).unwrap()[0], 200);
    log.shutdown();
}

#[test]
fn a_range_taken_twice_is_kept_aside() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let first = chunk(1, 1, 1, 0, 1);
    wait_append(&log, vec![blank(1, 0), first, chunk(1, 2, 1, 0, 50), chunk(1, 3, 1, 0, 1)]).unwrap();
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    let firsts: Vec<u8> = (1..4).map(|index| log.payload(index).unwrap()[0]).collect();
    assert_eq!(firsts, [1, 50, 1]);
    log.shutdown();
}

fn fails_without_an_answer(path: &str) {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1)]).unwrap();
    disk.fail_next(OpKind::SyncData, path, EIO);
    let error = wait_append(&log, vec![chunk(1, 2, 1, 1, 2)]).expect_err("not acknowledged");
    assert!(error.to_string().contains("os error 5"), "{error}");
    // Told to everybody right after the answer.
    let told = std::time::Instant::now();
    while log.fatal().borrow().is_none() {
        assert!(told.elapsed() < Duration::from_secs(20), "nobody was told");
        std::thread::yield_now();
    }
    // The kernel would call the next fsync good: nothing is ever acknowledged again.
    assert!(wait_append(&log, vec![blank(1, 3)]).is_err());
    let (answer, answered) = mpsc::channel::<io::Result<()>>();
    log.save_vote(Vote { term: 5, node: 1, committed: false }, Box::new(move |r| drop(answer.send(r))));
    assert!(answered.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
    log.shutdown();
    for how in [Crash::Strict, Crash::Mixed(1), Crash::Mixed(2)] {
        let (log, _) = open(&disk.crash(how)).unwrap();
        let last = log.log_state().1.unwrap().index;
        assert!(last == 1 || (last == 2 && log.payload(2).is_ok()), "{how:?}: {last}");
        assert!(log.payload(1).is_ok());
        assert_eq!(log.vote(), None);
        log.shutdown();
    }
}

#[test]
fn a_failed_fsync_of_a_payload_is_final() {
    fails_without_an_answer("/staging");
}

#[test]
fn a_failed_fsync_of_the_wal_is_final() {
    fails_without_an_answer(".wal");
}

#[test]
fn inline_payloads_take_one_fsync() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    disk.clear_ops();
    wait_append(&log, vec![pack(1, 1, b"small"), pack(1, 2, b"smaller")]).unwrap();
    assert_eq!(letters(&disk), "WS");
    log.shutdown();
}

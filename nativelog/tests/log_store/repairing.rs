//! Bytes that come without an entry: brought by a catch-up, or in place of rotten ones.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use checkpoint::disk::{Disk, Open};
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::store::{Brought, LogStore, Placed};
use nativelog::{Body, Entry};

use crate::scene::{
    CHUNK, answered, blank, chunk, copy, id, layout, open, pack, wait_append, wait_purge, wait_until, zeros,
};

const WAYS: [Crash; 4] = [Crash::Strict, Crash::Mixed(1), Crash::Mixed(2), Crash::Mixed(3)];
const MODE: u32 = 0o444;
/// Longer than its chunks: publish has given it the length of the sealed file.
const LEN: u64 = 3 * CHUNK + 77;

fn payload(entry: &Entry) -> Bytes {
    let Body::Record(record) = &entry.body else { panic!("a record") };
    record.payload.clone()
}

fn place(log: &LogStore, ranges: Vec<Placed>) -> io::Result<()> {
    answered(|done| log.place(ranges, done))
}

fn placed(attempt: u64, file: u32, offset: u64, data: &[u8]) -> Placed {
    Placed { attempt, file, offset, data: Brought::Bytes(Bytes::copy_from_slice(data)) }
}

fn staged(disk: &CrashDisk, attempt: u64, file: u32) -> Vec<u8> {
    disk.read_file(&layout().staged_file(attempt, file), 1 << 24).unwrap()
}

/// Two chunks in one file, below the mark, and one aside; the first is rotten.
fn rotten() -> (CrashDisk, [Entry; 3]) {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let entries = [chunk(1, 1, 1, 0, 1), chunk(1, 2, 1, 1, 2), chunk(1, 3, 1, 0, 9)];
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    wait_append(&log, entries.to_vec()).unwrap();
    log.shutdown();
    let path = layout().staged_file(2, 1);
    disk.open(&path, Open::Write).unwrap().set_len(LEN).unwrap();
    disk.set_mode(&path, MODE).unwrap();
    let disk = copy(&disk);
    assert!(disk.flip(&path, 8 * 1000).unwrap());
    (disk, entries)
}

#[test]
fn brought_bytes_are_durable_in_a_new_folder() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    place(&log, vec![placed(5, 1, 100, b"brought"), placed(5, 2, 0, b"too")]).unwrap();
    let after = disk.crash(Crash::Strict);
    log.shutdown();
    assert_eq!(staged(&after, 5, 1)[100..], *b"brought");
    assert_eq!(staged(&after, 5, 2), b"too");
}

#[test]
fn brought_bytes_are_not_overwritten_by_an_entry_that_the_ledger_will_reject() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    place(&log, vec![placed(2, 1, 0, &[7; 2 * CHUNK as usize])]).unwrap();
    let wrong = [blank(1, 0), chunk(1, 1, 1, 1, 1), zeros(1, 2, 1, 0..2 * CHUNK), chunk(1, 3, 1, 2, 3)];
    wait_append(&log, wrong.to_vec()).unwrap();
    assert!(staged(&disk, 2, 1)[..2 * CHUNK as usize].iter().all(|byte| *byte == 7));
    assert_eq!(log.payload(1).unwrap(), payload(&wrong[1]), "it is kept aside");
    assert_eq!(staged(&disk, 2, 1)[2 * CHUNK as usize..], payload(&wrong[3]));
    log.shutdown();
}

#[test]
fn bringing_is_durable_or_harmless_at_any_operation() {
    // An entry above the mark that will never be committed has the range that is brought.
    let life = |disk: &CrashDisk, stop: Option<u64>| {
        let (log, _) = open(disk).unwrap();
        wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1)]).unwrap();
        let from = disk.op_count();
        stop.into_iter().for_each(|ops| disk.crash_after(ops));
        let result = place(&log, vec![placed(2, 1, 0, &[7; CHUNK as usize]), placed(3, 1, 0, &[8; 100])]);
        log.shutdown();
        (result.is_ok(), disk.op_count() - from)
    };
    let (_, ops) = life(&CrashDisk::new(), None);
    for at in 0..=ops {
        let disk = CrashDisk::new();
        let (acknowledged, _) = life(&disk, Some(at));
        for how in WAYS {
            let after = disk.crash(how);
            let context = format!("cut after {at}, {how:?}");
            let (log, _) = open(&after).unwrap_or_else(|error| panic!("{context}: {error}"));
            if acknowledged {
                assert!(staged(&after, 2, 1).iter().all(|byte| *byte == 7), "{context}");
                assert_eq!(staged(&after, 3, 1), [8; 100], "{context}");
            }
            place(&log, vec![placed(2, 1, 0, &[7; CHUNK as usize])]).unwrap();
            assert!(staged(&after, 2, 1).iter().all(|byte| *byte == 7), "{context}");
            log.shutdown();
        }
    }
}

#[test]
fn bringing_without_room_is_refused_and_stops_nothing() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    disk.fail_next(OpKind::Write, "staging/5/f2", 28);
    let ranges = vec![placed(5, 1, 0, b"one"), placed(5, 2, 0, b"two")];
    assert_eq!(place(&log, ranges.clone()).expect_err("no room").raw_os_error(), Some(28));
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    // The folder goes away with what was never synced there.
    let swept = answered(|done| log.sweep(vec![5], done)).unwrap();
    assert_eq!(swept, [5]);
    place(&log, ranges).unwrap();
    assert_eq!(staged(&disk.crash(Crash::Strict), 5, 2), b"two");
    log.shutdown();
}

#[test]
fn a_reader_waits_for_the_repair_that_it_asks_for() {
    let (disk, entries) = rotten();
    let (log, _) = open(&disk).unwrap();
    let (answer, answered) = mpsc::channel();
    let reader = log.clone();
    std::thread::spawn(move || drop(answer.send(reader.read(1, 3, 1 << 20))));
    let asked = log.rotten();
    wait_until(&log, "the reader asks", || asked.borrow().contains(&1));
    assert!(answered.try_recv().is_err(), "nothing rotten is served");
    log.repair(1, &payload(&entries[0])).unwrap();
    let read = answered.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    assert_eq!([payload(&read[0]), payload(&read[1])], [payload(&entries[0]), payload(&entries[1])]);
    wait_until(&log, "nobody asks any more", || asked.borrow().is_empty());
    log.shutdown();
}

#[test]
fn a_reader_stops_asking_when_its_entry_is_purged_or_the_store_stops() {
    for purged in [false, true] {
        let (disk, _) = rotten();
        let (log, _) = open(&disk).unwrap();
        let (answer, answered) = mpsc::channel();
        let reader = log.clone();
        std::thread::spawn(move || drop(answer.send(reader.read(1, 2, 1 << 20))));
        let asked = log.rotten();
        wait_until(&log, "the reader asks", || asked.borrow().contains(&1));
        if purged {
            assert!(wait_purge(&log, id(1, 2)));
        } else {
            log.shutdown();
        }
        let read = answered.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(if purged { read.unwrap().is_empty() } else { read.is_err() });
        assert!(asked.borrow().is_empty());
        log.shutdown();
    }
}

fn assert_repaired(disk: &CrashDisk, log: &LogStore, entries: &[Entry], context: &str) {
    for entry in entries {
        assert_eq!(log.payload(entry.id.index).unwrap(), payload(entry), "{context}: {}", entry.id);
    }
    let stat = disk.stat(&layout().staged_file(2, 1)).unwrap();
    assert_eq!((stat.mode, stat.len, stat.links), (MODE, LEN, 1), "{context}");
}

#[test]
fn a_repair_is_a_new_inode_of_the_same_length_and_mode() {
    let (disk, entries) = rotten();
    let path = layout().staged_file(2, 1);
    let blob = layout().group_dir().join("blob");
    disk.link(&path, &blob).unwrap();
    let (log, _) = open(&disk).unwrap();
    assert!(log.payload(1).is_err());
    // Readers have the file open, and so has the writer.
    wait_append(&log, vec![chunk(1, 4, 1, 2, 4)]).unwrap();
    let old = disk.stat(&path).unwrap().ino;
    log.repair(1, &payload(&entries[0])).unwrap();
    assert_ne!(disk.stat(&path).unwrap().ino, old);
    assert_eq!(disk.stat(&blob).unwrap().ino, old, "what shared the inode is untouched");
    assert_repaired(&disk, &log, &entries, "at once");
    let next = chunk(1, 5, 1, 3, 5);
    wait_append(&log, vec![next.clone()]).unwrap();
    assert_eq!(log.payload(5).unwrap(), payload(&next), "the writer goes on in the new inode");
    assert_eq!(disk.stat(&blob).unwrap().len, LEN, "and writes no more into the old one");
    log.shutdown();
}

#[test]
fn aside_and_missing_payloads_are_repaired_too() {
    let (disk, entries) = rotten();
    let (log, _) = open(&disk).unwrap();
    assert!(disk.flip(&layout().aside_file(2, 3), 99).unwrap());
    log.repair(3, &payload(&entries[2])).unwrap();
    assert_eq!(log.payload(3).unwrap(), payload(&entries[2]));
    disk.truncate_file(&layout().staged_file(2, 1), 10).unwrap();
    log.repair(2, &payload(&entries[1])).unwrap();
    log.repair(1, &payload(&entries[0])).unwrap();
    disk.unlink(&layout().staged_file(2, 1)).unwrap();
    log.repair(1, &payload(&entries[0])).unwrap();
    log.repair(2, &payload(&entries[1])).unwrap();
    let after = disk.crash(Crash::Strict);
    log.shutdown();
    let (log, _) = open(&after).unwrap();
    for entry in &entries {
        assert_eq!(log.payload(entry.id.index).unwrap(), payload(entry));
    }
    log.shutdown();
}

#[test]
fn what_cannot_be_repaired_is_said() {
    let (disk, entries) = rotten();
    let (log, _) = open(&disk).unwrap();
    let why = |index, payload: &Bytes| log.repair(index, payload).expect_err("refused").to_string();
    assert!(why(1, &payload(&entries[1])).contains("not the payload"));
    assert!(why(0, &Bytes::new()).contains("no payload"));
    assert!(why(99, &Bytes::new()).contains("no log entry"));
    disk.fail_next(OpKind::Clone, "repair", 28);
    assert!(log.repair(1, &payload(&entries[0])).is_err(), "no room");
    log.repair(1, &payload(&entries[0])).unwrap();
    log.shutdown();
    assert!(why(1, &payload(&entries[0])).contains("stopped"), "nobody waits for ever");
}

#[test]
fn an_inline_payload_that_rots_is_served_from_memory() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), pack(1, 1, b"inline, and rotten soon")]).unwrap();
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    let good = Bytes::from_static(b"inline, and rotten soon");
    assert_eq!(log.payload(1).unwrap(), good);
    let rotted = disk.read_dir(&layout().log_dir()).unwrap().into_iter().any(|(name, _)| {
        let path = layout().log_dir().join(name);
        let bytes = disk.read_file(&path, 1 << 30).unwrap_or_default();
        let at = bytes.windows(good.len()).position(|bytes| bytes == &good[..]);
        at.is_some_and(|at| disk.flip(&path, 8 * (at as u64 + 3)).unwrap())
    });
    assert!(rotted, "the payload is in the WAL");
    let why = log.payload(1).expect_err("it does not verify").to_string();
    assert!(why.contains("the log itself is damaged") && why.contains("epochlog repair"), "{why}");
    // A follower that needs it waits, and is served.
    let reader = log.clone();
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || drop(answer.send(reader.read(1, 2, 1 << 20))));
    let asked = log.rotten();
    wait_until(&log, "the reader asks", || asked.borrow().contains(&1));
    assert!(log.repair(1, &Bytes::from_static(b"inline, and another one")).is_err(), "not its payload");
    log.repair(1, &good).unwrap();
    let read = answered.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    assert_eq!(payload(&read[0]), good);
    assert_eq!(log.payload(1).unwrap(), good);
    log.shutdown();
}

#[test]
fn a_repair_is_done_or_not_at_any_operation() {
    let (base, entries) = rotten();
    let repair = |disk: &CrashDisk, stop: Option<u64>| {
        let (log, _) = open(disk).unwrap();
        let from = disk.op_count();
        stop.into_iter().for_each(|ops| disk.crash_after(ops));
        let repaired = log.repair(1, &payload(&entries[0])).is_ok();
        log.shutdown();
        (repaired, disk.op_count() - from)
    };
    let (_, ops) = repair(&copy(&base), None);
    assert!(ops >= 6, "{ops}");
    for at in 0..=ops {
        let disk = copy(&base);
        let (repaired, _) = repair(&disk, Some(at));
        for how in WAYS {
            for again in 0..12 {
                let after = disk.crash(how);
                after.crash_after(again);
                if let Ok((log, _)) = open(&after) {
                    log.shutdown();
                }
                let over = !after.crashed();
                let after = after.crash(Crash::Mixed(again));
                let context = format!("cut after {at}, {how:?}, again after {again}");
                let (log, _) = open(&after).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(log.payload(2).unwrap(), payload(&entries[1]), "{context}");
                if !repaired && log.payload(1).is_err() {
                    log.repair(1, &payload(&entries[0])).unwrap();
                }
                assert_repaired(&after, &log, &entries, &context);
                log.shutdown();
                let left: Vec<_> =
                    after.paths().into_iter().filter(|path| path.ends_with("repair.new")).collect();
                assert!(left.is_empty(), "{context}: {left:?}");
                if over {
                    break;
                }
            }
        }
    }
}

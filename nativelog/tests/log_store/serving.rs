//! What readers get, from memory and from disk.

use checkpoint::testing::CrashDisk;
use nativelog::store::Vote;
use nativelog::{Body, Entry};

use crate::scene::{CHUNK, OWNER, answered, blank, chunk, id, lead, open, pack, wait_append};

fn payloads(entries: &[Entry]) -> Vec<usize> {
    entries.iter().map(Entry::payload_len).collect()
}

#[test]
fn entries_are_readable_as_soon_as_append_returns() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    log.append(vec![blank(1, 0), chunk(1, 1, 1, 0, 1)], Box::new(|_| {}));
    assert_eq!(payloads(&log.read(0, 2, 1 << 20).unwrap()), [0, CHUNK as usize]);
    log.shutdown();
}

#[test]
fn a_read_is_bounded_in_bytes_but_never_empty() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let entries: Vec<Entry> = (0..8).map(|index| chunk(1, index, 1, index, index as u8)).collect();
    wait_append(&log, entries).unwrap();
    assert_eq!(log.read(2, 8, 1).unwrap().len(), 1);
    assert_eq!(log.read(2, 8, 3 * CHUNK as usize + 1000).unwrap().len(), 3);
    assert_eq!(log.read(2, 2, 1 << 20).unwrap().len(), 0);
    assert_eq!(log.read(7, 50, 1 << 20).unwrap().len(), 1);
    log.shutdown();
}

#[test]
fn evicted_and_reopened_payloads_come_from_the_disk() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let mut entries: Vec<Entry> = (0..4).map(|index| chunk(1, index, 1, index, index as u8)).collect();
    entries.push(pack(1, 4, b"inline"));
    lead(&log);
    wait_append(&log, entries.clone()).unwrap();
    // The cache of this log holds 100,000 bytes: one chunk.
    assert!(!log.is_cached(0, 1, 1 << 20) && log.is_cached(4, 5, 1 << 20));
    let check = |log: &nativelog::store::LogStore| {
        for entry in &entries {
            let Body::Record(record) = &entry.body else { panic!("all are records") };
            assert_eq!(log.payload(entry.id.index).unwrap(), record.payload);
        }
    };
    check(&log);
    log.shutdown();
    let (log, report) = open(&disk).unwrap();
    assert_eq!(report.entries, 5);
    check(&log);
    let headers = log.headers(0..9).unwrap();
    assert_eq!(payloads(&headers), [0, 0, 0, 0, 0]);
    log.shutdown();
}

#[test]
fn a_truncated_suffix_is_gone_for_readers_at_once() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, (0..5).map(|index| blank(1, index)).collect()).unwrap();
    log.truncate_after(Some(crate::scene::id(1, 1)));
    assert_eq!(log.log_state().1.unwrap().index, 1);
    assert_eq!(log.headers(0..9).unwrap().len(), 2);
    wait_append(&log, vec![blank(2, 2)]).unwrap();
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    assert_eq!(log.log_state().1.unwrap(), crate::scene::id(2, 2));
    log.shutdown();
}

#[test]
fn only_a_leader_keeps_durable_payloads_in_memory() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let vote = |term, node, committed| {
        let vote = Vote { term, node, committed };
        answered(|done| log.save_vote(vote, done)).unwrap();
    };
    wait_append(&log, vec![chunk(1, 0, 1, 0, 1)]).unwrap();
    assert!(!log.is_cached(0, 1, 1 << 20), "nobody has voted");
    vote(1, OWNER.node, true);
    wait_append(&log, vec![chunk(1, 1, 1, 1, 1)]).unwrap();
    assert!(log.is_cached(1, 2, 1 << 20), "it leads");
    vote(2, 2, false);
    assert!(!log.is_cached(1, 2, 1 << 20), "it leads no more");
    vote(3, OWNER.node, false);
    wait_append(&log, vec![chunk(3, 2, 1, 2, 1)]).unwrap();
    assert!(!log.is_cached(2, 3, 1 << 20), "it is a candidate");
    assert_eq!(payloads(&log.read(0, 3, 1 << 20).unwrap()), [CHUNK as usize; 3], "all of it is on disk");
    log.shutdown();
}

#[test]
fn a_read_of_purged_entries_has_no_holes() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, (0..5).map(|index| blank(1, index)).collect()).unwrap();
    log.purge(id(1, 2));
    assert!(log.read(1, 5, 1 << 20).unwrap().is_empty(), "its start is gone");
    assert_eq!(log.read(3, 5, 1 << 20).unwrap().len(), 2);
    let held: Vec<u64> = log.headers(0..9).unwrap().iter().map(|entry| entry.id.index).collect();
    assert_eq!(held, [3, 4]);
    assert_eq!((log.log_id_at(2), log.log_id_at(1)), (Some(id(1, 2)), None));
    log.shutdown();
}

//! Fields that a later version knows and this one does not: a header stays as it came.

use std::sync::Arc;

use checkpoint::testing::{Crash, CrashDisk};
use nativelog::record::Header;
use nativelog::store::LogStore;
use nativelog::{Body, Entry, LogRecord, compose};

use crate::scene::{blank, chunk, id, open, pack, wait_append};

/// Field 60 of the record, five bytes: no version knows it.
const UNKNOWN: [u8; 8] = [0xe2, 0x03, 5, 1, 2, 3, 4, 5];

/// The record as a later version writes it.
fn of_a_later_version(entry: Entry) -> Entry {
    let Body::Record(record) = entry.body else { panic!("a record") };
    let header = Header::decode(&[&record.header.wire()[..], &UNKNOWN].concat()).unwrap();
    Entry { id: entry.id, body: Body::Record(LogRecord::from_parts(Arc::new(header), record.payload)) }
}

/// Headers and payloads are the very bytes that these entries have.
fn assert_as_they_came(log: &LogStore, entries: &[Entry]) {
    let end = entries.len() as u64;
    let (headers, whole) = (log.headers(0..end).unwrap(), log.read(0, end, 1 << 20).unwrap());
    assert_eq!((headers.len(), whole.len()), (entries.len(), entries.len()));
    for ((header, whole), entry) in headers.iter().zip(&whole).zip(entries) {
        let Body::Record(record) = &entry.body else { continue };
        assert!(record.header.wire().ends_with(&UNKNOWN), "{}", entry.id);
        for found in [header, whole] {
            let Body::Record(found) = &found.body else { panic!("no record: {found:?}") };
            assert_eq!(found.header.wire(), record.header.wire(), "{}", entry.id);
        }
        assert_eq!(log.payload(entry.id.index).unwrap(), record.payload, "{}", entry.id);
    }
}

#[test]
fn what_a_later_version_says_in_a_header_is_there_after_a_start() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    // Without a payload, and with one in a file and in the log itself.
    let tick = Entry { id: id(1, 1), body: Body::Record(compose::tick(5)) };
    let mut entries = vec![blank(1, 0)];
    entries.extend([tick, chunk(1, 2, 1, 0, 7), pack(1, 3, b"small")].map(of_a_later_version));
    wait_append(&log, entries.clone()).unwrap();
    assert_as_they_came(&log, &entries);
    log.shutdown();
    let (log, _) = open(&disk.crash(Crash::Strict)).unwrap();
    assert_as_they_came(&log, &entries);
    log.shutdown();
}

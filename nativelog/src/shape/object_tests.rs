//! The door, where records know of object stores.

use bytes::Bytes;

use super::*;
use crate::compose::{self, LinkedFile, StoredObject};
use crate::record::{OBJECT_BYTES_MAX, Record, STORE_NAME_BYTES_MAX};

fn check(record: &LogRecord) -> Result<(), ShapeError> {
    check_shape(&record.header, Some(&record.payload))
}

fn object(bytes: u64) -> StoredObject {
    StoredObject { digest: content(b"object"), nonce: 5, bytes }
}

fn file(offset: u64, len: u64) -> LinkedFile {
    LinkedFile { file: 1, offset, len, digest: content(b"file") }
}

fn is_refused(record: &LogRecord) -> bool {
    matches!(check(record), Err(ShapeError::Field(_)))
}

#[test]
fn a_link_names_ranges_of_its_object_and_no_others() {
    let link = |bytes, files: &[LinkedFile]| compose::link(3, &object(bytes), files);
    assert_eq!(check(&link(10, &[file(0, 10), file(3, 7)])), Ok(()));
    assert_eq!(check(&link(OBJECT_BYTES_MAX, &[file(OBJECT_BYTES_MAX - 1, 1)])), Ok(()));
    assert_eq!(check(&link(10, &vec![file(0, 1); LINK_FILES_MAX])), Ok(()));
    for bad in [
        link(0, &[file(0, 0)]),
        link(10, &[]),
        link(10, &[file(0, 11)]),
        link(10, &[file(4, 7)]),
        link(10, &[file(4, 0)]),
        link(10, &[file(u64::MAX, 2)]),
        link(OBJECT_BYTES_MAX + 1, &[file(0, 1)]),
        link(10, &vec![file(0, 1); LINK_FILES_MAX + 1]),
    ] {
        assert!(is_refused(&bad), "{:?}", bad.header);
    }
    let whole = link(10, &[file(0, 10)]);
    let without = altered(&whole, |kind| {
        let Kind::Link(link) = kind else { unreachable!() };
        link.object = None;
    });
    assert!(is_refused(&without));
    let short = altered(&whole, |kind| {
        let Kind::Link(link) = kind else { unreachable!() };
        link.files[0].digest = Bytes::from_static(&[1; 31]);
    });
    assert!(is_refused(&short));
}

#[test]
fn what_is_said_of_stores_has_its_form() {
    assert_eq!(check(&compose::store("west", [1; 16], 2)), Ok(()));
    assert!(is_refused(&compose::store("", [1; 16], 2)));
    assert!(is_refused(&compose::store("n".repeat(STORE_NAME_BYTES_MAX + 1), [1; 16], 2)));
    let short = altered(&compose::store("west", [1; 16], 2), |kind| {
        let Kind::Store(store) = kind else { unreachable!() };
        store.uuid = Bytes::from_static(&[1; 15]);
    });
    assert!(is_refused(&short));
    assert_eq!(check(&compose::delete_batch(1, 2)), Ok(()));
    let gone = |many| compose::deleted(1, vec![(content(b"object"), 2, 3); many]);
    assert_eq!(check(&gone(1)).and(check(&gone(DELETED_MAX))), Ok(()));
    assert!(is_refused(&gone(0)) && is_refused(&gone(DELETED_MAX + 1)));
    let rehome = |bytes| compose::rehome(1, content(b"file"), (content(b"old"), 2, 3), &object(bytes), 0);
    assert_eq!(check(&rehome(9)), Ok(()));
    let nameless = altered(&rehome(9), |kind| {
        let Kind::Rehome(rehome) = kind else { unreachable!() };
        rehome.old = None;
    });
    assert!(is_refused(&rehome(0)) && is_refused(&nameless));
    assert_eq!(check(&compose::seal_with(1, content(b"root"), &object(3))), Ok(()));
    assert!(is_refused(&compose::seal_with(1, content(b"root"), &object(0))));
}

/// A binary that knows no later version would judge what is left of it.
#[test]
fn a_record_of_before_object_stores_does_not_speak_of_them() {
    for record in [
        compose::store("west", [1; 16], 2),
        compose::delete_batch(1, 2),
        compose::deleted(1, [(content(b"object"), 2, 3)]),
        compose::link(3, &object(10), &[file(0, 10)]),
        compose::rehome(1, content(b"file"), (content(b"old"), 2, 3), &object(10), 0),
        compose::seal_with(1, content(b"root"), &object(3)),
    ] {
        assert_eq!(check(&record), Ok(()));
        let old = Record { version: STORES_SINCE - 1, ..Header::clone(&record.header).into_record() };
        assert!(is_refused(&LogRecord::from_parts(Header::new(old).into(), Bytes::new())));
    }
}

fn altered(record: &LogRecord, how: impl FnOnce(&mut Kind)) -> LogRecord {
    let mut altered = Header::clone(&record.header).into_record();
    how(altered.kind.as_mut().unwrap());
    LogRecord::from_parts(Header::new(altered).into(), Bytes::new())
}

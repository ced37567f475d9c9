//! What version a record says, and what its bytes are.

use bytes::Bytes;
use checkpoint::{CommitId, Digest, JobName, PackedFile, Piece};

use super::*;
use crate::compose::{self, LinkedFile, StoredObject};

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn begin() -> proto::Begin {
    proto::Begin {
        job: "job".into(),
        epoch: Some(7),
        token: Some(0),
        commit_id: Bytes::from_static(&[1; 16]),
        declared_bytes: 300,
        chunk_bytes: 64 << 10,
        base: Some(6),
        labels: vec![proto::Label { key: "k".into(), value: "v".into() }],
        depends_on: vec!["d".into()],
        plan_digest: Bytes::from_static(&[2; 32]),
        plan_pages: 1,
        plan_entries: 2,
        attempt: Some(9),
        born: 5,
        stored_bytes: Some(200),
        store: None,
    }
}

/// One of each kind that a binary of before object stores knows.
fn known_before() -> Vec<(&'static str, LogRecord)> {
    let job: JobName = "job".parse().unwrap();
    let bytes = Bytes::from_static(b"abc");
    let packed = PackedFile { file: 1, offset: 0, len: 3, digest: digest(3) };
    let pack = Piece::Pack { files: vec![packed], payload: bytes.clone() };
    let chunk =
        Piece::Chunk { file: 1, offset: 65536, digest: digest(3), file_bytes: 65539, payload: bytes.clone() };
    let zero = Piece::Zero { file: 1, offset: 0, len: 65536, digest: digest(3), file_bytes: 65536 };
    let reuse = Piece::Reuse { files: vec![(1, digest(3))] };
    let file = proto::PackedFile { file: 1, offset: 0, len: 3, digest: Bytes::from_static(&[3; 32]) };
    let root = Bytes::from_static(&[4; 32]);
    let whole =
        proto::Whole { begin: Some(begin()), entries: bytes.clone(), files: vec![file], root, wall_ms: 0 };
    let bare = |kind| LogRecord::new(kind, Bytes::new());
    vec![
        ("genesis", compose::genesis([5; 16], [(1, [6; 16])])),
        ("join", compose::join(2, [7; 16])),
        ("activate", compose::activate(3)),
        ("tick", compose::tick(1000)),
        ("open_writer", compose::open_writer(&job, CommitId::from_bytes([1; 16]), 5)),
        ("begin", bare(Kind::Begin(begin()))),
        ("part", compose::part(9, 1, bytes.clone())),
        ("chunk", compose::piece(9, chunk)),
        ("pack", compose::piece(9, pack)),
        ("zero", compose::piece(9, zero)),
        ("reuse", compose::piece(9, reuse)),
        ("seal", compose::seal(9, digest(4)).sealed_at(1_700_000_000_000)),
        ("whole", LogRecord::new(Kind::Whole(whole), bytes).sealed_at(8)),
        ("abort", compose::abort(9, "why")),
        ("pin", compose::pin(&job, 7, "ann", "why", 50)),
        ("unpin", compose::unpin(&job, 7, "ann")),
        ("expire", compose::expire(&job, vec![1, 300], true, "why", vec![1, 2])),
        ("remove_job", compose::remove_job(&job, "why")),
        ("quarantine", compose::quarantine(digest(3), 8, [(1, "gone".to_owned())])),
        ("healed", compose::healed(digest(3), 10, vec![1, 2])),
    ]
}

/// A new binary leads while others are still to be upgraded: what these cannot read stops them.
#[test]
fn what_an_older_binary_knows_has_the_bytes_that_it_would_write() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let told: String = known_before()
        .iter()
        .map(|(name, record)| {
            assert_eq!(kind_name(&record.header), *name);
            format!("{name} {}\n", hex(record.header.wire()))
        })
        .collect();
    assert_eq!(told, include_str!("records-6.hex"));
}

#[test]
fn what_knows_of_object_stores_says_so_and_keeps_it_when_it_is_stamped() {
    let object = StoredObject { digest: digest(4), nonce: 1, bytes: 10 };
    let file = LinkedFile { file: 1, offset: 0, len: 3, digest: digest(3) };
    let begin = proto::Begin { store: Some(0), ..begin() };
    for record in [
        compose::store("disk", [1; 16], 2),
        compose::delete_batch(3, 4),
        compose::deleted(3, [(digest(1), 2, 3)]),
        compose::link(9, &object, &[file]),
        compose::rehome(9, digest(3), (digest(1), 2, 3), &object, 0),
        compose::seal_with(9, digest(4), &object),
        compose::quarantine_of_stored(digest(3), 8, [(1, "gone".to_owned())]),
        LogRecord::new(Kind::Begin(begin), Bytes::new()),
    ] {
        assert_eq!(record.header.version, STORES_SINCE, "{record:?}");
        assert_eq!(record.sealed_at(7).header.version, STORES_SINCE);
        let read = Header::decode(record.header.wire()).unwrap();
        assert_eq!(*read, **record.header);
    }
}

#[test]
fn a_linked_file_takes_at_most_64_bytes_of_the_log_and_a_full_link_fits_in_a_header() {
    let object = StoredObject { digest: digest(4), nonce: u64::MAX, bytes: OBJECT_BYTES_MAX };
    let last = checkpoint::limits::FILES_MAX_DEFAULT as u32;
    let len = checkpoint::limits::EPOCH_BYTES_MAX_DEFAULT;
    let file = LinkedFile { file: last, offset: OBJECT_BYTES_MAX - 1, len, digest: digest(3) };
    let with = |files: usize| compose::link(u64::MAX, &object, &vec![file; files]).bytes();
    let (none, full) = (with(0), with(LINK_FILES_MAX));
    assert!(
        full - none <= 64 * LINK_FILES_MAX as u64,
        "{} bytes a file",
        (full - none) / LINK_FILES_MAX as u64
    );
    assert!(full <= HEADER_BYTES_MAX as u64, "{full}");
}

#[test]
fn a_store_has_a_plain_name() {
    let longest = "n".repeat(STORE_NAME_BYTES_MAX);
    for name in ["a", "s3-west_1.b", &longest] {
        assert!(is_store_name(name), "{name}");
    }
    for name in ["", "a b", "a/b", "ä", "a\n", &format!("{longest}n")] {
        assert!(!is_store_name(name), "{name}");
    }
}

//! What asks for room, and what is spoken for.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::digest::{subtree, zeros};
use checkpoint::limits::ZERO_BYTES_MAX;
use checkpoint::{CommitId, JobName, Piece};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{Admission, Ask, Ledger, NoRoom, NotAdmitted, TICK_MS_MAX, Ticket, Verdict};
use nativelog::record::{HOLES_SINCE, Header, Kind};
use nativelog::{LogId, LogRecord};

use crate::directory::{CHUNK, Directory};

/// A block for each entry: the directory itself and its file.
const ENTRIES_BYTES: u64 = 2 * 4096;

fn opening(commit: u8) -> Opening {
    Opening {
        job: JobName::try_from("train").unwrap(),
        epoch: Some(u64::from(commit)),
        token: None,
        commit: CommitId::from_bytes([commit; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    }
}

fn directory(bytes: u64) -> Directory {
    Directory::parse(&format!("state:{bytes}=1"))
}

fn begin(commit: u8, bytes: u64) -> LogRecord {
    compose::begin(&opening(commit), &Pages::new(&directory(bytes).entries))
}

fn whole(commit: u8, bytes: u64) -> LogRecord {
    let directory = directory(bytes);
    let pack = directory.pack(&directory.files());
    let pages = Pages::new(&directory.entries);
    compose::whole(&opening(commit), &pages, &[pack], directory.root()).unwrap()
}

fn step(ledger: &mut Ledger, record: &LogRecord) -> Verdict {
    let index = ledger.applied().map_or(0, |id| id.index + 1);
    ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap().verdict
}

/// Admits a record, and tells what was asked for it.
fn asked(
    admission: &mut Admission,
    ledger: &Ledger,
    record: &LogRecord,
) -> (Result<Ticket, NotAdmitted>, Option<Ask>) {
    let mut seen = None;
    let admitted = admission.admit_if(ledger, &record.header, |ask| {
        seen = Some(ask);
        Ok(())
    });
    (admitted, seen)
}

#[test]
fn of_two_that_begin_at_once_the_second_is_asked_with_what_the_first_may_bring() {
    let (mut ledger, mut admission) = (Ledger::default(), Admission::new());
    let (first, ask) = asked(&mut admission, &ledger, &begin(1, 60_000));
    let needed = 60_000 + ENTRIES_BYTES;
    assert_eq!(ask, Some(Ask { needed, spoken_for: 0, held: 0 }));
    let (second, ask) = asked(&mut admission, &ledger, &whole(2, 500));
    assert_eq!(ask, Some(Ask { needed: 500 + ENTRIES_BYTES, spoken_for: needed, held: 0 }));
    admission.release(second.unwrap());
    // Where there is no room nothing is held.
    let no = NoRoom { why: "full".into(), soon: false, attempt: 0 };
    let refused = admission.admit_if(&ledger, &begin(3, 70_000).header, |_| Err(no.clone()));
    assert_eq!(refused, Err(NotAdmitted::NoRoom(no)));
    // Once it is applied the ledger knows it.
    assert!(step(&mut ledger, &begin(1, 60_000)).is_accepted());
    admission.release(first.unwrap());
    let (third, ask) = asked(&mut admission, &ledger, &begin(4, 0));
    assert_eq!(ask.map(|ask| ask.spoken_for), Some(needed));
    admission.release(third.unwrap());
    assert_eq!(admission.in_flight(), 0);
}

#[test]
fn a_repeat_of_what_is_on_its_way_is_not_asked_and_counts_once() {
    let (mut ledger, mut admission) = (Ledger::default(), Admission::new());
    let no = NoRoom { why: "full".into(), soon: false, attempt: 0 };
    let first = asked(&mut admission, &ledger, &begin(1, 60_000)).0.unwrap();
    // Its client has lost the answer. There is no room for it twice, and it comes once.
    let full = |_| Err(no.clone());
    let again = admission.admit_if(&ledger, &begin(1, 60_000).header, full).unwrap();
    let needed = 60_000 + ENTRIES_BYTES;
    let (other, ask) = asked(&mut admission, &ledger, &whole(2, 500));
    assert_eq!(ask.map(|ask| ask.spoken_for), Some(needed));
    admission.release(other.unwrap());
    let other = admission.admit_if(&ledger, &begin(3, 1).header, full);
    assert_eq!(other, Err(NotAdmitted::NoRoom(no.clone())), "another commit is asked");
    // The first was rejected after all: the repeat is what comes, and has spoken for it.
    admission.release(first);
    let (other, ask) = asked(&mut admission, &ledger, &whole(2, 500));
    assert_eq!(ask.map(|ask| ask.spoken_for), Some(needed));
    admission.release(other.unwrap());
    admission.release(again);
    let first = asked(&mut admission, &ledger, &whole(4, 500)).0.unwrap();
    let again = admission.admit_if(&ledger, &whole(4, 500).header, full).unwrap();
    assert!(step(&mut ledger, &whole(4, 500)).is_accepted());
    admission.release(first);
    admission.release(again);
    assert_eq!(admission.in_flight(), 0);
}

/// A Begin that says how many bytes there are, in a record of this version.
fn begin_told(directory: &Directory, stored: u64, version: u32) -> LogRecord {
    let record = compose::begin(&opening(1), &Pages::new(&directory.entries));
    let mut header = Header::clone(&record.header).into_record();
    let Some(Kind::Begin(begin)) = &mut header.kind else { unreachable!() };
    (begin.stored_bytes, header.version) = (Some(stored), version);
    LogRecord::from_parts(Arc::new(Header::new(header)), Default::default())
}

#[test]
fn whoever_brings_more_than_it_said_has_spoken_for_all_that_it_lacks() {
    let directory = directory(16 * CHUNK);
    let mut ledger = Ledger::default();
    step(&mut ledger, &compose::tick(1));
    assert!(step(&mut ledger, &begin_told(&directory, CHUNK, HOLES_SINCE)).is_accepted());
    assert!(step(&mut ledger, &Pages::new(&directory.entries).part(1, 0)).is_accepted());
    assert_eq!(ledger.reserved_bytes(), CHUNK + ENTRIES_BYTES);
    let mut bring = |at: u64| {
        let piece = compose::piece(1, directory.chunk(1, at * CHUNK));
        assert!(step(&mut ledger, &piece).is_accepted());
        ledger.reserved_bytes()
    };
    assert_eq!(bring(0), ENTRIES_BYTES, "what it said is here, and a little for headers");
    assert_eq!(bring(1), 14 * CHUNK + ENTRIES_BYTES);
    assert_eq!(bring(2), 13 * CHUNK + ENTRIES_BYTES);
}

/// An open attempt, 1, that has said so many bytes, with its plan.
fn open_told(directory: &Directory, stored: u64) -> Ledger {
    let mut ledger = Ledger::default();
    let begin = begin_told(directory, stored, HOLES_SINCE);
    for record in [compose::tick(1), begin, Pages::new(&directory.entries).part(1, 0)] {
        assert!(step(&mut ledger, &record).is_accepted());
    }
    ledger
}

#[test]
fn the_piece_with_which_an_attempt_outgrows_what_it_said_asks_for_all_that_it_lacks() {
    let directory = directory(16 * CHUNK);
    let (mut ledger, mut admission) = (open_told(&directory, CHUNK), Admission::new());
    let piece = |at: u64| compose::piece(1, directory.chunk(1, at * CHUNK));
    let no = NoRoom { why: "full".into(), soon: false, attempt: 0 };
    let (first, ask) = asked(&mut admission, &ledger, &piece(0));
    assert_eq!(ask, None, "it is what it said");
    // The first is on its way only, and counts.
    let refused = admission.admit_if(&ledger, &piece(1).header, |_| Err(no.clone()));
    assert_eq!(refused, Err(NotAdmitted::NoRoom(no.clone())));
    assert_eq!(admission.in_flight(), 1, "nothing is held");
    let (second, ask) = asked(&mut admission, &ledger, &piece(1));
    let said = CHUNK + ENTRIES_BYTES;
    let held = ledger.brought_bytes();
    assert_eq!(ask, Some(Ask { needed: 15 * CHUNK, spoken_for: said, held }));
    // It has asked for all of it: the next ones do not, and others are asked with it.
    let third = admission.admit_if(&ledger, &piece(2).header, |_| Err(no.clone())).unwrap();
    let (other, ask) = asked(&mut admission, &ledger, &begin(2, 500));
    assert_eq!(ask.map(|ask| ask.spoken_for), Some(15 * CHUNK + said));
    admission.release(other.unwrap());
    // Once it is applied the ledger counts it in full.
    for (at, ticket) in [(0, first.unwrap()), (1, second.unwrap()), (2, third)] {
        assert!(step(&mut ledger, &piece(at)).is_accepted());
        admission.release(ticket);
    }
    assert_eq!(ledger.reserved_bytes(), 13 * CHUNK + ENTRIES_BYTES);
    let fourth = admission.admit_if(&ledger, &piece(3).header, |_| Err(no)).unwrap();
    admission.release(fourth);
    assert_eq!(admission.in_flight(), 0);
}

/// A hundred GiB of hole are some 1,600 records, which take more than the little beside five islands of data.
#[test]
fn records_that_only_tell_of_holes_outgrow_nothing() {
    const GIB: u64 = 1 << 30;
    let (size, islands) = (100 * GIB, [0, 10 * GIB + 5 * CHUNK, 20 * GIB, 30 * GIB + 63 * CHUNK, 99 * GIB]);
    let mut directory = directory(CHUNK);
    directory.entries[1].size = size;
    let (mut ledger, mut admission) = (open_told(&directory, 5 * CHUNK), Admission::new());
    let data = Bytes::from(vec![1; CHUNK as usize]);
    let (mut at, mut header_bytes) = (0, 0);
    while at < size {
        let (piece, len) = if islands.contains(&at) {
            let digest = subtree(size, at, &data);
            (Piece::Chunk { file: 1, offset: at, digest, file_bytes: size, payload: data.clone() }, CHUNK)
        } else {
            let island = islands.iter().find(|island| **island > at).unwrap_or(&size);
            let mut len = (1 << at.trailing_zeros()).min(ZERO_BYTES_MAX);
            while at + len > *island {
                len /= 2;
            }
            let digest = zeros(size, at, len);
            (Piece::Zero { file: 1, offset: at, len, digest, file_bytes: size }, len)
        };
        let record = compose::piece(1, piece);
        header_bytes += record.bytes() - record.payload.len() as u64;
        let asked = |ask: Ask| panic!("at {at} it asks for {} bytes", ask.needed);
        let ticket = admission.admit_if(&ledger, &record.header, asked).unwrap();
        assert!(step(&mut ledger, &record).is_accepted());
        admission.release(ticket);
        at += len;
    }
    assert!(header_bytes > 5 * CHUNK / 4, "{header_bytes} bytes would have been no matter");
    assert_eq!(ledger.reserved_bytes(), ENTRIES_BYTES);
}

#[test]
fn whoever_brings_what_it_said_is_asked_once() {
    let directory = directory(16 * CHUNK);
    let (ledger, mut admission) = (open_told(&directory, 16 * CHUNK), Admission::new());
    for at in 0..16 {
        let piece = compose::piece(1, directory.chunk(1, at * CHUNK));
        let (ticket, ask) = asked(&mut admission, &ledger, &piece);
        assert!(ticket.is_ok());
        assert_eq!(ask, None, "piece {at}");
    }
}

#[test]
fn a_record_of_a_version_without_holes_says_nothing_of_them() {
    let directory = directory(16 * CHUNK);
    let reserved = |version| {
        let (mut ledger, mut admission) = (Ledger::default(), Admission::new());
        let begin = begin_told(&directory, CHUNK, version);
        let (ticket, ask) = asked(&mut admission, &ledger, &begin);
        admission.release(ticket.unwrap());
        assert!(step(&mut ledger, &begin).is_accepted());
        assert_eq!(ask.map(|ask| ask.needed), Some(ledger.reserved_bytes()));
        (ledger.reserved_bytes(), ledger.attempts().next().unwrap().stored_bytes)
    };
    assert_eq!(reserved(HOLES_SINCE), (CHUNK + ENTRIES_BYTES, CHUNK));
    // As a binary of that version has it, which does not see the field.
    assert_eq!(reserved(HOLES_SINCE - 1), (16 * CHUNK + ENTRIES_BYTES, 16 * CHUNK));
}

#[test]
fn an_attempt_that_nobody_hears_of_has_spoken_for_nothing_and_asks_again() {
    let (mut ledger, mut admission) = (Ledger::default(), Admission::new());
    let begin = begin(1, 60_000);
    assert!(step(&mut ledger, &begin).is_accepted());
    let needed = 60_000 + ENTRIES_BYTES;
    assert_eq!(ledger.reserved_bytes(), needed);
    // Its sign of life asks for nothing: it has its room.
    let (alive, ask) = asked(&mut admission, &ledger, &begin);
    assert_eq!(ask, None);
    admission.release(alive.unwrap());
    step(&mut ledger, &compose::tick(TICK_MS_MAX));
    assert_eq!(ledger.reserved_bytes(), needed);
    step(&mut ledger, &compose::tick(TICK_MS_MAX));
    assert_eq!(ledger.reserved_bytes(), 0);
    assert_eq!(ledger.spoken().map(|spoken| (spoken.info.epoch, spoken.bytes)).collect::<Vec<_>>(), [(1, 0)]);
    // Another may have the room now; and when it comes back, it asks for what it still lacks.
    let (back, ask) = asked(&mut admission, &ledger, &begin);
    assert_eq!(ask, Some(Ask { needed, spoken_for: 0, held: 0 }));
    assert!(step(&mut ledger, &begin).is_accepted());
    admission.release(back.unwrap());
    assert_eq!(ledger.reserved_bytes(), needed);
}

#[test]
fn a_repeat_of_what_is_sealed_needs_no_room() {
    let (mut ledger, mut admission) = (Ledger::default(), Admission::new());
    assert!(step(&mut ledger, &whole(1, 500)).is_accepted());
    let (repeat, ask) = asked(&mut admission, &ledger, &whole(1, 500));
    assert!(repeat.is_ok() && ask.is_none(), "{ask:?}");
}

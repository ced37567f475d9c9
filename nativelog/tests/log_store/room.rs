//! A full disk: the writer waits, acknowledges nothing, and goes on when there is room.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk, Op, OpKind};
use nativelog::Entry;
use nativelog::store::{LogStore, Vote};

use crate::scene::{CHUNK, blank, chunk, id, layout, open, pack, wait_append, wait_until, zeros};

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const PATIENCE: Duration = Duration::from_secs(20);

/// Fails every operation of this kind on this path until room is made.
fn fill(disk: &CrashDisk, kind: OpKind, path: &str, errno: i32) {
    (0..1000).for_each(|_| disk.fail_next(kind, path, errno));
}

fn append(log: &LogStore, entries: Vec<Entry>) -> mpsc::Receiver<io::Result<()>> {
    let (answer, answered) = mpsc::channel();
    log.append(entries, Box::new(move |result| drop(answer.send(result))));
    answered
}

#[test]
fn every_write_waits_for_room_and_is_repeated_in_its_place() {
    let places = [
        (1, OpKind::Write, ".wal"),
        // A full segment: the next append starts another.
        (3000, OpKind::Create, ".new"),
        (3000, OpKind::SetLen, ".new"),
        (3000, OpKind::Write, ".new"),
        (3000, OpKind::Rename, ".wal"),
        (1, OpKind::CreateDir, "staging/2"),
        (1, OpKind::Create, "staging/2/f1"),
        (1, OpKind::Write, "staging/2/f1"),
        // The folders whose names are synced.
        (1, OpKind::Open, "staging"),
        (1, OpKind::Open, "staging/2"),
    ];
    let errors = |kind| match kind {
        OpKind::Open => [ENFILE, EMFILE, ENOMEM].as_slice(),
        OpKind::Create => &[ENOSPC, EDQUOT, EMFILE],
        _ => &[ENOSPC, EDQUOT],
    };
    let each = places.into_iter().flat_map(|place| errors(place.1).iter().map(move |errno| (place, *errno)));
    for ((before, kind, path), errno) in each {
        let disk = CrashDisk::new();
        let (log, _) = open(&disk).unwrap();
        wait_append(&log, vec![pack(1, 0, &vec![1; before])]).unwrap();
        fill(&disk, kind, path, errno);
        let entry = chunk(1, 1, 1, 0, 1);
        let answered = append(&log, vec![entry]);
        let stalled = log.stalled();
        wait_until(&log, "it says why", || stalled.borrow().is_some());
        let why = stalled.borrow().clone().unwrap();
        assert!(why.contains("cannot") && why.contains("/data/"), "{why}");
        assert!(answered.try_recv().is_err(), "{kind:?} {path}: nothing is acknowledged");
        assert_eq!(*log.flushed().borrow(), 1);
        disk.clear_failures();
        answered.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!((stalled.borrow().as_ref(), log.fatal().borrow().as_ref()), (None, None));
        let after = disk.crash(Crash::Strict);
        log.shutdown();
        let (log, _) = open(&after).unwrap_or_else(|error| panic!("{kind:?} {path}: {error}"));
        assert_eq!(log.log_state().1, Some(id(1, 1)), "{kind:?} {path}");
        assert_eq!(log.payload(1).unwrap()[0], 1);
        log.shutdown();
    }
}

#[test]
fn zeros_wait_for_a_file_handle_too() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0), chunk(1, 1, 1, 0, 1)]).unwrap();
    log.truncate_after(Some(id(1, 0)));
    log.shutdown();
    let (log, _) = open(&disk).unwrap();
    fill(&disk, OpKind::Open, "staging/2/f1", EMFILE);
    let answered = append(&log, vec![zeros(2, 1, 1, 0..CHUNK)]);
    let stalled = log.stalled();
    wait_until(&log, "it says why", || stalled.borrow().is_some());
    disk.clear_failures();
    answered.recv_timeout(PATIENCE).unwrap().unwrap();
    let staged = disk.read_file(&layout().staged_file(2, 1), 1 << 20).unwrap();
    assert!(staged.iter().all(|byte| *byte == 0), "what the chunk left is cleared");
    log.shutdown();
}

#[test]
fn a_vote_waits_for_room_too() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    fill(&disk, OpKind::Write, "/mark", ENOSPC);
    let (answer, answered) = mpsc::channel();
    let vote = Vote { term: 3, node: 2, committed: false };
    log.save_vote(vote, Box::new(move |result| drop(answer.send(result))));
    let stalled = log.stalled();
    wait_until(&log, "it says why", || stalled.borrow().is_some());
    assert!(answered.try_recv().is_err());
    disk.clear_failures();
    answered.recv_timeout(PATIENCE).unwrap().unwrap();
    let (again, _) = open(&disk.crash(Crash::Strict)).unwrap();
    assert_eq!(again.vote(), Some(vote));
    again.shutdown();
    log.shutdown();
}

#[test]
fn a_store_that_stops_waits_for_nothing() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    fill(&disk, OpKind::Write, ".wal", ENOSPC);
    let answered = append(&log, vec![blank(1, 1)]);
    let stalled = log.stalled();
    wait_until(&log, "it says why", || stalled.borrow().is_some());
    let since = Instant::now();
    log.shutdown();
    assert!(since.elapsed() < PATIENCE);
    assert!(answered.recv_timeout(PATIENCE).unwrap().is_err());
    assert!(append(&log, vec![blank(1, 2)]).recv_timeout(PATIENCE).unwrap().is_err(), "it has stopped");
    disk.clear_failures();
    let (log, _) = open(&disk.crash(Crash::Strict)).unwrap();
    assert_eq!(log.log_state().1, Some(id(1, 0)));
    log.shutdown();
}

#[test]
fn an_fsync_without_room_is_final() {
    for path in [".wal", "/staging/2/f1", "/mark"] {
        let disk = CrashDisk::new();
        let (log, _) = open(&disk).unwrap();
        disk.fail_next(OpKind::SyncData, path, ENOSPC);
        let append = wait_append(&log, vec![chunk(1, 0, 1, 0, 1)]);
        let (answer, answered) = mpsc::channel();
        let vote = Vote { term: 3, node: 2, committed: false };
        log.save_vote(vote, Box::new(move |result| drop(answer.send(result))));
        let voted = answered.recv_timeout(PATIENCE).unwrap();
        assert!(append.is_err() || path == "/mark", "{path}");
        assert!(voted.is_err(), "{path}");
        wait_until(&log, "all are told", || log.fatal().borrow().is_some());
        assert_eq!(*log.stalled().borrow(), None, "{path}");
        log.shutdown();
    }
}

#[test]
fn zeros_give_their_room_to_the_frame() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    // The zeros of this frame fill the disk, and it finds no room itself.
    for _ in 0..2 {
        disk.fail_next(OpKind::Write, ".wal", ENOSPC);
    }
    let entries: Vec<_> = (1..20).map(|index| blank(1, index)).collect();
    disk.clear_ops();
    wait_append(&log, entries).expect("it was answered");
    let cut = |op: &Op| op.kind == OpKind::SetLen && op.path.to_str().unwrap().ends_with(".wal");
    assert!(disk.ops().iter().any(cut), "it does not wait for room that others make");
    wait_append(&log, vec![blank(1, 20)]).unwrap();
    log.shutdown();
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!((log.log_state().1, recovered.cut_bytes), (Some(id(1, 20)), 0));
    log.shutdown();
}

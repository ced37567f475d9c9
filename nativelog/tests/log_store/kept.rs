//! On a disk that is full to the last byte, what makes room is written all the same, and what needs room is not.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use checkpoint::disk::{Disk, Open};
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::compose;
use nativelog::store::{LogStore, Options, Vote};
use nativelog::{Body, Entry};

use crate::scene::{
    answered, blank, id, layout, open, open_with, options, pack, segments, wait_append, wait_purge,
    wait_until, written,
};
use crate::tight::TightDisk;

const KEPT: u64 = 1024;
const ENOSPC: i32 = 28;
/// Blocks of the crash disk, bytes.
const BLOCK: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(20);

fn keeping() -> Options {
    Options { kept_bytes: KEPT, ..options() }
}

/// A log of one entry, on a disk that has room still.
fn begun(disk: &CrashDisk) -> (TightDisk, LogStore) {
    let tight = TightDisk::over(disk);
    let (log, _) = open_with(Arc::new(tight.clone()), keeping()).unwrap();
    // Content: what is kept is there behind it.
    wait_append(&log, vec![pack(1, 0, &[1; 10])]).unwrap();
    (tight, log)
}

/// A record that makes room.
fn expire(index: u64) -> Entry {
    let job = "job".parse().unwrap();
    let record = compose::expire(&job, vec![index], true, "test", vec![1]);
    Entry { id: id(1, index), body: Body::Record(record) }
}

fn send(log: &LogStore, entry: Entry) -> Receiver<io::Result<()>> {
    let (answer, answered) = mpsc::channel();
    log.append(vec![entry], Box::new(move |result| drop(answer.send(result))));
    answered
}

/// Expires until the log has gone on in its spare; the index of the next entry.
fn fill_what_is_kept(log: &LogStore, disk: &CrashDisk, first: u64) -> io::Result<u64> {
    let (mut next, before) = (first, segments(disk).len());
    while segments(disk).len() == before {
        assert!(next < first + 20, "what is kept for a full disk ends");
        wait_append(log, vec![expire(next)])?;
        next += 1;
    }
    Ok(next)
}

#[test]
fn what_makes_room_is_written_on_a_full_disk_and_content_waits() {
    let disk = CrashDisk::new();
    let (tight, log) = begun(&disk);
    tight.set_full(true);
    let next = fill_what_is_kept(&log, &disk, 1).unwrap();
    assert!(next > 5, "the zeros behind the last content come first: {next}");
    let vote = Vote { term: 1, node: 1, committed: true };
    answered(|done| log.save_vote(vote, done)).unwrap();
    assert_eq!(*log.stalled().borrow(), None);

    let content = send(&log, pack(1, next, &[2; 10]));
    let stalled = log.stalled();
    wait_until(&log, "it says why", || stalled.borrow().is_some());
    assert!(content.try_recv().is_err(), "ten bytes of content do not get what is kept");
    tight.set_full(false);
    content.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(
        disk.stat(&layout().log_dir().join("spare")).is_ok(),
        "it is kept anew before content is written"
    );
    let after = disk.crash(Crash::Strict);
    log.shutdown();
    let (log, _) = open_with(Arc::new(after), keeping()).unwrap();
    assert_eq!((log.log_state().1, log.vote()), (Some(id(1, next)), Some(vote)));
    log.shutdown();
}

#[test]
fn a_purge_on_a_full_disk_starts_a_segment_in_the_spare_and_deletes_what_is_below() {
    let disk = CrashDisk::new();
    let (tight, log) = begun(&disk);
    // Full segments, of which none is started when the disk is.
    for index in 1..4 {
        wait_append(&log, vec![pack(1, index, &[3; 3000])]).unwrap();
    }
    let before = segments(&disk);
    tight.set_full(true);
    wait_append(&log, vec![expire(4)]).unwrap();
    assert!(wait_purge(&log, id(1, 4)));
    let after = segments(&disk);
    assert!(after.len() == 1 && !before.contains(&after[0]), "{before:?}, {after:?}");
    // There is no other spare: the next purges do without.
    wait_append(&log, vec![expire(5)]).unwrap();
    assert!(wait_purge(&log, id(1, 5)));
    assert_eq!((segments(&disk), log.stalled().borrow().as_ref()), (after, None));
    tight.set_full(false);
    wait_append(&log, vec![expire(6)]).unwrap();
    assert!(wait_purge(&log, id(1, 6)));
    let spare = layout().log_dir().join("spare");
    wait_until(&log, "there is a spare again", || disk.stat(&spare).is_ok_and(|stat| stat.len == KEPT));
    log.shutdown();
}

#[test]
fn what_makes_room_does_not_wait_with_content_that_came_after_it() {
    let disk = CrashDisk::new();
    let (tight, log) = begun(&disk);
    let held = tight.hold_syncs();
    let syncs = tight.syncs_begun();
    let first = send(&log, blank(1, 1));
    wait_until(&log, "the writer waits for its fsync while the others come", || tight.syncs_begun() > syncs);
    let (makes_room, content) = (send(&log, expire(2)), send(&log, pack(1, 3, &[2; 3000])));
    tight.set_full(true);
    drop(held);
    for answer in [first, makes_room] {
        answer.recv_timeout(PATIENCE).expect("it waits for content").unwrap();
    }
    let stalled = log.stalled();
    wait_until(&log, "it says why", || stalled.borrow().is_some());
    assert!(content.try_recv().is_err());
    tight.set_full(false);
    content.recv_timeout(PATIENCE).unwrap().unwrap();
    log.shutdown();
}

/// Each time another one is tried, farther on.
#[test]
fn of_segments_that_find_no_room_one_name_is_left() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    // The segment is full. The next one is made, and its first frame finds no room.
    wait_append(&log, vec![pack(1, 0, &[1; 3000])]).unwrap();
    (0..1000).for_each(|_| disk.fail_next(OpKind::Write, ".new", ENOSPC));
    for index in 1..4 {
        wait_append(&log, vec![expire(index)]).expect("it goes on where it was");
    }
    let begun = || -> Vec<_> {
        let is_begun = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "new");
        disk.paths().into_iter().filter(is_begun).collect()
    };
    assert_eq!((begun().len(), segments(&disk).len()), (1, 1), "{:?}", begun());
    disk.clear_failures();
    wait_append(&log, vec![expire(4)]).unwrap();
    assert_eq!((begun().len(), segments(&disk).len()), (0, 2), "{:?}", begun());
    log.shutdown();
    let (log, _) = open(&disk.crash(Crash::Strict)).unwrap();
    assert_eq!(log.log_state().1, Some(id(1, 4)));
    log.shutdown();
}

/// As a frame leaves one that found no room before the zeros behind it.
#[test]
fn a_hole_in_the_zeros_of_a_segment_is_no_room_that_is_kept() {
    let keeping = || Options { kept_bytes: 4 * BLOCK, ..options() };
    let disk = CrashDisk::new();
    let (log, _) = open_with(Arc::new(disk.clone()), keeping()).unwrap();
    wait_append(&log, vec![pack(1, 0, &[1; 10])]).unwrap();
    log.shutdown();
    let segment = segments(&disk).remove(0);
    let end = written(&disk, &segment);
    let file = disk.open(&segment, Open::Write).unwrap();
    file.set_len(end).unwrap();
    file.write_at(&[0; BLOCK as usize], end.next_multiple_of(BLOCK) + 4 * BLOCK).unwrap();
    file.sync_all().unwrap();

    let tight = TightDisk::over(&disk);
    let (log, _) = open_with(Arc::new(tight.clone()), keeping()).unwrap();
    wait_append(&log, vec![pack(1, 1, &[2; 10])]).unwrap();
    let before = written(&disk, &segment);
    tight.set_full(true);
    let mut next = 2;
    while segments(&disk).len() == 1 {
        assert!(next < 1000, "what is kept for a full disk ends");
        wait_append(&log, vec![expire(next)]).unwrap();
        next += 1;
    }
    let used = written(&disk, &segment) - before;
    assert!(used > 3 * BLOCK, "{used} bytes were kept behind the last content");
    log.shutdown();
}

#[test]
fn a_folder_in_the_place_of_the_spare_holds_up_no_content() {
    let disk = CrashDisk::new();
    open(&disk).unwrap().0.shutdown();
    let spare = layout().log_dir().join("spare");
    disk.create_dir(&spare).unwrap();
    disk.write_new(&spare.join("precious"), b"x", 0o600).unwrap();
    let (log, _) = open_with(Arc::new(disk.clone()), keeping()).unwrap();
    for index in 0..3 {
        wait_append(&log, vec![pack(1, index, &[1; 3000])]).expect("the spare is no part of the log");
    }
    assert_eq!((log.stalled().borrow().as_ref(), log.fatal().borrow().as_ref()), (None, None));
    log.shutdown();
    assert_eq!(disk.read_file(&spare.join("precious"), 10).unwrap(), b"x");
}

/// What was acknowledged: entries up to here, and a purge up to there.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    last: u64,
    purged: u64,
}

/// A log whose disk is full for a while, and that is purged then.
fn life(disk: &CrashDisk) -> io::Result<Told> {
    let mut told = Told::default();
    let tight = TightDisk::over(disk);
    let (log, _) = open_with(Arc::new(tight.clone()), keeping()).map_err(io::Error::other)?;
    let mut live = || {
        wait_append(&log, vec![pack(1, 0, &[1; 10])])?;
        tight.set_full(true);
        let next = fill_what_is_kept(&log, disk, 1)?;
        told.last = next - 1;
        if wait_purge(&log, id(1, next - 2)) {
            told.purged = next - 2;
        }
        wait_append(&log, vec![expire(next)])?;
        told.last = next;
        tight.set_full(false);
        wait_append(&log, vec![pack(1, next + 1, &[4; 10])])?;
        told.last = next + 1;
        io::Result::Ok(())
    };
    // What was told before it failed counts.
    drop(live());
    log.shutdown();
    Ok(told)
}

#[test]
fn a_power_cut_at_any_operation_of_a_full_disk_loses_nothing() {
    let whole = CrashDisk::new();
    let all = life(&whole).unwrap();
    assert!(all.purged > 4 && all.last == all.purged + 3, "{all:?}");
    let ops = whole.op_count();
    for at in 0..=ops {
        let disk = CrashDisk::new();
        disk.crash_after(at);
        let told = life(&disk).unwrap_or_default();
        for how in [Crash::Strict, Crash::Mixed(1), Crash::Mixed(2), Crash::Mixed(3)] {
            let context = format!("power cut after operation {at}, {how:?}, {told:?}");
            let after = disk.crash(how);
            let (log, _) =
                open_with(Arc::new(after), keeping()).unwrap_or_else(|error| panic!("{context}: {error}"));
            let (purged, last) = log.log_state();
            let (purged, last) = (purged.map_or(0, |id| id.index), last.map_or(0, |id| id.index));
            assert!(purged >= told.purged && last >= told.last, "{context}: {purged}, {last}");
            let held = log.headers(0..last + 1).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(held.windows(2).all(|pair| pair[0].id.index + 1 == pair[1].id.index), "{context}");
            let next = log.log_state().1.map_or(0, |last| last.index + 1);
            wait_append(&log, vec![blank(9, next)]).unwrap_or_else(|error| panic!("{context}: {error}"));
            log.shutdown();
        }
    }
}

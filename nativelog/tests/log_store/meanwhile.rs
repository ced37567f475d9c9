//! The log goes on while a staged file is copied for a repair, and what lands in that file meanwhile stays.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use checkpoint::disk::{Disk, Open};
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::store::{Brought, LogStore, Placed, Vote};
use nativelog::{Body, Entry};

use crate::scene::{
    CHUNK, answered, blank, chunk, copy, id, layout, open, open_on, wait_append, wait_until, zeros,
};

type Act = Box<dyn FnOnce() + Send>;

/// A disk that does something whenever a file has been cloned, before the clone is told: whoever clones is held up.
#[derive(Clone)]
struct SlowClone {
    disk: CrashDisk,
    acts: Arc<Mutex<Vec<Act>>>,
}

impl fmt::Debug for SlowClone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlowClone")
    }
}

impl SlowClone {
    fn over(disk: &CrashDisk) -> SlowClone {
        SlowClone { disk: disk.clone(), acts: Arc::default() }
    }

    /// At the next clone for which nothing is to be done yet.
    fn at_clone(&self, act: impl FnOnce() + Send + 'static) {
        self.acts.lock().unwrap().insert(0, Box::new(act));
    }
}

impl checkpoint::disk::DiskLayer for SlowClone {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }
    fn clone_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.clone_file(from, to)?;
        let act = self.acts.lock().unwrap().pop();
        act.into_iter().for_each(|act| act());
        Ok(())
    }
}

fn payload(entry: &Entry) -> Bytes {
    let Body::Record(record) = &entry.body else { panic!("a record") };
    record.payload.clone()
}

fn placed(offset: u64, data: Vec<u8>) -> Placed {
    Placed { attempt: 2, file: 1, offset, data: Brought::Bytes(data.into()) }
}

fn place(log: &LogStore, ranges: Vec<Placed>) {
    answered(|done| log.place(ranges, done)).unwrap();
}

/// Two chunks in one file; the first is rotten.
fn rotten() -> (CrashDisk, [Entry; 2]) {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    let entries = [chunk(1, 1, 1, 0, 1), chunk(1, 2, 1, 1, 2)];
    wait_append(&log, vec![blank(1, 0)]).unwrap();
    wait_append(&log, entries.to_vec()).unwrap();
    log.shutdown();
    let disk = copy(&disk);
    assert!(disk.flip(&layout().staged_file(2, 1), 8 * 1000).unwrap());
    (disk, entries)
}

fn assert_served(log: &LogStore, entries: &[Entry], context: &str) {
    for entry in entries {
        assert_eq!(log.payload(entry.id.index).unwrap(), payload(entry), "{context}: {}", entry.id);
    }
}

fn clones(disk: &CrashDisk) -> usize {
    disk.ops().iter().filter(|op| op.kind == OpKind::Clone).count()
}

#[test]
fn appends_votes_and_flushes_go_on_while_a_file_is_copied_for_a_repair() {
    let (disk, entries) = rotten();
    let slow = SlowClone::over(&disk);
    let (log, _) = open_on(Arc::new(slow.clone())).unwrap();
    let meanwhile = log.clone();
    slow.at_clone(move || {
        wait_append(&meanwhile, vec![chunk(1, 3, 2, 0, 3), blank(1, 4)]).expect("an append goes on");
        let vote = Vote { term: 2, node: 2, committed: false };
        answered(|done| meanwhile.save_vote(vote, done)).expect("a vote goes on");
        assert!(meanwhile.wait_flushed(4));
        assert!(meanwhile.payload(1).is_err(), "and it is not repaired yet");
    });
    log.repair(1, &payload(&entries[0])).unwrap();
    assert_served(&log, &[&entries[..], &[chunk(1, 3, 2, 0, 3)]].concat(), "at once");
    assert_eq!(clones(&disk), 1);
    log.shutdown();
}

#[test]
fn what_is_written_into_a_file_while_it_is_copied_stays() {
    let (disk, entries) = rotten();
    let slow = SlowClone::over(&disk);
    let (log, _) = open_on(Arc::new(slow.clone())).unwrap();
    let next = [chunk(1, 3, 1, 2, 3), chunk(1, 4, 1, 3, 4)];
    let (meanwhile, written) = (log.clone(), next.clone());
    slow.at_clone(move || {
        // The first makes the file longer, the second is cleared away again.
        wait_append(&meanwhile, written.to_vec()).unwrap();
        meanwhile.truncate_after(Some(id(1, 3)));
        wait_append(&meanwhile, vec![zeros(2, 4, 1, 3 * CHUNK..4 * CHUNK)]).unwrap();
    });
    let old = disk.stat(&layout().staged_file(2, 1)).unwrap().ino;
    log.repair(1, &payload(&entries[0])).unwrap();
    for (when, disk) in [("at once", copy(&disk)), ("after a crash", disk.crash(Crash::Strict))] {
        let (log, _) = open(&disk).unwrap();
        assert_served(&log, &entries, when);
        assert_served(&log, &next[..1], when);
        let stat = disk.stat(&layout().staged_file(2, 1)).unwrap();
        assert_eq!(stat.len, 4 * CHUNK, "{when}");
        assert_ne!(stat.ino, old, "{when}");
        let bytes = disk.read_file(&layout().staged_file(2, 1), 1 << 20).unwrap();
        assert!(bytes[3 * CHUNK as usize..].iter().all(|byte| *byte == 0), "{when}");
        log.shutdown();
    }
    assert_eq!(clones(&disk), 1);
    log.shutdown();
}

#[test]
fn a_copy_follows_much_that_is_written_and_begins_anew_when_it_is_too_scattered() {
    let (much, scattered) = (vec![placed(2 * CHUNK, vec![7; 20 << 20])], 3u64..5000);
    let scattered: Vec<Placed> =
        scattered.map(|at| placed(2 * CHUNK + 2 * at, vec![at as u8 | 1; 1])).collect();
    for (ranges, clones_wanted) in [(much, 1), (scattered, 2)] {
        let (disk, entries) = rotten();
        let slow = SlowClone::over(&disk);
        let (log, _) = open_on(Arc::new(slow.clone())).unwrap();
        let (meanwhile, brought) = (log.clone(), ranges.clone());
        slow.at_clone(move || place(&meanwhile, brought));
        log.repair(1, &payload(&entries[0])).unwrap();
        let after = disk.crash(Crash::Strict);
        log.shutdown();
        let bytes = after.read_file(&layout().staged_file(2, 1), 1 << 30).unwrap();
        for range in &ranges {
            let from = range.offset as usize;
            let Brought::Bytes(data) = &range.data else { panic!("bytes") };
            assert!(bytes[from..from + data.len()] == *data, "at {from}");
        }
        assert_eq!(clones(&disk), clones_wanted);
        let (log, _) = open(&after).unwrap();
        assert_served(&log, &entries, "after a crash");
        log.shutdown();
    }
}

#[test]
fn a_repair_begins_anew_when_the_performer_changes_the_file_and_not_for_ever() {
    let path = layout().staged_file(2, 1);
    for rounds in [3, 100] {
        let (disk, entries) = rotten();
        let slow = SlowClone::over(&disk);
        let (log, _) = open_on(Arc::new(slow.clone())).unwrap();
        for round in 0..rounds {
            let (disk, path) = (disk.clone(), path.clone());
            slow.at_clone(move || match round % 3 {
                0 => disk.set_mode(&path, 0o444 + round).unwrap(),
                1 => disk.open(&path, Open::Write).unwrap().set_len(5 * CHUNK + u64::from(round)).unwrap(),
                _ => {
                    // Another inode with the same bytes.
                    let other = path.with_extension("other");
                    let mode = disk.stat(&path).unwrap().mode;
                    disk.clone_file(&path, &other).unwrap();
                    disk.set_mode(&other, mode).unwrap();
                    disk.rename(&other, &path).unwrap();
                }
            });
        }
        let repaired = log.repair(1, &payload(&entries[0]));
        if rounds == 3 {
            repaired.unwrap();
            assert_served(&log, &entries, "repaired");
            let stat = disk.stat(&path).unwrap();
            assert_eq!((stat.mode, stat.len), (0o444, 5 * CHUNK + 1));
        } else {
            assert!(repaired.unwrap_err().to_string().contains("changes all the time"));
            slow.acts.lock().unwrap().clear();
            log.repair(1, &payload(&entries[0])).unwrap();
        }
        assert!(log.fatal().borrow().is_none());
        log.shutdown();
    }
}

#[test]
fn a_repair_ends_when_its_entry_is_gone() {
    let (disk, entries) = rotten();
    let slow = SlowClone::over(&disk);
    let (log, _) = open_on(Arc::new(slow.clone())).unwrap();
    let meanwhile = log.clone();
    let other = chunk(2, 1, 1, 0, 99);
    let next = other.clone();
    slow.at_clone(move || {
        meanwhile.truncate_after(Some(id(1, 0)));
        wait_append(&meanwhile, vec![next]).unwrap();
    });
    let why = log.repair(1, &payload(&entries[0])).expect_err("another entry has its range");
    assert_eq!(why.kind(), io::ErrorKind::NotFound);
    assert_served(&log, &[other], "the newer one");
    assert!(!disk.paths().iter().any(|path| path.ends_with("repair.new")));
    log.shutdown();
}

#[test]
fn a_failed_fsync_of_the_copy_is_final() {
    let (disk, entries) = rotten();
    let (log, _) = open(&disk).unwrap();
    disk.fail_next(OpKind::SyncAll, "repair.new", 5);
    assert!(log.repair(1, &payload(&entries[0])).is_err());
    wait_until(&log, "the log stops", || log.fatal().borrow().is_some());
    assert!(wait_append(&log, vec![blank(1, 3)]).is_err());
    log.shutdown();
}

#[test]
fn nothing_that_was_acknowledged_during_a_repair_is_lost_at_any_operation() {
    let (base, entries) = rotten();
    // What goes on during the copy: into the same file and into another.
    let next = [chunk(1, 3, 1, 2, 3), chunk(1, 4, 2, 0, 4), chunk(1, 5, 1, 3, 5)];
    let life = |disk: &CrashDisk, stop: Option<u64>| {
        let slow = SlowClone::over(disk);
        let (log, _) = open_on(Arc::new(slow.clone())).unwrap();
        let from = disk.op_count();
        stop.into_iter().for_each(|ops| disk.crash_after(ops));
        let acknowledged = Arc::new(Mutex::new(0));
        let (meanwhile, counted, written) = (log.clone(), acknowledged.clone(), next.clone());
        slow.at_clone(move || {
            for entry in written {
                if wait_append(&meanwhile, vec![entry]).is_err() {
                    return;
                }
                *counted.lock().unwrap() += 1;
            }
        });
        let repaired = log.repair(1, &payload(&entries[0])).is_ok();
        log.shutdown();
        let acknowledged = *acknowledged.lock().unwrap();
        (repaired, acknowledged, disk.op_count() - from)
    };
    let (repaired, acknowledged, ops) = life(&copy(&base), None);
    assert!(repaired && acknowledged == next.len() && ops > 15, "{repaired} {acknowledged} {ops}");
    for at in 0..=ops {
        let disk = copy(&base);
        let (repaired, acknowledged, _) = life(&disk, Some(at));
        for how in [Crash::Strict, Crash::Mixed(1), Crash::Mixed(2), Crash::Mixed(3), Crash::Mixed(at)] {
            let context = format!("cut after {at}, {how:?}");
            let after = disk.crash(how);
            let (log, _) = open(&after).unwrap_or_else(|error| panic!("{context}: {error}"));
            let held = log.log_state().1.map_or(0, |last| last.index as usize + 1 - 3);
            assert!(held >= acknowledged, "{context}: {acknowledged} acknowledged, {held} held");
            assert_served(&log, &next[..held], &context);
            assert_served(&log, &entries[1..], &context);
            if !repaired && log.payload(1).is_err() {
                log.repair(1, &payload(&entries[0])).unwrap();
            }
            assert_served(&log, &entries, &context);
            assert_served(&log, &next[..held], &context);
            log.shutdown();
            assert!(!after.paths().iter().any(|path| path.ends_with("repair.new")), "{context}");
        }
    }
}

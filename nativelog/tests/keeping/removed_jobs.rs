//! A job that was removed and made anew: a number then names two epochs, one after the other, and what is due for the
//! first may come late.

use std::time::{Duration, Instant};

use checkpoint::CommitId;
use checkpoint::disk::Disk;
use checkpoint::testing::{CrashDisk, OpKind};
use nativelog::LogRecord;
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::Ledger;
use nativelog::performer::Publication;

use crate::catch_up::{Source, bring, catch_up};
use crate::directory::{CHUNK, Directory};
use crate::house::{EMFILE, ENOSPC, assert_baseline, file, start};
use crate::replica::{Replica, job};

const EIO: i32 = 5;

fn opening(job: &str, life: u8, epoch: u64) -> Opening {
    Opening {
        job: job.parse().unwrap(),
        epoch: Some(epoch),
        token: None,
        commit: CommitId::from_bytes([life * 16 + epoch as u8; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    }
}

/// An epoch by a commit of its own in each life of the job.
fn epoch_of(life: u8, epoch: u64, directory: &Directory) -> LogRecord {
    let pack = directory.pack(&directory.files());
    let pages = Pages::new(&directory.entries);
    compose::whole(&opening(job().as_str(), life, epoch), &pages, &[pack], directory.root()).unwrap()
}

fn first(life: u8, directory: &Directory) -> LogRecord {
    epoch_of(life, 1, directory)
}

/// Waits until the performer has tried again what it had to.
fn wait_tried(replica: &mut Replica) {
    for _ in 0..2 {
        replica.commit_blanks(1);
        replica.wait_performed();
    }
}

fn remove(replica: &mut Replica) {
    replica.try_expire(vec![1]).unwrap();
    replica.commit(compose::remove_job(&job(), "done"));
}

fn assert_holds(replica: &Replica, directory: &Directory, context: &str) {
    replica.wait_performed();
    assert_eq!(replica.store.published(&job(), 1).unwrap(), Some(directory.root()), "{context}");
    replica.assert_published(1);
}

#[test]
fn an_epoch_takes_the_place_of_one_that_is_still_read() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let (old, new) = (Directory::parse("a:100=1"), Directory::parse("a:100=2 b:5"));
    replica.commit(first(1, &old));
    replica.wait_performed();
    let reader = replica.machine.read_epoch(&job(), 1);
    remove(&mut replica);
    replica.commit_blanks(1);
    replica.wait_performed();
    assert_eq!(replica.store.published(&job(), 1).unwrap(), Some(old.root()), "it is read");
    replica.commit(first(2, &new));
    assert_holds(&replica, &new, "the new one");
    // Only now the directory of the old one may go; the new one stays.
    drop(reader);
    replica.commit_blanks(1);
    assert_holds(&replica, &new, "after the reader has left");
    replica.empty();
    replica.commit(compose::remove_job(&job(), ""));
    replica.wait_performed();
    replica.try_clean_up().unwrap();
    replica.stop();
    assert_baseline(&disk, "after the job was removed");
    assert!(!disk.paths().iter().any(|path| path.ends_with("epochs/job")), "its folder goes too");
}

#[test]
fn an_epoch_that_was_never_published_hinders_no_later_one_of_its_number() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let (old, new) = (Directory::parse("a:100=1"), Directory::parse("a:100=2 b:5"));
    disk.fail_next(OpKind::Link, "blobs", ENOSPC);
    replica.commit(first(1, &old));
    replica.wait_performed();
    // An open attempt of another job would need its content; here nobody does.
    remove(&mut replica);
    replica.commit(first(2, &new));
    assert_holds(&replica, &new, "the new one");
    replica.machine.publish_again();
    assert_holds(&replica, &new, "after all was tried again");
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after both have expired");
}

#[test]
fn a_read_that_fails_costs_the_later_epoch_nothing() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let (old, new) = (Directory::parse("a:100=1"), Directory::parse("a:100=2 b:5"));
    replica.commit(first(1, &old));
    replica.wait_performed();
    let reader = replica.machine.read_epoch(&job(), 1);
    remove(&mut replica);
    replica.commit(first(2, &new));
    assert_holds(&replica, &new, "the new one");
    disk.fail_next(OpKind::Read, "epochs/job/1/manifest", EIO);
    drop(reader);
    wait_tried(&mut replica);
    disk.clear_failures();
    assert_holds(&replica, &new, "after the reader has left");

    // The folder of an epoch that has expired waits until it says whose it is.
    disk.fail_next(OpKind::Read, "epochs/job/1/manifest", EMFILE);
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    disk.clear_failures();
    assert_eq!(replica.store.published(&job(), 1).unwrap(), Some(new.root()), "it could not be read");
    replica.machine.publish_again();
    wait_tried(&mut replica);
    assert_eq!(replica.store.published(&job(), 1).unwrap(), None);
    replica.stop();
}

#[test]
fn an_expired_epoch_goes_though_the_device_has_lost_what_it_was() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    never_read(&disk, "epochs/job/1/manifest");
    replica.try_expire(vec![1]).unwrap();
    replica.commit_blanks(1);
    replica.wait_performed();
    disk.clear_failures();
    assert_eq!(replica.store.epochs(&job()).unwrap(), [0; 0], "no record but this one decides on it");
    replica.stop();
}

/// From now on every read there fails.
fn never_read(disk: &CrashDisk, path: &str) {
    (0..1000).for_each(|_| disk.fail_next(OpKind::Read, path, EIO));
}

#[test]
fn what_resists_keeps_no_other_expired_epoch_from_making_room() {
    for is_rotten in [true, false] {
        let (disk, other) = (CrashDisk::new(), CrashDisk::new());
        let (mut full, mut there) = (start(&disk), start(&other));
        let second = Directory::parse("b:200=2");
        for replica in [&mut full, &mut there] {
            replica.whole(1, &Directory::parse("a:100=1"));
            replica.whole(2, &second);
            replica.whole(3, &Directory::parse("c:5"));
        }
        there.try_expire(vec![1, 2]).unwrap();
        there.commit_blanks(1);
        let coming = there.machine.ledger().clone();
        let is_there = |epoch| full.store.published(&job(), epoch).unwrap().is_some();
        if is_rotten {
            never_read(&disk, "epochs/job/1/manifest");
            full.machine.give_way(&coming).unwrap();
        } else {
            disk.fail_next(OpKind::Rename, "trash/epoch-job.1", ENOSPC);
            full.machine.give_way(&coming).expect_err("not all of it went");
            assert!(is_there(1), "it could not be moved");
            assert!(!is_there(2), "the other could");
            let blob = full.store.blob_path(second.digest(file(&second, "b")));
            assert_eq!(blob, None, "with its content");
            full.machine.give_way(&coming).unwrap();
        }
        disk.clear_failures();
        assert_eq!(full.store.epochs(&job()).unwrap(), [3], "rotten: {is_rotten}");
        full.stop();
        there.stop();
    }
}

#[test]
fn a_folder_that_cannot_say_whose_it_is_makes_way_for_the_epoch_of_a_later_life() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    // A name that the later one has not.
    let (old, new) = (Directory::parse("a:100=1 b:5"), Directory::parse("a:100=2"));
    replica.commit(first(1, &old));
    replica.wait_performed();
    let reader = replica.machine.read_epoch(&job(), 1);
    assert!(disk.flip(&replica.store.layout().manifest_file(&job(), 1), 300).unwrap());
    remove(&mut replica);
    replica.commit(first(2, &new));
    assert_holds(&replica, &new, "the new one");
    let aside = replica.store.layout().epoch_dir(&job(), 1).with_extension("aside");
    assert!(disk.stat(&aside.join("files/b")).is_ok(), "what was there is kept");
    drop(reader);
    wait_tried(&mut replica);
    assert_holds(&replica, &new, "after the reader has left");
    // Both go with the number.
    replica.empty();
    replica.commit(compose::remove_job(&job(), ""));
    replica.wait_performed();
    replica.try_clean_up().unwrap();
    replica.stop();
    assert_baseline(&disk, "after the job was removed");
    assert!(!disk.paths().iter().any(|path| path.ends_with("epochs/job")), "its folder goes too");
}

#[test]
fn content_that_somebody_needed_for_long_takes_no_later_epoch_with_it() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let (old, new) = (Directory::parse("a:100=1"), Directory::parse("a:100=2 b:5"));
    disk.fail_next(OpKind::Link, "blobs", ENOSPC);
    replica.commit(first(1, &old));
    replica.wait_performed();
    // While this is open, what the unpublished epoch holds is not forgotten.
    let pages = Pages::new(&old.entries);
    let attempt = replica.commit(compose::begin(&opening("other", 1, 1), &pages));
    for part in pages.parts(attempt, 0) {
        replica.commit(part);
    }
    replica.commit(compose::piece(attempt, old.reuse(&[file(&old, "a")])));
    remove(&mut replica);
    replica.commit(first(2, &new));
    assert_holds(&replica, &new, "the new one");
    replica.commit(compose::abort(attempt, "no more"));
    assert_holds(&replica, &new, "after the old one was forgotten");
    replica.stop();
}

#[test]
fn a_directory_of_a_removed_job_never_passes_for_the_epoch_of_a_later_one() {
    for (old, new) in [("a:100=1", "a:100=2"), ("a:100=1", "a:100=1")] {
        let (disk, other) = (CrashDisk::new(), CrashDisk::new());
        let (mut away, mut there) = (start(&disk), start(&other));
        let (before, after) = (Directory::parse(old), Directory::parse(new));
        for replica in [&mut away, &mut there] {
            replica.commit(first(1, &before));
            replica.wait_performed();
        }
        remove(&mut there);
        there.commit(first(2, &after));
        there.commit_blanks(1);
        there.wait_performed();
        let capture = there.machine.capture(None).unwrap();
        // Nobody has it: it is owed. And the old directory stays for a while.
        disk.fail_next(OpKind::Rename, "trash", ENOSPC);
        away.machine.install(&capture).unwrap();
        away.follow_install();
        let is_owed = |replica: &Replica, context: &str| {
            let publication = replica.publication(1);
            assert!(matches!(publication, Some(Publication::Unpublished(_))), "{context}: {publication:?}");
        };
        is_owed(&away, "after the install");
        away.stop();
        disk.clear_failures();
        let away = start(&disk);
        is_owed(&away, "after a start");
        let begun = Instant::now();
        while away.store.envelope(&job(), 1).unwrap().is_some() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the old directory stays");
            std::thread::yield_now();
        }
        // It turns up.
        let ledger = Ledger::decode(&capture.ledger).unwrap();
        bring(&Source { replica: &there, disk: &other }, &away, &ledger).unwrap();
        assert_holds(&away, &after, "of the later job");
        away.stop();
    }
}

#[test]
fn what_latest_had_to_avoid_is_forgotten_with_its_job() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let latest = |replica: &Replica| {
        replica.wait_performed();
        disk.read_link(&replica.store.layout().latest_link(&job())).unwrap()
    };
    let (good, bad) = (Directory::parse("a:100=1"), Directory::parse("a:100=2"));
    replica.commit(epoch_of(1, 1, &good));
    replica.commit(epoch_of(1, 2, &bad));
    replica.quarantine(bad.digest(file(&bad, "a")));
    assert_eq!(latest(&replica), b"1");
    replica.try_expire(vec![1, 2]).unwrap();
    replica.commit(compose::remove_job(&job(), "done"));
    for epoch in [1, 2] {
        replica.commit(epoch_of(2, epoch, &Directory::parse(&format!("b:10={epoch}"))));
        assert_eq!(latest(&replica), epoch.to_string().as_bytes());
    }
    replica.stop();
}

#[test]
fn a_node_that_was_away_lets_go_of_a_removed_job() {
    for again in [false, true] {
        let (disk, other) = (CrashDisk::new(), CrashDisk::new());
        let (mut away, mut there) = (start(&disk), start(&other));
        let (old, new) = (Directory::parse("a:100=1 b:7"), Directory::parse("a:100=2"));
        for replica in [&mut away, &mut there] {
            replica.commit(first(1, &old));
            replica.wait_performed();
        }
        remove(&mut there);
        if again {
            there.commit(first(2, &new));
        }
        there.commit_blanks(1);
        there.wait_performed();
        let capture = there.machine.capture(None).unwrap();
        catch_up(&Source { replica: &there, disk: &other }, &mut away, &capture).unwrap();
        away.commit_blanks(1);
        away.wait_performed();
        if again {
            assert_holds(&away, &new, "of the later job");
        } else {
            let begun = std::time::Instant::now();
            while away.store.published(&job(), 1).unwrap().is_some() {
                assert!(begun.elapsed().as_secs() < 30, "its directory stays");
                std::thread::yield_now();
            }
        }
        away.empty();
        away.stop();
        assert_baseline(&disk, "after the job was removed elsewhere");
    }
}

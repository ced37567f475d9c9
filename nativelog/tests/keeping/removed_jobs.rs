//! A job that was removed and made anew: a number then names two epochs, one after the other, and what is due for the
//! first may come late.

use checkpoint::CommitId;
use checkpoint::testing::{CrashDisk, OpKind};
use nativelog::LogRecord;
use nativelog::compose::{self, Opening, Pages};

use crate::catch_up::{Source, catch_up};
use crate::directory::{CHUNK, Directory};
use crate::house::{ENOSPC, assert_baseline, start};
use crate::replica::{Replica, job};

/// Epoch 1 by a commit of its own in each life of the job.
fn first(life: u8, directory: &Directory) -> LogRecord {
    let opening = Opening {
        job: job(),
        epoch: Some(1),
        token: None,
        commit: CommitId::from_bytes([life; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let pack = directory.pack(&directory.files());
    compose::whole(&opening, &Pages::new(&directory.entries), &[pack], directory.root()).unwrap()
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

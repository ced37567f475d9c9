//! Pages of open plans: in the log, then in files, and with a node that was away.

use std::fmt::Write;

use checkpoint::CommitId;
use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{Ledger, LedgerFault};
use nativelog::machine::lacking_pages;
use nativelog::snapshot::SnapshotError;
use nativelog::{Body, LogRecord};

use crate::catch_up::{Source, catch_up};
use crate::directory::{CHUNK, Directory};
use crate::house::{EMFILE, ENOSPC, assert_baseline, file, start, try_start};
use crate::replica::{Replica, job};

/// A plan of several pages: long names, and a few files with bytes.
fn long() -> Directory {
    with_empty(1500)
}

/// The same, with so many empty files in each of its three folders.
fn with_empty(files: u32) -> Directory {
    let mut names = String::new();
    for dir in 0..3 {
        let name = format!("{dir:0>120}");
        write!(names, "{name}/ ").unwrap();
        (0..files).for_each(|file| write!(names, "{name}/{file:0>120}:0 ").unwrap());
        write!(names, "{name}/z-small:{}={dir} ", 100 + dir).unwrap();
    }
    Directory::parse(&format!("{names}zz:70k=9"))
}

fn opening() -> Opening {
    Opening {
        job: job(),
        epoch: Some(1),
        token: None,
        commit: CommitId::from_bytes([1; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    }
}

fn small(directory: &Directory) -> Vec<u32> {
    directory.files().into_iter().filter(|file| directory.size(*file) < CHUNK).collect()
}

/// The plan up to a page, which ends somewhere in a directory; the attempt.
fn begun(replica: &mut Replica, directory: &Directory, upto: u32) -> u64 {
    let pages = Pages::new(&directory.entries);
    assert!(pages.count() > 3, "{} pages", pages.count());
    let attempt = replica.commit(compose::begin(&opening(), &pages));
    for page in 0..upto {
        replica.commit(pages.part(attempt, page));
    }
    attempt
}

fn rest_of_plan(replica: &mut Replica, directory: &Directory, attempt: u64, from: u32) {
    for part in Pages::new(&directory.entries).parts(attempt, from) {
        replica.commit(part);
    }
}

fn content(replica: &mut Replica, directory: &Directory, attempt: u64) {
    replica.commit(compose::piece(attempt, directory.pack(&small(directory))));
    let large = file(directory, "zz");
    for offset in [0, CHUNK] {
        replica.commit(compose::piece(attempt, directory.chunk(large, offset)));
    }
}

/// Two snapshots and a purge: the log holds nothing of what was committed.
fn forget(replica: &mut Replica, attempt: u64) {
    replica.commit_blanks(1);
    replica.wait_performed();
    replica.try_clean_up().unwrap();
    assert!(replica.log.log_id_at(attempt + 1).is_none(), "its pages are not in the log any more");
}

#[test]
fn a_plan_goes_on_where_a_purge_and_a_power_cut_left_it() {
    let (disk, directory) = (CrashDisk::new(), long());
    let mut replica = start(&disk);
    let attempt = begun(&mut replica, &directory, 2);
    forget(&mut replica, attempt);
    replica.stop();
    let disk = disk.crash(Crash::Strict);
    let mut replica = start(&disk);
    rest_of_plan(&mut replica, &directory, attempt, 2);
    forget(&mut replica, attempt);
    replica.stop();
    let disk = disk.crash(Crash::Strict);
    let mut replica = start(&disk);
    content(&mut replica, &directory, attempt);
    replica.seal(attempt, &directory);
    replica.wait_performed();
    replica.assert_published(1);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "pages go with the folder of their attempt");
}

/// An attempt that has everything, and of whose plan nothing is in the log.
fn complete(disk: &CrashDisk, directory: &Directory) -> (Replica, u64) {
    let mut replica = start(disk);
    let attempt = begun(&mut replica, directory, 0);
    rest_of_plan(&mut replica, directory, attempt, 0);
    content(&mut replica, directory, attempt);
    forget(&mut replica, attempt);
    (replica, attempt)
}

#[test]
fn a_page_that_rots_stops_the_node_and_is_no_other_verdict() {
    let directory = long();
    for lose in [false, true] {
        let disk = CrashDisk::new();
        let (mut replica, attempt) = complete(&disk, &directory);
        let page = replica.machine.ledger().pages(attempt).nth(1).unwrap();
        let path = replica.store.layout().page_file(attempt, 1);
        match lose {
            true => disk.unlink(&path).unwrap(),
            false => assert!(disk.flip(&path, 4321).unwrap()),
        }
        assert_eq!(lacking_pages(&replica.store, &replica.machine.ledger()), std::slice::from_ref(&page));
        assert!(replica.machine.page(&page).is_err(), "nobody else gets it from here");
        let seal = replica.append(vec![Body::Record(compose::seal(attempt, directory.root()))]).remove(0);
        let before = replica.machine.ledger().digest();
        let fault = replica.machine.apply(&seal).unwrap_err();
        assert!(matches!(fault, LedgerFault::PlanLost { attempt: of, .. } if of == attempt), "{fault}");
        assert_eq!(replica.machine.ledger().digest(), before);
        assert!(replica.log.fatal().borrow().as_ref().is_some_and(|why| why.contains("page 1 of the plan")));
        replica.stop();
    }
}

#[test]
fn a_page_that_no_file_handle_is_left_for_is_read_later() {
    let (disk, directory) = (CrashDisk::new(), long());
    let (mut replica, attempt) = complete(&disk, &directory);
    disk.fail_next(OpKind::Read, "plan/1", EMFILE);
    replica.seal(attempt, &directory);
    replica.wait_performed();
    assert_eq!(*replica.log.fatal().borrow(), None);
    replica.assert_published(1);
    replica.stop();
}

/// Nobody waits for the tree of an attempt that has ended.
#[test]
fn a_seal_of_what_has_ended_waits_for_nobody() {
    let (disk, directory) = (CrashDisk::new(), long());
    let mut replica = start(&disk);
    let attempt = begun(&mut replica, &directory, 0);
    rest_of_plan(&mut replica, &directory, attempt, 0);
    content(&mut replica, &directory, attempt);
    let last = compose::piece(attempt, directory.chunk(file(&directory, "zz"), CHUNK));
    let turn = replica.machine.early(&last.header, true).expect("it is complete");
    replica.commit(compose::abort(attempt, "over"));
    // Would wait for ever: the turn is not given back.
    let seal = replica.append(vec![Body::Record(compose::seal(attempt, directory.root()))]).remove(0);
    assert!(!replica.machine.apply(&seal).unwrap().is_accepted());
    replica.machine.prepare_early(turn);
    replica.wait_performed();
    replica.stop();
}

/// From its last piece on: whoever seals it needs the pages no more.
#[test]
fn a_tree_is_put_together_before_its_seal_comes() {
    let (disk, directory) = (CrashDisk::new(), long());
    let mut replica = start(&disk);
    let attempt = begun(&mut replica, &directory, 0);
    rest_of_plan(&mut replica, &directory, attempt, 0);
    let pack = compose::piece(attempt, directory.pack(&small(&directory)));
    let large = file(&directory, "zz");
    let chunks = [0, CHUNK].map(|offset| compose::piece(attempt, directory.chunk(large, offset)));
    let completed = |replica: &mut Replica, record: &LogRecord| {
        replica.commit(record.clone());
        replica.machine.early(&record.header, true)
    };
    assert!(completed(&mut replica, &pack).is_none());
    assert!(completed(&mut replica, &chunks[0]).is_none());
    let early = completed(&mut replica, &chunks[1]).unwrap();
    assert!(replica.machine.early(&chunks[1].header, true).is_none(), "somebody is at it");
    forget(&mut replica, attempt);

    // What cannot be read yet is no fault: the seal is not there.
    let page = replica.store.layout().page_file(attempt, 1);
    disk.fail_next(OpKind::Read, "plan/1", ENOSPC);
    replica.machine.prepare_early(early);
    let early = replica.machine.early(&chunks[1].header, true).expect("it was not done");
    let seal = compose::seal(attempt, directory.root());
    std::thread::scope(|scope| {
        scope.spawn(|| replica.machine.prepare_early(early));
        // Each does it, or waits for who does.
        for _ in 0..2 {
            scope.spawn(|| replica.machine.prepare(&seal.header).unwrap());
        }
    });
    assert!(replica.machine.early(&chunks[1].header, true).is_none(), "it is done");
    assert!(replica.machine.ledger().ungathered(&seal.header).is_none());
    assert_eq!(*replica.log.fatal().borrow(), None);
    disk.unlink(&page).unwrap();
    replica.seal(attempt, &directory);
    replica.wait_performed();
    replica.assert_published(1);
    replica.stop();
}

/// A page of which all content is here is not read again: not even when it is lost since.
#[test]
fn a_tree_is_begun_while_content_comes_in() {
    let (disk, directory) = (CrashDisk::new(), with_empty(6000));
    let mut replica = start(&disk);
    let attempt = begun(&mut replica, &directory, 0);
    rest_of_plan(&mut replica, &directory, attempt, 0);
    let pack = compose::piece(attempt, directory.pack(&small(&directory)));
    replica.commit(pack.clone());
    assert!(replica.machine.early(&pack.header, true).is_none(), "a leader waits until it is complete");
    let early = replica.machine.early(&pack.header, false).expect("most of it is here");
    replica.machine.prepare_early(early);
    assert!(replica.machine.early(&pack.header, false).is_none(), "nothing more has come since");
    forget(&mut replica, attempt);
    disk.unlink(&replica.store.layout().page_file(attempt, 0)).unwrap();

    let large = file(&directory, "zz");
    let chunks = [0, CHUNK].map(|offset| compose::piece(attempt, directory.chunk(large, offset)));
    for chunk in &chunks {
        replica.commit(chunk.clone());
    }
    let early = replica.machine.early(&chunks[1].header, false).expect("it is complete");
    replica.machine.prepare_early(early);
    let seal = compose::seal(attempt, directory.root());
    assert!(replica.machine.ledger().ungathered(&seal.header).is_none());
    let verdict = replica.machine.ledger().check(&seal.header);
    assert!(verdict.is_accepted(), "{verdict}");
    replica.commit(compose::abort(attempt, "over"));
    replica.wait_performed();
    replica.stop();
}

/// While content comes in it is looked for once, and once more when everything is there; what was read before it is kept.
#[test]
fn a_lost_page_is_not_looked_for_with_every_record() {
    let (disk, directory) = (CrashDisk::new(), with_empty(6000));
    let mut replica = start(&disk);
    let attempt = begun(&mut replica, &directory, 0);
    rest_of_plan(&mut replica, &directory, attempt, 0);
    let pack = compose::piece(attempt, directory.pack(&small(&directory)));
    replica.commit(pack.clone());
    forget(&mut replica, attempt);
    let [first, lost] = [0, 2].map(|page| replica.store.layout().page_file(attempt, page));
    let bytes = disk.read_file(&lost, 1 << 20).unwrap();
    disk.unlink(&lost).unwrap();
    let early = replica.machine.early(&pack.header, false).expect("most of it is here");
    replica.machine.prepare_early(early);
    assert!(replica.machine.early(&pack.header, false).is_none(), "the plan is read once more");
    assert_eq!(*replica.log.fatal().borrow(), None, "it may come back before the seal does");

    disk.unlink(&first).unwrap();
    disk.write_new(&lost, &bytes, 0o600).unwrap();
    let large = file(&directory, "zz");
    let chunks = [0, CHUNK].map(|offset| compose::piece(attempt, directory.chunk(large, offset)));
    for chunk in &chunks {
        replica.commit(chunk.clone());
    }
    let early = replica.machine.early(&chunks[1].header, false).expect("it is complete");
    replica.machine.prepare_early(early);
    let seal = compose::seal(attempt, directory.root());
    assert!(replica.machine.ledger().ungathered(&seal.header).is_none());
    let verdict = replica.machine.ledger().check(&seal.header);
    assert!(verdict.is_accepted(), "{verdict}");
    replica.commit(compose::abort(attempt, "over"));
    replica.wait_performed();
    replica.stop();
}

#[test]
fn a_page_that_finds_no_room_holds_up_the_snapshot_and_the_purge() {
    let (disk, directory) = (CrashDisk::new(), long());
    let mut replica = start(&disk);
    let attempt = begun(&mut replica, &directory, 2);
    replica.wait_performed();
    disk.fail_next(OpKind::Create, "plan/1", ENOSPC);
    assert!(matches!(replica.keep(), Err(SnapshotError::Io { .. })));
    assert_eq!(replica.machine.newest_snapshot(), None);
    assert_eq!(replica.machine.purge_limit(), None);
    rest_of_plan(&mut replica, &directory, attempt, 2);
    content(&mut replica, &directory, attempt);
    forget(&mut replica, attempt);
    replica.seal(attempt, &directory);
    replica.wait_performed();
    replica.assert_published(1);
    replica.stop();
}

/// Whoever was away past the purge gets the pages, and seals as the others do.
#[test]
fn a_node_that_was_away_gets_the_pages_of_what_is_open() {
    let (disks, directory) = ([CrashDisk::new(), CrashDisk::new()], long());
    let (mut leader, attempt) = complete(&disks[0], &directory);
    let capture = leader.machine.read_snapshot().unwrap().unwrap();
    let mut follower = start(&disks[1]);
    let coming = Ledger::decode(&capture.ledger).unwrap();
    let all: Vec<_> = coming.pages(attempt).collect();
    assert_eq!(lacking_pages(&follower.store, &coming), all);
    let lacks = follower.machine.lacking_of_attempts(&coming).unwrap().remove(0);
    assert!(!lacks.pages.is_empty() && lacks.packed.is_empty(), "what the pages name is not known yet");
    catch_up(&Source { replica: &leader, disk: &disks[0] }, &mut follower, &capture).unwrap();
    follower.stop();
    let disk = disks[1].crash(Crash::Strict);
    let mut follower = start(&disk);
    for replica in [&mut leader, &mut follower] {
        replica.seal(attempt, &directory);
        replica.wait_performed();
        replica.assert_published(1);
    }
    assert_eq!(leader.machine.ledger().digest(), follower.machine.ledger().digest());
    leader.stop();
    follower.stop();
}

/// The power goes after every operation of the snapshots that take pages out of the log.
#[test]
fn pages_are_not_lost_whenever_the_power_goes() {
    let (before, directory) = (CrashDisk::new(), long());
    let mut replica = start(&before);
    let attempt = begun(&mut replica, &directory, 3);
    replica.wait_performed();
    replica.stop();
    let run = |disk: &CrashDisk| {
        let Some(replica) = try_start(disk) else { return };
        let _ = replica.try_wait_performed().and_then(|()| replica.try_clean_up());
        replica.stop();
    };
    let whole = before.crash(Crash::Strict);
    run(&whole);
    let ops = whole.op_count();
    assert!(ops > 20, "there are pages to write: {ops}");
    for at in 0..=ops {
        let disk = before.crash(Crash::Strict);
        disk.crash_after(at);
        run(&disk);
        for how in [Crash::Strict, Crash::Mixed(at)] {
            let left = disk.crash(how);
            let mut replica = start(&left);
            rest_of_plan(&mut replica, &directory, attempt, 3);
            content(&mut replica, &directory, attempt);
            replica.seal(attempt, &directory);
            replica.wait_performed();
            replica.assert_published(1);
            replica.stop();
        }
    }
}

//! Starts from a snapshot: how fast, and what is missed.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::store::{Layout, Store};
use checkpoint::testing::{CrashDisk, OpKind};
use nativelog::LogId;
use nativelog::machine::Machine;
use nativelog::performer::Publication;
use nativelog::store::{Identity, LogStore, Options};

use crate::aside::{make_way, stand_in_the_way};
use crate::directory::Directory;
use crate::house::{DATA, start, try_start, whole_of};
use crate::replica::{Replica, job};

const EIO: i32 = 5;

#[test]
fn a_node_with_a_thousand_epochs_starts_in_a_moment() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    for epoch in 1..=1000 {
        replica.try_whole(epoch, &Directory::parse(&format!("a:64={epoch} b:64=same"))).unwrap();
    }
    replica.wait_performed();
    replica.keep().unwrap();
    replica.keep().unwrap();
    replica.purge();
    replica.whole(1001, &Directory::parse("last:100"));
    replica.stop();

    let begun = Instant::now();
    let replica = start(&disk);
    let marks = replica.machine.marks();
    replica.wait_performed();
    let took = begun.elapsed();
    assert_eq!(replica.machine.ledger().sealed(&job()).count(), 1001);
    assert_eq!(marks.applied - marks.snapshot, 1, "one record lies above the snapshot");
    assert!(took.as_millis() < 2000, "{took:?}");
    replica.assert_published(1001);
    replica.stop();
}

fn wait_for_missing(replica: &Replica, count: usize) {
    let begun = Instant::now();
    while replica.machine.missing().len() != count {
        assert!(begun.elapsed().as_secs() < 30, "{:?}", replica.machine.missing());
        std::thread::yield_now();
    }
}

#[test]
fn a_published_epoch_that_vanished_is_missed_and_adopted_again() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1 d/ d/e:0 l->a"));
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.keep().unwrap();
    let (envelope, manifest) = replica.store.manifest(&job(), 1).unwrap().unwrap();
    replica.stop();
    // An operator's hand, not a record.
    checkpoint::durable::remove_tree(&disk, Path::new("/data/epochs/job/1")).unwrap();

    let replica = start(&disk);
    wait_for_missing(&replica, 1);
    let missing = replica.machine.missing().remove(0);
    assert_eq!((missing.epoch, missing.root), (1, envelope.root));
    assert!(!missing.has_tree);
    assert!(matches!(replica.publication(1), Some(Publication::Unpublished(_))));
    replica.machine.adopt(missing.attempt, envelope, manifest.into()).unwrap();
    wait_for_missing(&replica, 0);
    replica.assert_all_published("adopted");
    replica.stop();
}

#[test]
fn nothing_is_said_of_epochs_that_nobody_has_looked_for_since_the_start() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.wait_performed();
    replica.keep().unwrap();
    replica.stop();
    checkpoint::durable::remove_tree(&disk, Path::new("/data/epochs/job/1")).unwrap();

    let data = Path::new(DATA);
    let store = Arc::new(Store::open(Arc::new(disk.clone()), data).unwrap());
    let owner = Identity { node: 1, incarnation: [3; 16] };
    let (log, _) =
        LogStore::open(store.disk().clone(), &Layout::new(data), owner, Options::default()).unwrap();
    // From here on the folder cannot be listed: more often than anybody tries while this test runs.
    for _ in 0..1000 {
        disk.fail_next(OpKind::Read, "/data/epochs", EIO);
    }
    let machine = Machine::start(store, log, Path::new("/dev/null/no-catalog")).unwrap();
    assert_eq!(machine.not_looked(), 2);
    for epoch in [1, 2] {
        assert_eq!(machine.publication(&job(), epoch), Some(Publication::NotLooked));
    }
    assert!(machine.missing().is_empty(), "nobody knows");
    disk.clear_failures();
    // Now one is here, and one is not.
    let begun = Instant::now();
    while machine.not_looked() > 0 {
        assert!(begun.elapsed().as_secs() < 30, "nobody looks");
        std::thread::yield_now();
    }
    assert!(matches!(machine.publication(&job(), 1), Some(Publication::Unpublished(_))));
    assert_eq!(machine.publication(&job(), 2), Some(Publication::Published));
    machine.shutdown();
}

#[test]
fn what_cannot_be_read_in_the_place_of_one_epoch_leaves_no_other_unknown() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.wait_performed();
    replica.keep().unwrap();
    replica.stop();
    let way = Path::new("/data/epochs/job/1");
    checkpoint::durable::remove_tree(&disk, way).unwrap();
    disk.write_new(way, b"no folder", 0o600).unwrap();

    let replica = start(&disk);
    wait_for_missing(&replica, 1);
    let missing = replica.machine.missing().remove(0);
    assert_eq!(missing.epoch, 1);
    assert_ne!(missing.why, "its directory is not there", "the disk says more");
    assert_eq!(replica.publication(2), Some(Publication::Published));
    replica.stop();
}

#[test]
fn an_epoch_that_is_published_while_it_is_looked_for_is_not_missing() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    stand_in_the_way(&disk, 1);
    replica.whole(1, &Directory::parse("a:100=1"));
    // Whether this one is here is known when all is looked for.
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.wait_performed();
    replica.keep().unwrap();
    let manifest = replica.store.layout().manifest_file(&job(), 1);
    replica.stop();

    // Who looks finds it nowhere, neither among the folders that are listed nor once more, and then is slow.
    let (asked, looks) = (AtomicU64::new(0), Arc::new(Barrier::new(2)));
    let until_published = looks.clone();
    disk.after_open(move |path| {
        let is_looking = std::thread::current().name() == Some("missing-epochs") && path == manifest;
        match is_looking.then(|| asked.fetch_add(1, Ordering::Relaxed)) {
            Some(0) => {
                until_published.wait();
                until_published.wait();
            }
            // Should it be looked for again, whoever asks meanwhile has time to hear a wrong answer.
            Some(_) => std::thread::sleep(Duration::from_millis(300)),
            None => {}
        }
    });
    let replica = start(&disk);
    looks.wait();
    make_way(&disk, 1);
    replica.machine.publish_again();
    replica.wait_published(1);
    disk.after_open(|_| {});
    looks.wait();
    let begun = Instant::now();
    while replica.machine.not_looked() > 0 {
        assert!(begun.elapsed().as_secs() < 30, "nobody looks");
        assert_eq!(replica.publication(1), Some(Publication::Published), "not even for a moment");
        std::thread::yield_now();
    }
    assert_eq!(replica.publication(1), Some(Publication::Published));
    assert!(replica.machine.missing().is_empty());
    replica.stop();
}

#[test]
fn a_directory_whose_epoch_has_expired_below_the_snapshot_goes_with_its_content() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let gone = Directory::parse("a:100=1");
    replica.whole(1, &gone);
    let (envelope, manifest) = replica.store.manifest(&job(), 1).unwrap().unwrap();
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    replica.keep().unwrap();
    replica.keep().unwrap();
    // As a catch-up that was given up for a later one leaves it.
    replica.machine.adopt(envelope.attempt, envelope, manifest.into()).unwrap();
    assert_eq!(replica.store.epochs(&job()).unwrap(), [1, 2]);
    replica.stop();

    let mut replica = try_start(&disk).unwrap();
    let begun = Instant::now();
    while replica.store.epochs(&job()).unwrap() != [2] {
        assert!(begun.elapsed().as_secs() < 30, "it stays");
        std::thread::yield_now();
    }
    replica.empty();
    replica.stop();
    crate::house::assert_baseline(&disk, "after the surplus went");
}

#[test]
fn a_folder_without_a_manifest_below_the_mark_makes_way_at_a_start_and_stays() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(3, &Directory::parse("b:100=2"));
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    replica.keep().unwrap();
    replica.keep().unwrap();
    let layout = replica.store.layout().clone();
    replica.stop();

    // In the place of one that has expired, and of a number that no epoch ever had.
    let folders = [1, 2].map(|epoch| layout.epoch_dir(&job(), epoch));
    for folder in &folders {
        disk.create_dir(folder).unwrap();
        disk.write_new(&folder.join("precious"), b"not ours", 0o600).unwrap();
    }
    let replica = start(&disk);
    let begun = Instant::now();
    while replica.store.epochs(&job()).unwrap() != [3] {
        assert!(begun.elapsed().as_secs() < 30, "they stand in the way");
        std::thread::yield_now();
    }
    for folder in &folders {
        let kept = folder.with_extension("found").join("precious");
        assert_eq!(disk.read_file(&kept, 100).unwrap(), b"not ours", "{}", kept.display());
    }
    replica.stop();
}

/// `cargo test -p nativelog --test keeping -- --ignored --nocapture`; the numbers stand in `docs/snapshot.md`.
#[test]
#[ignore = "a measurement"]
fn a_ledger_of_a_hundred_thousand_epochs_is_captured_in_a_moment() {
    use nativelog::ledger::Ledger;
    let mut ledger = Ledger::default();
    let mut index = 0;
    for epoch in 1..=1000 {
        for job in 0..100 {
            let directory = Directory::parse(&format!("a:16={job}.{epoch} b:16=same"));
            let record = whole_of(&format!("job{job}"), epoch, &directory);
            let step = ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap();
            assert!(step.verdict.is_accepted());
            index += 1;
        }
    }
    let timed = |what: &str, run: &mut dyn FnMut()| {
        let begun = Instant::now();
        run();
        println!("{what}: {:?}", begun.elapsed());
    };
    let mut bytes = Vec::new();
    timed("encode", &mut || bytes = ledger.encode());
    println!("{} bytes", bytes.len());
    timed("decode", &mut || drop(Ledger::decode(&bytes).unwrap()));
    let mut copy = None;
    timed("clone", &mut || copy = Some(ledger.clone()));
    assert_eq!(copy.unwrap().digest(), ledger.digest());
}

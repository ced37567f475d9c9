//! Content that is brought from elsewhere, to the byte: where it goes on after a
//! crash, what is refused, and what it costs.

use std::sync::Arc;

use checkpoint::digest::content;
use checkpoint::store::{Content, Incoming, IncomingError, SYNC_BYTES, StoreError};
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use checkpoint::{Disk, RealDisk, Store};

use crate::support::*;

const SYNC: usize = SYNC_BYTES as usize;

fn new() -> (CrashDisk, Store) {
    let disk = fresh();
    let store = open(&disk);
    (disk, store)
}

fn is_empty(store: &Store) -> bool {
    store.disk().read_dir(&store.layout().incoming_dir()).unwrap().is_empty()
}

fn shelve_one(store: &Store, wanted: Content, data: &[u8]) {
    store.shelve(vec![bring(store, wanted, data).unwrap()]).remove(0).unwrap();
}

#[test]
fn what_a_manifest_lacks_is_brought_once_and_published() {
    let temp = tempfile::tempdir().unwrap();
    mixed_tree(temp.path());
    let taken = take_all(temp.path());
    let (disk, store) = new();
    let lacking = store.lacking(&taken.manifest).unwrap();
    let digests: std::collections::BTreeSet<_> = lacking.iter().map(|content| content.digest).collect();
    assert_eq!(digests.len(), lacking.len(), "each once");
    assert!(lacking.iter().all(|content| content.size > 0));
    let files = walk(temp.path());
    let bytes = |wanted: &Content| {
        let found = files.values().find(|(kind, _, data)| *kind == 'f' && content(data) == wanted.digest);
        found.unwrap().2.clone()
    };
    let arrived = lacking.iter().map(|wanted| bring(&store, *wanted, &bytes(wanted)).unwrap()).collect();
    store.shelve(arrived).into_iter().for_each(|result| result.unwrap());
    assert!(store.lacking(&taken.manifest).unwrap().is_empty());
    assert!(is_empty(&store));
    let store = open(&disk.crash(Crash::Strict));
    assert!(store.lacking(&taken.manifest).unwrap().is_empty());
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, all_reused(&taken))]).remove(0).unwrap();
    assert!(store.verify(&job("job"), 1).unwrap().is_good());
    open_up(temp.path());
}

#[test]
fn a_good_blob_of_another_mode_is_enough() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o600);
    let taken = take_all(temp.path());
    let (disk, store) = new();
    shelve_one(&store, content_of(b"content", 0o644), b"content");
    assert!(store.lacking(&taken.manifest).unwrap().is_empty());
    // A damaged one of the right mode does not stand in the way, nor does it count.
    shelve_one(&store, content_of(b"content", 0o600), b"content");
    disk.flip(&store.layout().blob(content(b"content"), 0o600, 0), 3).unwrap();
    let store = open(&disk);
    assert!(store.lacking(&taken.manifest).unwrap().is_empty());
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, all_reused(&taken))]).remove(0).unwrap();
    assert!(store.verify(&job("job"), 1).unwrap().is_good());
    check_blobs(&store, "replaced");
    for mode in [0o600, 0o644] {
        disk.flip(&store.layout().blob(content(b"content"), mode, 0), 3).unwrap();
    }
    let store = open(&disk);
    assert_eq!(store.lacking(&taken.manifest).unwrap(), [content_of(b"content", 0o600)]);
}

#[test]
fn wrong_bytes_are_named_and_thrown_away() {
    let (_, store) = new();
    let wanted = content_of(b"right", 0o644);
    let mut incoming = store.incoming(wanted).unwrap();
    incoming.write(b"wrong").unwrap();
    let good = bring(&store, content_of(b"good", 0o644), b"good").unwrap();
    let results = store.shelve(vec![incoming, good]);
    assert!(matches!(&results[0], Err(IncomingError::Corrupt { wanted, found })
        if *wanted == content(b"right") && *found == content(b"wrong")));
    results[1].as_ref().unwrap();
    assert!(is_empty(&store));
    assert_eq!(store.blob_path(wanted.digest), None);
    assert_eq!(store.incoming(wanted).unwrap().have(), 0);
    shelve_one(&store, wanted, b"right");
}

#[test]
fn too_many_bytes_are_not_taken_and_too_few_do_not_become_a_blob() {
    let (_, store) = new();
    let wanted = content_of(b"right", 0o644);
    let mut incoming = store.incoming(wanted).unwrap();
    incoming.write(b"rig").unwrap();
    assert!(incoming.write(b"ht!").is_err());
    assert_eq!(incoming.have(), 3);
    let Err(StoreError::Io(e)) = store.incoming(wanted) else { panic!("two at once") };
    assert_eq!(e.source.kind(), std::io::ErrorKind::WouldBlock);
    assert!(matches!(store.shelve(vec![incoming]).remove(0), Err(IncomingError::Store(_))));
    let mut incoming = store.incoming(wanted).unwrap();
    assert_eq!(incoming.have(), 3);
    incoming.write(b"ht").unwrap();
    assert!(incoming.write(b"!").is_err());
    store.shelve(vec![incoming]).remove(0).unwrap();
}

#[test]
fn within_a_process_it_goes_on_at_the_byte() {
    let data = noise(3_000_001, 1);
    let wanted = content_of(&data, 0o640);
    let (disk, store) = new();
    for upto in [1, 2, 5000, 262_144, 262_145, 1_500_000, data.len()] {
        let mut incoming = store.incoming(wanted).unwrap();
        incoming.write(&data[incoming.have() as usize..upto]).unwrap();
        assert_eq!(incoming.have(), upto as u64);
    }
    store.shelve(vec![store.incoming(wanted).unwrap()]).remove(0).unwrap();
    assert_eq!(disk.read_file(&store.blob_path(wanted.digest).unwrap(), 1 << 30).unwrap(), data);
}

#[test]
fn after_a_restart_what_is_complete_counts_and_of_the_rest_what_was_synced() {
    let data = noise(2 * SYNC + 5000, 2);
    let wanted = content_of(&data, 0o644);
    for (upto, have) in
        [(5000, 0), (SYNC, 0), (SYNC + 1, SYNC), (2 * SYNC + 1, 2 * SYNC), (data.len(), data.len())]
    {
        let (disk, store) = new();
        store.incoming(wanted).unwrap().write(&data[..upto]).unwrap();
        // As after a kill: what was written is there, synced or not.
        let store = open(&disk);
        assert_eq!(store.incoming(wanted).unwrap().have(), have as u64, "{upto}");
        // As after a power cut that left a hole in what was not synced.
        if upto == data.len() {
            disk.flip(&store.layout().incoming_file(wanted.digest), 8 * (data.len() as u64 - 1)).unwrap();
            assert_eq!(open(&disk).incoming(wanted).unwrap().have(), 2 * SYNC_BYTES);
        }
        shelve_one(&store, wanted, &data);
        assert!(is_empty(&store));
    }
}

#[test]
fn many_small_contents_cost_few_syncs() {
    let count = |disk: &CrashDisk, kind| disk.ops().iter().filter(|op| op.kind == kind).count();
    for (contents, fs_syncs, syncs_each) in [(200, 2, 0), (10, 0, 10)] {
        let (disk, store) = new();
        let data: Vec<Vec<u8>> = (0..contents).map(|n| noise(2000, n)).collect();
        disk.clear_ops();
        let arrived = data.iter().map(|data| bring(&store, content_of(data, 0o644), data).unwrap()).collect();
        store.shelve(arrived).into_iter().for_each(|result| result.unwrap());
        assert_eq!(count(&disk, OpKind::SyncFs), fs_syncs);
        assert_eq!(count(&disk, OpKind::SyncAll) + count(&disk, OpKind::SyncData), syncs_each);
        assert!(count(&disk, OpKind::SyncDir) <= syncs_each);
        assert_eq!(count(&disk, OpKind::Write), contents as usize);
        let store = open(&disk.crash(Crash::Strict));
        check_blobs(&store, "shelved");
        assert!(data.iter().all(|data| store.blob_path(content(data)).is_some()));
    }
}

#[test]
fn a_blob_that_is_there_gets_a_new_inode_and_is_read_again() {
    let (disk, store) = new();
    let wanted = content_of(b"content", 0o644);
    shelve_one(&store, wanted, b"content");
    let blob = store.blob_path(wanted.digest).unwrap();
    disk.link(&blob, &store.layout().data_dir().join("old")).unwrap();
    disk.flip(&blob, 1).unwrap();
    shelve_one(&store, wanted, b"content");
    assert_eq!(disk.read_file(&blob, 100).unwrap(), b"content");
    assert_ne!(disk.read_file(&store.layout().data_dir().join("old"), 100).unwrap(), b"content");
    assert_eq!(disk.stat(&blob).unwrap().links, 1);
}

#[test]
fn after_a_failed_sync_nothing_more_comes_and_nobody_resumes_from_it() {
    let data = noise(SYNC + 10, 1);
    let wanted = content_of(&data, 0o644);
    let (disk, store) = new();
    let small = bring(&store, content_of(b"small", 0o644), b"small").unwrap();
    disk.fail_next(OpKind::SyncAll, "incoming", 5);
    assert!(matches!(store.shelve(vec![small]).remove(0), Err(IncomingError::Store(_))));
    assert!(is_empty(&store));
    assert!(bring(&store, wanted, &data).is_err(), "writes go on after a failed sync");
    let store = open(&disk);
    disk.fail_next(OpKind::SyncData, "incoming", 28);
    assert!(bring(&store, wanted, &data).is_err(), "full in a sync is final, too");
    let store = open(&disk);
    assert_eq!(store.incoming(wanted).unwrap().have(), 0);
    shelve_one(&store, wanted, &data);
}

#[test]
fn a_full_disk_stops_it_until_there_is_room() {
    let data = noise(1_000_000, 1);
    let wanted = content_of(&data, 0o644);
    let (disk, store) = new();
    let mut incoming = store.incoming(wanted).unwrap();
    disk.fail_next(OpKind::Write, "incoming", 28);
    assert!(incoming.write(&data).is_err());
    let have = incoming.have() as usize;
    incoming.write(&data[have..]).unwrap();
    disk.fail_next(OpKind::Rename, "blobs", 28);
    assert!(matches!(store.shelve(vec![incoming]).remove(0), Err(IncomingError::Store(_))));
    let incoming = store.incoming(wanted).unwrap();
    assert_eq!(incoming.have(), wanted.size);
    store.shelve(vec![incoming]).remove(0).unwrap();
    check_blobs(&store, "after all");
}

#[test]
fn what_was_begun_can_be_forgotten() {
    let (disk, store) = new();
    store.incoming(content_of(b"one", 0o644)).unwrap().write(b"on").unwrap();
    let mut open_one = store.incoming(content_of(b"two", 0o644)).unwrap();
    open_one.write(b"two").unwrap();
    store.clear_incoming().unwrap();
    assert_eq!(store.incoming(content_of(b"one", 0o644)).unwrap().have(), 0);
    store.shelve(vec![open_one]).remove(0).unwrap();
    assert!(is_empty(&store));
    store.incoming(content_of(b"one", 0o644)).unwrap().write(b"on").unwrap();
    let store = open(&disk);
    assert_eq!(disk.read_dir(&store.layout().incoming_dir()).unwrap().len(), 1, "it survives a restart");
    store.clear_incoming().unwrap();
    assert!(is_empty(&store));
}

#[test]
fn shelving_is_stopped_after_every_operation_twice() {
    // Two contents, one of them over an old and damaged blob; one may not be written by its owner.
    let (one, two) = (noise(30_001, 1), noise(900, 2));
    let contents = [(content_of(&one, 0o644), &one), (content_of(&two, 0o400), &two)];
    let expected = std::cell::RefCell::new(None);
    crash_twice(
        &|| {
            let disk = fresh();
            shelve_one(&open(&disk), contents[0].0, &one);
            disk
        },
        &|store| {
            let arrived: Result<Vec<_>, _> =
                contents.iter().map(|(content, data)| bring(store, *content, data)).collect();
            let Ok(arrived) = arrived else { return false };
            let results = store.shelve(arrived);
            let corrupt =
                |result: &Result<(), IncomingError>| matches!(result, Err(IncomingError::Corrupt { .. }));
            assert!(!results.iter().any(corrupt), "the sender is blamed for a crash");
            results.iter().all(Result::is_ok)
        },
        &|_, store, done, when| {
            check_blobs(store, when);
            assert!(store.blob_path(contents[0].0.digest).is_some(), "{when}: the old one is lost");
            assert!(!done || store.blob_path(contents[1].0.digest).is_some(), "{when}: lost");
        },
        &|disk, store, when| {
            assert!(is_empty(store), "{when}");
            let paths = paths(disk);
            assert_eq!(&paths, expected.borrow_mut().get_or_insert_with(|| paths.clone()), "{when}");
        },
    );
}

#[test]
fn a_large_content_is_resumed_after_a_crash_at_any_point() {
    let data = noise(2 * SYNC + 700_000, 3);
    let wanted = content_of(&data, 0o644);
    let whole = fresh();
    let store = open(&whole);
    let before = whole.op_count();
    shelve_one(&store, wanted, &data);
    let ops = whole.op_count() - before;
    for stop in 0..=ops {
        let disk = fresh();
        let store = open(&disk);
        disk.crash_after(stop);
        let synced = disk.ops().iter().filter(|op| op.kind == OpKind::SyncData).count() as u64;
        let answer = bring(&store, wanted, &data).map(|incoming| store.shelve(vec![incoming]).remove(0));
        drop(answer);
        for how in [Crash::Strict, Crash::Mixed(stop), Crash::Mixed(stop + 1000)] {
            let when = format!("after {stop} of {ops} operations, {how:?}");
            let store = open(&disk.crash(how));
            if store.blob_path(wanted.digest).is_none() {
                let incoming = store.incoming(wanted).unwrap();
                let have = incoming.have();
                assert!(have.is_multiple_of(SYNC_BYTES) || have == wanted.size, "{when}: {have}");
                assert!(have >= synced.saturating_sub(1) * SYNC_BYTES, "{when}: {have}");
                drop(incoming);
                shelve_one(&store, wanted, &data);
            }
            check_blobs(&store, &when);
            assert!(is_empty(&store), "{when}");
        }
    }
}

#[test]
fn on_a_real_disk_pieces_of_any_length_end_up_right() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), temp.path()).unwrap();
    let data = noise(5_000_003, 4);
    let wanted = content_of(&data, 0o440);
    let (mut at, mut len) = (0, 1);
    while at < data.len() {
        // Dropped and opened again in between, and once by another process.
        let store = if at > 2_000_000 && at < 2_500_000 {
            Store::open(Arc::new(RealDisk), temp.path()).unwrap()
        } else {
            store.clone()
        };
        let mut incoming = store.incoming(wanted).unwrap();
        let have = incoming.have() as usize;
        let end = (have + len).min(data.len());
        incoming.write(&data[have..end]).unwrap();
        (at, len) = (end.max(at), len * 3 + 7);
    }
    shelve_one(&store, wanted, &data);
    let blob = store.blob_path(wanted.digest).unwrap();
    assert_eq!(std::fs::read(&blob).unwrap(), data);
    assert_eq!(store.disk().stat(&blob).unwrap().mode, 0o440);
    assert!(is_empty(&store));
}

#[test]
fn what_a_failed_write_has_left_is_not_there_when_zeros_come_in_its_place() {
    let block = 256 << 10;
    let data = [noise(block, 1), vec![0; 3 * block], noise(5000, 2)].concat();
    let wanted = content_of(&data, 0o644);
    let zeros: fn(&mut Incoming) = |incoming| incoming.zeros(3 << 18).unwrap();
    // Long runs of zeros that come as bytes are not written either.
    let bytes: fn(&mut Incoming) = |incoming| incoming.write(&vec![0; 3 << 18]).unwrap();
    for bring_zeros in [zeros, bytes] {
        let (disk, store) = new();
        let mut incoming = store.incoming(wanted).unwrap();
        incoming.write(&data[..block]).unwrap();
        // From somebody who has it wrong: a part of it is written, what comes behind its zeros is not.
        let wrong = [noise(64 << 10, 9), vec![0; 64 << 10], noise(128 << 10, 9)].concat();
        disk.fail_after(1, OpKind::Write, "incoming", 28);
        assert!(incoming.write(&wrong).is_err());
        assert_eq!(incoming.have(), block as u64);
        bring_zeros(&mut incoming);
        incoming.write(&data[4 * block..]).unwrap();
        store.shelve(vec![incoming]).remove(0).unwrap();
        assert!(disk.read_file(&store.blob_path(wanted.digest).unwrap(), 1 << 30).unwrap() == data);
    }
}

#[test]
fn the_name_of_a_file_of_zeros_is_synced_after_a_pause_before_it_grows_on() {
    let data = [vec![0; 2 * SYNC], noise(SYNC + 5000, 1)].concat();
    let wanted = content_of(&data, 0o644);
    let (disk, store) = new();
    let mut incoming = store.incoming(wanted).unwrap();
    incoming.zeros(2 * SYNC_BYTES).unwrap();
    drop(incoming);
    let mut incoming = store.incoming(wanted).unwrap();
    incoming.write(&data[2 * SYNC..]).unwrap();
    // What it has grown beyond is there after a power cut.
    let store = open(&disk.crash(Crash::Strict));
    assert!(store.incoming(wanted).unwrap().have() >= 2 * SYNC_BYTES);
}

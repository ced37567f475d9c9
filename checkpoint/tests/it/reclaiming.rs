//! Space that is given back, and nothing else; room on a full disk.

use std::cell::Cell;
use std::path::Path;

use checkpoint::digest::content;
use checkpoint::store::Reclaimed;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use checkpoint::{Digest, Disk, RealDisk, Store};

use crate::support::*;

// Contents on the shelves, some under two modes.
fn shelved(count: u64) -> (CrashDisk, Vec<Digest>) {
    let disk = fresh();
    let store = open(&disk);
    for mode in [0o644, 0o600] {
        let arrived = (0..count)
            .filter(|n| mode == 0o644 || n % 2 == 0)
            .map(|n| bring(&store, content_of(&noise(100, n), mode), &noise(100, n)).unwrap())
            .collect();
        store.shelve(arrived).into_iter().for_each(|result| result.unwrap());
    }
    disk.sync_fs(Path::new("/")).unwrap();
    (disk, (0..count).map(|n| content(&noise(100, n))).collect())
}

#[test]
fn released_blobs_go_in_every_mode_and_others_stay() {
    let (disk, digests) = shelved(60);
    let store = open(&disk);
    let strange = store.layout().blob_shelf(digests[0].as_bytes()[0]).join(format!("{}.odd", digests[0]));
    disk.write_new(&strange, b"?", 0o600).unwrap();
    let asked = Cell::new(0);
    let free = |digest: &Digest| {
        asked.set(asked.get() + 1);
        // Still there when it is asked: whoever takes a reference now is in time.
        assert!(store.blob_path(*digest).is_some());
        *digest != digests[4]
    };
    let reclaimed = store.remove_blobs(&digests[..10], &free).unwrap();
    // Fifteen inodes, but for the two of the content that is not free after all.
    assert_eq!(reclaimed, Reclaimed { files: 13, bytes: 1300 });
    assert_eq!(asked.get(), 15);
    let store = open(&disk.crash(Crash::Strict));
    for (n, digest) in digests.iter().enumerate() {
        assert_eq!(store.blob_path(*digest).is_some(), n == 4 || n >= 10, "{n}");
    }
    assert!(store.disk().stat(&strange).is_ok(), "removed though it is not ours");
    assert_eq!(store.remove_blobs(&digests[..10], &|_| false).unwrap(), Reclaimed::default());
    assert_eq!(store.remove_blobs(&[Digest::NONE], &|_| true).unwrap(), Reclaimed::default());
}

#[test]
fn a_blob_that_was_removed_is_not_taken_for_good_when_it_comes_back() {
    let (disk, digests) = shelved(1);
    let store = open(&disk);
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", &noise(100, 0), 0o644);
    let taken = take_all(temp.path());
    assert!(store.lacking(&taken.manifest).unwrap().is_empty());
    store.remove_blobs(&digests, &|_| true).unwrap();
    assert_eq!(store.lacking(&taken.manifest).unwrap().len(), 1);
}

#[test]
fn removing_blobs_is_stopped_after_every_operation_twice() {
    let (_, digests) = shelved(6);
    let gone = &digests[..4];
    crash_twice(
        &|| shelved(6).0,
        &|store| store.remove_blobs(gone, &|_| true).is_ok(),
        &|_, store, done, when| {
            check_blobs(store, when);
            assert!(!done || gone.iter().all(|digest| store.blob_path(*digest).is_none()), "{when}: back");
            assert!(digests[4..].iter().all(|digest| store.blob_path(*digest).is_some()), "{when}: lost");
        },
        &|disk, _, when| {
            let blobs = paths(disk).iter().filter(|path| path.contains("/blobs/")).count();
            assert_eq!(blobs, 3, "{when}");
        },
    );
}

#[test]
fn a_ballast_is_held_and_given_up() {
    let disk = fresh();
    let store = open(&disk);
    assert_eq!(store.ballast(), 0);
    store.set_ballast(0).unwrap();
    for bytes in [3_000_000, 3_000_000, 5_000_000, 1_000_000] {
        store.set_ballast(bytes).unwrap();
        assert_eq!(store.ballast(), bytes);
    }
    // No room for more: what is there stays. No room at all: nothing is left lying about.
    disk.fail_next(OpKind::SetLen, "ballast", 28);
    assert!(store.set_ballast(9_000_000).is_err());
    assert_eq!(store.ballast(), 1_000_000);
    store.set_ballast(0).unwrap();
    assert_eq!(store.ballast(), 0);
    disk.fail_next(OpKind::SetLen, "ballast", 28);
    assert!(store.set_ballast(1_000_000).is_err());
    assert!(disk.stat(&store.layout().ballast()).is_err());
    // A disk that is full does not keep the ballast from being given up, nor does it stop anything else.
    store.set_ballast(1_000_000).unwrap();
    store.set_ballast(0).unwrap();
    assert!(disk.stat(&store.layout().ballast()).is_err());
}

#[test]
fn a_ballast_takes_real_blocks() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(std::sync::Arc::new(RealDisk), temp.path()).unwrap();
    store.set_ballast(3_000_000).unwrap();
    assert_eq!(store.ballast(), 3_000_000);
    let stat = RealDisk.stat(&store.layout().ballast()).unwrap();
    assert!(stat.blocks * 512 >= 3_000_000, "{stat:?}");
    // As a power cut may leave it: a length without blocks is no ballast, and is filled.
    std::fs::File::create(store.layout().ballast()).unwrap().set_len(3_000_000).unwrap();
    assert_eq!(store.ballast(), 0);
    store.set_ballast(3_000_000).unwrap();
    assert_eq!(store.ballast(), 3_000_000);
}

#[test]
fn changing_the_ballast_is_stopped_after_every_operation_twice() {
    crash_twice(
        &fresh,
        &|store| [2_000_000, 3_000_000, 0, 1_000_000].iter().all(|bytes| store.set_ballast(*bytes).is_ok()),
        &|_, store, _, when| assert!(store.ballast() <= 3_000_000, "{when}"),
        &|disk, store, when| {
            let ballast = paths(disk).iter().filter(|path| path.contains("ballast")).count();
            assert!(ballast <= 1, "{when}");
            store.set_ballast(0).unwrap();
            assert!(disk.stat(&store.layout().ballast()).is_err(), "{when}");
        },
    );
}

#[test]
fn the_trash_is_emptied_and_what_resists_goes_later() {
    let disk = fresh();
    let store = open(&disk);
    let trash = store.layout().trash_dir();
    disk.create_dir(&trash.join("17")).unwrap();
    disk.write_new(&trash.join("17/f0"), b"staged", 0o600).unwrap();
    disk.write_new(&trash.join("link-3"), b"half a clone", 0o600).unwrap();
    disk.write_new(&trash.join("odd"), b"?", 0o600).unwrap();
    disk.fail_next(OpKind::Unlink, "17/f0", 5);
    store.empty_trash();
    assert_eq!(disk.read_dir(&trash).unwrap().len(), 1);
    store.empty_trash();
    assert!(disk.read_dir(&trash).unwrap().is_empty());
}

fn tree() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "d/f", b"content", 0o644);
    temp
}

#[test]
fn what_is_published_is_listed_in_order() {
    let disk = fresh();
    let store = open(&disk);
    let temp = tree();
    for (name, epoch, attempt) in [("b", 2, 1), ("b", 10, 2), ("a.x", 7, 3), ("a", 7, 4)] {
        commit(&store, name, epoch, attempt, temp.path());
    }
    let epochs = store.layout().epochs_dir();
    for strange in ["not a job", "b/007", "b/x", "c"] {
        disk.create_dir(&epochs.join(strange)).unwrap();
    }
    disk.write_new(&epochs.join("file"), b"", 0o600).unwrap();
    let expected = [(job("a"), 7), (job("a.x"), 7), (job("b"), 2), (job("b"), 10)];
    assert_eq!(store.published_epochs().unwrap(), expected);
}

#[test]
fn an_epoch_expires_on_a_full_disk_and_whatever_lies_in_the_trash() {
    let full = 28;
    let disk = fresh();
    let store = open(&disk);
    let temp = tree();
    for epoch in 1..=4 {
        commit(&store, "job", epoch, epoch, temp.path());
    }
    let (job, latest) = (job("job"), store.layout().latest_link(&job("job")));
    // No room for the new `latest` before the epoch's own space is given back.
    disk.fail_next(OpKind::Symlink, "latest", full);
    store.expire(&job, 4).unwrap();
    assert_eq!(disk.read_link(&latest).unwrap(), b"3");
    // Something of that name resists; the epoch expires all the same, as often as it comes back.
    disk.fail_next(OpKind::Unlink, "trash", 1);
    store.expire(&job, 3).unwrap();
    commit(&store, "job", 3, 13, temp.path());
    disk.fail_next(OpKind::Unlink, "trash", 1);
    store.expire(&job, 3).unwrap();
    assert_eq!(store.epochs(&job).unwrap(), [1, 2]);
    assert_eq!(disk.read_dir(&store.layout().trash_dir()).unwrap().len(), 2);
    store.empty_trash();
    assert!(disk.read_dir(&store.layout().trash_dir()).unwrap().is_empty());
    // There is no room to move it: it stays whole, and goes when asked again.
    disk.fail_next(OpKind::Rename, "trash", full);
    assert!(store.expire(&job, 2).is_err());
    assert!(store.verify(&job, 2).unwrap().is_good());
    store.expire(&job, 2).unwrap();
    store.expire(&job, 2).unwrap();
    assert_eq!(disk.read_link(&latest).unwrap(), b"1");
}

#[test]
fn after_everything_was_removed_nothing_is_left() {
    let disk = fresh();
    let store = open(&disk);
    let before = paths(&disk);
    let temp = tempfile::tempdir().unwrap();
    mixed_tree(temp.path());
    let manifest = commit(&store, "job", 1, 1, temp.path());
    commit(&store, "job", 2, 2, temp.path());
    for epoch in [1, 2] {
        store.expire(&job("job"), epoch).unwrap();
        // As the log store does with the folders of attempts that have ended.
        let attempt = store.layout().attempt_dir(epoch);
        disk.rename(&attempt, &store.layout().trash_dir().join(epoch.to_string())).unwrap();
    }
    store.empty_trash();
    let digests: Vec<Digest> = manifest.entries.iter().map(|entry| entry.digest).collect();
    store.remove_blobs(&digests, &|_| true).unwrap();
    let mut after = paths(&disk);
    after.retain(|path| path != "/data/epochs/job");
    assert_eq!(after, before);
    open_up(temp.path());
}

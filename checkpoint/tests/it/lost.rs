//! What the device has lost: no read of it succeeds, as often as it is tried.

use checkpoint::manifest::ManifestError;
use checkpoint::store::StoreError;
use checkpoint::testing::{CrashDisk, OpKind};
use checkpoint::{Disk, Unpublished};

use crate::support::*;

const EIO: i32 = 5;
const MANIFEST: &str = "epochs/job/1/manifest";

/// From now on every read of `path` fails, but for so many at first.
fn lose(disk: &CrashDisk, path: &str, passes: u64) {
    disk.fail_after(passes, OpKind::Read, path, EIO);
    (0..100).for_each(|_| disk.fail_next(OpKind::Read, path, EIO));
}

fn is_damage<T: std::fmt::Debug>(read: Result<T, StoreError>) -> bool {
    matches!(read, Err(StoreError::Manifest { source: ManifestError::Unreadable(_), .. }))
}

#[test]
fn what_the_device_has_lost_of_a_manifest_is_damage_of_it_wherever_it_is_read() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o644);
    let disk = fresh();
    let store = open(&disk);
    let name = job("job");
    let manifest = commit(&store, "job", 1, 1, temp.path());
    // At the first look, at its envelope, or at its tree.
    let mut seen = 0;
    for passes in 0.. {
        lose(&disk, MANIFEST, passes);
        let read = store.manifest(&name, 1);
        disk.clear_failures();
        if read.is_ok() {
            break;
        }
        assert!(is_damage(read), "after {passes} reads");
        seen += 1;
    }
    assert!(seen >= 3, "open, envelope and tree are read: {seen}");
    lose(&disk, MANIFEST, 0);
    assert!(is_damage(store.envelope(&name, 1)));
    assert!(is_damage(store.manifest_file(&name, 1)));
    assert!(is_damage(store.verify(&name, 1)));
    // So it may be replaced.
    store.may_mend(&envelope("job", 1, 1, manifest.root()), &manifest).unwrap();
    disk.clear_failures();
    // Other errors say nothing of it.
    disk.fail_next(OpKind::Read, MANIFEST, 24);
    assert!(matches!(store.envelope(&name, 1), Err(StoreError::Io(_))));
}

#[test]
fn an_expired_epoch_of_a_lost_manifest_goes_when_no_later_one_has_its_number() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o644);
    for passes in 0..3 {
        let disk = fresh();
        let store = open(&disk);
        commit(&store, "job", 1, 1, temp.path());
        lose(&disk, MANIFEST, passes);
        store.expire_until(&job("job"), 1, 100, &|| true).unwrap();
        assert_eq!(store.epochs(&job("job")).unwrap(), [1], "{passes}: it may be the later one's");
        lose(&disk, MANIFEST, passes);
        store.expire_until(&job("job"), 1, 100, &|| false).unwrap();
        assert_eq!(store.epochs(&job("job")).unwrap(), [0; 0], "{passes}");
    }
}

#[test]
fn a_link_in_a_tree_that_the_device_has_lost_is_made_again() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o644);
    std::os::unix::fs::symlink("f", temp.path().join("link")).unwrap();
    let disk = fresh();
    let store = open(&disk);
    let name = job("job");
    commit(&store, "job", 1, 1, temp.path());
    let path = store.layout().files_dir(&name, 1).join("link");
    let before = disk.stat(&path).unwrap().ino;
    // It is found by its name; its target does not read.
    disk.fail_after(1, OpKind::Read, "files/link", EIO);
    let report = store.verify(&name, 1).unwrap();
    assert_eq!(report.problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), ["link"]);
    disk.fail_after(1, OpKind::Read, "files/link", EIO);
    assert_eq!(store.damaged_contents(&name, 1, &report).unwrap(), []);
    disk.clear_failures();
    assert_ne!(disk.stat(&path).unwrap().ino, before, "the old one is gone");
    assert!(store.verify(&name, 1).unwrap().is_good());
}

#[test]
fn content_that_was_good_and_that_the_device_has_lost_since_is_trusted_no_more() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o644);
    let first = take_all(temp.path());
    chmod(&temp.path().join("f"), 0o600);
    let second = take_all(temp.path());
    let mut found = 0;
    // More than there are: some look only for what can be done without.
    for passes in 0..40 {
        let disk = fresh();
        let store = open(&disk);
        let sources = stage(&store, 1, &first).unwrap();
        store.publish(&[to_publish("job", 1, 1, &first.manifest, sources)]).remove(0).unwrap();
        // Whoever publishes this has read it, and whoever publishes the next clones it.
        let read = to_publish("job", 2, 2, &first.manifest, all_reused(&first));
        store.publish(&[read]).remove(0).unwrap();
        let cloned = to_publish("job", 3, 3, &second.manifest, all_reused(&second));
        disk.fail_after(passes, OpKind::Read, "blobs/", EIO);
        let published = store.publish(&[cloned]).remove(0);
        disk.clear_failures();
        if !matches!(published, Err(Unpublished::Corrupt { .. })) {
            continue;
        }
        found += 1;
        // In the same state, with other bytes: nobody goes by what was read before.
        let blob = store.blob_path(checkpoint::digest::content(b"content")).unwrap();
        assert!(disk.flip(&blob, 7).unwrap());
        assert_eq!(store.lacking(&first.manifest).unwrap(), [content_of(b"content", 0o644)]);
    }
    assert!(found > 0, "it was never cloned");
}

#[test]
fn what_was_brought_and_lost_before_it_was_shelved_is_brought_again() {
    let data = noise(100_000, 1);
    let content = content_of(&data, 0o644);
    // After name, handle, cache, and what was synced of it (nothing): how long it is, where it has bytes, and they themselves.
    for passes in 4..=6 {
        let disk = fresh();
        drop(bring(&open(&disk), content, &data).unwrap());
        let store = open(&disk);
        disk.fail_after(passes, OpKind::Read, "incoming/", EIO);
        let incoming = store.incoming(content).unwrap();
        assert_eq!(incoming.have(), 0, "after {passes} reads");
        drop(incoming);
        let arrived = bring(&store, content, &data).unwrap();
        store.shelve(vec![arrived]).remove(0).unwrap();
        check_blobs(&store, "brought again");
    }
}

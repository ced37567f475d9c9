//! Where `latest` points is a convenience: no epoch and no start fails because it cannot be moved.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use checkpoint::testing::{CrashDisk, OpKind};
use checkpoint::{Disk, Store};

use crate::support::*;

const ENOSPC: i32 = 28;

fn tree() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o644);
    temp
}

fn latest(disk: &CrashDisk, store: &Store) -> String {
    String::from_utf8(disk.read_link(&store.layout().latest_link(&job("job"))).unwrap()).unwrap()
}

#[test]
fn a_full_disk_that_takes_no_link_keeps_no_epoch_and_no_start_from_anything() {
    let (disk, temp) = (fresh(), tree());
    let store = open(&disk);
    commit(&store, "job", 1, 1, temp.path());
    disk.fail_next(OpKind::Symlink, "latest", ENOSPC);
    commit(&store, "job", 2, 2, temp.path());
    assert_eq!(latest(&disk, &store), "1", "it could not be moved");
    assert!(store.is_latest_behind());
    disk.fail_next(OpKind::Symlink, "latest", ENOSPC);
    store.point_latest_again();
    assert!(store.is_latest_behind());
    // Nor at a start, as often as there is none.
    for _ in 0..2 {
        disk.fail_next(OpKind::Symlink, "latest", ENOSPC);
        let store = open(&disk);
        assert_eq!(latest(&disk, &store), "1");
    }
    let store = open(&disk);
    assert_eq!(latest(&disk, &store), "2");
    assert!(!store.is_latest_behind());
    // Neither before nor after the epoch's own room is given back.
    for _ in 0..2 {
        disk.fail_next(OpKind::Symlink, "latest", ENOSPC);
    }
    store.expire(&job("job"), 2).unwrap();
    assert_eq!(store.epochs(&job("job")).unwrap(), [1]);
    assert!(store.is_latest_behind());
    store.point_latest_again();
    assert_eq!(latest(&disk, &store), "1");
    assert!(!store.is_latest_behind());
}

#[test]
fn what_is_no_link_in_the_place_of_latest_makes_way() {
    type Plant = fn(&CrashDisk, &Path);
    let plants: [Plant; 2] = [
        |disk, link| disk.write_new(link, b"a file", 0o644).unwrap(),
        |disk, link| {
            disk.create_dir(link).unwrap();
            disk.write_new(&link.join("copied"), b"by somebody", 0o644).unwrap();
        },
    ];
    for (at, plant) in plants.into_iter().enumerate() {
        let (disk, temp) = (fresh(), tree());
        let store = open(&disk);
        commit(&store, "job", 1, 1, temp.path());
        let link = store.layout().latest_link(&job("job"));
        let replace = || {
            disk.unlink(&link).unwrap();
            plant(&disk, &link);
        };
        replace();
        commit(&store, "job", 2, 2, temp.path());
        assert_eq!(latest(&disk, &store), "2", "{at}");
        replace();
        store.expire(&job("job"), 2).unwrap();
        assert_eq!(latest(&disk, &store), "1", "{at}");
        replace();
        let store = open(&disk);
        assert_eq!(latest(&disk, &store), "1", "{at}");
        for aside in ["latest.aside", "latest.aside.1", "latest.aside.2"] {
            assert!(disk.stat(&link.with_file_name(aside)).is_ok(), "{at}: {aside} is not ours to remove");
        }
    }
}

#[test]
fn a_start_points_to_no_epoch_that_is_to_be_avoided() {
    let (disk, temp) = (fresh(), tree());
    let store = open(&disk);
    for epoch in 1..=3 {
        commit(&store, "job", epoch, epoch, temp.path());
    }
    store.avoid(&job("job"), [3].into()).unwrap();
    assert_eq!(latest(&disk, &store), "2");
    disk.clear_ops();
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    store.heal_latest(BTreeMap::from([(job("job"), [3].into())]));
    assert_eq!(latest(&disk, &store), "2");
    let moved = disk.ops().into_iter().find(|op| op.kind == OpKind::Symlink);
    assert_eq!(moved, None, "it pointed elsewhere for a while");
    // And goes on so.
    store.expire(&job("job"), 2).unwrap();
    assert_eq!(latest(&disk, &store), "1");
}

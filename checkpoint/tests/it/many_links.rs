//! An inode takes only so many names (65,000 on ext4): then the blob gets
//! another inode. With a low limit, so that it runs fast.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use checkpoint::testing::CrashDisk;
use checkpoint::{Coverage, Disk, Source, Store};

use crate::support::*;

#[test]
fn equal_files_beyond_the_limit_of_links_get_another_inode() {
    let temp = tempfile::tempdir().unwrap();
    for n in 0..300 {
        write(temp.path(), &format!("{}/{n}", n % 3), b"all the same", 0o644);
    }
    let disk = CrashDisk::new();
    disk.limit_links(40);
    disk.create_dir(Path::new("/data")).unwrap();
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    let taken = take_all(temp.path());
    assert_eq!(payload(&taken.pieces), b"all the same".len());
    let sources = stage(&store, 1, &taken).unwrap();
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, sources)]).remove(0).unwrap();
    let job = "job".parse().unwrap();
    assert!(store.verify(&job, 1).unwrap().is_good());
    // Nothing but references in the next one.
    let next =
        take(temp.path(), &Coverage::new(), &|entry| taken.manifest.find(&entry.path).map(|e| e.digest));
    assert_eq!(payload(&next.pieces), 0);
    let sources = stage(&store, 2, &next).unwrap();
    assert_eq!(sources.iter().filter(|s| **s == Source::Reused).count(), 300);
    store.publish(&[to_publish("job", 2, 2, &next.manifest, sources)]).remove(0).unwrap();
    assert!(store.verify(&job, 2).unwrap().is_good());
    let mut inodes = BTreeSet::new();
    for epoch in [1, 2] {
        for n in 0..300 {
            let path = store.layout().files_dir(&job, epoch).join(format!("{}/{n}", n % 3));
            let stat = disk.stat(&path).unwrap();
            assert!(stat.links <= 40, "{}", stat.links);
            inodes.insert(stat.ino);
        }
    }
    assert!((15..=40).contains(&inodes.len()), "{} inodes", inodes.len());
    assert!(store.blob_path(checkpoint::digest::content(b"all the same")).is_some());
    // In the trash nothing is left.
    assert!(disk.read_dir(&store.layout().trash_dir()).unwrap().is_empty());
}

//! Epochs that are sealed faster than they are published.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::testing::{CrashDisk, OpKind};
use nativelog::compose;
use nativelog::performer::Publication;

use crate::directory::Directory;
use crate::replica::Replica;

/// Four trees of so many entries take more than may wait in memory.
const ENTRIES: usize = 12_000;
const EMFILE: i32 = 24;
const EPOCHS: [u64; 4] = [1, 2, 3, 4];

/// Four sealed epochs that are applied and not flushed, so that nobody publishes them yet; some of their trees lie in
/// files.
fn crowded(disk: &CrashDisk, catalog: &Path) -> (Replica, Vec<nativelog::Entry>) {
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let mut replica = Replica::start(Arc::new(disk.clone()), Path::new("/data"), catalog);
    let names: Vec<String> = (0..ENTRIES).map(|n| format!("f{n:05}:0")).collect();
    let directory = Directory::parse(&names.join(" "));
    let attempts = EPOCHS.map(|epoch| replica.begin(epoch, &directory));
    replica.wait_performed();
    assert_eq!(replica.machine.behind(), 0);
    let seals = attempts.map(|attempt| compose::seal(attempt, directory.root()));
    let applied = replica.commit_ahead(seals.to_vec());
    let all = (256 * ENTRIES * EPOCHS.len()) as u64;
    assert!(replica.machine.behind() >= all, "what is not done is told: {}", replica.machine.behind());
    let begun = Instant::now();
    while waiting(disk, &replica).len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(40), "trees wait in files");
        std::thread::yield_now();
    }
    (replica, applied)
}

fn waiting(disk: &CrashDisk, replica: &Replica) -> Vec<std::ffi::OsString> {
    let names = disk.read_dir(&replica.store.layout().waiting_dir());
    names.map_or_else(|_| Vec::new(), |names| names.into_iter().map(|(name, _)| name).collect())
}

#[test]
fn trees_of_epochs_that_wait_lie_in_files_and_are_published_from_them() {
    let (disk, temp) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let (mut replica, applied) = crowded(&disk, temp.path());
    for epoch in EPOCHS {
        assert_eq!(replica.publication(epoch), Some(Publication::Pending));
    }
    replica.flush(applied);
    replica.wait_performed();
    for epoch in EPOCHS {
        replica.assert_published(epoch);
    }
    assert_eq!(replica.machine.behind(), 0);
    assert!(waiting(&disk, &replica).is_empty(), "the files went with the epochs");
    replica.stop();
}

#[test]
fn a_tree_that_cannot_be_read_for_a_moment_is_read_again() {
    let (disk, temp) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let (mut replica, applied) = crowded(&disk, temp.path());
    for _ in 0..2 {
        disk.fail_next(OpKind::Read, "/waiting/", EMFILE);
    }
    replica.flush(applied);
    replica.wait_performed();
    for epoch in EPOCHS {
        replica.assert_published(epoch);
    }
    assert_eq!(*replica.log.fatal().borrow(), None);
    replica.stop();
}

#[test]
fn a_tree_that_does_not_read_back_stops_the_node_before_anything_counts_as_performed() {
    let (disk, temp) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let (mut replica, applied) = crowded(&disk, temp.path());
    let first = waiting(&disk, &replica).remove(0);
    disk.truncate_file(&replica.store.layout().waiting_dir().join(first), 1000).unwrap();
    replica.flush(applied);
    let mut fatal = replica.log.fatal();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let failed = async { fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap() };
    let failed = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(40), failed).await });
    let why = failed.expect("the node stops");
    assert!(why.contains("does not read back"), "{why}");
    assert!(replica.machine.missing().is_empty(), "nothing is given up");
    replica.stop();
    // The log says it once more: nobody else has to have the tree.
    let again = tempfile::tempdir().unwrap();
    let replica = Replica::start(Arc::new(disk.clone()), Path::new("/data"), again.path());
    replica.wait_performed();
    for epoch in EPOCHS {
        replica.assert_published(epoch);
    }
    replica.stop();
}

#[test]
fn what_a_process_left_waiting_is_nobodys() {
    let (disk, temp) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let (mut replica, applied) = crowded(&disk, temp.path());
    replica.flush(applied);
    let after = disk.crash(checkpoint::testing::Crash::Mixed(3));
    replica.stop();
    let again = tempfile::tempdir().unwrap();
    let replica = Replica::start(Arc::new(after.clone()), Path::new("/data"), again.path());
    replica.wait_performed();
    for epoch in EPOCHS {
        replica.assert_published(epoch);
    }
    assert!(waiting(&after, &replica).is_empty());
    replica.stop();
}

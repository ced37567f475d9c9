//! Names that a process made and did not live to sync: the next one builds on them, so they must stay.

use std::path::Path;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::store::LogStore;

use crate::scene::{OWNER, blank, id, layout, open, options, pack, wait_append};

/// Appends with a new process, and cuts the power as soon as that is acknowledged.
fn acknowledged_entry_survives(disk: &CrashDisk, index: u64) {
    // Nothing but the log is opened: nothing else syncs its names.
    let (log, _) = LogStore::open(Arc::new(disk.clone()), &layout(), OWNER, options()).unwrap();
    wait_append(&log, vec![pack(1, index, &[2; 100])]).unwrap();
    let after = disk.crash(Crash::Strict);
    log.shutdown();
    let (log, _) = open(&after).unwrap();
    assert_eq!(log.log_state().1, Some(id(1, index)), "it was acknowledged");
    log.shutdown();
}

#[test]
fn a_segment_whose_name_was_not_synced_stays() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    wait_append(&log, vec![pack(1, 0, &[1; 3000])]).unwrap();
    // The segment is full: the next append starts another one, and dies before that name is durable.
    disk.fail_next(OpKind::SyncDir, "groups/main/log", 5);
    wait_append(&log, vec![blank(1, 1)]).expect_err("not acknowledged");
    log.shutdown();
    acknowledged_entry_survives(&disk, 1);
}

#[test]
fn a_log_whose_name_was_not_synced_stays() {
    let disk = CrashDisk::new();
    let (log, _) = open(&disk).unwrap();
    log.shutdown();
    // As it is right after the folder got its name.
    let (made, named): (&Path, &Path) = (&layout().group_dir().join("log.new"), &layout().log_dir());
    disk.rename(named, made).unwrap();
    disk.sync_fs(layout().group_dir()).unwrap();
    disk.rename(made, named).unwrap();
    acknowledged_entry_survives(&disk, 0);
}

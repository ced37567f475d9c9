//! A sync that fails is a fault of the node, whoever asked for it: in publishing, in a snapshot, a purge, an install or a
//! repair. The line that stops the node names the call and the file, and a start on a disk that is well again has
//! everything that was acknowledged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::compose;

use crate::aside::stand_in_the_way;
use crate::catch_up::{Source, apart, catch_up, together};
use crate::directory::Directory;
use crate::house::{file, start};
use crate::replica::{Replica, job};

const EIO: i32 = 5;
/// Within this the node is to stop.
const SOON: Duration = Duration::from_secs(1);

/// What a node goes through before the fault is planted, and then until it has failed.
struct Story {
    name: &'static str,
    before: fn(&CrashDisk, &mut Replica),
    then: fn(&CrashDisk, &mut Replica) -> Option<()>,
}

const STORIES: [Story; 5] = [
    Story { name: "publish", before: |_, _| {}, then: publish },
    Story { name: "publish many", before: |_, _| {}, then: publish_many },
    Story { name: "keep", before: |_, replica| assert!(together(replica).is_some()), then: keep },
    Story { name: "install", before: |_, replica| assert!(together(replica).is_some()), then: install },
    Story { name: "repair", before: |_, replica| replica.whole(1, &rotting()), then: repair },
];

fn publish(_: &CrashDisk, replica: &mut Replica) -> Option<()> {
    together(replica).map(drop)
}

/// More than is synced one by one.
fn publish_many(_: &CrashDisk, replica: &mut Replica) -> Option<()> {
    let files: Vec<String> = (0..40).map(|file| format!("f{file:02}:100={}", file + 1)).collect();
    replica.try_whole(1, &Directory::parse(&files.join(" ")))?;
    replica.try_wait_performed()
}

/// Snapshots, a purge, and everything that is given back.
fn keep(_: &CrashDisk, replica: &mut Replica) -> Option<()> {
    replica.try_expire(vec![1])?;
    replica.try_wait_performed()?;
    replica.try_clean_up()
}

fn install(_: &CrashDisk, replica: &mut Replica) -> Option<()> {
    let disk = CrashDisk::new();
    let mut leader = start(&disk);
    let attempt = together(&mut leader)?;
    apart(&mut leader, attempt);
    let capture = leader.machine.read_snapshot().unwrap().unwrap();
    let caught_up = catch_up(&Source { replica: &leader, disk: &disk }, replica, &capture);
    leader.stop();
    caught_up.map(drop)
}

fn rotting() -> Directory {
    Directory::parse("a:100=1")
}

fn repair(disk: &CrashDisk, replica: &mut Replica) -> Option<()> {
    let directory = rotting();
    let store = &replica.store;
    let (_, manifest) = store.manifest(&job(), 1).unwrap().unwrap();
    let digest = manifest.entries[file(&directory, "a") as usize].digest;
    let blob = store.blob_path(digest).unwrap();
    let good = disk.read_file(&blob, 1 << 20).unwrap();
    assert!(disk.flip(&blob, 7).unwrap());
    let report = store.verify(&job(), 1).unwrap();
    let contents = store.damaged_contents(&job(), 1, &report).ok()?;
    let content = contents[0];
    let mut incoming = store.incoming(content).ok()?;
    incoming.write(&good).ok()?;
    store.shelve(vec![incoming]).remove(0).ok()?;
    store.heal(content).ok()?;
    Some(())
}

fn is_sync(kind: OpKind) -> bool {
    matches!(kind, OpKind::SyncData | OpKind::SyncAll | OpKind::SyncDir | OpKind::SyncFs)
}

/// Which syncs the story makes, and of what.
fn syncs(story: &Story) -> BTreeSet<(&'static str, PathBuf)> {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    (story.before)(&disk, &mut replica);
    disk.clear_ops();
    (story.then)(&disk, &mut replica).expect("the disk works");
    let ops = disk.ops();
    replica.stop();
    let call = |kind| match kind {
        OpKind::SyncData => "fdatasync",
        OpKind::SyncFs => "syncfs",
        OpKind::SyncDir => "fsync of the names in",
        _ => "fsync",
    };
    ops.into_iter().filter(|op| is_sync(op.kind)).map(|op| (call(op.kind), op.path)).collect()
}

fn kind(call: &str) -> OpKind {
    match call {
        "fdatasync" => OpKind::SyncData,
        "syncfs" => OpKind::SyncFs,
        "fsync of the names in" => OpKind::SyncDir,
        _ => OpKind::SyncAll,
    }
}

/// The line that stops the node, once there is one.
fn fault(replica: &Replica, context: &str) -> String {
    let begun = Instant::now();
    loop {
        if let Some(why) = replica.log.fatal().borrow().clone() {
            return why;
        }
        assert!(begun.elapsed() < SOON, "{context}: the node limps on");
        std::thread::yield_now();
    }
}

#[test]
fn any_sync_that_fails_stops_the_node_by_name_and_nothing_is_lost() {
    for story in &STORIES {
        let syncs = syncs(story);
        assert!(!syncs.is_empty(), "{}: nothing is made durable", story.name);
        for (call, path) in syncs {
            let context = format!("{}: {call} {}", story.name, path.display());
            let disk = CrashDisk::new();
            let mut replica = start(&disk);
            (story.before)(&disk, &mut replica);
            disk.fail_next(kind(call), &path.to_string_lossy(), EIO);
            // What the story makes of it does not matter.
            let _ = (story.then)(&disk, &mut replica);
            let why = fault(&replica, &context);
            assert!(why.starts_with(call) && why.contains(&*path.to_string_lossy()), "{context}: {why}");
            let acknowledged = *replica.log.flushed().borrow();
            replica.stop();

            let disk = disk.crash(Crash::Strict);
            let replica = start(&disk);
            let applied = replica.machine.ledger().applied().map_or(0, |id| id.index + 1);
            assert!(applied >= acknowledged, "{context}: {applied} of {acknowledged}");
            replica.wait_performed();
            if story.name != "repair" {
                replica.assert_all_published(&context);
            }
            replica.stop();
        }
    }
}

#[test]
fn after_a_failed_sync_no_snapshot_is_kept_and_no_epoch_published() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    disk.fail_next(OpKind::SyncDir, "epochs/job", EIO);
    replica.try_whole(2, &Directory::parse("b:100=2"));
    fault(&replica, "a folder of epochs");
    assert!(replica.machine.keep(replica.machine.capture(None).unwrap()).is_err());
    assert!(replica.store.disk().sync_fs(Path::new("/data")).is_err());
    replica.stop();
}

#[test]
fn what_cannot_be_published_here_holds_the_log_for_its_packs_alone_and_within_a_bound() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("other:10"));
    [2, 3].into_iter().for_each(|epoch| stand_in_the_way(&disk, epoch));
    let large = Directory::parse("big:64k=1");
    let attempt = replica.begin(2, &large);
    replica.commit(compose::piece(attempt, large.chunk(1, 0)));
    replica.seal(attempt, &large);
    replica.wait_performed();
    assert!(matches!(replica.publication(2), Some(nativelog::performer::Publication::Unpublished(_))));
    for _ in 0..2 {
        replica.keep().unwrap();
    }
    let limit = replica.machine.purge_limit().unwrap();
    assert_eq!(Some(limit), replica.machine.ledger().applied(), "its chunks are on the shelves");

    let packed = replica.try_whole(3, &Directory::parse("a:100=1 b:200=2")).unwrap();
    replica.wait_performed();
    for _ in 0..2 {
        replica.keep().unwrap();
    }
    let held = |replica: &Replica| replica.machine.purge_limit().map(|limit| limit.index + 1);
    replica.machine.let_go_of_log(replica.log.wal_bytes()).unwrap();
    assert_eq!(held(&replica), Some(packed), "its packs are in the log only");
    replica.machine.let_go_of_log(replica.log.wal_bytes() - 1).unwrap();
    assert_eq!(held(&replica), Some(packed + 1), "the log is long: they are set aside");
    assert!(matches!(replica.publication(3), Some(nativelog::performer::Publication::Unpublished(_))));
    assert_eq!(replica.machine.missing().iter().filter(|missing| missing.has_tree).count(), 2);
    replica.purge();
    replica.machine.reclaim().unwrap();
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let replica = start(&disk);
    assert_eq!(replica.machine.missing().len(), 2);
    replica.stop();
}

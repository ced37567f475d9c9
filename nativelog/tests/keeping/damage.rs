//! Damage to snapshots, to the catalog and to a blob, planted: what the next start, or the next epoch, makes of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::Digest;
use checkpoint::disk::Disk;
use checkpoint::store::{Layout, Store};
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use nativelog::catalog::Catalog;
use nativelog::compose;
use nativelog::ledger::RowKey;
use nativelog::machine::{Machine, Owed, StartError};
use nativelog::snapshot::SnapshotError;
use nativelog::store::{Identity, LogStore, Options};

use crate::directory::{CHUNK, Directory};
use crate::house::{DATA, ENOSPC, file, snapshots, start, start_over};
use crate::replica::{Replica, job};

const EIO: i32 = 5;

/// A node with two snapshots at different positions and records above both.
fn lived(disk: &CrashDisk, purge: bool) -> Digest {
    let mut replica = start(disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.keep().unwrap();
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.keep().unwrap();
    assert!(!purge || replica.purge());
    replica.whole(3, &Directory::parse("c:100=3"));
    let digest = replica.machine.ledger().digest();
    replica.stop();
    digest
}

#[test]
fn bytes_that_come_anew_take_the_place_of_a_blob_in_quarantine() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let directory = Directory::parse("a:100k=1");
    let a = file(&directory, "a");
    let bring = |replica: &mut Replica, epoch: u64| {
        let attempt = replica.begin(epoch, &directory);
        replica.commit(compose::piece(attempt, directory.chunk(a, 0)));
        replica.commit(compose::piece(attempt, directory.chunk(a, CHUNK)));
        replica.seal(attempt, &directory);
        replica.wait_performed();
    };
    bring(&mut replica, 1);
    replica.assert_published(1);
    // It was good once, and this process remembers that.
    disk.flip(&replica.store.blob_path(directory.digest(a)).unwrap(), 77).unwrap();
    replica.quarantine(directory.digest(a));
    bring(&mut replica, 2);
    replica.assert_published(2);

    // The name in the first epoch still leads to the bad copy: that is owed until somebody has healed it, over snapshots
    // and starts.
    replica.commit_blanks(1);
    replica.wait_performed();
    for _ in 0..3 {
        let [(digest, owed)] = replica.machine.to_heal()[..] else { panic!("one content is to be healed") };
        assert_eq!((digest, owed.bytes), (directory.digest(a), directory.entries[a as usize].size));
        replica.keep().unwrap();
        replica.keep().unwrap();
        replica.stop();
        replica = start(&disk);
    }
    let (digest, owed) = replica.machine.to_heal().remove(0);
    replica.machine.healed(&digest, Owed { index: owed.index - 1, ..owed });
    assert_eq!(replica.machine.to_heal().len(), 1, "what was owed before");
    replica.machine.healed(&digest, owed);
    replica.commit_blanks(1);
    replica.wait_performed();
    replica.keep().unwrap();
    replica.keep().unwrap();
    replica.stop();
    let replica = start(&disk);
    assert_eq!(replica.machine.to_heal(), []);
    replica.stop();
}

fn assert_same(replica: Replica, digest: Digest, context: &str) {
    replica.wait_performed();
    assert_eq!(replica.machine.ledger().digest(), digest, "{context}");
    replica.assert_all_published(context);
    replica.stop();
}

#[test]
fn a_damaged_newest_snapshot_leaves_the_work_to_the_older_one_and_the_log() {
    for damage in ["flipped", "cut", "emptied", "a folder", "a link"] {
        let disk = CrashDisk::new();
        let digest = lived(&disk, true);
        let files = snapshots(&disk);
        let newest = files.last().unwrap();
        match damage {
            "flipped" => assert!(disk.flip(newest, 999).unwrap()),
            "cut" => disk.truncate_file(newest, 100).unwrap(),
            "a folder" => {
                disk.unlink(newest).unwrap();
                disk.create_dir(newest).unwrap();
            }
            "a link" => {
                disk.unlink(newest).unwrap();
                disk.symlink(b"/nowhere", newest).unwrap();
            }
            _ => disk.truncate_file(newest, 0).unwrap(),
        }
        let replica = start(&disk);
        assert!(replica.machine.newest_snapshot().is_some_and(|kept| kept.position.index < 2));
        let names: Vec<String> = snapshots(&disk).iter().map(|path| path.display().to_string()).collect();
        assert!(names.iter().any(|name| name.ends_with(".damaged")), "{names:?}");
        // Two good ones later, nobody needs the damaged one. What a folder holds is somebody's.
        replica.keep().unwrap();
        replica.keep().unwrap();
        assert_eq!(snapshots(&disk).len(), if damage == "a folder" { 3 } else { 2 }, "{damage}");
        assert_same(replica, digest, damage);
    }
}

#[test]
fn a_damaged_older_snapshot_is_noticed_before_the_log_relies_on_it() {
    let disk = CrashDisk::new();
    let digest = lived(&disk, true);
    assert!(disk.flip(&snapshots(&disk)[0], 4000).unwrap());
    let replica = start(&disk);
    assert_eq!(replica.machine.purge_limit(), None, "one snapshot alone lets nothing go");
    assert_same(replica, digest, "the newest serves");
}

#[test]
fn damaged_snapshots_cost_nothing_while_the_log_has_everything() {
    let disk = CrashDisk::new();
    let digest = lived(&disk, false);
    for path in snapshots(&disk) {
        assert!(disk.flip(&path, 77).unwrap());
    }
    let replica = start(&disk);
    assert_eq!(replica.machine.newest_snapshot(), None);
    assert_same(replica, digest, "all of the log");
}

fn start_error(disk: &CrashDisk) -> StartError {
    start_error_over(disk, Path::new("/dev/null/no-catalog"))
}

fn start_error_over(disk: &CrashDisk, catalog: &Path) -> StartError {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Arc::new(Store::open(disk.clone(), Path::new(DATA)).unwrap());
    let owner = Identity { node: 1, incarnation: [3; 16] };
    let layout = Layout::new(Path::new(DATA));
    let (log, _) = LogStore::open(disk, &layout, owner, Options::default()).unwrap();
    let started = Machine::start(store, log.clone(), catalog);
    log.shutdown();
    started.err().expect("it refuses")
}

#[test]
fn a_purge_point_that_nothing_covers_is_refused_with_what_to_do() {
    let disk = CrashDisk::new();
    lived(&disk, true);
    for path in snapshots(&disk) {
        assert!(disk.flip(&path, 77).unwrap());
    }
    let error = start_error(&disk);
    assert!(matches!(error, StartError::NotCovered { .. }), "{error}");
    let text = error.to_string();
    for word in ["begins after T1-N1.", "its digest is not the one it names", "epochlog repair"] {
        assert!(text.contains(word), "{text}");
    }
    // Deleted ones are as bad, and the answer stays the same at every further start.
    for path in snapshots(&disk) {
        disk.unlink(&path).unwrap();
    }
    assert!(matches!(start_error(&disk), StartError::NotCovered { found, .. } if found == "there is none"));
    assert!(matches!(start_error(&disk), StartError::NotCovered { .. }));
}

#[test]
fn a_snapshot_of_a_later_version_is_neither_read_nor_set_aside() {
    let disk = CrashDisk::new();
    lived(&disk, true);
    let newest = snapshots(&disk).pop().unwrap();
    let mut bytes = disk.read_file(&newest, 1 << 20).unwrap();
    bytes.truncate(bytes.len() - 32);
    bytes[b"epochlog snapshot ".len()] = b'9';
    let digest = checkpoint::digest::content(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    disk.unlink(&newest).unwrap();
    disk.write_new(&newest, &bytes, 0o600).unwrap();
    let error = start_error(&disk);
    assert!(matches!(error, StartError::Version { .. }), "{error}");
    assert!(snapshots(&disk).contains(&newest));
}

#[test]
fn a_snapshot_that_rots_is_not_served() {
    let disk = CrashDisk::new();
    lived(&disk, false);
    let replica = start(&disk);
    let newest = replica.machine.newest_snapshot().unwrap();
    let read = replica.machine.read_snapshot().unwrap().unwrap();
    assert_eq!(read.meta, newest);
    assert!(disk.flip(snapshots(&disk).last().unwrap(), 1234).unwrap());
    let error = replica.machine.read_snapshot().unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
    // The older one is what it has now, until there is another.
    assert!(replica.machine.newest_snapshot().unwrap().position.index < newest.position.index);
    assert_eq!(replica.machine.purge_limit(), None);
    replica.keep().unwrap();
    assert!(replica.machine.read_snapshot().unwrap().is_some());
    replica.stop();
}

#[test]
fn temporary_files_of_a_crash_go() {
    let disk = CrashDisk::new();
    let digest = lived(&disk, true);
    let temp = Path::new(DATA).join("groups/main/snapshots/0000000000000009-0.snap.tmp");
    disk.write_new(&temp, b"half", 0o600).unwrap();
    let replica = start(&disk);
    assert!(!disk.paths().contains(&temp));
    assert_same(replica, digest, "beside a temporary file");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn a_node_that_lost_its_snapshots_after_a_clean_stop_is_refused() {
    let disk = CrashDisk::new();
    let temp = tempfile::tempdir().unwrap();
    let mut replica = start_over(&disk, temp.path()).unwrap();
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.commit_blanks(2);
    replica.keep().unwrap();
    replica.keep().unwrap();
    replica.purge();
    replica.stop();
    for path in snapshots(&disk) {
        disk.unlink(&path).unwrap();
    }
    let error = start_error_over(&disk, temp.path());
    assert!(matches!(error, StartError::NotCovered { .. }), "{error}");
}

#[test]
fn whatever_became_of_the_catalog_it_lists_the_ledger_in_the_end() {
    for damage in ["deleted", "truncated", "flipped", "of another time"] {
        let disk = CrashDisk::new();
        let temp = tempfile::tempdir().unwrap();
        let (catalog, old) = (temp.path().join("catalog"), temp.path().join("old"));
        let mut replica = start_over(&disk, &catalog).unwrap();
        replica.whole(1, &Directory::parse("a:100=1"));
        replica.keep().unwrap();
        replica.stop();
        copy(&catalog, &old);

        let disk = disk.crash(Crash::Strict);
        let mut replica = start_over(&disk, &catalog).unwrap();
        replica.whole(2, &Directory::parse("b:100=2"));
        replica.try_expire(vec![1]).unwrap();
        let digest = replica.machine.ledger().digest();
        replica.stop();

        let disk = disk.crash(Crash::Strict);
        let big = catalog.join("db");
        match damage {
            "deleted" => std::fs::remove_dir_all(&catalog).unwrap(),
            "truncated" => {
                let file = std::fs::OpenOptions::new().write(true).open(&big).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
            "flipped" => {
                let mut bytes = std::fs::read(&big).unwrap();
                bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 1);
                std::fs::write(&big, bytes).unwrap();
            }
            _ => {
                std::fs::remove_dir_all(&catalog).unwrap();
                copy(&old, &catalog);
            }
        }
        let replica = start_over(&disk, &catalog).unwrap();
        let listed: BTreeSet<RowKey> = {
            let ledger = replica.machine.ledger();
            ledger.rows().map(|(key, _)| key).filter(RowKey::is_listed).collect()
        };
        assert_same(replica, digest, damage);
        let found = Catalog::open(&catalog).unwrap().keys().unwrap();
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), listed, "{damage}");
    }
}

#[test]
fn what_a_start_can_do_without_keeps_no_node_down() {
    type Damage<'a> = &'a dyn Fn(&CrashDisk);
    let group = Path::new(DATA).join("groups/main");
    let old = group.join("snapshots/0000000000000009-0.snap.tmp");
    let (expected, waiting) = (group.join("snapshots/expected"), group.join("waiting"));
    let damages: [(&str, Damage<'_>); 5] = [
        ("what a catch-up expected", &|disk| {
            disk.write_new(&expected, b"lost", 0o600).unwrap();
            disk.fail_next(OpKind::Read, "snapshots/expected", EIO);
        }),
        ("trees that waited", &|disk| {
            disk.create_dir(&waiting).unwrap();
            disk.write_new(&waiting.join("1-0"), b"a tree", 0o600).unwrap();
            disk.fail_next(OpKind::Unlink, "waiting/1-0", EIO);
        }),
        ("half a snapshot", &|disk| {
            disk.write_new(&old, b"half", 0o600).unwrap();
            disk.fail_next(OpKind::Unlink, "0000000000000009-0.snap.tmp", EIO);
        }),
        // It is looked at once before.
        ("the trash", &|disk| disk.fail_after(1, OpKind::Read, "main/trash", EIO)),
        ("where `latest` points", &|disk| {
            disk.unlink(&Path::new(DATA).join("epochs/job/latest")).unwrap();
            disk.fail_next(OpKind::Symlink, "latest", ENOSPC);
        }),
    ];
    for (what, damage) in damages {
        let disk = CrashDisk::new();
        let digest = lived(&disk, true);
        damage(&disk);
        assert_same(start(&disk), digest, what);
    }
}

#[test]
fn a_start_points_latest_to_no_epoch_with_content_in_quarantine() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let bad = Directory::parse("b:100=2");
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &bad);
    replica.quarantine(bad.digest(file(&bad, "b")));
    replica.wait_performed();
    replica.keep().unwrap();
    let latest = replica.store.layout().latest_link(&job());
    replica.stop();
    assert_eq!(disk.read_link(&latest).unwrap(), b"1");
    disk.clear_ops();
    start(&disk).stop();
    assert_eq!(disk.read_link(&latest).unwrap(), b"1");
    let moved = disk.ops().into_iter().find(|op| op.kind == OpKind::Symlink);
    assert_eq!(moved, None, "it pointed to the other for a while");
}

#[test]
fn a_latest_that_could_not_be_moved_holds_up_no_epoch_and_is_moved_later() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    let latest = replica.store.layout().latest_link(&job());
    disk.fail_next(OpKind::Symlink, "latest", ENOSPC);
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.assert_published(2);
    assert_eq!(disk.read_link(&latest).unwrap(), b"1");
    // By itself.
    let begun = Instant::now();
    while disk.read_link(&latest).unwrap() != b"2" {
        assert!(begun.elapsed() < Duration::from_secs(40), "it stays where it was");
        std::thread::sleep(Duration::from_millis(10));
    }
    replica.stop();
}

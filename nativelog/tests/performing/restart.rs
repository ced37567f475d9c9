//! A process that was killed performs everything again.

use std::path::Path;
use std::sync::Arc;

use checkpoint::EntryKind;
use checkpoint::disk::{Disk, RealDisk};
use checkpoint::testing::{CrashDisk, Op, OpKind};
use nativelog::compose;

use crate::directory::{CHUNK, Directory};
use crate::replica::{Replica, job};

#[test]
fn a_replay_leaves_no_half_built_tree_of_a_published_epoch() {
    let temp = tempfile::tempdir().unwrap();
    let mut replica = Replica::start(Arc::new(RealDisk), temp.path(), &temp.path().join("catalog-1"));
    let directory = Directory::parse("a:1000=1 b:2000=2");
    let attempt = replica.begin(1, &directory);
    replica.commit(compose::piece(attempt, directory.pack(&[1, 2])));
    // More than the performer takes at once: it unpacks before it sees that the epoch is there already.
    replica.commit_blanks(600);
    replica.seal(attempt, &directory);
    replica.wait_performed();
    replica.assert_published(1);
    replica.stop();

    let replica = Replica::start(Arc::new(RealDisk), temp.path(), &temp.path().join("catalog-2"));
    replica.wait_performed();
    replica.assert_published(1);
    assert!(!replica.store.layout().building_dir(attempt).exists(), "what was unpacked again stays for ever");
    replica.stop();
}

#[test]
fn a_replay_unpacks_nothing_of_a_published_epoch_unless_its_directory_is_gone() {
    for gone in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let disk = CrashDisk::new();
        disk.create_dir(Path::new("/data")).unwrap();
        let mut replica = Replica::start(Arc::new(disk.clone()), Path::new("/data"), temp.path());
        let directory = Directory::parse("a:1000=1 b:2000=2");
        let attempt = replica.begin(1, &directory);
        replica.commit(compose::piece(attempt, directory.pack(&[1, 2])));
        // More than the performer takes at once: it comes to the pack before it sees the seal.
        replica.commit_blanks(600);
        replica.seal(attempt, &directory);
        replica.wait_performed();
        let layout = replica.store.layout().clone();
        replica.stop();

        disk.clear_ops();
        let replica = Replica::try_open(Arc::new(disk.clone()), Path::new("/data"), temp.path()).unwrap();
        if gone {
            checkpoint::durable::remove_tree(&disk, &layout.epoch_dir(&job(), 1)).unwrap();
        }
        replica.try_apply_all().unwrap();
        replica.wait_performed();
        replica.assert_published(1);
        let unpacked = |op: &Op| op.kind == OpKind::Create && op.path.starts_with(layout.tree_dir(attempt));
        assert_eq!(disk.ops().iter().any(unpacked), gone);
        replica.stop();
    }
}

/// With modes that let nobody but root write.
fn closed(mut directory: Directory) -> Directory {
    for entry in &mut directory.entries {
        entry.mode = match entry.kind {
            EntryKind::Directory => 0o500,
            EntryKind::File => 0o400,
            _ => 0o777,
        };
    }
    directory
}

#[test]
fn a_half_built_tree_with_closed_modes_is_published_after_a_restart() {
    // A tree with a pack is unpacked anew; one without is taken up as it was left.
    for (manifest_written, packed) in [(true, true), (false, true), (true, false), (false, false)] {
        let temp = tempfile::tempdir().unwrap();
        let mut replica = Replica::start(Arc::new(RealDisk), temp.path(), &temp.path().join("catalog-1"));
        let small = if packed { "a/b/g:10=2 a/b/h:10=2" } else { "" };
        let directory =
            closed(Directory::parse(&format!("a/ a/b/ a/b/f:100k=1 {small} a/e:0 a/l->x z:64k=0")));
        let attempt = replica.begin(1, &directory);
        let file = |path: &str| {
            let position =
                directory.entries.iter().position(|entry| entry.path.as_bytes() == path.as_bytes());
            position.unwrap() as u32
        };
        let mut pieces = vec![
            directory.chunk(file("a/b/f"), 0),
            directory.chunk(file("a/b/f"), CHUNK),
            directory.zero(file("z"), 0, CHUNK),
        ];
        if packed {
            pieces.push(directory.pack(&[file("a/b/g"), file("a/b/h")]));
        }
        for piece in pieces {
            replica.commit(compose::piece(attempt, piece));
        }
        replica.seal(attempt, &directory);
        replica.wait_performed();
        replica.assert_published(1);
        let layout = replica.store.layout().clone();
        replica.stop();

        // As if it had been killed right before the rename, or right before the manifest.
        std::fs::rename(layout.epoch_dir(&job(), 1), layout.building_dir(attempt)).unwrap();
        if !manifest_written {
            std::fs::remove_file(layout.building_dir(attempt).join("manifest")).unwrap();
        }
        let replica = Replica::start(Arc::new(RealDisk), temp.path(), &temp.path().join("catalog-2"));
        replica.wait_performed();
        replica.assert_published(1);
        replica.store.expire(&job(), 1).unwrap();
        assert!(!layout.epoch_dir(&job(), 1).exists());
        replica.stop();
    }
}

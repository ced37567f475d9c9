//! While something is pinned, nothing that it may need goes.

use std::path::PathBuf;

use checkpoint::testing::CrashDisk;
use nativelog::compose;

use crate::directory::Directory;
use crate::house::{assert_baseline, file, paths, start};
use crate::replica::job;

#[test]
fn a_pin_holds_the_log_the_blobs_and_the_staged_files() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.keep().unwrap();
    let newest = replica.machine.newest_snapshot().unwrap().position;
    let pin = replica.machine.pin();
    replica.try_expire(vec![1]).unwrap();
    replica.commit_blanks(3);
    replica.keep().unwrap();
    replica.keep().unwrap();
    assert_eq!(replica.machine.purge_limit(), Some(newest), "not past where it was taken");
    assert!(replica.purge());
    // The folders of attempts that had ended before the pin go: no pinned ledger asks for them.
    let ended = |path: &PathBuf| path.ends_with("staging/0") || path.ends_with("staging/1");
    let before: Vec<_> = paths(&disk).into_iter().filter(|path| !ended(path)).collect();
    assert_eq!(replica.machine.reclaim().unwrap().files, 0);
    assert!(paths(&disk).into_iter().eq(before), "the blobs stay");
    assert_eq!(replica.machine.garbage().contents, 1);

    drop(pin);
    assert!(replica.machine.purge_limit().unwrap().index > newest.index);
    assert!(replica.purge());
    assert_eq!(replica.machine.reclaim().unwrap().files, 1);
    assert_eq!(replica.machine.garbage(), Default::default());
    replica.assert_all_published("the other epoch");
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after the pin");
}

#[test]
fn what_came_after_a_pin_is_given_back_while_the_pin_holds_what_it_knows() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let open = Directory::parse("big:200k=7 small:100=8");
    replica.whole(1, &Directory::parse("known:100=1"));
    let attempt = replica.begin(2, &open);
    replica.commit(compose::piece(attempt, open.chunk(file(&open, "big"), 0)));
    replica.commit(compose::piece(attempt, open.pack(&[file(&open, "small")])));
    replica.wait_performed();
    replica.keep().unwrap();
    let pin = replica.machine.pin();
    // A long transfer: an attempt that is aborted, one that is sealed and expires, and the one that was open ends.
    replica.commit(compose::abort(attempt, "no more"));
    replica.whole(3, &Directory::parse("later:100=3"));
    replica.whole(4, &Directory::parse("newest:100=4"));
    let later = replica.begin(5, &open);
    replica.commit(compose::piece(later, open.chunk(file(&open, "big"), 0)));
    replica.commit(compose::abort(later, "no more"));
    replica.try_expire(vec![1, 3]).unwrap();
    replica.commit_blanks(1);
    replica.wait_performed();
    for _ in 0..2 {
        replica.keep().unwrap();
        replica.commit_blanks(1);
    }
    assert!(replica.purge_beyond_pins());
    let given = replica.machine.reclaim().unwrap();
    assert_eq!(given.files, 1, "the content of the epoch that came later");
    let left = paths(&disk);
    let staging = |id: u64| left.iter().any(|path| path.ends_with(format!("staging/{id}")));
    assert!(staging(attempt), "the attempt that was open when the pin was taken");
    assert!(!staging(later), "an attempt that the pin does not know");
    assert_eq!(replica.machine.garbage().contents, 1, "the content that the pin knows");

    drop(pin);
    assert_eq!(replica.machine.reclaim().unwrap().files, 1);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after the pin");
}

#[test]
fn a_pin_knows_what_is_applied_and_not_performed() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let [sealed, dropped] = ["big:64k=7", "other:64k=8"].map(Directory::parse);
    replica.whole(1, &Directory::parse("known:100=1"));
    let [sealing, dropping] = [(2, &sealed), (3, &dropped)].map(|(epoch, directory)| {
        let attempt = replica.begin(epoch, directory);
        replica.commit(compose::piece(attempt, directory.chunk(1, 0)));
        attempt
    });
    replica.wait_performed();
    replica.keep().unwrap();
    // Nothing is performed before it is flushed.
    let applied = replica.commit_ahead(vec![
        compose::expire(&job(), vec![1], true, "by hand", Vec::new()),
        compose::seal(sealing, sealed.root()),
        compose::abort(dropping, "no more"),
    ]);
    let pin = replica.machine.pin();
    replica.flush(applied);
    replica.commit_blanks(1);
    replica.wait_performed();
    for _ in 0..2 {
        replica.keep().unwrap();
        replica.commit_blanks(1);
    }
    assert!(replica.purge_beyond_pins());
    assert_eq!(replica.machine.reclaim().unwrap().files, 0, "the pin knows the content");
    let left = paths(&disk);
    for attempt in [sealing, dropping] {
        let staging = format!("staging/{attempt}");
        assert!(left.iter().any(|path| path.ends_with(&staging)), "{staging} was open when it was taken");
    }
    drop(pin);
    assert_eq!(replica.machine.reclaim().unwrap().files, 1);
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after the pin");
}

#[test]
fn a_pin_that_is_older_than_every_snapshot_holds_all_of_the_log() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let pin = replica.machine.pin();
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.keep().unwrap();
    replica.keep().unwrap();
    assert_eq!(replica.machine.purge_limit(), None);
    drop(pin);
    assert!(replica.machine.purge_limit().is_some());
    replica.stop();
}

#[test]
fn one_snapshot_is_not_enough_to_purge() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    assert_eq!(replica.machine.newest_snapshot(), None);
    replica.whole(1, &Directory::parse("a:100=1"));
    assert_eq!(replica.machine.marks().snapshot, 0);
    let kept = replica.keep().unwrap();
    assert_eq!(replica.machine.marks().snapshot, kept.position.index + 1);
    assert_eq!(replica.machine.purge_limit(), None);
    // A second one at the same position, as when the cluster is idle.
    replica.keep().unwrap();
    assert_eq!(replica.machine.purge_limit(), Some(kept.position));
    let before = paths(&disk);
    replica.keep().unwrap();
    assert_eq!(paths(&disk), before, "a third one would say nothing new");
    replica.stop();
}

#[test]
fn nothing_is_given_back_before_the_record_is_purged() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &Directory::parse("b:100=2"));
    replica.keep().unwrap();
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    replica.keep().unwrap();
    // The older snapshot still stands below the record: from there, the epoch would be published once more.
    assert!(replica.purge());
    let before = paths(&disk);
    assert_eq!(replica.machine.reclaim().unwrap().files, 0);
    let after = paths(&disk);
    let gone: Vec<_> = before.difference(&after).collect();
    assert!(gone.iter().all(|path| !path.starts_with("/data/groups/main/blobs")), "{gone:?}");
    assert_eq!(replica.machine.garbage().contents, 1);

    replica.keep().unwrap();
    assert!(replica.purge());
    assert_eq!(replica.machine.reclaim().unwrap().files, 1);
    replica.stop();
}

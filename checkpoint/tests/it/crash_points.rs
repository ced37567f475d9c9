//! The power goes after every single operation of staging, publish and expire.
//! Afterwards an epoch is complete or invisible, what was promised is there, no
//! blob lies about its content, and doing it again completes it.

use checkpoint::testing::Crash;
use checkpoint::{Disk, Store};

use crate::support::*;

// Epochs of a batch: job, epoch, attempt, content.
type Batch<'a> = [(&'a str, u64, u64, &'a Taken)];

fn run(store: &Store, batch: &Batch<'_>) -> Vec<bool> {
    let mut publishes = Vec::new();
    for (job, epoch, attempt, taken) in batch {
        match stage(store, *attempt, taken) {
            Ok(sources) => publishes.push(to_publish(job, *epoch, *attempt, &taken.manifest, sources)),
            Err(_) => return vec![false; batch.len()],
        }
    }
    store.publish(&publishes).iter().map(Result::is_ok).collect()
}

fn crash_everywhere(batch: &Batch<'_>) {
    let whole = fresh();
    let store = open(&whole);
    let before = whole.op_count();
    assert!(run(&store, batch).iter().all(|ok| *ok));
    let ops = whole.op_count() - before;
    assert!(ops > 15);
    for stop in 0..=ops {
        let disk = fresh();
        let store = open(&disk);
        disk.crash_after(stop);
        let answers = run(&store, batch);
        for how in CRASHES {
            let when = format!("after {stop} of {ops} operations, {how:?}");
            let after = disk.crash(how);
            let store = open(&after);
            check_blobs(&store, &when);
            for ((name, epoch, _, taken), ok) in batch.iter().zip(&answers) {
                let there = store.published(&job(name), *epoch).unwrap();
                assert!(there.is_some() || !ok, "{when}: lost {name}@{epoch}");
                if there.is_some() {
                    assert_eq!(there, Some(taken.manifest.root()), "{when}");
                    let report = store.verify(&job(name), *epoch).unwrap();
                    assert!(report.is_good(), "{when}: {name}@{epoch}: {:?}", report.problems);
                    let latest = after.read_link(&store.layout().latest_link(&job(name))).unwrap();
                    assert_eq!(latest, epoch.to_string().as_bytes(), "{when}");
                }
            }
            assert!(run(&store, batch).iter().all(|ok| *ok), "{when}: not again");
            let again = after.crash(Crash::Strict);
            let store = open(&again);
            for (name, epoch, _, _) in batch {
                let report = store.verify(&job(name), *epoch).unwrap();
                assert!(report.is_good(), "{when}: again: {:?}", report.problems);
            }
            check_blobs(&store, &when);
        }
    }
}

#[test]
fn a_tiny_epoch_is_complete_or_invisible() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "d/state", b"tiny", 0o644);
    crash_everywhere(&[("tiny", 1, 10, &take_all(temp.path()))]);
}

#[test]
fn a_tree_with_everything_is_complete_or_invisible() {
    let temp = tempfile::tempdir().unwrap();
    mixed_tree(temp.path());
    crash_everywhere(&[("mixed", 7, 10, &take_all(temp.path()))]);
    open_up(temp.path());
}

#[test]
fn a_batch_of_epochs_is_each_complete_or_invisible() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "a", b"one", 0o644);
    write(temp.path(), "b", &noise(100_000, 1), 0o600);
    let one = take_all(temp.path());
    let other = tempfile::tempdir().unwrap();
    write(other.path(), "b", &noise(100_000, 1), 0o600);
    let two = take_all(other.path());
    crash_everywhere(&[("x", 1, 10, &one), ("y", 5, 11, &two)]);
}

#[test]
fn an_expired_epoch_is_complete_or_gone() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "d/a", b"one", 0o644);
    write(temp.path(), "shared", b"shared", 0o644);
    let one = take_all(temp.path());
    write(temp.path(), "d/a", b"two", 0o644);
    let two = take_all(temp.path());
    let x = job("x");
    for (gone, kept) in [(1, 2), (2, 1)] {
        let prepare = || {
            let disk = fresh();
            let store = open(&disk);
            assert_eq!(run(&store, &[("x", 1, 10, &one)]), [true]);
            assert_eq!(run(&store, &[("x", 2, 20, &two)]), [true]);
            (disk, store)
        };
        let (disk, store) = prepare();
        let before = disk.op_count();
        store.expire(&x, gone).unwrap();
        let ops = disk.op_count() - before;
        for stop in 0..=ops {
            let (disk, store) = prepare();
            disk.crash_after(stop);
            let answer = store.expire(&x, gone);
            for how in CRASHES {
                let when = format!("{gone} after {stop} of {ops} operations, {how:?}");
                let after = disk.crash(how);
                let store = open(&after);
                let there = store.published(&x, gone).unwrap().is_some();
                assert!(!(there && answer.is_ok()), "{when}: back again");
                if there {
                    assert!(store.verify(&x, gone).unwrap().is_good(), "{when}");
                } else {
                    assert_eq!(store.epochs(&x).unwrap(), [kept], "{when}");
                }
                store.expire(&x, gone).unwrap();
                store.expire(&x, gone).unwrap();
                assert_eq!(store.epochs(&x).unwrap(), [kept], "{when}");
                assert!(store.verify(&x, kept).unwrap().is_good(), "{when}");
                let latest = after.read_link(&store.layout().latest_link(&x)).unwrap();
                assert_eq!(latest, kept.to_string().as_bytes(), "{when}");
            }
        }
    }
}

//! Rot in published trees: found, brought anew, swapped in by rename everywhere,
//! and nothing else touched.

use std::path::{Path, PathBuf};

use checkpoint::digest::content;
use checkpoint::disk::Open;
use checkpoint::store::{Content, StoreError};
use checkpoint::testing::{Crash, CrashDisk, OpKind};
use checkpoint::{Coverage, Disk, Source, Store};

use crate::support::*;

// Bytes of the file that rots in these tests.
fn bytes() -> Vec<u8> {
    noise(70_000, 9)
}

// Two epochs that share content: staged at first, then reused; once in a closed folder, once with another mode.
fn two_epochs() -> (CrashDisk, Taken) {
    let disk = fresh();
    let store = open(&disk);
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "rots", &bytes(), 0o644);
    write(temp.path(), "closed/again", &bytes(), 0o644);
    write(temp.path(), "other-mode", &bytes(), 0o400);
    write(temp.path(), "small", b"small", 0o644);
    write(temp.path(), "empty", b"", 0o640);
    std::os::unix::fs::symlink("small", temp.path().join("link")).unwrap();
    chmod(&temp.path().join("closed"), 0o555);
    let taken = take_all(temp.path());
    let sources = stage(&store, 10, &taken).unwrap();
    store.publish(&[to_publish("job", 1, 10, &taken.manifest, sources)]).remove(0).unwrap();
    let again = take(temp.path(), &Coverage::new(), &|entry| {
        taken.manifest.find(&entry.path).map(|entry| entry.digest).filter(|_| entry.size > 0)
    });
    let sources = stage(&store, 20, &again).unwrap();
    assert!(sources.contains(&Source::Reused) && !sources.contains(&Source::Staged));
    store.publish(&[to_publish("job", 2, 20, &again.manifest, sources)]).remove(0).unwrap();
    disk.sync_fs(Path::new("/")).unwrap();
    open_up(temp.path());
    (disk, taken)
}

fn file(store: &Store, epoch: u64, path: &str) -> PathBuf {
    store.layout().files_dir(&job("job"), epoch).join(path)
}

fn damaged(store: &Store, epoch: u64) -> Vec<Content> {
    let report = store.verify(&job("job"), epoch).unwrap();
    store.damaged_contents(&job("job"), epoch, &report).unwrap()
}

fn all_good(store: &Store) -> bool {
    [1, 2].iter().all(|epoch| store.verify(&job("job"), *epoch).unwrap().is_good())
}

fn bring_all(store: &Store, lacking: &[Content]) -> bool {
    let arrived: Result<Vec<_>, _> = lacking.iter().map(|wanted| bring(store, *wanted, &bytes())).collect();
    arrived.is_ok_and(|arrived| store.shelve(arrived).iter().all(Result::is_ok))
}

#[test]
fn a_rotten_blob_is_swapped_in_everywhere() {
    let (disk, taken) = two_epochs();
    let store = open(&disk);
    let blob = store.layout().blob(content(&bytes()), 0o644, 0);
    let other = store.layout().blob(content(&bytes()), 0o400, 0);
    for path in [&blob, &other] {
        disk.flip(path, 100).unwrap();
    }
    let lacking = damaged(&store, 2);
    assert_eq!(lacking.len(), 1, "one digest, whatever its modes");
    assert_eq!(lacking[0].digest, content(&bytes()));
    assert!(bring_all(&store, &lacking));
    let changed = store.heal(lacking[0]).unwrap();
    // Three files in each of two epochs, and what was staged for the first.
    let staged: Vec<PathBuf> = (0..taken.manifest.entries.len() as u32)
        .map(|file| store.layout().staged_file(10, file))
        .filter(|path| disk.stat(path).is_ok())
        .collect();
    assert_eq!(staged.len(), 3);
    assert_eq!(changed, 9);
    for path in &staged {
        assert_eq!(disk.read_file(path, 1 << 20).unwrap(), bytes());
    }
    assert!(all_good(&store));
    check_blobs(&store, "healed");
    assert_eq!(disk.stat(&blob).unwrap().ino, disk.stat(&file(&store, 1, "rots")).unwrap().ino);
    assert_eq!(store.heal(lacking[0]).unwrap(), 0);
    let after = disk.crash(Crash::Strict);
    assert!(all_good(&open(&after)), "durable");
    assert!(disk.read_dir(&store.layout().trash_dir()).unwrap().is_empty());
}

#[test]
fn one_bad_mode_is_cloned_from_the_good_one_and_nothing_is_brought() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    disk.flip(&store.layout().blob(content(&bytes()), 0o644, 0), 100).unwrap();
    assert_eq!(damaged(&store, 1), []);
    assert!(all_good(&store));
    check_blobs(&store, "healed");
}

#[test]
fn a_missing_file_is_linked_and_without_its_blob_it_is_brought() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    disk.unlink(&file(&store, 1, "rots")).unwrap();
    assert_eq!(damaged(&store, 1), []);
    assert!(all_good(&store));
    for mode in [0o644, 0o400] {
        disk.unlink(&store.layout().blob(content(&bytes()), mode, 0)).unwrap();
    }
    disk.unlink(&file(&store, 1, "rots")).unwrap();
    let lacking = damaged(&store, 1);
    assert_eq!(lacking, [content_of(&bytes(), lacking[0].mode)]);
    assert!(store.heal(lacking[0]).is_err(), "there is no good blob yet");
    assert!(bring_all(&store, &lacking));
    store.heal(lacking[0]).unwrap();
    assert!(all_good(&store));
}

#[test]
fn folders_links_modes_and_empty_files_are_mended_and_extra_files_are_moved_aside() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    let tree = store.layout().files_dir(&job("job"), 1);
    disk.set_mode(&tree, 0o777).unwrap();
    disk.set_mode(&tree.join("rots"), 0o666).unwrap();
    disk.unlink(&tree.join("closed/again")).unwrap();
    disk.remove_dir(&tree.join("closed")).unwrap();
    disk.write_new(&tree.join("closed"), b"in the way", 0o644).unwrap();
    disk.unlink(&tree.join("link")).unwrap();
    disk.symlink(b"elsewhere", &tree.join("link")).unwrap();
    disk.unlink(&tree.join("empty")).unwrap();
    disk.create_dir(&tree.join("empty")).unwrap();
    disk.unlink(&tree.join("small")).unwrap();
    disk.symlink(b"/etc/passwd", &tree.join("small")).unwrap();
    disk.write_new(&tree.join("extra"), b"whose?", 0o644).unwrap();
    disk.create_dir(&tree.join("more")).unwrap();
    disk.write_new(&tree.join("more/x"), b"whose, too?", 0o644).unwrap();
    assert_eq!(damaged(&store, 1), []);
    assert!(all_good(&store));
    let aside = aside(&store, 1);
    assert_eq!(disk.read_file(&aside.join("extra"), 100).unwrap(), b"whose?");
    assert_eq!(disk.read_file(&aside.join("more/x"), 100).unwrap(), b"whose, too?");
    check_blobs(&store, "mended");
    let after = disk.crash(Crash::Strict);
    assert!(all_good(&open(&after)), "durable");
    assert!(
        after.stat(&aside.join("extra")).is_ok(),
        "what was moved away is somewhere, whenever the power goes"
    );
}

// Where what is in the tree and not of it is moved to.
fn aside(store: &Store, epoch: u64) -> PathBuf {
    store.layout().epochs_dir().join("job").join(format!("{epoch}.found"))
}

#[test]
fn extra_files_of_one_name_in_an_epoch_and_of_one_epoch_after_the_other_are_all_kept() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    let aside = aside(&store, 2);
    for ([one, other], names) in
        [([b"1", b"2"], ["extra", "extra.1"]), ([b"3", b"4"], ["extra.2", "extra.3"])]
    {
        disk.write_new(&file(&store, 2, "extra"), one, 0o644).unwrap();
        disk.write_new(&file(&store, 2, "closed/extra"), other, 0o644).unwrap();
        assert_eq!(damaged(&store, 2), []);
        assert!(all_good(&store));
        for (name, content) in names.into_iter().zip([one, other]) {
            assert_eq!(disk.read_file(&aside.join(name), 100).unwrap(), content, "{name}");
        }
    }
    // Where it cannot be moved, as over the edge of a file system, the rest is mended all the same.
    disk.write_new(&file(&store, 2, "extra"), b"5", 0o644).unwrap();
    disk.unlink(&file(&store, 2, "small")).unwrap();
    disk.fail_next(OpKind::Rename, "extra", 18);
    assert_eq!(damaged(&store, 2), []);
    let report = store.verify(&job("job"), 2).unwrap();
    let left: Vec<&str> = report.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(left, ["extra"]);
    // It is somebody's: it stays when the epoch goes.
    store.expire(&job("job"), 2).unwrap();
    assert_eq!(store.epochs(&job("job")).unwrap(), [1]);
    assert_eq!(disk.read_file(&aside.join("extra"), 100).unwrap(), b"1");
    assert!(
        disk.stat(&aside.with_extension("found.1")).is_err(),
        "one folder is enough, however often it is tried"
    );
}

#[test]
fn a_folder_that_stands_in_the_way_is_moved_aside_with_what_is_in_it() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    let path = file(&store, 1, "rots");
    disk.unlink(&path).unwrap();
    disk.create_dir(&path).unwrap();
    disk.write_new(&path.join("x"), b"whose?", 0o644).unwrap();
    assert_eq!(damaged(&store, 1), []);
    assert!(all_good(&store));
    assert_eq!(disk.read_file(&aside(&store, 1).join("rots/x"), 100).unwrap(), b"whose?");
}

#[test]
fn nothing_is_written_through_a_symlink_in_the_place_of_a_folder() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    disk.create_dir(Path::new("/outside")).unwrap();
    disk.write_new(Path::new("/outside/again"), b"precious", 0o644).unwrap();
    let folder = file(&store, 2, "closed");
    disk.unlink(&folder.join("again")).unwrap();
    disk.remove_dir(&folder).unwrap();
    disk.symlink(b"/outside", &folder).unwrap();
    // Healing for another epoch's sake leaves it alone; its own repair makes the folder again.
    disk.flip(&store.layout().blob(content(&bytes()), 0o644, 0), 100).unwrap();
    assert_eq!(damaged(&store, 1), []);
    assert_eq!(disk.read_link(&folder).unwrap(), b"/outside");
    assert_eq!(damaged(&store, 2), []);
    assert!(all_good(&store));
    assert_eq!(disk.read_file(Path::new("/outside/again"), 100).unwrap(), b"precious");
}

#[test]
fn a_closed_folder_is_opened_up_for_as_long_as_it_takes() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    disk.unlink(&file(&store, 1, "closed/again")).unwrap();
    // The crash disk knows no permissions: it is told to refuse, once.
    disk.fail_next(OpKind::Link, "closed/again", 13);
    let opened_up = |disk: &CrashDisk| {
        disk.ops().iter().any(|op| op.kind == OpKind::SetMode && op.path.ends_with("1/files/closed"))
    };
    disk.clear_ops();
    assert_eq!(damaged(&store, 1), []);
    assert!(opened_up(&disk));
    assert_eq!(disk.stat(&file(&store, 1, "closed")).unwrap().mode, 0o555);
    assert!(all_good(&store));
}

#[test]
fn beyond_the_limit_of_links_healing_opens_another_inode() {
    let disk = fresh();
    disk.limit_links(40);
    let store = open(&disk);
    let temp = tempfile::tempdir().unwrap();
    for n in 0..100 {
        write(temp.path(), &n.to_string(), b"all the same", 0o644);
    }
    commit(&store, "job", 1, 1, temp.path());
    let wanted = content_of(b"all the same", 0o644);
    for n in 0.. {
        let blob = store.layout().blob(wanted.digest, 0o644, n);
        if disk.stat(&blob).is_err() {
            assert!(n > 1);
            break;
        }
        disk.flip(&blob, 5).unwrap();
    }
    let store = open(&disk);
    assert_eq!(damaged(&store, 1), [wanted]);
    store.shelve(vec![bring(&store, wanted, b"all the same").unwrap()]).remove(0).unwrap();
    assert_eq!(store.heal(wanted).unwrap(), 100);
    assert!(store.verify(&job("job"), 1).unwrap().is_good());
    check_blobs(&store, "healed");
    for n in 0..100 {
        assert!(disk.stat(&file(&store, 1, &n.to_string())).unwrap().links <= 40);
    }
}

#[test]
fn a_manifest_that_cannot_be_read_is_put_back() {
    let (disk, taken) = two_epochs();
    let store = open(&disk);
    let path = store.layout().manifest_file(&job("job"), 1);
    let before = disk.read_file(&path, 1 << 20).unwrap();
    let envelope = envelope("job", 1, 10, taken.manifest.root());
    disk.flip(&path, 8 * (before.len() as u64 - 9)).unwrap();
    assert!(store.verify(&job("job"), 1).is_err());
    store.mend_manifest(&envelope, &taken.manifest).unwrap();
    assert_eq!(disk.read_file(&path, 1 << 20).unwrap(), before);
    disk.unlink(&path).unwrap();
    store.mend_manifest(&envelope, &taken.manifest).unwrap();
    store.mend_manifest(&envelope, &taken.manifest).unwrap();
    let after = open(&disk.crash(Crash::Strict));
    assert!(all_good(&after));
    let mut other = (*taken.manifest).clone();
    other.entries.retain(|entry| entry.path.as_bytes() != b"small");
    let mut wrong = envelope.clone();
    wrong.root = other.root();
    assert!(store.mend_manifest(&wrong, &other).is_err(), "another root is there");
    wrong.epoch = 3;
    assert!(store.mend_manifest(&wrong, &other).is_err(), "not published here");
}

#[test]
fn a_manifest_is_put_back_into_its_own_epochs_directory_only() {
    let (disk, taken) = two_epochs();
    let store = open(&disk);
    let path = store.layout().manifest_file(&job("job"), 1);
    let before = disk.read_file(&path, 1 << 20).unwrap();
    // The job was made anew: what is there is of its first life, with the same tree or another.
    let mut other = (*taken.manifest).clone();
    other.entries.retain(|entry| entry.path.as_bytes() != b"small");
    for tree in [&*taken.manifest, &other] {
        let later = envelope("job", 1, 30, tree.root());
        let mended = store.mend_manifest(&later, tree);
        assert!(matches!(mended, Err(StoreError::NotPublished { .. })), "{mended:?}");
        let earlier = envelope("job", 1, 3, tree.root());
        assert!(matches!(store.mend_manifest(&earlier, tree), Err(StoreError::Io(_))));
    }
    assert_eq!(disk.read_file(&path, 1 << 20).unwrap(), before);
    // Of the same epoch it says what it should.
    let mut labelled = envelope("job", 1, 10, taken.manifest.root());
    labelled.labels.clear();
    store.mend_manifest(&labelled, &taken.manifest).unwrap();
    assert_eq!(store.envelope(&job("job"), 1).unwrap(), Some(labelled));
    // A cut one is as good as none.
    disk.truncate_file(&path, 40).unwrap();
    let good = envelope("job", 1, 10, taken.manifest.root());
    store.mend_manifest(&good, &taken.manifest).unwrap();
    assert_eq!(disk.read_file(&path, 1 << 20).unwrap(), before);
}

#[test]
fn what_was_sealed_later_is_not_taken_away() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    store.expire_until(&job("job"), 1, 14, &|| false).unwrap();
    assert!(store.envelope(&job("job"), 1).unwrap().is_some());
    store.expire_until(&job("job"), 1, 15, &|| true).unwrap();
    assert!(store.envelope(&job("job"), 1).unwrap().is_none());
    disk.truncate_file(&store.layout().manifest_file(&job("job"), 2), 40).unwrap();
    store.expire_until(&job("job"), 2, 0, &|| true).unwrap();
    assert_eq!(store.epochs(&job("job")).unwrap(), [2], "it may be the later one");
    store.expire_until(&job("job"), 2, 0, &|| false).unwrap();
    assert_eq!(store.epochs(&job("job")).unwrap(), []);
}

#[test]
fn an_epoch_that_lies_elsewhere_than_the_trash_says_so_and_goes_when_it_can() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    disk.fail_next(OpKind::Rename, "trash", 18);
    let error = store.expire(&job("job"), 1).unwrap_err().to_string();
    assert!(
        error.contains("job/1: cannot move to the trash from another file system or a lower layer"),
        "{error}"
    );
    assert!(store.verify(&job("job"), 1).unwrap().is_good());
    store.expire(&job("job"), 1).unwrap();
    assert_eq!(store.epochs(&job("job")).unwrap(), [2]);
}

#[test]
fn a_file_that_cannot_be_read_counts_as_rotten() {
    let (disk, _) = two_epochs();
    let store = open(&disk);
    disk.fail_next(OpKind::Read, "1/files/small", 5);
    // Its looks are refused once, its content is fine: nothing is brought.
    let report = store.verify(&job("job"), 1).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert_eq!(store.damaged_contents(&job("job"), 1, &report).unwrap(), []);
    assert!(all_good(&store));
}

#[test]
fn healing_is_stopped_after_every_operation_twice() {
    let expected = std::cell::RefCell::new(None);
    crash_twice(
        &|| {
            let (disk, _) = two_epochs();
            let store = open(&disk);
            for mode in [0o644, 0o400] {
                disk.flip(&store.layout().blob(content(&bytes()), mode, 0), 100).unwrap();
            }
            let tree = store.layout().files_dir(&job("job"), 1);
            disk.unlink(&tree.join("small")).unwrap();
            disk.unlink(&tree.join("empty")).unwrap();
            disk.unlink(&tree.join("closed/again")).unwrap();
            disk.set_mode(&tree.join("closed"), 0o700).unwrap();
            disk.unlink(&tree.join("link")).unwrap();
            disk.sync_fs(Path::new("/")).unwrap();
            disk
        },
        &|store| {
            // As repair does: what verifies is left alone.
            [1, 2].iter().all(|epoch| {
                let Ok(report) = store.verify(&job("job"), *epoch) else { return false };
                if report.is_good() {
                    return true;
                }
                let Ok(lacking) = store.damaged_contents(&job("job"), *epoch, &report) else { return false };
                bring_all(store, &lacking) && store.heal_all(&lacking).is_ok()
            })
        },
        &|_, store, done, when| {
            assert!(!done || all_good(store), "{when}: rotten again");
            // Nothing but what was damaged may be.
            let report = store.verify(&job("job"), 2).unwrap();
            let hurt = |path: &str| ["rots", "closed/again", "other-mode", "closed"].contains(&path);
            assert!(report.problems.iter().all(|problem| hurt(&problem.path)), "{when}: {report:?}");
        },
        &|disk, store, when| {
            assert!(all_good(store), "{when}");
            let paths = paths(disk);
            assert_eq!(&paths, expected.borrow_mut().get_or_insert_with(|| paths.clone()), "{when}");
            for file in 0..20 {
                if let Ok(staged) = disk.open(&store.layout().staged_file(10, file), Open::Read) {
                    let mut read = vec![0; staged.len().unwrap() as usize];
                    staged.read_exact_at(&mut read, 0).unwrap();
                    assert!(read.len() != bytes().len() || read == bytes(), "{when}: f{file}");
                }
            }
        },
    );
}

#[test]
fn a_tree_whose_manifest_was_cut_is_mended_before_it_has_a_whole_one() {
    let (disk, taken) = two_epochs();
    let store = open(&disk);
    let envelope = envelope("job", 1, 10, taken.manifest.root());
    disk.truncate_file(&store.layout().manifest_file(&job("job"), 1), 40).unwrap();
    disk.flip(&file(&store, 1, "rots"), 99).unwrap();
    disk.unlink(&file(&store, 1, "empty")).unwrap();
    store.may_mend(&envelope, &taken.manifest).unwrap();
    let report = store.verify_by(&envelope, &taken.manifest).unwrap();
    assert_eq!(report.problems.len(), 3, "both names of the rotten inode, and the missing file: {report:?}");
    let lacking = store.damaged_by(&envelope, &taken.manifest, &report).unwrap();
    for content in &lacking {
        store.shelve(vec![bring(&store, *content, &bytes()).unwrap()]).remove(0).unwrap();
    }
    store.heal_by(&lacking, &envelope, &taken.manifest).unwrap();
    assert!(store.verify_by(&envelope, &taken.manifest).unwrap().is_good());
    // Stopped here, nobody takes it for whole without a look.
    assert!(matches!(store.envelope(&job("job"), 1), Err(StoreError::Manifest { .. })));
    store.mend_manifest(&envelope, &taken.manifest).unwrap();
    assert!(all_good(&open(&disk.crash(Crash::Strict))));
}

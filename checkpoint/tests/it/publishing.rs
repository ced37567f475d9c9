//! Publishing when something is not as it should be.

use std::path::Path;
use std::sync::Arc;

use checkpoint::digest::content;
use checkpoint::testing::{CrashDisk, OpKind};
use checkpoint::{Disk, RelPath, Store, Unpacked, Unpublished};

use crate::support::*;

fn open() -> (CrashDisk, Store) {
    let disk = CrashDisk::new();
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    (disk, store)
}

fn reopen(disk: &CrashDisk) -> Store {
    Store::open(Arc::new(disk.clone()), Path::new("/data")).unwrap()
}

#[test]
fn a_corrupt_blob_is_never_linked_and_others_go_on() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o644);
    let taken = take_all(temp.path());
    let other = tempfile::tempdir().unwrap();
    write(other.path(), "g", b"other", 0o644);
    let fine = take_all(other.path());
    let (disk, store) = open();
    let sources = stage(&store, 1, &taken).unwrap();
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, sources)]).remove(0).unwrap();
    let blob = store.blob_path(content(b"content")).unwrap();
    assert!(disk.flip(&blob, 9).unwrap());

    let store = reopen(&disk);
    let bad = to_publish("job", 2, 2, &taken.manifest, all_reused(&taken));
    let sources = stage(&store, 3, &fine).unwrap();
    let results = store.publish(&[bad.clone(), to_publish("job", 3, 3, &fine.manifest, sources)]);
    assert!(matches!(&results[0], Err(Unpublished::Corrupt { path, .. }) if path == "f"), "{results:?}");
    assert!(results[1].is_ok());
    let job = "job".parse().unwrap();
    assert_eq!(store.epochs(&job).unwrap(), [1, 3]);
    let report = store.verify(&job, 1).unwrap();
    assert_eq!(report.problems.len(), 1);
    assert_eq!(report.problems[0].path, "f");

    // The same content, brought anew, takes the blob's place.
    let sources = stage(&store, 4, &taken).unwrap();
    store.publish(&[to_publish("job", 4, 4, &taken.manifest, sources)]).remove(0).unwrap();
    assert!(store.verify(&job, 4).unwrap().is_good());
    store.publish(&[bad]).remove(0).unwrap();
    assert!(store.verify(&job, 2).unwrap().is_good());
    assert_eq!(disk.read_link(&store.layout().latest_link(&job)).unwrap(), b"4");
}

#[test]
fn content_is_reused_with_another_mode_in_the_batch_that_brings_it() {
    let temp = tempfile::tempdir().unwrap();
    // One is unpacked, one is staged.
    let files: [(&str, &[u8]); 2] = [("small", b"content"), ("staged", &noise(200_000, 1))];
    files.iter().for_each(|(path, data)| write(temp.path(), path, data, 0o644));
    let first = take_all(temp.path());
    files.iter().for_each(|(path, _)| chmod(&temp.path().join(path), 0o600));
    let second = take_all(temp.path());
    let (disk, store) = open();
    let sources = stage(&store, 1, &first).unwrap();
    let results = store.publish(&[
        to_publish("job", 1, 1, &first.manifest, sources),
        to_publish("job", 2, 2, &second.manifest, all_reused(&second)),
    ]);
    results.into_iter().for_each(|result| result.unwrap());
    let job = "job".parse().unwrap();
    for (epoch, mode) in [(1, 0o644), (2, 0o600)] {
        assert!(store.verify(&job, epoch).unwrap().is_good());
        for (path, _) in &files {
            assert_eq!(disk.stat(&store.layout().files_dir(&job, epoch).join(path)).unwrap().mode, mode);
        }
    }
}

// A blob that this process has read is linked and cloned unread. What has rotted since is for those to find who read
// published epochs; from then on it is used by nobody, under no mode.
#[test]
fn a_clone_of_a_blob_that_has_rotted_is_found_by_whoever_reads_it_and_used_no_more() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"content", 0o644);
    let first = take_all(temp.path());
    chmod(&temp.path().join("f"), 0o600);
    let second = take_all(temp.path());
    let (disk, store) = open();
    let sources = stage(&store, 1, &first).unwrap();
    store.publish(&[to_publish("job", 1, 1, &first.manifest, sources)]).remove(0).unwrap();
    let reuse = |epoch, taken: &Taken| {
        store.publish(&[to_publish("job", epoch, epoch, &taken.manifest, all_reused(taken))]).remove(0)
    };
    // It is read here, and known from then on.
    reuse(2, &first).unwrap();
    assert!(disk.flip(&store.layout().blob(content(b"content"), 0o644, 0), 9).unwrap());
    reuse(3, &second).unwrap();
    let report = store.verify(&job("job"), 3).unwrap();
    assert!(report.problems.len() == 1 && report.problems[0].path == "f", "{report:?}");
    for taken in [&second, &first] {
        let result = reuse(4, taken);
        assert!(matches!(&result, Err(Unpublished::Corrupt { path, .. }) if path == "f"), "{result:?}");
    }
}

#[test]
fn missing_content_is_named() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "small", b"content", 0o644);
    write(temp.path(), "staged", &noise(200_000, 1), 0o644);
    let taken = take_all(temp.path());
    let (_, store) = open();
    let sources = stage(&store, 1, &taken).unwrap();
    let result = store.publish(&[to_publish("job", 1, 2, &taken.manifest, sources)]).remove(0);
    assert!(matches!(&result, Err(Unpublished::Missing { path, .. }) if path == "staged"), "{result:?}");
    let result = store.publish(&[to_publish("job", 1, 2, &taken.manifest, all_reused(&taken))]).remove(0);
    assert!(matches!(&result, Err(Unpublished::Missing { path, .. }) if path == "small"), "{result:?}");
    // A staged file that is longer than its file, and a root that is not the sealed one.
    let sources = stage(&store, 3, &taken).unwrap();
    let mut wrong = to_publish("job", 1, 3, &taken.manifest, sources);
    wrong.envelope.root = content(b"?");
    assert!(matches!(store.publish(&[wrong.clone()]).remove(0), Err(Unpublished::Corrupt { .. })));
    let file = taken.manifest.entries.iter().position(|e| e.path.as_bytes() == b"staged").unwrap() as u32;
    let staged =
        store.disk().open(&store.layout().staged_file(3, file), checkpoint::disk::Open::Write).unwrap();
    staged.set_len(200_001).unwrap();
    wrong.envelope.root = taken.manifest.root();
    let result = store.publish(&[wrong]).remove(0);
    assert!(matches!(&result, Err(Unpublished::Corrupt { path, .. }) if path == "staged"), "{result:?}");
    assert!(store.epochs(&"job".parse().unwrap()).unwrap().is_empty());
    store.discard(3).unwrap();
    assert!(store.disk().stat(&store.layout().building_dir(3)).is_err());
    assert!(store.disk().stat(&store.layout().staged_file(3, file)).is_ok());
}

#[test]
fn an_epoch_is_published_once_and_never_changed() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "f", b"one", 0o644);
    let one = take_all(temp.path());
    write(temp.path(), "f", b"two", 0o644);
    let two = take_all(temp.path());
    let (disk, store) = open();
    let sources = stage(&store, 1, &one).unwrap();
    let publish = to_publish("job", 5, 1, &one.manifest, sources);
    store.publish(std::slice::from_ref(&publish)).remove(0).unwrap();
    // As after a restart: unpacked and published once more.
    stage(&store, 1, &one).unwrap();
    store.publish(std::slice::from_ref(&publish)).remove(0).unwrap();
    assert!(disk.stat(&store.layout().building_dir(1)).is_err());
    let sources = stage(&store, 2, &two).unwrap();
    let mut other = to_publish("job", 5, 2, &two.manifest, sources.clone());
    // Sealed later, it would be of another life of the job.
    other.envelope.position = publish.envelope.position;
    let result = store.publish(&[other]).remove(0);
    assert!(matches!(result, Err(Unpublished::Occupied { .. })), "{result:?}");
    // An older epoch that comes later does not become the latest.
    store.publish(&[to_publish("job", 3, 2, &two.manifest, sources)]).remove(0).unwrap();
    let job = "job".parse().unwrap();
    assert_eq!(store.published(&job, 5).unwrap(), Some(one.manifest.root()));
    assert_eq!(disk.read_link(&store.layout().latest_link(&job)).unwrap(), b"5");
    assert_eq!(store.published(&job, 4).unwrap(), None);
}

#[test]
fn after_a_failed_sync_nothing_is_published_before_the_next_start() {
    for (kind, path) in
        [(OpKind::SyncAll, "tree"), (OpKind::SyncAll, "manifest"), (OpKind::SyncDir, "epochs/job")]
    {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), "tree", b"content", 0o644);
        let taken = take_all(temp.path());
        let (disk, store) = open();
        let sources = stage(&store, 1, &taken).unwrap();
        let publish = to_publish("job", 1, 1, &taken.manifest, sources);
        disk.fail_next(kind, path, 5);
        assert!(
            matches!(store.publish(std::slice::from_ref(&publish)).remove(0), Err(Unpublished::Io(_))),
            "{path}"
        );
        assert!(
            matches!(store.publish(std::slice::from_ref(&publish)).remove(0), Err(Unpublished::Io(_))),
            "{path}"
        );
        let disk = disk.crash(checkpoint::testing::Crash::Strict);
        let store = reopen(&disk);
        stage(&store, 1, &taken).unwrap();
        store.publish(&[publish]).remove(0).unwrap();
        assert!(store.verify(&"job".parse().unwrap(), 1).unwrap().is_good());
    }
}

#[test]
fn contents_are_durable_before_their_blob_has_a_name_and_names_before_the_epoch_appears() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "small", b"content", 0o644);
    write(temp.path(), "staged", &noise(200_000, 1), 0o640);
    let taken = take_all(temp.path());
    let (disk, store) = open();
    let sources = stage(&store, 1, &taken).unwrap();
    disk.clear_ops();
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, sources)]).remove(0).unwrap();
    let ops = disk.ops();
    let last = |kind, part: &str| {
        ops.iter().rposition(|op| op.kind == kind && op.path.to_string_lossy().contains(part))
    };
    let first = |kind, part: &str| {
        ops.iter().position(|op| op.kind == kind && op.path.to_string_lossy().contains(part))
    };
    let synced = last(OpKind::SyncAll, "small").max(last(OpKind::SyncAll, "/f")).unwrap();
    let linked = first(OpKind::Link, "blobs/").unwrap();
    let appears = first(OpKind::Rename, "epochs/job/1").unwrap();
    let latest = first(OpKind::Rename, "epochs/job/latest").unwrap();
    assert!(last(OpKind::SetMode, "/f2").unwrap() < synced && synced < linked, "{ops:#?}");
    for dir in ["blobs/", "epoch/files", "epoch"] {
        assert!(last(OpKind::SyncDir, dir).is_some_and(|at| linked < at), "{dir}");
    }
    assert!(last(OpKind::SyncAll, "manifest").unwrap() < appears);
    assert!(first(OpKind::SyncDir, "epoch/files").unwrap() < appears);
    assert!(appears < last(OpKind::SyncDir, "epochs/job").unwrap());
    assert!(last(OpKind::SyncDir, "epochs/job").unwrap() < latest);
}

#[test]
fn a_start_touches_nothing_but_the_trash() {
    let (disk, store) = open();
    let strange = [
        store.layout().staging_dir().join("77"),
        store.layout().blobs_dir().join("zz"),
        store.layout().epochs_dir().join("job"),
        store.layout().epochs_dir().join("job/9"),
        store.layout().trash_dir().join("x"),
        store.layout().trash_dir().join("x/y"),
    ];
    strange.iter().for_each(|dir| disk.create_dir(dir).unwrap());
    disk.write_new(&store.layout().blobs_dir().join("00/odd"), b"?", 0o644).unwrap();
    let before = disk.paths();
    let store = reopen(&disk);
    let mut after = disk.paths();
    after.retain(|path| *path != store.layout().latest_link(&"job".parse().unwrap()));
    let trash = store.layout().trash_dir();
    let expected: Vec<_> =
        before.into_iter().filter(|path| *path == trash || !path.starts_with(&trash)).collect();
    assert_eq!(after, expected);
}

// A tree with one staged and one unpacked file, and what is needed to publish it as attempt 2, whose content has
// been published before under another mode.
fn published_before() -> (CrashDisk, Taken, Vec<checkpoint::Source>) {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), "small", b"content", 0o644);
    write(temp.path(), "staged", &noise(200_000, 1), 0o644);
    let (disk, store) = open();
    commit(&store, "old", 1, 1, temp.path());
    chmod(&temp.path().join("small"), 0o600);
    chmod(&temp.path().join("staged"), 0o400);
    let taken = take_all(temp.path());
    let sources = stage(&store, 2, &taken).unwrap();
    (disk, taken, sources)
}

#[test]
fn what_was_lost_before_it_was_published_is_taken_from_a_good_blob() {
    for damage in ["none", "gone", "cut", "long"] {
        let (disk, taken, sources) = published_before();
        let store = reopen(&disk);
        for path in [store.layout().staged_file(2, 2), store.layout().tree_dir(2).join("small")] {
            let len = disk.stat(&path).unwrap().len;
            match damage {
                "gone" => disk.unlink(&path).unwrap(),
                "cut" => disk.truncate_file(&path, len / 2).unwrap(),
                "long" => disk.truncate_file(&path, len + 1).unwrap(),
                _ => {}
            }
        }
        let publish = to_publish("job", 1, 2, &taken.manifest, sources);
        store.publish(&[publish]).remove(0).unwrap();
        let report = store.verify(&"job".parse().unwrap(), 1).unwrap();
        assert!(report.is_good(), "{damage}: {report:?}");
        check_blobs(&store, damage);
        assert!(disk.read_dir(&store.layout().trash_dir()).unwrap().is_empty());
    }
}

#[test]
fn without_a_good_blob_what_was_lost_is_named() {
    let (disk, taken, sources) = published_before();
    let store = reopen(&disk);
    for mode in [0o600, 0o644] {
        let blob = store.layout().blob(content(b"content"), mode, 0);
        if disk.stat(&blob).is_ok() {
            disk.flip(&blob, 0).unwrap();
        }
    }
    disk.truncate_file(&store.layout().tree_dir(2).join("small"), 3).unwrap();
    let publish = to_publish("job", 1, 2, &taken.manifest, sources);
    let result = store.publish(std::slice::from_ref(&publish)).remove(0);
    assert!(matches!(&result, Err(Unpublished::Corrupt { path, .. }) if path == "small"), "{result:?}");
    // Brought from elsewhere, it is published after all.
    let lacking = store.lacking(&taken.manifest).unwrap();
    assert_eq!(lacking, [content_of(b"content", 0o600)]);
    let arrived = bring(&store, lacking[0], b"content").unwrap();
    store.shelve(vec![arrived]).remove(0).unwrap();
    store.publish(&[publish]).remove(0).unwrap();
    assert!(store.verify(&"job".parse().unwrap(), 1).unwrap().is_good());
}

#[test]
fn publishing_from_blobs_is_stopped_after_every_operation_twice() {
    let expected = std::cell::RefCell::new(None);
    let name = job("job");
    let (_, taken, sources) = published_before();
    crash_twice(
        &|| {
            let (disk, ..) = published_before();
            let store = reopen(&disk);
            disk.sync_fs(std::path::Path::new("/")).unwrap();
            disk.truncate_file(&store.layout().tree_dir(2).join("small"), 3).unwrap();
            disk.truncate_file(&store.layout().staged_file(2, 2), 100_000).unwrap();
            disk.sync_fs(std::path::Path::new("/")).unwrap();
            disk
        },
        &|store| {
            store.publish(&[to_publish("job", 1, 2, &taken.manifest, sources.clone())]).remove(0).is_ok()
        },
        &|_, store, done, when| {
            check_blobs(store, when);
            let there = store.published(&name, 1).unwrap().is_some();
            assert!(there || !done, "{when}: lost");
            if there {
                assert!(store.verify(&name, 1).unwrap().is_good(), "{when}");
            }
        },
        &|disk, store, when| {
            assert!(store.verify(&name, 1).unwrap().is_good(), "{when}");
            assert!(store.verify(&job("old"), 1).unwrap().is_good(), "{when}");
            let paths = paths(disk);
            assert_eq!(&paths, expected.borrow_mut().get_or_insert_with(|| paths.clone()), "{when}");
        },
    );
}

#[test]
fn a_full_disk_is_tried_again_but_not_after_a_sync_that_found_it_full() {
    let temp = tempfile::tempdir().unwrap();
    mixed_tree(temp.path());
    let taken = take_all(temp.path());
    let full = 28;
    let kinds = [
        (OpKind::Create, "staging/1"),
        (OpKind::Write, "manifest"),
        (OpKind::CreateDir, "staging/1"),
        (OpKind::Symlink, "staging/1"),
        (OpKind::Link, "blobs/"),
        (OpKind::Link, "files/large"),
        (OpKind::SetLen, "staging/1"),
        (OpKind::CreateDir, "epochs/job"),
        (OpKind::Rename, "epochs/job/1"),
        (OpKind::Symlink, "latest"),
        (OpKind::Rename, "latest"),
    ];
    for (kind, path) in kinds {
        let (disk, store) = open();
        let sources = stage(&store, 1, &taken).unwrap();
        let publish = to_publish("job", 1, 1, &taken.manifest, sources);
        disk.fail_next(kind, path, full);
        let result = store.publish(std::slice::from_ref(&publish)).remove(0);
        // Where `latest` points is a convenience: the epoch is published.
        let fails = matches!(result, Err(Unpublished::Io(_)));
        assert!(fails != (path == "latest") && fails != result.is_ok(), "{kind:?} {path}: {result:?}");
        store.publish(&[publish]).remove(0).unwrap();
        assert!(store.verify(&job("job"), 1).unwrap().is_good(), "{kind:?} {path}");
        let latest = disk.read_link(&store.layout().latest_link(&job("job"))).unwrap();
        assert_eq!(latest, b"1", "{kind:?} {path}");
        assert!(disk.read_dir(&store.layout().trash_dir()).unwrap().is_empty(), "{kind:?} {path}");
    }
    let (disk, store) = open();
    let sources = stage(&store, 1, &taken).unwrap();
    let publish = to_publish("job", 1, 1, &taken.manifest, sources);
    disk.fail_next(OpKind::SyncFs, "", full);
    for _ in 0..2 {
        let result = store.publish(std::slice::from_ref(&publish)).remove(0);
        assert!(matches!(result, Err(Unpublished::Io(_))), "{result:?}");
    }
    open_up(temp.path());
}

/// An unsynced heap of new names is written in one go, and a log on the same disk waits for it.
#[test]
fn very_many_files_are_written_down_some_thousands_at_a_time() {
    let (disk, store) = open();
    let pack = |attempt, pack: u32| {
        let name = |n: u32| RelPath::parse(format!("{pack}-{n}").as_bytes()).unwrap();
        let names: Vec<RelPath> = (0..4096).map(name).collect();
        let data: Vec<[u8; 4]> = (0..4096).map(|n| (pack * 4096 + n).to_le_bytes()).collect();
        let files = names.iter().zip(&data).map(|(path, data)| Unpacked { path, mode: 0o644, data });
        store.unpack(attempt, &files.collect::<Vec<_>>())
    };
    // Every 8,192, whichever attempt they are of.
    for (attempt, syncs) in [(1, 2), (2, 3)] {
        disk.clear_ops();
        (0..5).for_each(|number| pack(attempt, number).unwrap());
        let found = disk.ops().iter().filter(|op| op.kind == OpKind::SyncFs).count();
        assert_eq!(found, syncs, "attempt {attempt}");
    }
    // One that fails is final, as of any sync.
    disk.fail_next(OpKind::SyncFs, "/data", 5);
    pack(3, 0).unwrap();
    pack(3, 1).unwrap_err();
    assert!(store.fault().why().is_some());
}

/// Names of a row lie in the same few folders as those of the next.
#[test]
fn very_many_links_are_written_down_at_once() {
    let temp = tempfile::tempdir().unwrap();
    for number in 0..8200u32 {
        write(temp.path(), &format!("{number:05}"), &number.to_le_bytes(), 0o644);
    }
    let taken = take_all(temp.path());
    let (disk, store) = open();
    let sources = stage(&store, 1, &taken).unwrap();
    disk.clear_ops();
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, sources)]).remove(0).unwrap();
    let syncs = disk.ops().iter().filter(|op| op.kind == OpKind::SyncFs).count();
    assert_eq!(syncs, 2, "contents, then names");
}

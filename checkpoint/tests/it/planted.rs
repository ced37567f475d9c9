//! What somebody has put where a folder of ours belongs is moved aside: nothing is written through it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use checkpoint::store::StoreError;
use checkpoint::testing::OpKind;
use checkpoint::{Disk, RealDisk, Store};

use crate::support::*;

fn victim(dir: &Path) {
    std::fs::create_dir_all(dir.join("files")).unwrap();
    std::fs::write(dir.join("precious"), b"x").unwrap();
}

#[test]
fn a_link_or_a_file_in_the_place_of_an_epoch_or_a_job_makes_way() {
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 4] = [
        ("epochs/job/1.aside", |data, victim| {
            std::fs::create_dir(data.join("epochs/job")).unwrap();
            symlink(victim, data.join("epochs/job/1")).unwrap();
        }),
        ("epochs/job/1.aside", |data, _| {
            std::fs::create_dir(data.join("epochs/job")).unwrap();
            std::fs::write(data.join("epochs/job/1"), b"rubbish").unwrap();
        }),
        ("epochs/.job.aside", |data, victim| symlink(victim, data.join("epochs/job")).unwrap()),
        ("epochs/.job.aside", |data, victim| {
            std::fs::create_dir(victim.join("1")).unwrap();
            symlink(victim, data.join("epochs/job")).unwrap();
        }),
    ];
    for (aside, plant) in plants {
        let temp = tempfile::tempdir().unwrap();
        let [source, data, outside] = ["source", "data", "victim"].map(|name| temp.path().join(name));
        std::fs::create_dir_all(&data).unwrap();
        mixed_tree_at(&source);
        victim(&outside);
        let store = Store::open(Arc::new(RealDisk), &data).unwrap();
        plant(&data, &outside);
        let before = walk(&outside);
        let taken = take_all(&source);
        let sources = stage(&store, 5, &taken).unwrap();
        let publish = to_publish("job", 1, 5, &taken.manifest, sources);
        // Nor is it mended.
        let mended = store.mend_manifest(&publish.envelope, &taken.manifest);
        assert!(matches!(mended, Err(StoreError::NotPublished { .. })), "{aside}: {mended:?}");
        store.publish(&[publish]).remove(0).unwrap();
        assert_eq!(walk(&outside), before, "{aside}: something was written through a link");
        assert_eq!(walk(&store.layout().files_dir(&job("job"), 1)), walk(&source), "{aside}");
        assert!(std::fs::symlink_metadata(data.join(aside)).is_ok(), "{aside}: what was there is kept");
        assert!(store.verify(&job("job"), 1).unwrap().is_good());
        open_up(temp.path());
    }
}

#[test]
fn nothing_expires_through_a_link_in_the_place_of_a_job() {
    let temp = tempfile::tempdir().unwrap();
    let [data, outside] = ["data", "victim"].map(|name| temp.path().join(name));
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir_all(outside.join("1/files")).unwrap();
    std::fs::write(outside.join("1/precious"), b"x").unwrap();
    symlink("1", outside.join("latest")).unwrap();
    let store = Store::open(Arc::new(RealDisk), &data).unwrap();
    symlink(&outside, data.join("epochs/job")).unwrap();
    let before = walk(&outside);
    store.expire(&job("job"), 1).unwrap();
    store.expire_until(&job("job"), 1, u64::MAX, &|| false).unwrap();
    store.avoid(&job("job"), [1].into()).unwrap();
    store.remove_job(&job("job")).unwrap();
    assert_eq!(walk(&outside), before, "something was removed through a link");
    assert!(data.join("epochs/job").is_symlink());
}

#[test]
fn what_has_expired_is_done_with_whatever_stands_in_its_place() {
    type Plant = fn(&Path);
    let plants: [(&str, Plant); 4] = [
        ("epochs/job", |job| std::fs::write(job, b"a file").unwrap()),
        ("epochs/job", |job| symlink("job", job).unwrap()),
        ("epochs/job/1", |job| {
            std::fs::create_dir(job).unwrap();
            std::fs::write(job.join("1"), b"a file").unwrap();
        }),
        ("epochs/job/1", |job| {
            std::fs::create_dir(job).unwrap();
            symlink("1", job.join("1")).unwrap();
        }),
    ];
    for (at, (stays, plant)) in plants.into_iter().enumerate() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), data.path()).unwrap();
        plant(&data.path().join("epochs/job"));
        // Twice: nothing is left to be tried again.
        for _ in 0..2 {
            let done = store.expire_until(&job("job"), 1, u64::MAX, &|| true);
            done.unwrap_or_else(|error| panic!("{at}: {error}"));
            store.expire(&job("job"), 1).unwrap_or_else(|error| panic!("{at}: {error}"));
        }
        assert!(std::fs::symlink_metadata(data.path().join(stays)).is_ok(), "{at}: {stays} is not ours");
    }
}

type Plant = fn(&Path);

/// What becomes of a manifest of ours that nobody can read.
fn unreadable() -> [Plant; 3] {
    [
        |manifest| cut(manifest, 40),
        // In the middle of what it begins with.
        |manifest| cut(manifest, 5),
        |manifest| {
            let mut bytes = std::fs::read(manifest).unwrap();
            bytes[20] ^= 1;
            std::fs::write(manifest, bytes).unwrap();
        },
    ]
}

fn cut(file: &Path, len: u64) {
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(len).unwrap();
}

/// What stands in a manifest's place and never was one of ours.
fn foreign() -> [Plant; 4] {
    [
        |manifest| {
            std::fs::remove_file(manifest).unwrap();
            symlink("manifest", manifest).unwrap();
        },
        |manifest| {
            std::fs::rename(manifest, manifest.with_file_name("moved")).unwrap();
            symlink("moved", manifest).unwrap();
        },
        |manifest| {
            std::fs::remove_file(manifest).unwrap();
            std::fs::create_dir(manifest).unwrap();
        },
        |manifest| std::fs::write(manifest, b"what I have packed").unwrap(),
    ]
}

fn missing(manifest: &Path) {
    std::fs::remove_file(manifest).unwrap();
}

/// An older life's epoch of this number expires while nobody can say whose the directory is.
#[test]
fn what_may_be_a_later_epoch_stays_and_is_mended() {
    for (at, plant) in unreadable().into_iter().chain([missing as Plant]).enumerate() {
        let temp = tempfile::tempdir().unwrap();
        let [source, data] = ["source", "data"].map(|name| temp.path().join(name));
        std::fs::create_dir(&data).unwrap();
        mixed_tree_at(&source);
        let store = Store::open(Arc::new(RealDisk), &data).unwrap();
        let manifest = commit(&store, "job", 1, 5, &source);
        let (file, dir) = (store.layout().manifest_file(&job("job"), 1), data.join("epochs/job/1"));
        plant(&file);
        store.expire_until(&job("job"), 1, 7, &|| true).unwrap();
        assert!(dir.join("files").exists(), "{at}: a later epoch is removed");
        let sealed = envelope("job", 1, 5, manifest.root());
        store.mend_manifest(&sealed, &manifest).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(store.verify(&job("job"), 1).unwrap().is_good());
        // It says so itself, whatever else is known.
        store.expire_until(&job("job"), 1, 7, &|| false).unwrap();
        assert!(dir.exists(), "{at}");
        // And where there is no later one it goes.
        plant(&file);
        store.expire_until(&job("job"), 1, 7, &|| false).unwrap();
        assert!(!dir.exists(), "{at}");
        assert_eq!(
            dir.with_extension("found").exists(),
            at == unreadable().len(),
            "{at}: without a manifest it stays"
        );
        open_up(temp.path());
    }
}

fn mixed_tree_at(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    mixed_tree(dir);
}

/// Its job was removed and made anew, and the folder of the earlier life is still there.
#[test]
fn a_folder_that_does_not_say_which_epoch_it_is_makes_way_as_a_whole() {
    let of_others = foreign().into_iter().chain([missing as Plant]).map(|plant| (plant, "1.found"));
    let plants = unreadable().into_iter().map(|plant| (plant, "1.aside")).chain(of_others);
    for (at, (plant, name)) in plants.enumerate() {
        let temp = tempfile::tempdir().unwrap();
        let [old, new, data] = ["old", "new", "data"].map(|name| temp.path().join(name));
        std::fs::create_dir(&data).unwrap();
        mixed_tree_at(&old);
        write(&new, "small", b"other content", 0o644);
        let store = Store::open(Arc::new(RealDisk), &data).unwrap();
        commit(&store, "job", 1, 5, &old);
        plant(&store.layout().manifest_file(&job("job"), 1));
        let taken = take_all(&new);
        let sources = stage(&store, 50, &taken).unwrap();
        let publish = to_publish("job", 1, 50, &taken.manifest, sources);
        // Nor is anything moved before all of it is there.
        let mut lacking = publish.clone();
        lacking.sources = Arc::new(all_reused(&taken));
        lacking.attempt = 51;
        assert!(store.publish(&[lacking]).remove(0).is_err(), "{at}");
        let dir = data.join("epochs/job/1");
        assert_eq!(walk(&dir.join("files")), walk(&old), "{at}");
        store.publish(&[publish]).remove(0).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(store.verify(&job("job"), 1).unwrap().is_good(), "{at}");
        assert_eq!(walk(&dir.join("files")), walk(&new), "{at}");
        let aside = data.join("epochs/job").join(name);
        assert_eq!(walk(&aside.join("files")), walk(&old), "{at}: nothing is deleted, nothing is mixed");
        // What is no folder was never an epoch's, and stays when that goes.
        let foreign = data.join("epochs/job/1.aside.7");
        std::fs::write(&foreign, b"not ours").unwrap();
        // Nor is a folder whose name somebody has given: he has looked at one of ours, and keeps it.
        let kept = data.join("epochs/job/1.aside.keep");
        write(&kept, "looked-at", b"x", 0o600);
        store.expire(&job("job"), 1).unwrap();
        assert!(!dir.exists() && foreign.exists(), "{at}");
        assert!(kept.join("looked-at").exists(), "{at}: it has no name of ours");
        // One without any manifest may be somebody's who put it there.
        assert_eq!(aside.exists(), name == "1.found", "{at}");
        open_up(temp.path());
    }
}

/// No epoch was ever published there.
#[test]
fn what_somebody_keeps_in_the_place_of_an_epoch_is_moved_aside_with_its_folder() {
    let temp = tempfile::tempdir().unwrap();
    let [source, data] = ["source", "data"].map(|name| temp.path().join(name));
    std::fs::create_dir(&data).unwrap();
    mixed_tree_at(&source);
    let store = Store::open(Arc::new(RealDisk), &data).unwrap();
    write(&data.join("epochs/job/1"), "precious", b"x", 0o600);
    commit(&store, "job", 1, 5, &source);
    assert!(store.verify(&job("job"), 1).unwrap().is_good());
    assert_eq!(walk(&data.join("epochs/job/1/files")), walk(&source));
    store.expire(&job("job"), 1).unwrap();
    assert_eq!(std::fs::read(data.join("epochs/job/1.found/precious")).unwrap(), b"x");
    open_up(temp.path());
}

/// It may be of an earlier life of its job: what is in it stays in it, and goes with it.
#[test]
fn nothing_is_taken_out_of_a_folder_whose_manifest_cannot_be_read() {
    for (at, plant) in unreadable().into_iter().enumerate() {
        let temp = tempfile::tempdir().unwrap();
        let [old, new, data] = ["old", "new", "data"].map(|name| temp.path().join(name));
        std::fs::create_dir(&data).unwrap();
        // A name that the later epoch has not, and a folder where it has a file.
        write(&old, "only-here", b"of the first life", 0o644);
        write(&old, "place/inner", b"of the first life, too", 0o644);
        write(&new, "place", b"a file", 0o644);
        let store = Store::open(Arc::new(RealDisk), &data).unwrap();
        commit(&store, "job", 1, 5, &old);
        plant(&store.layout().manifest_file(&job("job"), 1));
        let taken = take_all(&new);
        let sources = stage(&store, 50, &taken).unwrap();
        let publish = to_publish("job", 1, 50, &taken.manifest, sources);
        let (envelope, manifest) = (publish.envelope.clone(), taken.manifest.clone());
        store.may_mend(&envelope, &manifest).unwrap();
        let report = store.verify_by(&envelope, &manifest).unwrap();
        store.damaged_by(&envelope, &manifest, &report).unwrap();
        assert!(!data.join("epochs/job/1.found").exists(), "{at}: a part of it lies elsewhere");
        assert!(!store.verify_by(&envelope, &manifest).unwrap().is_good(), "{at}: it is to make way");
        store.publish(&[publish]).remove(0).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(store.verify(&job("job"), 1).unwrap().is_good(), "{at}");
        let aside = data.join("epochs/job/1.aside/files");
        for (name, content) in [("only-here", "of the first life"), ("place/inner", "of the first life, too")]
        {
            assert_eq!(std::fs::read(aside.join(name)).unwrap(), content.as_bytes(), "{at}: {name}");
        }
    }
}

/// What somebody may keep in the place of an epoch: names and contents below `DATA/epochs/job/1`.
fn kept() -> [&'static [(&'static str, &'static str)]; 4] {
    [
        &[("precious", "x")],
        &[("precious", "x"), ("files/small", "another content"), ("files/mine", "x")],
        &[("precious", "x"), ("manifest", "what I have packed")],
        &[("files/small", "another content"), ("files/a", "a file where the epoch has a folder")],
    ]
}

fn keep(dir: &Path, kept: &[(&str, &str)]) {
    kept.iter().for_each(|(path, content)| write(dir, path, content.as_bytes(), 0o600));
}

/// The record comes before anything was published there.
#[test]
fn what_somebody_keeps_in_the_place_of_an_epoch_stays_when_its_number_expires() {
    for (at, kept) in kept().into_iter().enumerate() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(Arc::new(RealDisk), data.path()).unwrap();
        let dir = data.path().join("epochs/job/1");
        let expiries: [(&str, &dyn Fn() -> Result<(), StoreError>); 2] = [
            ("1.found", &|| store.expire_until(&job("job"), 1, u64::MAX, &|| false)),
            ("1.found.1", &|| store.expire(&job("job"), 1)),
        ];
        for (found, expire) in expiries {
            keep(&dir, kept);
            let before = walk(&dir);
            // It may be of an epoch that the log knows.
            store.expire_until(&job("job"), 1, 0, &|| true).unwrap();
            assert_eq!(walk(&dir), before, "{at}");
            expire().unwrap_or_else(|error| panic!("{at}: {error}"));
            assert!(!dir.exists(), "{at}");
            assert_eq!(walk(&dir.with_file_name(found)), before, "{at}: {found}");
        }
    }
}

#[test]
fn a_foreign_folder_that_cannot_be_moved_is_no_debt() {
    let disk = fresh();
    let store = open(&disk);
    let dir = store.layout().epoch_dir(&job("job"), 1);
    disk.create_dir(dir.parent().unwrap()).unwrap();
    disk.create_dir(&dir).unwrap();
    // EBUSY: another file system is mounted there.
    disk.fail_next(OpKind::Rename, "epochs/job/1", 16);
    store.expire_until(&job("job"), 1, u64::MAX, &|| false).unwrap();
    assert!(disk.stat(&dir).is_ok());
}

/// Who mends comes before who publishes.
#[test]
fn nothing_that_somebody_keeps_in_the_place_of_an_epoch_is_mended() {
    for (at, kept) in kept().into_iter().enumerate() {
        let temp = tempfile::tempdir().unwrap();
        let [source, data] = ["source", "data"].map(|name| temp.path().join(name));
        std::fs::create_dir(&data).unwrap();
        mixed_tree_at(&source);
        let store = Store::open(Arc::new(RealDisk), &data).unwrap();
        let dir = data.join("epochs/job/1");
        keep(&dir, kept);
        let before = walk(&dir);
        let taken = take_all(&source);
        let sources = stage(&store, 5, &taken).unwrap();
        let publish = to_publish("job", 1, 5, &taken.manifest, sources);
        let (envelope, manifest) = (publish.envelope.clone(), taken.manifest.clone());
        let is_refused =
            |result: Result<(), StoreError>| matches!(result, Err(StoreError::NotPublished { .. }));
        // Of one that has `files` alone only its content tells.
        let files_alone = kept.iter().all(|(path, _)| path.starts_with("files/"));
        assert_eq!(is_refused(store.may_mend(&envelope, &manifest)), !files_alone, "{at}");
        let report = store.verify_by(&envelope, &manifest).unwrap();
        assert!(!report.is_good(), "{at}");
        let damaged = store.damaged_by(&envelope, &manifest, &report);
        assert!(is_refused(damaged.map(drop)), "{at}");
        assert!(is_refused(store.heal_by(&[], &envelope, &manifest).map(drop)), "{at}");
        assert_eq!(walk(&dir), before, "{at}: something in it was changed");
        store.publish(&[publish]).remove(0).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!(walk(&dir.join("files")), walk(&source), "{at}");
        store.expire_until(&job("job"), 1, u64::MAX, &|| false).unwrap();
        assert!(!dir.exists(), "{at}");
        assert_eq!(walk(&data.join("epochs/job/1.found")), before, "{at}: all of it stays");
        open_up(temp.path());
    }
}

/// A place that cannot be had (a mount point, say) is tried again and again.
#[test]
fn staged_content_is_read_again_only_where_a_folder_may_be_of_its_epoch() {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "large", &noise(300_000, 1), 0o644);
    let opened = |plant: &dyn Fn(&dyn Disk, &Path)| {
        let disk = fresh();
        let store = open(&disk);
        let taken = take_all(source.path());
        let sources = stage(&store, 5, &taken).unwrap();
        let dir = store.layout().epoch_dir(&job("job"), 1);
        disk.create_dir(dir.parent().unwrap()).unwrap();
        plant(&disk, &dir);
        let (opened, staging) = (Arc::new(AtomicU64::new(0)), store.layout().attempt_dir(5));
        let count = opened.clone();
        disk.after_open(move |path| {
            count.fetch_add(u64::from(path.parent() == Some(&*staging)), Ordering::Relaxed);
        });
        store.publish(&[to_publish("job", 1, 5, &taken.manifest, sources)]).remove(0).unwrap();
        disk.after_open(|_| {});
        opened.load(Ordering::Relaxed)
    };
    let nothing = opened(&|_, _| {});
    let empty = opened(&|disk, dir| disk.create_dir(dir).unwrap());
    let tree = opened(&|disk, dir| {
        disk.create_dir(dir).unwrap();
        disk.create_dir(&dir.join("files")).unwrap();
    });
    assert_eq!(empty, nothing, "an empty folder never was of this epoch");
    assert!(tree > nothing, "it may have lost its manifest, and be damaged as the staged files are");
}

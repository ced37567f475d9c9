//! What somebody has put where a folder of ours belongs is moved aside: nothing is written through it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use checkpoint::store::StoreError;
use checkpoint::{RealDisk, Store};

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
    store.expire_until(&job("job"), 1, u64::MAX).unwrap();
    store.avoid(&job("job"), [1].into()).unwrap();
    store.remove_job(&job("job")).unwrap();
    assert_eq!(walk(&outside), before, "something was removed through a link");
    assert!(data.join("epochs/job").is_symlink());
}

fn mixed_tree_at(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    mixed_tree(dir);
}

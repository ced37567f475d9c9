//! Modes are exact, whatever the process or a folder above would make of them. Alone in its binary: a umask is one of
//! the whole process.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "one test needs a part of it")]
#[path = "it/support.rs"]
mod support;

use std::sync::Arc;

use checkpoint::restore::{LocalTree, RestoreOptions, restore};
use checkpoint::split::digest_dir;
use checkpoint::{Limits, RealDisk, Store};
use rustix::fs::Mode;
use rustix::process::umask;

use support::*;

#[test]
fn published_modes_are_exact_below_set_gid_folders_and_under_every_umask() {
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    for (path, mode) in [("private/f", 0o600), ("group/f", 0o640), ("open/run", 0o777), ("open/e", 0o600)] {
        write(&source, path, if path == "open/e" { b"" } else { path.as_bytes() }, mode);
    }
    write(&source, "private/large", &noise(3 * CHUNK as usize, 1), 0o600);
    for (path, mode) in [("private", 0o700), ("group", 0o770), ("open", 0o755), ("", 0o700)] {
        chmod(&source.join(path), mode);
    }
    let sealed = walk(&source);
    for mask in [0o000, 0o022, 0o077, 0o277, 0o777] {
        let data = temp.path().join(format!("data-{mask:o}"));
        std::fs::create_dir(&data).unwrap();
        chmod(&data, 0o2775);
        let target = data.join("restored");
        let before = umask(Mode::from_raw_mode(mask));
        let store = Store::open(Arc::new(RealDisk), &data).unwrap();
        let manifest = commit(&store, "job", 1, 1, &source);
        let files = store.layout().files_dir(&"job".parse().unwrap(), 1);
        let restored =
            restore(&manifest, &target, &RestoreOptions::default(), &mut LocalTree::new(&files), &|_| ());
        umask(before);
        restored.unwrap();
        for dir in [&files, &target] {
            assert_eq!(walk(dir), sealed, "umask {mask:03o}, {}", dir.display());
            assert_eq!(digest_dir(dir, &Limits::default()).unwrap().root(), manifest.root());
        }
    }
}

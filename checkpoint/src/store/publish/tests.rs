//! What of a publish waits for nobody's names.

use std::time::{Duration, Instant};

use super::*;
use crate::digest::content;
use crate::disk::RealDisk;
use crate::epoch::RelPath;
use crate::manifest::{Envelope, Manifest, Position};
use crate::store::Store;

const SIZE: u64 = 1 << 20;

/// An epoch of one file, staged up to the zeros at its end.
fn ending_in_zeros(store: &Store) -> (Publish, PathBuf) {
    let mut data = b"data".to_vec();
    let staged = store.layout().staged_file(1, 1);
    std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
    std::fs::write(&staged, &data).unwrap();
    data.resize(SIZE as usize, 0);
    let entry = |path: &[u8], kind, mode, size, digest| ManifestEntry {
        path: RelPath::parse(path).unwrap(),
        kind,
        mode,
        size,
        digest,
        target: Vec::new(),
    };
    let root = entry(b"", EntryKind::Directory, 0o700, 0, Digest::NONE);
    let file = entry(b"f", EntryKind::File, 0o444, SIZE, content(&data));
    let manifest = Manifest { entries: vec![root, file] };
    let envelope = Envelope {
        job: "job".parse().unwrap(),
        epoch: 1,
        attempt: 1,
        position: Position { term: 1, node: 1, index: 1 },
        root: manifest.root(),
        labels: Vec::new(),
        depends_on: Vec::new(),
        base: None,
        sealed_log_ms: 0,
    };
    let sources = Arc::new(vec![Source::None, Source::Staged]);
    (Publish { attempt: 1, envelope, manifest: Arc::new(manifest), sources }, staged)
}

#[test]
fn what_ends_in_zeros_is_read_while_others_may_change_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
    let (epoch, staged) = ending_in_zeros(&store);
    let names = store.shelves.lock_names();
    let (shelves, verifier) = (store.shelves.clone(), store.verifier.clone());
    let publishing = std::thread::spawn(move || publish(&shelves, &verifier, &[epoch]).remove(0));
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::fs::metadata(&staged).unwrap().len() < SIZE {
        assert!(Instant::now() < deadline, "it is read under the lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!publishing.is_finished(), "it needs the names to be linked");
    drop(names);
    publishing.join().unwrap().unwrap();
    let job = "job".parse().unwrap();
    assert!(store.verify(&job, 1).unwrap().is_good());
}

#[test]
fn what_was_cut_is_not_filled_with_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
    let (epoch, staged) = ending_in_zeros(&store);
    std::fs::write(&staged, b"dat").unwrap();
    let error = publish(&store.shelves, &store.verifier, &[epoch]).remove(0).unwrap_err().to_string();
    assert!(error.contains("it has 3 bytes of 1048576"), "{error}");
    assert_eq!(std::fs::metadata(&staged).unwrap().len(), 3);
}

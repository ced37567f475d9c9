//! Epochs whose content lies in an object store: published from what was staged for the upload, or from the shelves.

use std::path::Path;

use checkpoint::disk::{Disk, Open};
use checkpoint::store::Unpublished;
use checkpoint::testing::Crash;
use checkpoint::{Source, Store};

use crate::support::{Taken, commit, fresh, open, take_all, to_publish, write};

const ATTEMPT: u64 = 7;

/// Small and large files, two of one content in other modes, one that ends in zeros, and an empty one.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", b"small", 0o644);
    write(dir.path(), "again", b"small", 0o600);
    write(dir.path(), "large", &crate::support::noise(200_000, 1), 0o644);
    let mut zeros = crate::support::noise(70_000, 2);
    zeros.resize(200_000, 0);
    write(dir.path(), "zeros", &zeros, 0o755);
    write(dir.path(), "empty", b"", 0o644);
    dir
}

fn linked(taken: &Taken) -> Vec<Source> {
    let source = |entry: &checkpoint::ManifestEntry| match entry.size {
        0 => Source::None,
        _ => Source::Linked,
    };
    taken.manifest.entries.iter().map(source).collect()
}

/// Every file with bytes, whole, as who uploads has it; `change` may spoil one.
fn stage(store: &Store, dir: &Path, taken: &Taken, mut change: impl FnMut(&str, &mut Vec<u8>)) {
    let (disk, layout) = (store.disk(), store.layout());
    checkpoint::durable::create_dir_all(&**disk, layout.data_dir(), &layout.attempt_dir(ATTEMPT)).unwrap();
    for (file, entry) in taken.manifest.entries.iter().enumerate().filter(|(_, entry)| entry.size > 0) {
        let mut bytes = std::fs::read(dir.join(entry.path.as_os_str())).unwrap();
        change(&entry.path.to_string(), &mut bytes);
        let staged = disk.open(&layout.staged_file(ATTEMPT, file as u32), Open::Create).unwrap();
        staged.write_at(&bytes, 0).unwrap();
    }
}

fn publish(store: &Store, taken: &Taken) -> Result<(), Unpublished> {
    store.publish(&[to_publish("job", 1, ATTEMPT, &taken.manifest, linked(taken))]).remove(0)
}

fn is_good(store: &Store) -> bool {
    store.verify(&"job".parse().unwrap(), 1).unwrap().is_good()
}

#[test]
fn what_was_staged_for_the_upload_becomes_the_epoch_and_survives_a_power_cut() {
    let (dir, disk) = (directory(), fresh());
    let (store, taken) = (open(&disk), take_all(dir.path()));
    stage(&store, dir.path(), &taken, |_, _| {});
    publish(&store, &taken).unwrap();
    assert!(is_good(&store));
    for crash in [Crash::Strict, Crash::Mixed(1), Crash::Mixed(2)] {
        assert!(is_good(&open(&disk.crash(crash))), "{crash:?}");
    }
}

#[test]
fn what_is_not_here_is_missing_by_its_content_and_may_come_to_the_shelves() {
    let (dir, disk) = (directory(), fresh());
    let (store, taken) = (open(&disk), take_all(dir.path()));
    let Err(Unpublished::Missing { content, .. }) = publish(&store, &taken) else { panic!("it is not here") };
    assert!(taken.manifest.entries.iter().any(|entry| entry.digest == content && entry.size > 0));
    // Another epoch of the same content, through the log.
    commit(&store, "other", 1, 20, dir.path());
    publish(&store, &taken).unwrap();
    assert!(is_good(&store));
}

/// No log of this node has named these bytes: what is staged is what somebody has put there.
#[test]
fn what_is_staged_and_is_not_the_content_is_never_published() {
    let spoil: [fn(&mut Vec<u8>); 3] =
        [|bytes| bytes[3] ^= 1, |bytes| drop(bytes.pop()), |bytes| bytes.push(0)];
    for (number, spoil) in spoil.into_iter().enumerate() {
        for spoiled in ["a", "large", "zeros"] {
            let (dir, disk) = (directory(), fresh());
            let (store, taken) = (open(&disk), take_all(dir.path()));
            stage(&store, dir.path(), &taken, |path, bytes| {
                // Of two equal files the other one would do.
                if path == spoiled || (spoiled == "a" && path == "again") {
                    spoil(bytes);
                }
            });
            let refused = publish(&store, &taken);
            assert!(matches!(refused, Err(Unpublished::Missing { .. })), "{number} {spoiled}: {refused:?}");
            // The right bytes come, and what was wrong is in nobody's way.
            commit(&store, "other", 1, 20, dir.path());
            publish(&store, &taken).unwrap();
            assert!(is_good(&store), "{number} {spoiled}");
        }
    }
}

//! A directory through the shelves and back is identical.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::limits::PACK_BYTES_MAX;
use checkpoint::split::digest_dir;
use checkpoint::verify::verify_dir;
use checkpoint::{Coverage, Disk, Limits, Piece, RealDisk, Source, Store};

use crate::support::*;

#[test]
fn a_published_tree_is_identical_to_its_source() {
    let temp = tempfile::tempdir().unwrap();
    let (source, data) = (temp.path().join("source"), temp.path().join("data"));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    mixed_tree(&source);
    let store = Store::open(Arc::new(RealDisk), &data).unwrap();
    let manifest = commit(&store, "job", 3, 17, &source);
    let job = "job".parse().unwrap();
    let files = store.layout().files_dir(&job, 3);
    assert_eq!(walk(&source), walk(&files));
    assert_eq!(store.published(&job, 3).unwrap(), Some(manifest.root()));
    assert_eq!(digest_dir(&source, &Limits::default()).unwrap(), *manifest);
    assert_eq!(digest_dir(&files, &Limits::default()).unwrap().root(), manifest.root());
    assert!(store.verify(&job, 3).unwrap().is_good());
    assert!(verify_dir(&files, &manifest).unwrap().is_good());
    let (envelope, read) = store.manifest(&job, 3).unwrap().unwrap();
    assert_eq!((envelope.epoch, &read), (3, &*manifest));
    let latest = std::fs::read_link(store.layout().latest_link(&job)).unwrap();
    assert_eq!(latest.to_str(), Some("3"));
    open_up(temp.path());
}

#[test]
fn unchanged_files_cost_a_reference() {
    let temp = tempfile::tempdir().unwrap();
    let (source, data) = (temp.path().join("source"), temp.path().join("data"));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    mixed_tree(&source);
    let store = Store::open(Arc::new(RealDisk), &data).unwrap();
    let first = commit(&store, "job", 1, 10, &source);
    chmod(&source.join("large"), 0o600);
    write(&source, "small", b"other content", 0o644);
    write(&source, "exact", &noise(2 * CHUNK as usize, 9), 0o644);
    let taken = take(&source, &Coverage::new(), &|entry| first.find(&entry.path).map(|e| e.digest));
    assert_eq!(payload(&taken.pieces), b"other content".len() + 2 * CHUNK as usize);
    let sources = stage(&store, 20, &taken).unwrap();
    assert_eq!(sources.iter().filter(|s| **s == Source::Staged).count(), 1);
    store.publish(&[to_publish("job", 2, 20, &taken.manifest, sources)]).remove(0).unwrap();
    let job = "job".parse().unwrap();
    assert_eq!(walk(&source), walk(&store.layout().files_dir(&job, 2)));
    assert!(store.verify(&job, 1).unwrap().is_good());
    // The same inode serves both epochs, unless the mode is another.
    let ino = |epoch, path: &str| {
        std::os::unix::fs::MetadataExt::ino(
            &std::fs::metadata(store.layout().files_dir(&job, epoch).join(path)).unwrap(),
        )
    };
    assert_eq!(ino(1, "a/zeros"), ino(2, "a/zeros"));
    assert_ne!(ino(1, "large"), ino(2, "large"));
    store.expire(&job, 1).unwrap();
    assert_eq!(walk(&source), walk(&store.layout().files_dir(&job, 2)));
    open_up(temp.path());
}

#[test]
fn covered_pieces_are_not_handed_out_again() {
    let temp = tempfile::tempdir().unwrap();
    mixed_tree(temp.path());
    let all = take_all(temp.path());
    // However far the log got, what is left completes it.
    for stop in 0..=all.pieces.len() {
        let mut covered = Coverage::new();
        for piece in &all.pieces[..stop] {
            match piece {
                Piece::Chunk { file, offset, payload, .. } => {
                    covered.add_range(*file, *offset, payload.len() as u64)
                }
                Piece::Zero { file, offset, len, .. } => covered.add_range(*file, *offset, *len),
                Piece::Pack { files, .. } => files.iter().for_each(|f| covered.add_files(f.file..f.file + 1)),
                Piece::Reuse { files } => files.iter().for_each(|(f, _)| covered.add_files(*f..f + 1)),
            }
        }
        let rest = take(temp.path(), &covered, &|_| None);
        assert_eq!(rest.pieces, all.pieces[stop..]);
        assert_eq!(rest.manifest, all.manifest);
    }
    open_up(temp.path());
}

#[test]
fn packs_keep_their_limits_and_hold_equal_contents_once() {
    let temp = tempfile::tempdir().unwrap();
    for n in 0..5000u64 {
        write(temp.path(), &format!("{}/{n}", n % 7), &noise(1000 + (n % 50) as usize * 20, n / 2), 0o644);
    }
    let taken = take_all(temp.path());
    let mut seen = 0;
    for piece in &taken.pieces {
        let Piece::Pack { files, payload } = piece else { panic!("{piece:?}") };
        assert!(payload.len() <= PACK_BYTES_MAX && files.len() <= 4096);
        assert!(files.windows(2).all(|pair| pair[0].file < pair[1].file));
        for packed in files {
            let data = &payload[packed.offset as usize..(packed.offset + packed.len) as usize];
            assert_eq!(checkpoint::digest::content(data), packed.digest);
            seen += 1;
        }
    }
    assert_eq!(seen, 5000);
    assert!((4..10).contains(&taken.pieces.len()), "{}", taken.pieces.len());
}

/// A disk on which nothing gets this name while something stands there: everything but the last rename works.
#[derive(Debug)]
struct InTheWay {
    place: PathBuf,
    stands: Arc<AtomicBool>,
}

impl checkpoint::disk::DiskLayer for InTheWay {
    fn below(&self) -> &dyn Disk {
        &RealDisk
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        if to == self.place && self.stands.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::ResourceBusy.into());
        }
        RealDisk.rename(from, to)
    }
}

#[test]
fn a_tree_that_got_its_modes_already_is_built_again() {
    let temp = tempfile::tempdir().unwrap();
    let (source, data) = (temp.path().join("source"), temp.path().join("data"));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    mixed_tree(&source);
    chmod(&source, 0o500);
    let stands = Arc::new(AtomicBool::new(true));
    let disk = InTheWay { place: data.join("epochs/job/1"), stands: stands.clone() };
    let store = Store::open(Arc::new(disk), &data).unwrap();
    let taken = take_all(&source);
    let job = "job".parse().unwrap();
    let sources = stage(&store, 1, &taken).unwrap();
    let manifest = taken.manifest.clone();
    let publish = to_publish("job", 1, 1, &manifest, sources);
    store.publish(std::slice::from_ref(&publish)).remove(0).unwrap_err();
    stands.store(false, Ordering::Relaxed);
    // Packs come again after a restart; chunks are where the log left them.
    let packs = taken.pieces.iter().filter(|piece| matches!(piece, Piece::Pack { .. })).cloned().collect();
    stage(&store, 1, &Taken { pieces: packs, ..taken }).unwrap();
    store.publish(&[publish]).remove(0).unwrap();
    assert_eq!(walk(&source), walk(&store.layout().files_dir(&job, 1)));
    store.expire(&job, 1).unwrap();
    assert!(!store.layout().epoch_dir(&job, 1).exists());
    open_up(temp.path());
}

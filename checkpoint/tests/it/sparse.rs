//! Holes stay holes: in the pieces, on the shelves, in a restore.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::limits::ZERO_BYTES_MAX;
use checkpoint::restore::{LocalTree, RestoreOptions, restore};
use checkpoint::{Piece, RealDisk, Store};

use crate::support::*;

#[test]
fn three_gib_of_holes_are_next_to_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (source, data) = (temp.path().join("source"), temp.path().join("data"));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    let size: u64 = (3 << 30) + 12_345;
    let file = File::create(source.join("sparse")).unwrap();
    file.set_len(size).unwrap();
    for at in [0, 5 << 20, (1 << 30) + 777, size - 3] {
        file.write_all_at(b"abc", at).unwrap();
    }
    let file = File::create(source.join("hole")).unwrap();
    file.set_len(1 << 30).unwrap();
    drop(file);
    let began = Instant::now();
    let taken = take_all(&source);
    assert!(payload(&taken.pieces) < 1 << 20, "{}", payload(&taken.pieces));
    assert!(taken.pieces.len() < 200, "{}", taken.pieces.len());
    for piece in &taken.pieces {
        if let Piece::Zero { offset, len, .. } = piece {
            assert!(*len <= ZERO_BYTES_MAX && offset.is_multiple_of(u64::from(CHUNK)));
        }
    }
    let store = Store::open(Arc::new(RealDisk), &data).unwrap();
    let sources = stage(&store, 1, &taken).unwrap();
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, sources)]).remove(0).unwrap();
    let files = store.layout().files_dir(&"job".parse().unwrap(), 1);
    let target = temp.path().join("target");
    let mut local = LocalTree::new(&files);
    restore(&taken.manifest, &target, &RestoreOptions::default(), &mut local, &|_| {}).unwrap();
    for dir in [&files, &target] {
        for (name, len) in [("sparse", size), ("hole", 1 << 30)] {
            let meta = std::fs::metadata(dir.join(name)).unwrap();
            assert_eq!(meta.len(), len);
            assert!(meta.blocks() * 512 < 2 << 20, "{} blocks in {}", meta.blocks(), dir.display());
        }
        let mut bytes = [0; 3];
        File::open(dir.join("sparse")).unwrap().read_exact_at(&mut bytes, (1 << 30) + 777).unwrap();
        assert_eq!(&bytes, b"abc");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn an_island_costs_64_kib_and_not_a_chunk() {
    let temp = tempfile::tempdir().unwrap();
    let size: u64 = (5 << 20) + 100_000;
    let mut content = vec![0; size as usize];
    for at in [9, 700 << 10, (3 << 20) + 5, size as usize - 2] {
        content[at] = 7;
    }
    // Once with holes, once with zeros written out.
    let holes = File::create(temp.path().join("holes")).unwrap();
    holes.set_len(size).unwrap();
    for at in [9, 700 << 10, (3 << 20) + 5, size - 2] {
        holes.write_all_at(&[7], at).unwrap();
    }
    std::fs::write(temp.path().join("zeros"), &content).unwrap();
    let plan = checkpoint::Plan::scan(temp.path(), &checkpoint::Limits::default()).unwrap();
    let take = |covered: &checkpoint::Coverage| {
        let mut splitter =
            checkpoint::Splitter::new(temp.path(), &plan, 1 << 20, covered, &|_| None).unwrap();
        let pieces: Vec<Piece> = splitter.by_ref().map(Result::unwrap).collect();
        (pieces, splitter.finish().unwrap())
    };
    let (pieces, manifest) = take(&checkpoint::Coverage::new());
    for file in 1..3u32 {
        assert_eq!(manifest.entries[file as usize].digest, checkpoint::digest::content(&content));
        let mine = |piece: &&Piece| matches!(piece, Piece::Chunk { file: f, .. } if *f == file);
        let chunks: Vec<&Piece> = pieces.iter().filter(mine).collect();
        assert_eq!(chunks.len(), 4);
    }
    assert!(payload(&pieces) <= 8 * (64 << 10));
    // What the log has of it is not sent again, wherever the stream was cut.
    for stop in 0..pieces.len() {
        let mut covered = checkpoint::Coverage::new();
        for piece in &pieces[..stop] {
            match piece {
                Piece::Chunk { file, offset, payload, .. } => {
                    covered.add_range(*file, *offset, payload.len() as u64)
                }
                Piece::Zero { file, offset, len, .. } => covered.add_range(*file, *offset, *len),
                other => panic!("{other:?}"),
            }
        }
        let (rest, again) = take(&covered);
        assert_eq!(rest, pieces[stop..]);
        assert_eq!(again.root(), manifest.root());
    }
}

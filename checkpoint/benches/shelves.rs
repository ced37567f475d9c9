//! How long the shelves take: many small files split, unpacked and published on
//! three data folders at once, large files split. `cargo bench -p checkpoint`;
//! EPOCHLOG_BENCH_DIR says on which disk (default: the temporary directory).
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use checkpoint::{
    Coverage, Envelope, Limits, Manifest, Piece, Plan, Position, Publish, RealDisk, Source, Splitter, Store,
    Unpacked,
};

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn take(dir: &Path) -> (Plan, Vec<Piece>, Arc<Manifest>) {
    let began = Instant::now();
    let plan = Plan::scan(dir, &Limits::default()).unwrap();
    let scanned = began.elapsed();
    let covered = Coverage::new();
    let mut splitter = Splitter::new(dir, &plan, 1 << 20, &covered, &|_| None).unwrap();
    let pieces: Vec<_> = splitter.by_ref().map(Result::unwrap).collect();
    let manifest = Arc::new(splitter.finish().unwrap());
    println!("  scan {scanned:?}, split {:?}, {} pieces", began.elapsed() - scanned, pieces.len());
    (plan, pieces, manifest)
}

fn publish(data: PathBuf, plan: &Plan, pieces: &[Piece], manifest: &Arc<Manifest>) {
    std::fs::create_dir_all(&data).unwrap();
    let store = Store::open(Arc::new(RealDisk), &data).unwrap();
    let began = Instant::now();
    let mut sources = vec![Source::None; plan.entries.len()];
    for piece in pieces {
        let Piece::Pack { files, payload } = piece else { continue };
        let unpacked: Vec<_> = files
            .iter()
            .map(|f| {
                sources[f.file as usize] = Source::Unpacked;
                let entry = &plan.entries[f.file as usize];
                let data = &payload[f.offset as usize..][..f.len as usize];
                Unpacked { path: &entry.path, mode: entry.mode, data }
            })
            .collect();
        store.unpack(1, &unpacked).unwrap();
    }
    let unpacked = began.elapsed();
    let envelope = Envelope {
        job: "bench".parse().unwrap(),
        epoch: 1,
        attempt: 1,
        position: Position::default(),
        root: manifest.root(),
        labels: Vec::new(),
        depends_on: Vec::new(),
        base: None,
        sealed_log_ms: 0,
    };
    let publish = Publish { attempt: 1, envelope, manifest: manifest.clone(), sources: Arc::new(sources) };
    store.publish(&[publish]).remove(0).unwrap();
    println!("  unpack {unpacked:?}, publish {:?}", began.elapsed() - unpacked);
}

fn main() {
    let base = std::env::var_os("EPOCHLOG_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let temp = tempfile::tempdir_in(base).unwrap();
    let small = temp.path().join("small");
    for n in 0..20_000u64 {
        let dir = small.join(format!("{:02}", n % 100));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("file-{n}")), noise(1024 + (n * 37 % 7168) as usize, n)).unwrap();
    }
    println!("20,000 files of 1-8 KiB");
    let (plan, pieces, manifest) = take(&small);
    for round in 0..3 {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for node in 0..3 {
                let data = temp.path().join(format!("data-{round}-{node}"));
                let (plan, pieces, manifest) = (&plan, &pieces, &manifest);
                scope.spawn(move || publish(data, plan, pieces, manifest));
            }
        });
        println!("  three replicas: {:?}", began.elapsed());
    }
    println!("70,000 equal small files");
    let equal = temp.path().join("equal");
    for n in 0..70_000 {
        let dir = equal.join(format!("{:02}", n % 100));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{n}")), b"all the same").unwrap();
    }
    let (plan, pieces, manifest) = take(&equal);
    let began = Instant::now();
    publish(temp.path().join("data-equal"), &plan, &pieces, &manifest);
    println!("  one replica: {:?}", began.elapsed());
    println!("256 MiB in 4 files");
    let large = temp.path().join("large");
    std::fs::create_dir_all(&large).unwrap();
    for n in 0..4 {
        std::fs::write(large.join(format!("{n}")), noise(64 << 20, n)).unwrap();
    }
    take(&large);
}

//! Content with holes that is brought, verified and restored: what is a hole at the source takes no room and no time.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::digest::FileHasher;
use checkpoint::restore::{ContentSource, LocalTree, RestoreOptions, Sink, SourceError, restore};
use checkpoint::split::digest_dir;
use checkpoint::store::{Content, Incoming, IncomingError, SYNC_BYTES, StoreError};
use checkpoint::testing::{Crash, CrashDisk};
use checkpoint::{Disk, DiskFile, Limits, ManifestEntry, RealDisk, Store};

use crate::support::*;

const GIB: u64 = 1 << 30;
const KIB: usize = 1 << 10;

/// A run of a content.
enum Part {
    Data(Vec<u8>),
    Zeros(u64),
}

use Part::{Data, Zeros};

impl Part {
    fn len(&self) -> u64 {
        match self {
            Data(data) => data.len() as u64,
            Zeros(len) => *len,
        }
    }
}

fn of_parts(parts: &[Part]) -> Content {
    let mut hasher = FileHasher::new();
    for part in parts {
        match part {
            Data(data) => hasher.data(data),
            Zeros(len) => hasher.zeros(*len),
        }
    }
    Content { digest: hasher.finish(), mode: 0o644, size: parts.iter().map(Part::len).sum() }
}

/// Brings what is not there yet.
fn bring_parts(store: &Store, wanted: Content, parts: &[Part]) -> Result<Incoming, StoreError> {
    let mut incoming = store.incoming(wanted)?;
    let (mut end, have) = (0, incoming.have());
    for part in parts {
        let before = have.saturating_sub(end).min(part.len());
        end += part.len();
        match part {
            Data(data) => {
                data[before as usize..].chunks(300_001).try_for_each(|data| incoming.write(data))?;
            }
            Zeros(len) => incoming.zeros(len - before)?,
        }
    }
    Ok(incoming)
}

fn shelve(store: &Store, wanted: Content, parts: &[Part]) -> Result<(), IncomingError> {
    store.shelve(vec![bring_parts(store, wanted, parts)?]).remove(0)
}

#[test]
fn zeros_stay_holes_however_they_come() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), temp.path()).unwrap();
    let unit = 64 * KIB;
    let written_out = |len: usize| Data(vec![0; len]);
    for (n, parts) in [
        vec![Data(noise(unit, 1)), written_out(20 * unit + 7), Data(noise(10, 2))],
        vec![Data(noise(10, 3)), Zeros(3 * GIB), Data(noise(unit, 4)), Zeros(5 * GIB + 1)],
        vec![written_out(30 * unit), Zeros(70 * unit as u64)],
        vec![Zeros(100 * GIB), Data(noise(1, 5))],
        vec![Zeros(GIB)],
    ]
    .iter()
    .enumerate()
    {
        let (wanted, data) = (of_parts(parts), parts.iter().filter(|part| matches!(part, Data(_))).count());
        // Paused and gone on with at every part.
        for upto in 1..=parts.len() {
            drop(bring_parts(&store, wanted, &parts[..upto]).unwrap());
            let come: u64 = parts[..upto].iter().map(Part::len).sum();
            assert_eq!(store.incoming(wanted).unwrap().have(), come, "{n}");
        }
        shelve(&store, wanted, parts).unwrap();
        let blob = std::fs::metadata(store.blob_path(wanted.digest).unwrap()).unwrap();
        assert_eq!(blob.len(), wanted.size);
        assert!(blob.blocks() * 512 <= (data * 2 * unit) as u64, "{n}: {} blocks", blob.blocks());
        // Another process reads it, and finds what was sealed.
        let other = Store::open(Arc::new(RealDisk), temp.path()).unwrap();
        assert!(other.lacking_of([wanted].into_iter()).unwrap().is_empty(), "{n}");
    }
    let mut incoming = store.incoming(of_parts(&[Zeros(5), Data(noise(1, 6))])).unwrap();
    assert!(incoming.zeros(7).is_err(), "more than there should be");
    assert_eq!(incoming.have(), 0);
}

/// What an earlier process left where a hole is to be must be gone before it could pass for trusted, wherever the
/// power fails.
#[test]
fn a_hole_is_never_filled_by_what_lay_there_before() {
    let parts = [
        Data(noise(100 * KIB, 1)),
        Zeros(SYNC_BYTES + 300 * KIB as u64),
        Data(noise(70 * KIB, 2)),
        Zeros(SYNC_BYTES),
        Data(noise(300 * KIB, 3)),
        Zeros(500 * KIB as u64),
    ];
    let wanted = of_parts(&parts);
    let begun = || {
        let disk = fresh();
        // Not what was asked for: it was cut off before anybody could tell.
        let wrong = noise(SYNC_BYTES as usize - 100 * KIB, 9);
        open(&disk).incoming(wanted).unwrap().write(&wrong).unwrap();
        disk
    };
    let whole = begun();
    let before = whole.op_count();
    shelve(&open(&whole), wanted, &parts).unwrap();
    for stop in 0..=whole.op_count() - before {
        let disk = begun();
        let store = open(&disk);
        disk.crash_after(stop);
        drop(shelve(&store, wanted, &parts));
        for how in [Crash::Strict].into_iter().chain((0..6).map(|seed| Crash::Mixed(stop * 10 + seed))) {
            let after = disk.crash(how);
            let store = open(&after);
            if store.blob_path(wanted.digest).is_none() {
                let shelved = shelve(&store, wanted, &parts);
                assert!(
                    shelved.is_ok(),
                    "after {stop}, {how:?}: the sender is blamed for a crash: {shelved:?}"
                );
            }
            check_blobs(&store, &format!("after {stop}, {how:?}"));
            let blob = after.stat(&store.blob_path(wanted.digest).unwrap()).unwrap();
            assert!(blob.blocks * 512 < 1 << 20, "after {stop}, {how:?}: {} blocks", blob.blocks);
        }
    }
}

#[test]
fn the_crash_disk_knows_what_was_written() {
    let disk = CrashDisk::new();
    let file = disk.open(Path::new("/f"), checkpoint::disk::Open::Create).unwrap();
    file.write_at(b"abc", 10_000).unwrap();
    file.write_at(&[1; 5000], 100_000).unwrap();
    file.set_len(1 << 40).unwrap();
    let next = |at, end| file.next_data(at, end).unwrap();
    assert_eq!(next(0, u64::MAX), Some((8192, 12_288)));
    assert_eq!(next(9000, 10_000), Some((9000, 10_000)));
    assert_eq!(next(12_288, 1 << 30), Some((98_304, 106_496)));
    assert_eq!((next(106_496, u64::MAX), next(0, 8192), next(50, 50)), (None, None, None));
}

/// A disk that cannot tell holes.
#[test]
fn where_holes_are_not_known_everything_is_data() {
    #[derive(Debug)]
    struct Plain(Box<dyn DiskFile>);
    impl DiskFile for Plain {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
            self.0.read_at(buf, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
            self.0.write_at(data, offset)
        }
        fn sync_data(&self) -> std::io::Result<()> {
            self.0.sync_data()
        }
        fn sync_all(&self) -> std::io::Result<()> {
            self.0.sync_all()
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }
        fn set_mode(&self, mode: u32) -> std::io::Result<()> {
            self.0.set_mode(mode)
        }
        fn allocate(&self, offset: u64, len: u64) -> std::io::Result<()> {
            self.0.allocate(offset, len)
        }
        fn drop_cache(&self) -> std::io::Result<()> {
            self.0.drop_cache()
        }
    }
    let disk = CrashDisk::new();
    let file = Plain(disk.open(Path::new("/f"), checkpoint::disk::Open::Create).unwrap());
    file.set_len(5000).unwrap();
    assert_eq!(file.next_data(0, u64::MAX).unwrap(), Some((0, 5000)));
    assert_eq!(file.next_data(10, 20).unwrap(), Some((10, 20)));
    assert_eq!(file.next_data(5000, u64::MAX).unwrap(), None);
}

/// The files of a directory as from elsewhere, zeros by their length.
struct ByLength<'a>(&'a Path);

impl ContentSource for ByLength<'_> {
    fn fetch(&mut self, _: usize, entry: &ManifestEntry, sink: &mut dyn Sink) -> Result<(), SourceError> {
        let file = RealDisk.open(&self.0.join(entry.path.as_os_str()), checkpoint::disk::Open::Read).unwrap();
        let mut at = 0;
        while at < entry.size {
            let (start, end) = file.next_data(at, entry.size).unwrap().unwrap_or((entry.size, entry.size));
            if start > at {
                sink.zeros(start - at)?;
            }
            let mut data = vec![0; (end - start) as usize];
            file.read_exact_at(&mut data, start).unwrap();
            sink.data(&data)?;
            at = end;
        }
        Ok(())
    }
}

#[test]
fn a_hundred_gib_with_little_in_them_are_taken_kept_verified_and_restored_in_no_time() {
    let temp = tempfile::tempdir().unwrap();
    let (source, data) = (temp.path().join("source"), temp.path().join("data"));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    let size = 100 * GIB;
    let file = File::create(source.join("sparse")).unwrap();
    file.set_len(size).unwrap();
    for at in [0, 5 * GIB, 50 * GIB + 777, 80 * GIB - 4096, size - 300_000] {
        file.write_all_at(&noise(64 * KIB, at), at).unwrap();
    }
    let blocks = file.metadata().unwrap().blocks();
    drop(file);
    let mut began = Instant::now();
    let mut in_time = |what: &str| {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", began.elapsed());
        began = Instant::now();
    };
    let taken = take_all(&source);
    in_time("splitting");
    assert!(payload(&taken.pieces) < 1 << 20, "{}", payload(&taken.pieces));
    let store = Store::open(Arc::new(RealDisk), &data).unwrap();
    let sources = stage(&store, 1, &taken).unwrap();
    store.publish(&[to_publish("job", 1, 1, &taken.manifest, sources)]).remove(0).unwrap();
    in_time("publishing");
    assert!(store.verify(&job("job"), 1).unwrap().is_good());
    in_time("verifying");
    assert_eq!(digest_dir(&source, &Limits::default()).unwrap().root(), taken.manifest.root());
    in_time("digesting");
    let files = store.layout().files_dir(&job("job"), 1);
    let (one, two) = (temp.path().join("one"), temp.path().join("two"));
    let options = RestoreOptions::default();
    restore(&taken.manifest, &one, &options, &mut LocalTree::new(&files), &|_| {}).unwrap();
    in_time("restoring from this machine");
    restore(&taken.manifest, &two, &options, &mut ByLength(&files), &|_| {}).unwrap();
    in_time("restoring from elsewhere");
    for dir in [&files, &one, &two] {
        let there = std::fs::metadata(dir.join("sparse")).unwrap();
        assert_eq!(there.len(), size);
        assert!(
            there.blocks() <= blocks + 2048,
            "{} blocks in {}, {blocks} at the source",
            there.blocks(),
            dir.display()
        );
    }
    // What is wrong in it is found all the same.
    let blob = store.blob_path(taken.manifest.entries[1].digest).unwrap();
    File::options().write(true).open(&blob).unwrap().write_all_at(b"x", 33 * GIB).unwrap();
    assert!(!store.verify(&job("job"), 1).unwrap().is_good());
}

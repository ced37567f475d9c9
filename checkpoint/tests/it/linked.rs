//! Epochs whose content lies in an object store: published from what was staged for the upload, or from the shelves.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use checkpoint::disk::{Disk, DiskFile, Open};
use checkpoint::store::Unpublished;
use checkpoint::testing::{Crash, CrashDisk};
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
        [|bytes| bytes[3] ^= 1, |bytes| assert!(bytes.pop().is_some()), |bytes| bytes.push(0)];
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

/// By path: bytes that were read of staged files.
type Reads = Arc<Mutex<BTreeMap<PathBuf, u64>>>;

/// Counts what is read of staged files.
#[derive(Debug)]
struct Counting {
    below: CrashDisk,
    reads: Reads,
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    reads: Reads,
}

impl Counting {
    fn counted(&self, path: &Path, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        let file = file?;
        if !path.components().any(|part| part.as_os_str() == "staging") {
            return Ok(file);
        }
        Ok(Box::new(CountingFile { file, path: path.to_path_buf(), reads: self.reads.clone() }))
    }
}

impl checkpoint::disk::DiskLayer for Counting {
    fn below(&self) -> &dyn Disk {
        &self.below
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.counted(path, self.below.open(path, how))
    }
    fn open_direct(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.counted(path, self.below.open_direct(path, how))
    }
}

impl CountingFile {
    fn count(&self, bytes: usize) {
        *self.reads.lock().unwrap().entry(self.path.clone()).or_default() += bytes as u64;
    }
}

impl checkpoint::disk::FileLayer for CountingFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buf, offset)?;
        self.count(read);
        Ok(read)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.count(buf.len());
        self.file.read_exact_at(buf, offset)
    }
}

fn counting(disk: &CrashDisk) -> (Store, Reads) {
    let reads = Reads::default();
    let layer = Counting { below: disk.clone(), reads: reads.clone() };
    (Store::open(Arc::new(layer), Path::new("/data")).unwrap(), reads)
}

fn entry_of(taken: &Taken, path: &str) -> usize {
    let is_it = |entry: &checkpoint::ManifestEntry| entry.path.to_string() == path;
    taken.manifest.entries.iter().position(is_it).unwrap()
}

fn is_missing(refused: &Result<(), Unpublished>, taken: &Taken, path: &str) -> bool {
    let digest = taken.manifest.entries[entry_of(taken, path)].digest;
    matches!(refused, Err(Unpublished::Missing { content, .. }) if *content == digest)
}

/// An epoch may be tried again for hours, until its store is there.
#[test]
fn what_is_staged_is_read_once_however_often_its_epoch_is_tried() {
    let (dir, disk) = (directory(), fresh());
    let ((store, reads), taken) = (counting(&disk), take_all(dir.path()));
    stage(&store, dir.path(), &taken, |path, bytes| {
        if path == "zeros" {
            bytes[3] ^= 1;
        }
    });
    reads.lock().unwrap().clear();
    let refused = publish(&store, &taken);
    assert!(is_missing(&refused, &taken, "zeros"), "{refused:?}");
    let first = reads.lock().unwrap().clone();
    assert_eq!(first.len(), 4, "all that have bytes");
    for (file, entry) in taken.manifest.entries.iter().enumerate().filter(|(_, entry)| entry.size > 0) {
        let read = first[&store.layout().staged_file(ATTEMPT, file as u32)];
        assert!(read > 0 && read <= entry.size, "{}: {read} of {} bytes", entry.path, entry.size);
    }
    for _ in 0..3 {
        assert!(is_missing(&publish(&store, &taken), &taken, "zeros"));
    }
    commit(&store, "other", 1, 20, dir.path());
    reads.lock().unwrap().retain(|path, _| path.starts_with(store.layout().attempt_dir(ATTEMPT)));
    assert_eq!(*reads.lock().unwrap(), first, "nothing is read again");
    publish(&store, &taken).unwrap();
    // It is a directory now, and published once more, also by the next process.
    publish(&store, &taken).unwrap();
    assert_eq!(*reads.lock().unwrap(), first);
    assert!(is_good(&store));
    let (store, reads) = counting(&disk);
    reads.lock().unwrap().clear();
    publish(&store, &taken).unwrap();
    assert!(reads.lock().unwrap().is_empty(), "{reads:?}");
}

#[test]
fn a_staged_file_that_was_bad_is_read_again_once_it_was_written() {
    let (dir, disk) = (directory(), fresh());
    let (store, taken) = (open(&disk), take_all(dir.path()));
    stage(&store, dir.path(), &taken, |path, bytes| {
        if path == "large" {
            bytes[3] ^= 1;
        }
    });
    assert!(is_missing(&publish(&store, &taken), &taken, "large"));
    stage(&store, dir.path(), &taken, |_, _| {});
    publish(&store, &taken).unwrap();
    assert!(is_good(&store));
}

#[test]
fn of_an_epoch_of_which_something_is_nowhere_nothing_is_read() {
    let (dir, disk) = (directory(), fresh());
    let ((store, reads), taken) = (counting(&disk), take_all(dir.path()));
    stage(&store, dir.path(), &taken, |_, _| {});
    let absent = store.layout().staged_file(ATTEMPT, entry_of(&taken, "large") as u32);
    disk.unlink(&absent).unwrap();
    reads.lock().unwrap().clear();
    for _ in 0..3 {
        let refused = publish(&store, &taken);
        assert!(is_missing(&refused, &taken, "large"), "{refused:?}");
    }
    assert!(reads.lock().unwrap().is_empty(), "{reads:?}");
    // What another epoch of the batch brings is not nowhere.
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("large"), other.path().join("large")).unwrap();
    let brings = take_all(other.path());
    let staged = store.layout().staged_file(8, entry_of(&brings, "large") as u32);
    let (disk, data) = (store.disk(), store.layout().data_dir());
    checkpoint::durable::create_dir_all(&**disk, data, staged.parent().unwrap()).unwrap();
    disk.write_new(&staged, &std::fs::read(other.path().join("large")).unwrap(), 0o600).unwrap();
    let batch = [
        to_publish("other", 1, 8, &brings.manifest, linked(&brings)),
        to_publish("job", 1, ATTEMPT, &taken.manifest, linked(&taken)),
    ];
    for published in store.publish(&batch) {
        published.unwrap();
    }
    assert!(is_good(&store));
}

/// What the log still has is not waited for as what a store has: its packs would be let go of.
#[test]
fn an_unpacked_file_that_is_lost_is_told_before_what_lies_in_a_store() {
    for is_staged in [false, true] {
        let (dir, disk) = (directory(), fresh());
        let (store, taken) = (open(&disk), take_all(dir.path()));
        if is_staged {
            stage(&store, dir.path(), &taken, |path, bytes| {
                if path == "a" || path == "again" {
                    bytes[3] ^= 1;
                }
            });
        }
        let zeros = entry_of(&taken, "zeros");
        let mut sources = linked(&taken);
        sources[zeros] = Source::Unpacked;
        let epoch = to_publish("job", 1, ATTEMPT, &taken.manifest, sources);
        let refused = store.publish(&[epoch]).remove(0);
        assert!(is_missing(&refused, &taken, "zeros"), "{is_staged}: {refused:?}");
        let Err(Unpublished::Missing { what, .. }) = refused else { unreachable!() };
        assert_eq!(what, "the unpacked file");
    }
}

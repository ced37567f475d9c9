//! From a directory to something that can be published, as the log would do it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use checkpoint::digest::{Digest, content};
use checkpoint::disk::Open;
use checkpoint::store::{Content, Incoming};
use checkpoint::testing::{Crash, CrashDisk};
use checkpoint::{
    Coverage, Disk, Envelope, JobName, Limits, Manifest, Piece, Plan, PlanEntry, Position, Publish, Source,
    Splitter, Store, Unpacked,
};

pub const CHUNK: u32 = 64 << 10;

pub fn envelope(job: &str, epoch: u64, attempt: u64, root: Digest) -> Envelope {
    Envelope {
        job: job.parse().unwrap(),
        epoch,
        attempt,
        position: Position { term: 1, node: 1, index: attempt + 5 },
        root,
        labels: vec![("step".into(), epoch.to_string())],
        depends_on: Vec::new(),
        base: None,
        sealed_log_ms: 7,
    }
}

/// A directory, scanned and split.
pub struct Taken {
    pub plan: Plan,
    pub pieces: Vec<Piece>,
    pub manifest: Arc<Manifest>,
}

pub fn take(dir: &Path, covered: &Coverage, previous: &dyn Fn(&PlanEntry) -> Option<Digest>) -> Taken {
    let plan = Plan::scan(dir, &Limits::default()).unwrap();
    let mut splitter = Splitter::new(dir, &plan, CHUNK, covered, previous).unwrap();
    let pieces = splitter.by_ref().map(Result::unwrap).collect();
    let manifest = Arc::new(splitter.finish().unwrap());
    Taken { plan, pieces, manifest }
}

pub fn take_all(dir: &Path) -> Taken {
    take(dir, &Coverage::new(), &|_| None)
}

/// Bytes that the pieces carry.
pub fn payload(pieces: &[Piece]) -> usize {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Chunk { payload, .. } | Piece::Pack { payload, .. } => payload.len(),
            _ => 0,
        })
        .sum()
}

/// Brings the pieces to the store, as log store and performer would.
pub fn stage(store: &Store, attempt: u64, taken: &Taken) -> std::io::Result<Vec<Source>> {
    let disk = store.disk();
    let layout = store.layout();
    let mut sources = vec![Source::None; taken.plan.entries.len()];
    let staging = layout.attempt_dir(attempt);
    checkpoint::durable::create_dir_all(&**disk, layout.data_dir(), &staging)?;
    for piece in &taken.pieces {
        match piece {
            Piece::Chunk { file, offset, payload, .. } => {
                let staged = disk.open_direct(&layout.staged_file(attempt, *file), Open::Create)?;
                staged.write_at(payload, *offset)?;
                staged.sync_data()?;
                sources[*file as usize] = Source::Staged;
            }
            Piece::Zero { file, .. } => sources[*file as usize] = Source::Staged,
            Piece::Pack { files, payload } => {
                let unpacked: Vec<Unpacked<'_>> = files
                    .iter()
                    .map(|packed| {
                        let entry = &taken.plan.entries[packed.file as usize];
                        let data = &payload[packed.offset as usize..(packed.offset + packed.len) as usize];
                        sources[packed.file as usize] = Source::Unpacked;
                        Unpacked { path: &entry.path, mode: entry.mode, data }
                    })
                    .collect();
                store.unpack(attempt, &unpacked).map_err(std::io::Error::other)?;
            }
            Piece::Reuse { files } => {
                files.iter().for_each(|(file, _)| sources[*file as usize] = Source::Reused);
            }
        }
    }
    disk.sync_dir(&staging)?;
    Ok(sources)
}

pub fn to_publish(
    job: &str,
    epoch: u64,
    attempt: u64,
    manifest: &Arc<Manifest>,
    sources: Vec<Source>,
) -> Publish {
    let envelope = envelope(job, epoch, attempt, manifest.root());
    Publish { attempt, envelope, manifest: manifest.clone(), sources: Arc::new(sources) }
}

/// Takes a directory and publishes it.
pub fn commit(store: &Store, job: &str, epoch: u64, attempt: u64, dir: &Path) -> Arc<Manifest> {
    let taken = take_all(dir);
    let sources = stage(store, attempt, &taken).unwrap();
    for result in store.publish(&[to_publish(job, epoch, attempt, &taken.manifest, sources)]) {
        result.unwrap();
    }
    taken.manifest
}

/// An independent look at a directory: path to kind, mode and content.
pub fn walk(dir: &Path) -> BTreeMap<Vec<u8>, (char, u32, Vec<u8>)> {
    fn inner(base: &Path, at: &Path, seen: &mut BTreeMap<Vec<u8>, (char, u32, Vec<u8>)>) {
        let name = at.strip_prefix(base).unwrap().as_os_str().as_bytes().to_vec();
        let meta = std::fs::symlink_metadata(at).unwrap();
        let mode = meta.mode() & 0o7777;
        if meta.is_dir() {
            seen.insert(name, ('d', mode, Vec::new()));
            for entry in std::fs::read_dir(at).unwrap() {
                inner(base, &entry.unwrap().path(), seen);
            }
        } else if meta.is_symlink() {
            seen.insert(name, ('l', 0, std::fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec()));
        } else {
            seen.insert(name, ('f', mode, std::fs::read(at).unwrap()));
        }
    }
    let mut seen = BTreeMap::new();
    inner(dir, dir, &mut seen);
    seen
}

pub fn write(dir: &Path, path: &str, data: &[u8], mode: u32) {
    let full = dir.join(path);
    std::fs::create_dir_all(full.parent().unwrap()).unwrap();
    // Anew: what is there may be read-only.
    let _ = std::fs::remove_file(&full);
    std::fs::write(&full, data).unwrap();
    chmod(&full, mode);
}

pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub fn noise(len: usize, seed: u64) -> Vec<u8> {
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

/// A directory with a bit of everything.
pub fn mixed_tree(dir: &Path) {
    write(dir, "small", b"small content", 0o644);
    write(dir, "a/same1", b"equal content", 0o644);
    write(dir, "a/same2", b"equal content", 0o600);
    write(dir, "a/same3", b"equal content", 0o644);
    write(dir, "a-b/run", b"#!/bin/sh\n", 0o755);
    write(dir, "large", &noise(300_000, 1), 0o640);
    write(dir, "exact", &noise(2 * CHUNK as usize, 2), 0o444);
    write(dir, "a/read-only", &noise(100, 3), 0o400);
    write(dir, "empty", b"", 0o640);
    write(dir, ".hidden/.f", b"hidden", 0o604);
    std::fs::create_dir_all(dir.join("none/at/all")).unwrap();
    let mut zeros = noise(CHUNK as usize * 4, 4);
    zeros[CHUNK as usize..3 * CHUNK as usize].fill(0);
    zeros.extend_from_slice(&[0; 70_000]);
    write(dir, "a/zeros", &zeros, 0o777);
    let odd = std::ffi::OsStr::from_bytes(b"not\xffutf8\n");
    std::fs::write(dir.join(odd), b"odd").unwrap();
    std::os::unix::fs::symlink("a/same1", dir.join("link")).unwrap();
    std::os::unix::fs::symlink("/does/not/exist", dir.join("a/dangling")).unwrap();
    std::os::unix::fs::symlink("..", dir.join("a/up")).unwrap();
    write(dir, "closed/inner/f", b"inside", 0o400);
    chmod(&dir.join("closed/inner"), 0o500);
    chmod(&dir.join("closed"), 0o555);
    chmod(dir, 0o750);
}

/// Nothing but references to what was sealed before.
pub fn all_reused(taken: &Taken) -> Vec<Source> {
    let file = |e: &checkpoint::ManifestEntry| if e.size > 0 { Source::Reused } else { Source::None };
    taken.manifest.entries.iter().map(file).collect()
}

/// The content of these bytes.
pub fn content_of(data: &[u8], mode: u32) -> Content {
    Content { digest: content(data), mode, size: data.len() as u64 }
}

/// Brings what is not there yet, in pieces of an odd length.
pub fn bring(store: &Store, wanted: Content, data: &[u8]) -> Result<Incoming, checkpoint::store::StoreError> {
    let mut incoming = store.incoming(wanted)?;
    for piece in data[incoming.have() as usize..].chunks(700_001) {
        incoming.write(piece)?;
    }
    Ok(incoming)
}

/// Makes everything below writable again, so that a temporary directory can go.
pub fn open_up(dir: &Path) {
    checkpoint::durable::remove_tree(&checkpoint::RealDisk, dir).unwrap();
}

// Disks that crash.

pub const CRASHES: [Crash; 5] =
    [Crash::Strict, Crash::Mixed(1), Crash::Mixed(2), Crash::Mixed(3), Crash::Mixed(4)];

pub fn fresh() -> CrashDisk {
    let disk = CrashDisk::new();
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// As a start does it, which knows of nothing that `latest` has to avoid.
pub fn open(disk: &CrashDisk) -> Store {
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    store.heal_latest(BTreeMap::new());
    store
}

pub fn job(name: &str) -> JobName {
    name.parse().unwrap()
}

/// Every blob has the content and the mode that its name says.
pub fn check_blobs(store: &Store, when: &str) {
    let disk = store.disk();
    let blobs = store.layout().blobs_dir();
    for (shelf, _) in disk.read_dir(&blobs).unwrap() {
        for (name, _) in disk.read_dir(&blobs.join(&shelf)).unwrap() {
            let path = blobs.join(&shelf).join(&name);
            let text = name.to_str().unwrap();
            let mut parts = text.split('.');
            let found = content(&disk.read_file(&path, 1 << 30).unwrap());
            assert_eq!(parts.next().unwrap(), found.to_string(), "{when}: {text}");
            let mode = u32::from_str_radix(parts.next().unwrap(), 8).unwrap();
            assert_eq!(disk.stat(&path).unwrap().mode, mode, "{when}: {text}");
        }
    }
}

/// Every path below the data folder, without the shelves that are always there.
pub fn paths(disk: &CrashDisk) -> Vec<String> {
    let all = disk.paths().into_iter().map(|path| path.to_str().unwrap().to_owned());
    all.filter(|path| !(path.contains("/blobs/") && path.len() < 28)).collect()
}

/// Work that may be stopped and done again: whether it says that it is done.
pub type Work<'a> = &'a dyn Fn(&Store) -> bool;

/// Stops `work` after every operation, start included, and once more after every third operation of doing it again,
/// so that over the whole each is met; then it has to come to its end. `check` sees what every crash has left, `finished` what there is in the end.
pub fn crash_twice(
    prepare: &dyn Fn() -> CrashDisk,
    work: Work<'_>,
    check: &dyn Fn(&CrashDisk, &Store, bool, &str),
    finished: &dyn Fn(&CrashDisk, &Store, &str),
) {
    let look = |disk: &CrashDisk, done: bool, when: &str| check(disk, &open(disk), done, when);
    let prepared = prepare();
    for first in 0.. {
        let disk = prepared.crash(Crash::Strict);
        disk.crash_after(first);
        let done = Store::open(Arc::new(disk.clone()), Path::new("/data")).is_ok_and(|store| work(&store));
        // Not each with each: that would take long and show little more.
        for how in [Crash::Strict, Crash::Mixed(first)] {
            let when = format!("after {first} operations, {how:?}");
            let after = disk.crash(how);
            look(&after.crash(Crash::Strict), done, &when);
            for second in (first % 3..).step_by(3) {
                let again = after.crash(Crash::Strict);
                let store = open(&again);
                again.crash_after(second);
                let done = work(&store) || done;
                let how = if (first + second) % 3 == 0 { Crash::Strict } else { Crash::Mixed(second) };
                let when = format!("{when}, then after {second}, {how:?}");
                let last = again.crash(how);
                look(&last, done, &when);
                assert!(work(&open(&last)), "{when}: not in the end");
                let last = last.crash(Crash::Strict);
                let store = open(&last);
                check_blobs(&store, &when);
                finished(&last, &store, &when);
                if !again.crashed() {
                    break;
                }
            }
        }
        if !disk.crashed() {
            assert!(first > 3, "nothing was done");
            return;
        }
    }
}

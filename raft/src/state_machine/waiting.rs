//! An install for which there is no room.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::disk::Disk;
use checkpoint::store::{Layout, Store};
use checkpoint::testing::{CrashDisk, OpKind};
use checkpoint::{
    CommitId, Digest, EntryKind, Manifest, ManifestEntry, PackedFile, Piece, PlanEntry, RelPath,
};
use nativelog::compose::{self, Opening, Pages};
use nativelog::record::{LogId, LogRecord};
use nativelog::store::{Identity, LogStore, Options};

use super::installing::install_when_there_is_room;
use super::*;

const ENOSPC: i32 = 28;
/// So often there is no room: more often than anybody asks.
const REFUSALS: usize = 10_000;
/// By then whatever comes has come.
const DEADLINE: Duration = Duration::from_secs(20);
const DATA: &[u8] = b"content of an epoch that expires";

/// An epoch of one file, in one record.
fn whole() -> LogRecord {
    let entry = |path: &str, kind, mode, size| PlanEntry {
        path: RelPath::parse(path.as_bytes()).unwrap(),
        kind,
        mode,
        size,
        target: Vec::new(),
    };
    let len = DATA.len();
    let plan = [entry("", EntryKind::Directory, 0o755, 0), entry("file", EntryKind::File, 0o644, len as u64)];
    let digest = checkpoint::digest::content(DATA);
    let opening = Opening {
        job: "job".parse().unwrap(),
        epoch: Some(1),
        token: None,
        commit: CommitId::from_bytes([1; 16]),
        born: 0,
        chunk_bytes: 1 << 20,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let packed = PackedFile { file: 1, offset: 0, len: len as u32, digest };
    let pack = Piece::Pack { files: vec![packed], payload: Bytes::from_static(DATA) };
    let [root, file] = &plan;
    let entries = vec![ManifestEntry::new(root, Digest::NONE), ManifestEntry::new(file, digest)];
    let root = Manifest { entries }.root();
    compose::whole(&opening, &Pages::new(&plan), &[pack], root).unwrap()
}

/// A machine that has applied and performed an epoch, its end, and some entries more.
async fn applied(disk: &CrashDisk, more: usize) -> (Arc<Machine>, LogStore) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let data = Path::new("/data");
    shared.create_dir(data).unwrap();
    let store = Arc::new(Store::open(shared.clone(), data).unwrap());
    let owner = Identity { node: 1, incarnation: [1; 16] };
    let (log, _) = LogStore::open(shared, &Layout::new(data), owner, Options::default()).unwrap();
    let machine = Machine::start(store, log.clone(), Path::new("/dev/null/no-catalog")).unwrap();
    let expire = compose::expire(&"job".parse().unwrap(), vec![1], true, "by hand", Vec::new());
    let records = [Body::Record(whole()), Body::Record(expire)];
    let bodies = records.into_iter().chain(std::iter::repeat_n(Body::Blank, more));
    let at = |index| LogId { term: 1, node: 1, index };
    let entries: Vec<Entry> = (0..).zip(bodies).map(|(index, body)| Entry { id: at(index), body }).collect();
    append(&log, entries.clone());
    for entry in &entries {
        assert!(machine.apply(entry).unwrap().is_accepted());
    }
    machine.wait_performed(entries.len() as u64 - 1).await;
    (machine, log)
}

fn append(log: &LogStore, entries: Vec<Entry>) {
    let (answer, answered) = mpsc::channel();
    log.append(entries, Box::new(move |result| drop(answer.send(result))));
    answered.recv().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_that_waits_for_room_gets_that_of_what_is_garbage_already() {
    let (disk, other) = (CrashDisk::new(), CrashDisk::new());
    let (machine, log) = applied(&disk, 1).await;
    let (ahead, ahead_log) = applied(&other, 3).await;
    // All that lets the content go, but for the one who takes it away.
    for _ in 0..2 {
        machine.keep(machine.capture(None).unwrap()).unwrap();
    }
    log.purge(machine.purge_limit().unwrap());
    append(&log, Vec::new());
    let blob =
        machine.store().blob_path(checkpoint::digest::content(DATA)).expect("nobody has taken it away");
    for _ in 0..REFUSALS {
        disk.fail_next(OpKind::Create, "snapshots", ENOSPC);
        disk.fail_next(OpKind::Rename, "snapshots", ENOSPC);
    }
    let full = disk.clone();
    let watch = std::thread::spawn(move || {
        let began = Instant::now();
        while full.stat(&blob).is_ok() && began.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_gone = full.stat(&blob).is_err();
        // That has made room; and where it has not, whoever waits is let go.
        full.clear_failures();
        is_gone
    });
    let capture = ahead.capture(None).unwrap();
    let installed =
        tokio::time::timeout(2 * DEADLINE, install_when_there_is_room(&machine, None, &capture)).await;
    installed.expect("it ends").unwrap();
    assert!(watch.join().unwrap(), "nobody has given the garbage back");
    assert_eq!(machine.ledger().applied(), ahead.ledger().applied());
    for (machine, log) in [(machine, log), (ahead, ahead_log)] {
        log.shutdown();
        machine.shutdown();
    }
}

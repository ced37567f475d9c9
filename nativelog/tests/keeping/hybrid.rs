//! Epochs whose bytes lie in an object store: no node waits for them, and nothing is lost or kept because of that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use checkpoint::CommitId;
use checkpoint::disk::{Disk, DiskFile, Open};
use checkpoint::testing::{Crash, CrashDisk};
use nativelog::compose::{self, LinkedFile, Opening, Pages, StoredObject};
use nativelog::ledger::STORES_RULES;
use nativelog::performer::Publication;

use crate::directory::{CHUNK, Directory};
use crate::house::{DATA, file, start};
use crate::replica::{Replica, job};

const LINKED: &str = "a";
const PACKED: &str = "b";

fn directory() -> Directory {
    Directory::parse("a:3k b:2k")
}

/// Rules that know of stores, and one.
fn with_store(disk: &CrashDisk) -> (Replica, u64) {
    let mut replica = start(disk);
    let store = name_store(&mut replica);
    (replica, store)
}

fn name_store(replica: &mut Replica) -> u64 {
    replica.commit(compose::activate(STORES_RULES));
    replica.commit(compose::store("west", [9; 16], 1))
}

fn begin(replica: &mut Replica, epoch: u64, directory: &Directory, store: u64) -> u64 {
    let opening = Opening {
        job: job(),
        epoch: Some(epoch),
        token: None,
        commit: CommitId::from_bytes([epoch as u8; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let pages = Pages::new(&directory.entries);
    let attempt = replica.commit(compose::begin_in(&opening, &pages, store));
    replica.commit(pages.part(attempt, 0));
    attempt
}

fn link(replica: &mut Replica, attempt: u64, directory: &Directory, files: &[u32]) {
    let mut offset = 0;
    let linked = files.iter().map(|file| {
        let (at, len) = (offset, directory.size(*file));
        offset += len;
        LinkedFile { file: *file, offset: at, len, digest: directory.digest(*file) }
    });
    let linked: Vec<_> = linked.collect();
    let digest = checkpoint::digest::content(b"an object");
    replica.commit(compose::link(attempt, &StoredObject { digest, nonce: 1, bytes: offset }, &linked));
}

fn seal(replica: &mut Replica, attempt: u64, directory: &Directory) {
    let root = directory.root();
    replica.commit(compose::seal_with(attempt, root, &StoredObject { digest: root, nonce: 2, bytes: 100 }));
    replica.wait_performed();
}

/// Epoch 1, of which one file lies in the store and one came in a pack.
fn mixed(replica: &mut Replica, store: u64) -> u64 {
    let directory = directory();
    let attempt = begin(replica, 1, &directory, store);
    link(replica, attempt, &directory, &[file(&directory, LINKED)]);
    replica.commit(compose::piece(attempt, directory.pack(&[file(&directory, PACKED)])));
    seal(replica, attempt, &directory);
    attempt
}

fn assert_waits(replica: &Replica) {
    let Some(Publication::Unpublished(why)) = replica.publication(1) else {
        panic!("{:?}", replica.publication(1));
    };
    assert!(why.contains("lie in the store west"), "{why}");
    let missing = replica.machine.missing();
    assert_eq!((missing.len(), missing[0].epoch, missing[0].has_tree), (1, 1, true));
    assert_eq!(missing[0].why, why, "the debt says so, too");
}

/// The staged file of what was linked, as whoever uploads has it.
fn stage(disk: &CrashDisk, replica: &Replica, attempt: u64, bytes: &[u8]) {
    let path = replica.store.layout().staged_file(attempt, file(&directory(), LINKED));
    checkpoint::durable::create_dir_all(disk, Path::new("/data"), path.parent().unwrap()).unwrap();
    disk.write_new(&path, bytes, 0o600).unwrap();
}

#[test]
fn an_epoch_that_waits_for_its_bytes_holds_up_no_other_and_no_log() {
    let disk = CrashDisk::new();
    let (mut replica, store) = with_store(&disk);
    let attempt = mixed(&mut replica, store);
    assert_waits(&replica);
    replica.whole(2, &Directory::parse("other:10"));
    replica.assert_published(2);
    replica.keep().unwrap();
    replica.keep().unwrap();
    let limit = replica.machine.purge_limit();
    assert_eq!(limit, replica.machine.ledger().applied(), "no pack of it holds the log");
    assert!(replica.purge());
    replica.stop();

    let disk = disk.crash(Crash::Strict);
    let replica = start(&disk);
    assert_waits(&replica);
    // Whoever hydrates leaves it where it would have been staged, or on the shelves.
    stage(&disk, &replica, attempt, &directory().bytes[file(&directory(), LINKED) as usize]);
    replica.machine.publish_again();
    replica.wait_published(1);
    replica.assert_published(1);
    replica.stop();
}

#[test]
fn who_has_uploaded_publishes_what_it_has_staged() {
    let disk = CrashDisk::new();
    let (mut replica, store) = with_store(&disk);
    let directory = directory();
    let attempt = begin(&mut replica, 1, &directory, store);
    stage(&disk, &replica, attempt, &directory.bytes[file(&directory, LINKED) as usize]);
    let files = [file(&directory, LINKED), file(&directory, PACKED)];
    link(&mut replica, attempt, &directory, &files[..1]);
    replica.commit(compose::piece(attempt, directory.pack(&files[1..])));
    seal(&mut replica, attempt, &directory);
    replica.assert_published(1);
    replica.stop();
}

/// Who opens this file to read it waits.
#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<Option<PathBuf>>,
    moved: Condvar,
}

impl Gate {
    fn shut(&self, path: PathBuf) {
        *self.shut.lock().unwrap() = Some(path);
    }

    fn open(&self) {
        *self.shut.lock().unwrap() = None;
        self.moved.notify_all();
    }

    fn pass(&self, path: &Path) {
        let shut = self.shut.lock().unwrap();
        drop(self.moved.wait_while(shut, |shut| shut.as_deref() == Some(path)).unwrap());
    }
}

#[derive(Debug)]
struct Gated {
    below: CrashDisk,
    gate: Arc<Gate>,
}

impl checkpoint::disk::DiskLayer for Gated {
    fn below(&self) -> &dyn Disk {
        &self.below
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn DiskFile>> {
        if how == Open::Read {
            self.gate.pass(path);
        }
        self.below.open(path, how)
    }
}

/// A replica with an epoch of which the staged file, with one byte changed by `flip`, is being read, and waits at the gate.
fn read_at_gate(flip: u8) -> (Arc<Gate>, Replica) {
    let (disk, gate, data) = (CrashDisk::new(), Arc::new(Gate::default()), Path::new(DATA));
    disk.create_dir(data).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let gated = Arc::new(Gated { below: disk.clone(), gate: gate.clone() });
    let mut replica = Replica::try_start(gated, data, Path::new("/dev/null/no-catalog")).unwrap();
    let store = name_store(&mut replica);
    // More than whoever publishes reads itself.
    let large = Directory::parse("a:70000k");
    let attempt = begin(&mut replica, 1, &large, store);
    let only = file(&large, LINKED);
    let mut bytes = large.bytes[only as usize].clone();
    bytes[7] ^= flip;
    stage(&disk, &replica, attempt, &bytes);
    gate.shut(replica.store.layout().staged_file(attempt, only));
    link(&mut replica, attempt, &large, &[only]);
    // Waits until that is performed.
    seal(&mut replica, attempt, &large);
    let why = why_unpublished(&replica);
    assert!(why.contains("MiB are left"), "{why}");
    (gate, replica)
}

#[test]
fn what_was_staged_is_read_while_others_are_published() {
    let (gate, mut replica) = read_at_gate(0);
    let missing = replica.machine.missing();
    assert!(missing[0].verifying, "nobody has to bring what is here: {missing:?}");
    replica.whole(2, &Directory::parse("other:10"));
    replica.assert_published(2);
    replica.keep().unwrap();
    gate.open();
    let begun = Instant::now();
    while replica.publication(1) != Some(Publication::Published) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", replica.publication(1));
        replica.machine.publish_again();
        std::thread::sleep(Duration::from_millis(50));
    }
    replica.assert_published(1);
    replica.stop();
}

/// Whoever looks when something changes asks for what is being read: that must not be such a change.
#[test]
fn who_asks_for_what_is_still_being_read_wakes_nobody() {
    let (gate, replica) = read_at_gate(0);
    let attempt = replica.machine.missing()[0].attempt;
    let changes = replica.machine.publications();
    let (before, begun) = (*changes.borrow(), Instant::now());
    while begun.elapsed() < Duration::from_secs(1) {
        replica.machine.publish_now(attempt);
        std::thread::sleep(Duration::from_millis(10));
    }
    let told = *changes.borrow() - before;
    gate.open();
    assert!(told < 3, "{told} times");
    replica.stop();
}

/// As a power cut may leave it. Whoever brings the bytes leaves alone what is being read.
#[test]
fn what_was_read_and_is_something_else_is_brought_by_others() {
    let (gate, replica) = read_at_gate(1);
    assert!(replica.machine.missing()[0].verifying);
    gate.open();
    let begun = Instant::now();
    while !why_unpublished(&replica).contains("lie in the store west") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", why_unpublished(&replica));
        replica.machine.publish_again();
        std::thread::sleep(Duration::from_millis(50));
    }
    let missing = replica.machine.missing();
    assert!(!missing[0].verifying, "{missing:?}");
    replica.stop();
}

/// What came in a pack lies in no store: the pack stays in the log until its file is in the tree.
#[test]
fn a_pack_whose_file_is_lost_here_is_not_let_go_of_while_its_epoch_waits() {
    let disk = CrashDisk::new();
    let (mut replica, store) = with_store(&disk);
    let directory = directory();
    let attempt = begin(&mut replica, 1, &directory, store);
    link(&mut replica, attempt, &directory, &[file(&directory, LINKED)]);
    let pack = replica.commit(compose::piece(attempt, directory.pack(&[file(&directory, PACKED)])));
    replica.wait_performed();
    let unpacked = replica.store.layout().tree_dir(attempt).join(PACKED);
    disk.unlink(&unpacked).unwrap();
    seal(&mut replica, attempt, &directory);
    let why = why_unpublished(&replica);
    assert!(why.contains("the unpacked file"), "{why}");
    assert!(replica.machine.unpacks_again(attempt), "a peer that asks for it is told to wait");
    replica.keep().unwrap();
    replica.keep().unwrap();
    let limit = replica.machine.purge_limit();
    assert!(limit.is_none_or(|limit| limit.index < pack), "{limit:?} and the pack at {pack}");
    // It is unpacked once more, and then only what lies in the store is lacking.
    let begun = Instant::now();
    while !why_unpublished(&replica).contains("lie in the store west") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", why_unpublished(&replica));
        replica.machine.publish_again();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(disk.stat(&unpacked).is_ok());
    assert!(!replica.machine.unpacks_again(attempt), "nothing comes: the look at the tree counts");
    replica.keep().unwrap();
    replica.keep().unwrap();
    assert_eq!(replica.machine.purge_limit(), replica.machine.ledger().applied());
    replica.stop();
}

fn why_unpublished(replica: &Replica) -> String {
    match replica.publication(1) {
        Some(Publication::Unpublished(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Nothing in this node's log says what these bytes are.
#[test]
fn a_staged_file_with_other_bytes_is_not_published() {
    let disk = CrashDisk::new();
    let (mut replica, store) = with_store(&disk);
    let attempt = mixed(&mut replica, store);
    let mut bytes = directory().bytes[file(&directory(), LINKED) as usize].clone();
    bytes[7] ^= 1;
    stage(&disk, &replica, attempt, &bytes);
    let mut changes = replica.machine.publications();
    changes.borrow_and_update();
    replica.machine.publish_again();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let tried = async { tokio::time::timeout(std::time::Duration::from_secs(40), changes.changed()).await };
    runtime.block_on(tried).expect("it is tried again").unwrap();
    assert_waits(&replica);
    replica.stop();
}

#[test]
fn what_a_store_has_said_stays_when_the_epoch_is_tried_again_in_vain() {
    let disk = CrashDisk::new();
    let (mut replica, store) = with_store(&disk);
    let attempt = mixed(&mut replica, store);
    replica.machine.still_unpublished(attempt, "the object is damaged");
    let mut changes = replica.machine.publications();
    changes.borrow_and_update();
    replica.machine.publish_now(attempt);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let tried = async { tokio::time::timeout(Duration::from_secs(40), changes.changed()).await };
    runtime.block_on(tried).expect("it is tried again").unwrap();
    assert_eq!(why_unpublished(&replica), "the object is damaged");
    replica.stop();
}

#[test]
fn bytes_that_came_with_another_epoch_serve_as_well() {
    let disk = CrashDisk::new();
    let (mut replica, store) = with_store(&disk);
    mixed(&mut replica, store);
    let bytes = directory().bytes[file(&directory(), LINKED) as usize].clone();
    let mut other = Directory::parse("same:3k");
    other.bytes[1] = bytes;
    replica.whole(2, &other);
    replica.machine.publish_again();
    replica.wait_published(1);
    replica.assert_published(1);
    replica.stop();
}

#[test]
fn a_snapshot_asks_for_nothing_that_lies_in_a_store_only() {
    let disk = CrashDisk::new();
    let (mut replica, store) = with_store(&disk);
    mixed(&mut replica, store);
    // An open attempt that leans on what is nowhere here, and links more.
    let directory = Directory::parse("a:3k c:1k");
    let attempt = begin(&mut replica, 2, &directory, store);
    replica.commit(compose::piece(attempt, directory.reuse(&[1])));
    link(&mut replica, attempt, &directory, &[2]);
    replica.wait_performed();
    // The pages of its plan are in the log, and a snapshot brings them as files.
    replica.keep().unwrap();
    let ledger = replica.machine.ledger().clone();
    assert_eq!(ledger.attempt(attempt).unwrap().files_missing, 0);
    let lacking = replica.machine.lacking_of_attempts(&ledger).unwrap();
    assert!(lacking.is_empty(), "{lacking:?}");
    replica.stop();
}

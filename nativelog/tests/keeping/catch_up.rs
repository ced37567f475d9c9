//! A catch-up without a network: what one replica has is copied to another, and the snapshot is installed.

use std::sync::mpsc;

use bytes::Bytes;
use checkpoint::disk::{Disk, Open};
use checkpoint::store::{Content, Unpacked};
use checkpoint::testing::CrashDisk;
use nativelog::ledger::Ledger;
use nativelog::machine::{AttemptLacks, lacking_pages, write_page};
use nativelog::performer::Publication;
use nativelog::snapshot::Capture;
use nativelog::store::{Brought, Placed};
use nativelog::{Body, compose};

use crate::directory::{CHUNK, Directory};
use crate::house::{assert_baseline, file, open_behind, start};
use crate::replica::{Replica, job};

/// The other replica and its disk.
pub struct Source<'a> {
    pub replica: &'a Replica,
    pub disk: &'a CrashDisk,
}

impl Source<'_> {
    fn blob(&self, content: &Content) -> Vec<u8> {
        let path = self.replica.store.blob_path(content.digest).expect("the source has it");
        self.disk.read_file(&path, 1 << 30).unwrap()
    }

    fn bytes(&self, path: &std::path::Path, offset: u64, len: u64) -> Bytes {
        let mut bytes = vec![0; len as usize];
        let file = self.disk.open(path, Open::Read).unwrap();
        // Behind its end a staged file is zeros.
        let there = file.len().unwrap().saturating_sub(offset).min(len);
        file.read_exact_at(&mut bytes[..there as usize], offset).unwrap();
        bytes.into()
    }
}

/// Brings everything that the ledger refers to; how many contents. `None` when the disk fails.
pub fn bring(source: &Source<'_>, to: &Replica, ledger: &Ledger) -> Option<usize> {
    let mut brought = 0;
    for sealed in ledger.sealed(&job()) {
        if to.store.published(&job(), sealed.epoch).ok()? == Some(sealed.root) {
            continue;
        }
        let (envelope, manifest) = source.replica.store.manifest(&job(), sealed.epoch).unwrap().unwrap();
        let mut arrived = Vec::new();
        for content in to.store.lacking(&manifest).ok()? {
            let mut incoming = to.store.incoming(content).ok()?;
            let have = incoming.have() as usize;
            incoming.write(&source.blob(&content)[have..]).ok()?;
            arrived.push(incoming);
        }
        brought += arrived.len();
        to.store.shelve(arrived).into_iter().collect::<Result<Vec<_>, _>>().ok()?;
        to.machine.adopt(sealed.attempt, envelope, manifest.into()).ok()?;
    }
    bring_pages(source, to, ledger)?;
    for lacks in to.machine.lacking_of_attempts(ledger).ok()? {
        // They were just brought.
        lacks.pages.is_empty().then_some(())?;
        bring_attempt(source, to, &lacks)?;
    }
    to.store.disk().sync_fs(to.store.layout().data_dir()).ok()?;
    Some(brought)
}

/// Brings the pages of plans that are in no file; `None` when the disk fails.
pub fn bring_pages(source: &Source<'_>, to: &Replica, ledger: &Ledger) -> Option<()> {
    for page in lacking_pages(&to.store, ledger) {
        let bytes = source.replica.machine.page(&page).unwrap();
        write_page(&to.store, &page, &bytes).ok()?;
    }
    Some(())
}

fn bring_attempt(source: &Source<'_>, to: &Replica, lacks: &AttemptLacks) -> Option<()> {
    let (attempt, layout) = (lacks.attempt, source.replica.store.layout());
    let ranges = lacks.ranges.iter().map(|(file, offset, len, _)| Placed {
        attempt,
        file: *file,
        offset: *offset,
        data: Brought::Bytes(source.bytes(&layout.staged_file(attempt, *file), *offset, *len)),
    });
    let (answer, answered) = mpsc::channel();
    to.log.place(ranges.collect(), Box::new(move |result| drop(answer.send(result))));
    answered.recv().expect("an answer").ok()?;
    let mut reused = Vec::new();
    for content in &lacks.reused {
        let mut incoming = to.store.incoming(*content).ok()?;
        let have = incoming.have() as usize;
        incoming.write(&source.blob(content)[have..]).ok()?;
        reused.push(incoming);
    }
    to.store.shelve(reused).into_iter().collect::<Result<Vec<_>, _>>().ok()?;
    for packed in &lacks.packed {
        let path = layout.tree_dir(attempt).join(packed.path.as_os_str());
        let data = source.bytes(&path, 0, packed.size);
        // As the transfer does it: the performer may be at the same pack.
        to.machine
            .unpack(attempt, &[Unpacked { path: &packed.path, mode: packed.mode, data: &data }])
            .ok()?;
    }
    Some(())
}

/// The whole catch-up, as a replica does it.
pub fn catch_up(source: &Source<'_>, to: &mut Replica, capture: &Capture) -> Option<usize> {
    let ledger = Ledger::decode(&capture.ledger).unwrap();
    let pin = to.machine.expect(&ledger).ok()?;
    let brought = bring(source, to, &ledger)?;
    to.machine.install(capture).ok()?;
    drop(pin);
    to.store.clear_incoming().ok()?;
    to.follow_install();
    Some(brought)
}

/// What both replicas have seen: two epochs, the second in pieces, and an attempt that stays open.
pub fn together(replica: &mut Replica) -> Option<u64> {
    replica.try_whole(1, &Directory::parse("old:100=1 shared:100=2"))?;
    let second = Directory::parse("big:100k=3 shared:100=2");
    let attempt = replica.try_begin(2, &second)?;
    let big = file(&second, "big");
    replica.try_commit(compose::piece(attempt, second.chunk(big, 0)))?;
    replica.try_commit(compose::piece(attempt, second.chunk(big, CHUNK)))?;
    replica.try_commit(compose::piece(attempt, second.reuse(&[file(&second, "shared")])))?;
    replica.try_commit(compose::seal(attempt, second.root()))?;
    let open = replica.try_begin(9, &open())?;
    replica.try_commit(compose::piece(open, self::open().pack(&[file(&self::open(), "p/q")])))?;
    replica.try_commit(compose::piece(open, self::open().chunk(file(&self::open(), "staged"), 0)))?;
    replica.try_wait_performed()?;
    Some(open)
}

/// The plan of the attempt that stays open.
pub fn open() -> Directory {
    Directory::parse("p/ p/q:500=5 p/r:600=6 staged:190k=7 z:128k=0")
}

/// What the one goes through while the other is away: the first epoch expires, two come, one of them goes again.
pub fn apart(replica: &mut Replica, attempt: u64) {
    let open = open();
    replica.try_expire(vec![1]).unwrap();
    replica.whole(3, &Directory::parse("new:300=8 shared:100=2"));
    replica.whole(4, &Directory::parse("brief:50"));
    replica.try_expire(vec![4]).unwrap();
    replica.commit(compose::piece(attempt, open.pack(&[file(&open, "p/r")])));
    replica.commit(compose::piece(attempt, open.chunk(file(&open, "staged"), 2 * CHUNK)));
    replica.commit(compose::piece(attempt, open.zero(file(&open, "z"), 0, CHUNK)));
    replica.wait_performed();
    replica.keep().unwrap();
    replica.keep().unwrap();
}

/// The end of the open attempt, on both.
pub fn finish(replica: &mut Replica, attempt: u64) {
    let open = open();
    replica.commit(compose::piece(attempt, open.chunk(file(&open, "staged"), CHUNK)));
    replica.commit(compose::piece(attempt, open.zero(file(&open, "z"), CHUNK, CHUNK)));
    replica.seal(attempt, &open);
    replica.wait_performed();
}

/// Two replicas, each on a disk of its own.
struct Pair {
    disks: [CrashDisk; 2],
    leader: Replica,
    follower: Replica,
}

impl Pair {
    fn new() -> Pair {
        let disks = [CrashDisk::new(), CrashDisk::new()];
        let (leader, follower) = (start(&disks[0]), start(&disks[1]));
        Pair { disks, leader, follower }
    }

    /// Both have seen the same, with an attempt that stays open.
    fn together() -> (Pair, u64) {
        let mut pair = Pair::new();
        let attempt = together(&mut pair.leader).unwrap();
        assert_eq!(together(&mut pair.follower), Some(attempt));
        (pair, attempt)
    }

    fn both(&mut self) -> [&mut Replica; 2] {
        [&mut self.leader, &mut self.follower]
    }

    fn source(&self) -> Source<'_> {
        Source { replica: &self.leader, disk: &self.disks[0] }
    }

    /// The follower starts anew and applies nothing of its log.
    fn with_follower_behind(self) -> Pair {
        self.follower.stop();
        Pair { follower: open_behind(&self.disks[1]), ..self }
    }

    /// The follower installs what the leader keeps; how many contents it lacked.
    fn catch_up(&mut self) -> usize {
        let capture = self.leader.machine.read_snapshot().unwrap().unwrap();
        let source = Source { replica: &self.leader, disk: &self.disks[0] };
        catch_up(&source, &mut self.follower, &capture).unwrap()
    }

    fn stop(self) {
        self.follower.stop();
        self.leader.stop();
    }

    /// What the follower's disk holds when all epochs have gone.
    fn stop_without_leaks(mut self) {
        self.follower.empty();
        self.follower.stop();
        self.leader.stop();
        assert_baseline(&self.disks[1], "after an install");
    }
}

#[test]
fn a_replica_that_was_away_is_identical_after_an_install() {
    let (mut pair, attempt) = Pair::together();
    apart(&mut pair.leader, attempt);
    let capture = pair.leader.machine.read_snapshot().unwrap().unwrap();
    assert_eq!(pair.catch_up(), 1, "only what it lacks is brought");
    assert_eq!(pair.follower.machine.ledger().digest(), pair.leader.machine.ledger().digest());
    let marks = pair.follower.machine.marks();
    let there = capture.meta.position.index + 1;
    assert_eq!((marks.snapshot, marks.performed, marks.applied), (there, there, there));
    assert!(pair.follower.machine.missing().is_empty());

    finish(&mut pair.leader, attempt);
    finish(&mut pair.follower, attempt);
    assert_eq!(pair.follower.machine.ledger().digest(), pair.leader.machine.ledger().digest());
    pair.follower.assert_all_published("after the install");
    assert_eq!(pair.follower.store.epochs(&job()).unwrap(), pair.leader.store.epochs(&job()).unwrap());
    pair.stop_without_leaks();
}

#[test]
fn what_an_earlier_life_has_let_go_of_is_given_back_after_an_install() {
    let (mut pair, _) = Pair::together();
    let passing = Directory::parse("passing:500=70 more:600=71");
    for replica in pair.both() {
        replica.whole(5, &passing);
        replica.try_expire(vec![5]).unwrap();
        replica.wait_performed();
    }
    let mut pair = pair.with_follower_behind();
    pair.leader.whole(6, &Directory::parse("new:300=8"));
    pair.leader.keep().unwrap();
    // Its directory is gone, its blobs are not; only the log knows of it, and the snapshot comes before that is applied.
    pair.catch_up();
    pair.follower.assert_all_published("after the install");
    pair.stop_without_leaks();
}

#[test]
fn an_epoch_above_the_marks_of_an_installed_ledger_keeps_its_blobs() {
    let mut pair = Pair::new();
    pair.leader.whole(1, &Directory::parse("a:100=1"));
    pair.leader.keep().unwrap();
    let capture = pair.leader.machine.read_snapshot().unwrap().unwrap();
    pair.follower.whole(1, &Directory::parse("a:100=1"));
    pair.follower.whole(2, &Directory::parse("b:200=2"));
    // It has applied nothing yet in this life, and its log says more than the ledger that comes.
    let mut pair = pair.with_follower_behind();
    assert_eq!(pair.follower.machine.give_way(&Ledger::decode(&capture.ledger).unwrap()).unwrap().files, 0);
    pair.catch_up();
    let strays = pair
        .follower
        .store
        .shelved_besides(&|digest| pair.follower.machine.ledger().content(digest).is_some());
    assert_eq!(strays.unwrap().len(), 1, "what the second epoch holds");
    assert_eq!(pair.follower.machine.garbage().contents, 0, "and nothing says that it has to go");
    pair.stop();
}

#[test]
fn what_was_brought_into_a_tree_stays_when_the_performer_comes_to_its_first_pack() {
    let (mut pair, attempt) = Pair::together();
    let open = open();
    pair.leader.commit(compose::piece(attempt, open.pack(&[file(&open, "p/r")])));
    pair.leader.wait_performed();
    pair.leader.keep().unwrap();
    let ledger = pair.leader.machine.ledger().clone();
    // An earlier life has unpacked the first pack, and this one has not come to it yet.
    let pair = pair.with_follower_behind();
    bring(&pair.source(), &pair.follower, &ledger).unwrap();
    pair.follower.try_apply_all().unwrap();
    pair.follower.wait_performed();
    assert_eq!(pair.follower.machine.lacking_of_attempts(&ledger).unwrap(), []);
    pair.stop();
}

#[test]
fn a_chunk_that_was_never_committed_claims_nothing_behind_an_install() {
    let (mut pair, attempt) = Pair::together();
    // The same plan and other bytes: the leader that sent this is gone, and nobody else has it.
    let other = Directory::parse("p/ p/q:500=5 p/r:600=6 staged:190k=99 z:128k=0");
    let lost = compose::piece(attempt, other.chunk(file(&other, "staged"), CHUNK));
    pair.follower.append(vec![Body::Record(lost)]);
    apart(&mut pair.leader, attempt);
    pair.catch_up();
    finish(&mut pair.leader, attempt);
    finish(&mut pair.follower, attempt);
    pair.follower.assert_all_published("after the install");
    pair.stop_without_leaks();
}

#[test]
fn a_directory_without_a_readable_manifest_keeps_everything_and_stops_no_install() {
    let (mut pair, attempt) = Pair::together();
    apart(&mut pair.leader, attempt);
    let stray = Content { digest: checkpoint::digest::content(b"stray"), mode: 0o644, size: 5 };
    let mut incoming = pair.follower.store.incoming(stray).unwrap();
    incoming.write(b"stray").unwrap();
    pair.follower.store.shelve(vec![incoming]).pop().unwrap().unwrap();
    let foreign = pair.follower.store.layout().manifest_file(&job(), 77);
    pair.disks[1].create_dir(foreign.parent().unwrap()).unwrap();
    pair.disks[1].write_new(&foreign, b"no manifest", 0o644).unwrap();
    pair.catch_up();
    pair.follower.assert_all_published("after the install");
    assert!(pair.disks[1].paths().contains(&foreign), "it is not ours to remove");
    for _ in 0..2 {
        pair.follower.try_clean_up().unwrap();
    }
    assert!(pair.follower.store.blob_path(stray.digest).is_some(), "it may be what that directory holds");
    pair.stop();
}

#[test]
fn an_expired_epoch_goes_when_its_last_reader_has_left() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.whole(2, &Directory::parse("a:100=2"));
    let readers = [replica.machine.read_epoch(&job(), 1), replica.machine.read_epoch(&job(), 1)];
    replica.try_expire(vec![1]).unwrap();
    replica.wait_performed();
    assert!(replica.machine.ledger().epoch(&job(), 1).is_none(), "it has expired");
    let [first, last] = readers;
    drop(first);
    replica.machine.publish_again();
    // The performer has tried again before it comes to the second of them.
    replica.whole(3, &Directory::parse("a:100=3"));
    replica.whole(4, &Directory::parse("a:100=4"));
    assert!(replica.store.verify(&job(), 1).unwrap().is_good(), "somebody reads it");
    drop(last);
    let begun = std::time::Instant::now();
    while replica.store.published(&job(), 1).unwrap().is_some() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "nobody reads it");
        std::thread::yield_now();
    }
    replica.empty();
    replica.stop();
    assert_baseline(&disk, "after a reader");
}

#[test]
fn content_that_only_an_open_attempt_reuses_is_brought() {
    let mut pair = Pair::new();
    pair.leader.whole(1, &Directory::parse("shared:600=2"));
    let second = Directory::parse("again:600=2");
    let attempt = pair.leader.try_begin(2, &second).unwrap();
    pair.leader.commit(compose::piece(attempt, second.reuse(&second.files())));
    pair.leader.try_expire(vec![1]).unwrap();
    pair.leader.wait_performed();
    pair.leader.keep().unwrap();
    pair.catch_up();
    for replica in pair.both() {
        replica.seal(attempt, &second);
        replica.wait_performed();
        replica.assert_all_published("what was reused");
        assert_eq!(replica.publication(2), Some(Publication::Published));
    }
    pair.stop_without_leaks();
}

#[test]
fn a_snapshot_that_is_not_above_what_is_applied_changes_nothing() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    replica.keep().unwrap();
    let capture = replica.machine.read_snapshot().unwrap().unwrap();
    replica.whole(2, &Directory::parse("b:100=1"));
    let digest = replica.machine.ledger().digest();
    replica.machine.install(&capture).unwrap();
    assert_eq!(replica.machine.ledger().digest(), digest);
    replica.stop();
}

#[test]
fn a_capture_that_is_damaged_is_refused_and_nothing_changes() {
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    replica.whole(1, &Directory::parse("a:100=1"));
    let mut capture = replica.machine.capture(None).unwrap();
    capture.meta.position.index += 5;
    let error = replica.machine.install(&capture).unwrap_err();
    assert!(error.to_string().contains("another position"), "{error}");
    capture.ledger = Bytes::from_static(b"nonsense");
    assert!(replica.machine.install(&capture).is_err());
    replica.whole(2, &Directory::parse("b:100=1"));
    replica.assert_all_published("as before");
    replica.stop();
}

#[test]
fn the_membership_of_a_snapshot_outlives_the_log() {
    use nativelog::Body;
    let disk = CrashDisk::new();
    let mut replica = start(&disk);
    let members = Bytes::from_static(b"three voters");
    let entries = replica.append(vec![Body::Membership(members.clone()), Body::Blank]);
    entries.iter().for_each(|entry| drop(replica.machine.apply(entry).unwrap()));
    let known = replica.machine.last_membership().unwrap();
    assert_eq!(known, Some((entries[0].id, members)));
    for _ in 0..2 {
        let capture = replica.machine.capture(known.clone()).unwrap();
        replica.machine.keep(capture).unwrap();
    }
    replica.purge();
    assert_eq!(replica.machine.last_membership().unwrap(), known);
    replica.stop();
    let replica = start(&disk);
    assert_eq!(replica.machine.last_membership().unwrap(), known);
    replica.stop();
}

//! Hybrid epochs: what is worked out beforehand, what is on its way, and what records of before object stores mean.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::{CommitId, JobName};
use nativelog::LogRecord;
use nativelog::compose::{self, LinkedFile, Opening, Pages, StoredObject};
use nativelog::ledger::{
    Accepted, Admission, Ledger, Mode, NotAdmitted, ObjectKey, Reason, STORES_RULES, Verdict,
};
use nativelog::record::{Header, STORES_SINCE};

use crate::directory::{CHUNK, Directory};
use crate::history::History;

/// More than what is worked out beforehand has at least.
const MANY: u32 = 4500;
const STORE: u64 = 1;

fn opening(epoch: u64) -> Opening {
    Opening {
        job: JobName::try_from("train").unwrap(),
        epoch: Some(epoch),
        token: None,
        commit: CommitId::from_bytes([epoch as u8; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    }
}

fn object(name: &str, bytes: u64) -> StoredObject {
    StoredObject { digest: checkpoint::digest::content(name.as_bytes()), nonce: 1, bytes }
}

fn linked(directory: &Directory, files: &[u32]) -> Vec<LinkedFile> {
    let mut end = 0;
    let place = |file: &u32| {
        let (offset, len) = (end, directory.size(*file));
        end += len;
        LinkedFile { file: *file, offset, len, digest: directory.digest(*file) }
    };
    files.iter().map(place).collect()
}

fn manifest(directory: &Directory) -> StoredObject {
    StoredObject { digest: directory.root(), nonce: 2, bytes: 100 }
}

/// A ledger with a store, and what steps it: with what takes long worked out beforehand, or not.
struct Player {
    history: History,
    beforehand: bool,
    /// How many records had much to hold or to free.
    held: usize,
}

impl Player {
    fn new(beforehand: bool) -> Player {
        let mut player = Player { history: History::default(), beforehand, held: 0 };
        player.apply(&compose::activate(STORES_RULES));
        assert_eq!(player.apply(&compose::store("west", [1; 16], 0)), Verdict::DONE);
        player
    }

    fn apply(&mut self, record: &LogRecord) -> Verdict {
        if self.beforehand {
            self.history.gather(&record.header);
            let holding = self.history.ledger.holding(&record.header);
            if let Some(held) = holding.and_then(|holding| holding.hold()) {
                self.history.ledger.keep_held(held);
                self.held += 1;
            }
        }
        self.history.apply(record).verdict
    }

    /// An attempt with its plan.
    fn begin(&mut self, epoch: u64, directory: &Directory) -> u64 {
        let pages = Pages::new(&directory.entries);
        let begun = self.apply(&compose::begin_in(&opening(epoch), &pages, STORE));
        let Verdict::Accepted(Accepted::Begun { attempt, .. }) = begun else { panic!("{begun}") };
        for part in pages.parts(attempt, 0) {
            assert_eq!(self.apply(&part), Verdict::DONE);
        }
        attempt
    }

    /// All files into objects of a thousand, and the seal.
    fn fill(&mut self, attempt: u64, directory: &Directory) {
        for (number, files) in directory.files().chunks(1000).enumerate() {
            let object = object(&format!("{attempt}/{number}"), 1 << 20);
            assert_eq!(
                self.apply(&compose::link(attempt, &object, &linked(directory, files))),
                Verdict::DONE
            );
        }
    }

    fn seal(&mut self, attempt: u64, directory: &Directory) {
        let sealed = self.apply(&compose::seal_with(attempt, directory.root(), &manifest(directory)));
        assert!(matches!(sealed, Verdict::Accepted(Accepted::Sealed(_))), "{sealed}");
    }

    fn objects(&self) -> Vec<ObjectKey> {
        let ledger = &self.history.ledger;
        ledger.objects_in(0..ledger.object_slots()).map(|object| object.key).collect()
    }

    fn released(&self) -> Vec<(u64, u64)> {
        self.history.ledger.released(None).map(|object| (object.key.attempt, object.index)).collect()
    }
}

fn many(seed: &str) -> Directory {
    let names: Vec<String> = (0..MANY).map(|n| format!("f{n:05}:9={seed}{n}")).collect();
    Directory::parse(&names.join(" "))
}

/// Two epochs of the same content in other objects, a third that is left behind, one that expires.
fn history(beforehand: bool) -> Player {
    let (mut player, one, other) = (Player::new(beforehand), many("one"), many("other"));
    let first = player.begin(1, &one);
    player.fill(first, &one);
    player.seal(first, &one);
    assert_eq!(player.objects().len(), 6, "five of content, one of the manifest");
    let left = player.begin(2, &other);
    player.fill(left, &other);
    let second = player.begin(3, &one);
    player.fill(second, &one);
    player.seal(second, &one);
    assert!(player.objects().iter().filter(|key| key.attempt == first).count() == 1, "its manifest");
    let job = opening(1).job;
    assert_eq!(player.apply(&compose::expire(&job, vec![1], false, "", Vec::new())), Verdict::DONE);
    assert!(player.objects().iter().all(|key| key.attempt == second));
    let ledger = &player.history.ledger;
    let (sealed, expired) = (ledger.epoch(&job, 3).unwrap(), ledger.applied().unwrap().index);
    let at = sealed.sealed.position.index;
    let released: Vec<_> = std::iter::repeat_n((first, at), 5)
        .chain([(first, expired)])
        .chain(std::iter::repeat_n((left, at), 5))
        .collect();
    let mut found = player.released();
    found.sort_unstable();
    assert_eq!(
        found, released,
        "by the seal that has another place for it, left another behind, and by the expiry"
    );
    assert_eq!((sealed.mode, sealed.store), (Mode::Hybrid, Some(STORE)));
    player
}

#[test]
fn what_a_record_does_to_objects_may_be_worked_out_beforehand() {
    let (plain, worked) = (history(false), history(true));
    assert!(worked.held >= 2, "{} records had much to do", worked.held);
    assert_eq!(plain.history.finish(), worked.history.finish());
    assert!(plain.history.ledger.encode() == worked.history.ledger.encode());
}

/// Content that has come through the log and into a store, and that an attempt leans on which has it from the log and, if
/// `stays`, one which has it from the store; then what the log brought of one file is lost. The epochs have expired: who
/// leans holds all.
fn log_lost(beforehand: bool, stays: bool) -> Player {
    let (mut player, one) = (Player::new(beforehand), many("one"));
    let (pages, files) = (Pages::new(&one.entries), one.files());
    let logged = |player: &mut Player, epoch| {
        let begun = player.apply(&compose::begin(&opening(epoch), &pages));
        let Verdict::Accepted(Accepted::Begun { attempt, .. }) = begun else { panic!("{begun}") };
        for part in pages.parts(attempt, 0) {
            assert_eq!(player.apply(&part), Verdict::DONE);
        }
        attempt
    };
    let reuse = |player: &mut Player, attempt| {
        for files in files.chunks(1000) {
            assert_eq!(player.apply(&compose::piece(attempt, one.reuse(files))), Verdict::DONE);
        }
    };
    let first = logged(&mut player, 1);
    for files in files.chunks(1000) {
        assert_eq!(player.apply(&compose::piece(first, one.pack(files))), Verdict::DONE);
    }
    let sealed = player.apply(&compose::seal(first, one.root()));
    assert!(sealed.is_accepted(), "{sealed}");
    let second = player.begin(2, &one);
    player.fill(second, &one);
    player.seal(second, &one);
    let ends = logged(&mut player, 3);
    reuse(&mut player, ends);
    let keeps = stays.then(|| player.begin(4, &one));
    if let Some(keeps) = keeps {
        reuse(&mut player, keeps);
    }
    let job = opening(1).job;
    assert_eq!(player.apply(&compose::expire(&job, vec![1, 2], true, "", Vec::new())), Verdict::DONE);
    let (lost, other) = (one.digest(files[7]), one.digest(files[8]));
    let brought = player.history.ledger.brought(&lost).unwrap();
    let held = player.held;
    let gone = [(1, "gone".to_owned()), (2, "gone".to_owned())];
    assert_eq!(player.apply(&compose::quarantine(lost, brought, gone)), Verdict::DONE);
    assert_eq!(player.held, held + usize::from(beforehand), "it has much to free");
    let ledger = &player.history.ledger;
    assert!(ledger.attempt(ends).is_none() && !ledger.is_quarantined(&lost));
    match keeps {
        Some(keeps) => {
            assert!(ledger.attempt(keeps).is_some());
            assert!(!ledger.homes(&lost).unwrap().log && ledger.homes(&other).unwrap().log);
        }
        None => assert!(ledger.homes(&lost).is_none() && ledger.contents().next().is_none()),
    }
    player
}

#[test]
fn that_the_log_has_lost_content_may_be_worked_out_beforehand() {
    for stays in [true, false] {
        let (plain, worked) = (log_lost(false, stays), log_lost(true, stays));
        assert_eq!(plain.history.finish(), worked.history.finish(), "{stays}");
        assert!(plain.history.ledger.encode() == worked.history.ledger.encode());
    }
}

#[test]
fn what_an_epoch_has_to_be_hydrated_with_is_told_in_slices() {
    let mut player = Player::new(false);
    let directory = Directory::parse("a:3k b:2k c:1k");
    let attempt = player.begin(1, &directory);
    player.apply(&compose::piece(attempt, directory.pack(&[2])));
    let files = linked(&directory, &[1, 3]);
    assert_eq!(player.apply(&compose::link(attempt, &object("o", 1 << 20), &files)), Verdict::DONE);
    player.seal(attempt, &directory);
    let (ledger, job) = (&player.history.ledger, opening(1).job);
    assert_eq!(ledger.epoch(&job, 1).unwrap().mode, Mode::Mixed);
    let (mut found, mut place) = (Vec::new(), 0);
    while let Some(some) = ledger.hydration(&job, 1, place..place + 2) {
        found.extend(some.into_iter().map(|home| (home.digest, home.bytes, home.extents[0].offset)));
        place += 2;
    }
    let mut expected = [1, 3].map(|file| (directory.digest(file), directory.size(file), 0));
    expected[1].2 = directory.size(1);
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(ledger.hydration(&job, 2, 0..9), None);
    for (file, lies) in [(1, Some("west")), (2, None)] {
        let store = ledger.only_in_store(&directory.digest(file)).map(|store| store.name);
        assert_eq!(store.as_deref(), lies);
    }
    let key = ledger.manifest_object(&job, 1).unwrap().key;
    assert_eq!((key.digest, key.attempt), (directory.root(), attempt));
    assert!(!ledger.is_attempt_open(attempt));
    assert_eq!(ledger.store_of(&job, 1).unwrap().name, "west");
}

/// What is in an object has not come to any disk but its writer's.
#[test]
fn what_is_linked_stays_spoken_for_until_the_attempt_ends() {
    let mut player = Player::new(false);
    let directory = Directory::parse("a:300k b:200k");
    let attempt = player.begin(1, &directory);
    let before = player.history.ledger.reserved_bytes();
    assert!(before >= 500 << 10);
    player.apply(&compose::link(attempt, &object("o", 1 << 20), &linked(&directory, &[1])));
    assert_eq!(player.history.ledger.reserved_bytes(), before);
    assert_eq!(player.history.ledger.attempt(attempt).unwrap().linked_bytes, 300 << 10);
    player.apply(&compose::abort(attempt, ""));
    assert_eq!(player.history.ledger.reserved_bytes(), 0);
}

#[expect(clippy::result_large_err, reason = "what admission answers")]
fn admit(admission: &mut Admission, ledger: &Ledger, record: &LogRecord) -> Result<(), NotAdmitted> {
    admission.admit(ledger, &record.header).map(std::mem::forget)
}

#[test]
fn a_file_that_is_on_its_way_into_an_object_goes_nowhere_else() {
    let mut player = Player::new(false);
    let (directory, other) = (Directory::parse("a:100k b:2k"), Directory::parse("a:100k=x b:2k=y"));
    let attempt = player.begin(1, &directory);
    let (mut admission, ledger) = (Admission::new(), &player.history.ledger);
    let link = |directory: &Directory, name: &str, files: &[u32]| {
        compose::link(attempt, &object(name, 1 << 20), &linked(directory, files))
    };
    assert_eq!(admit(&mut admission, ledger, &link(&directory, "o", &[1])), Ok(()));
    let again = admit(&mut admission, ledger, &link(&directory, "p", &[1]));
    assert_eq!(again, Err(NotAdmitted::Duplicate), "the same content, wherever");
    for record in [link(&other, "o", &[1]), compose::piece(attempt, directory.chunk(1, 0))] {
        let refused = admit(&mut admission, ledger, &record);
        let Err(NotAdmitted::Answered(Verdict::Rejected(rejected))) = refused else { panic!("{refused:?}") };
        assert_eq!(rejected.reason, Reason::Overlap);
    }
    assert_eq!(admit(&mut admission, ledger, &link(&directory, "o", &[1, 2])), Ok(()), "one of them is new");
}

/// As a binary of before object stores would have read it.
fn of_before(record: &LogRecord) -> LogRecord {
    let mut header = Header::clone(&record.header).into_record();
    header.version = STORES_SINCE - 1;
    LogRecord::from_parts(Arc::new(Header::new(header)), Bytes::new())
}

#[test]
fn in_a_record_of_before_object_stores_nothing_says_anything_of_them() {
    let directory = Directory::parse("a:3k");
    let (mut history, pages) = (History::default(), Pages::new(&directory.entries));
    let begun = history.apply(&of_before(&compose::begin_in(&opening(1), &pages, 99))).verdict;
    assert!(begun.is_accepted(), "{begun}");
    assert_eq!(history.ledger.attempt(0).unwrap().store, None);
    history.apply(&pages.part(0, 0));
    history.apply(&compose::piece(0, directory.pack(&[1])));
    let sealed = history.apply(&of_before(&compose::seal_with(0, directory.root(), &manifest(&directory))));
    assert!(sealed.verdict.is_accepted(), "{}", sealed.verdict);

    let mut player = Player::new(false);
    let attempt = player.begin(1, &directory);
    for record in [
        compose::link(attempt, &object("o", 1 << 20), &linked(&directory, &[1])),
        compose::store("east", [2; 16], 0),
        compose::delete_batch(STORE, 7),
        compose::deleted(STORE, [(directory.root(), 1, 2)]),
        compose::rehome(attempt, directory.root(), (directory.root(), 1, 2), &object("o", 1), 0),
    ] {
        let verdict = player.apply(&of_before(&record));
        assert_eq!(verdict.rejected().map(|no| no.reason), Some(Reason::Malformed), "{record:?}");
    }
    player.history.finish();
}

#[test]
fn a_cluster_has_so_many_stores_and_no_more() {
    let mut player = Player::new(false);
    for number in 1..64u8 {
        let record = compose::store(format!("store-{number}"), [100 + number; 16], 0);
        assert_eq!(player.apply(&record), Verdict::DONE);
    }
    let verdict = player.apply(&compose::store("one-more", [99; 16], 0));
    assert_eq!(verdict.rejected().map(|no| no.reason), Some(Reason::Quota));
    player.history.finish();
}

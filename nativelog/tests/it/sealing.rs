//! What may be sealed, and for how long a large seal holds up the others.

use std::time::Duration;

use bytes::Bytes;
use checkpoint::digest::{DigestTree, content, subtree};
use checkpoint::{
    CommitId, EntryKind, JobName, Manifest, ManifestEntry, PackedFile, Piece, PlanEntry, RelPath,
};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{
    Accepted, Effect, Frozen, Holding, Ledger, Paging, Reason, Step, TICK_MS_MAX, Verdict,
};
use nativelog::shape::check_shape;
use nativelog::{LogId, LogRecord};

use crate::directory::{CHUNK, Directory};
use crate::history::Remembered;

fn opening() -> Opening {
    Opening {
        job: JobName::try_from("train").unwrap(),
        epoch: None,
        token: None,
        commit: CommitId::from_bytes([7; 16]),
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
        born: 0,
    }
}

fn next(ledger: &Ledger) -> LogId {
    LogId { term: 1, node: 1, index: ledger.applied().map_or(0, |id| id.index + 1) }
}

/// A ledger, and the pages that its log has.
#[derive(Default)]
struct Kept {
    ledger: Ledger,
    pages: Remembered,
}

impl Kept {
    fn step(&mut self, record: &LogRecord) -> Step {
        let id = next(&self.ledger);
        self.pages.remember(id, &record.header);
        self.ledger.gather(&record.header, &self.pages).unwrap();
        self.ledger.step(id, &record.header).unwrap()
    }

    fn done(&mut self, record: &LogRecord) {
        assert_eq!(self.step(record).verdict, Verdict::DONE);
    }
}

/// A client sent the first half of a file with the digest that it would have as a file of its own. Merged with the
/// other half it makes a digest that no bytes have, and the root made with that was sealed: no replica could ever
/// verify the epoch, nor catch up with it.
#[test]
fn a_root_that_no_bytes_have_is_never_sealed() {
    let directory = Directory::parse("f:128k");
    let pages = Pages::new(&directory.entries);
    let mut kept = Kept::default();
    let begun = kept.step(&compose::begin(&opening(), &pages)).verdict;
    assert!(matches!(begun, Verdict::Accepted(Accepted::Begun { attempt: 0, .. })), "{begun}");
    kept.done(&pages.part(0, 0));

    let bytes = Bytes::from(directory.bytes[1].clone());
    let (first, second) = (bytes.slice(..CHUNK as usize), bytes.slice(CHUNK as usize..));
    let alone = content(&first);
    let lie = |file_bytes| {
        let payload = first.clone();
        compose::piece(0, Piece::Chunk { file: 1, offset: 0, digest: alone, file_bytes, payload })
    };
    let mut taken = 0;
    for file_bytes in [2 * CHUNK, CHUNK] {
        let record = lie(file_bytes);
        if check_shape(&record.header, Some(&record.payload)).is_ok() {
            match kept.step(&record).verdict {
                Verdict::Rejected(rejected) => assert_eq!(rejected.reason, Reason::Malformed),
                Verdict::Accepted(_) => taken += 1,
            }
        }
    }
    assert_eq!(taken, 0, "a part of a file was taken in the form of a whole one");

    let mut tree = DigestTree::new(2 * CHUNK, CHUNK as u32);
    tree.insert(0, CHUNK, alone).unwrap();
    tree.insert(CHUNK, CHUNK, subtree(2 * CHUNK, CHUNK, &second)).unwrap();
    let entries = directory.entries.iter().zip([checkpoint::Digest::NONE, tree.finish().unwrap()]);
    let entries = entries.map(|(entry, digest)| ManifestEntry::new(entry, digest));
    let root = Manifest { entries: entries.collect() }.root();
    kept.done(&compose::piece(0, directory.chunk(1, 0)));
    kept.done(&compose::piece(0, directory.chunk(1, CHUNK)));
    let wrong = kept.step(&compose::seal(0, root)).verdict;
    assert_eq!(wrong.rejected().map(|no| no.reason), Some(Reason::WrongRoot));
    let sealed = kept.step(&compose::seal(0, directory.root())).verdict;
    assert!(matches!(sealed, Verdict::Accepted(Accepted::Sealed(_))), "{sealed}");
}

/// CPU time of this thread: other load on the machine does not count.
#[expect(
    unsafe_code,
    reason = "the clock has no safe wrapper here; what /proc tells moves in steps of a tick"
)]
fn cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to what it is given, which outlives it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn timed<T>(longest: &mut Duration, what: impl FnOnce() -> T) -> T {
    let before = cpu();
    let made = what();
    *longest = (*longest).max(cpu().saturating_sub(before));
    made
}

/// CPU time that a record takes.
#[derive(Debug, Clone, Copy, Default)]
struct Took {
    /// The longest part for which it locks the ledger.
    locked: Duration,
    /// What the next record waits for: all but the tree of a seal, which is made beforehand.
    waited: Duration,
    all: Duration,
}

impl Took {
    fn most(self, other: Took) -> Took {
        Took {
            locked: self.locked.max(other.locked),
            waited: self.waited.max(other.waited),
            all: self.all.max(other.all),
        }
    }

    fn tell(&self, what: &str, count: u64) {
        let Took { locked, waited, all } = self;
        println!(
            "{what} of {count} files: {locked:?} locked at once, {waited:?} waited for, {all:?} of CPU in all"
        );
    }
}

/// Puts together what can be of an attempt's tree, as a machine does; all of it when everything is here.
fn gathered(kept: &mut Kept, attempt: u64, longest: &mut Duration) {
    let Kept { ledger, pages } = kept;
    let Some(mut gathering) = timed(longest, || ledger.gathering(attempt)) else { return };
    while let Some(page) = gathering.next() {
        if !timed(longest, || gathering.is_ready(ledger)) {
            assert!(timed(longest, || ledger.keep_half(gathering)).is_none());
            return;
        }
        let entries = page.read(pages).unwrap();
        timed(longest, || gathering.take(ledger, entries)).unwrap();
    }
    let gathered = gathering.finish();
    assert!(timed(longest, || ledger.keep_tree(gathered)).is_none());
}

/// One record, as a machine applies it.
fn applied(kept: &mut Kept, record: &LogRecord) -> (Step, Took) {
    let (mut longest, all) = (Duration::ZERO, cpu());
    kept.pages.remember(next(&kept.ledger), &record.header);
    if let Some(attempt) = kept.ledger.ungathered(&record.header) {
        gathered(kept, attempt, &mut longest);
    }
    let ledger = &mut kept.ledger;
    let waited = cpu();
    if let Some(paged) = timed(&mut longest, || ledger.paging(&record.header)).map(Paging::read) {
        timed(&mut longest, || ledger.keep_paged(paged));
    }
    timed(&mut longest, || drop(ledger.check(&record.header)));
    if let Some(held) = timed(&mut longest, || ledger.holding(&record.header)).and_then(Holding::hold) {
        timed(&mut longest, || ledger.keep_held(held));
    }
    let id = next(ledger);
    let (step, gone) = timed(&mut longest, || (ledger.step(id, &record.header).unwrap(), ledger.take_gone()));
    let waited = cpu() - waited;
    drop(gone);
    (step, Took { locked: longest, waited, all: cpu() - all })
}

/// Files of eight bytes, each with its number and the first of them, in directories of a thousand.
fn many(first: u64, count: u64) -> (Vec<PlanEntry>, Vec<(u32, [u8; 8])>) {
    let entry = |path: String, kind, size| {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        let mode = if kind == EntryKind::File { 0o644 } else { 0o755 };
        PlanEntry { path, kind, mode, size, target: Vec::new() }
    };
    let mut entries = vec![entry(String::new(), EntryKind::Directory, 0)];
    let mut files = Vec::new();
    for number in 0..count {
        if number % 1000 == 0 {
            entries.push(entry(format!("d{:04}", number / 1000), EntryKind::Directory, 0));
        }
        files.push((entries.len() as u32, (first + number).to_be_bytes()));
        entries.push(entry(format!("d{:04}/f{:03}", number / 1000, number % 1000), EntryKind::File, 8));
    }
    (entries, files)
}

/// Brings all files of an attempt in packs, and does something after each; answers with the digests of the entries.
fn packed(
    kept: &mut Kept,
    attempt: u64,
    entries: &[PlanEntry],
    files: &[(u32, [u8; 8])],
    mut after_each: impl FnMut(&mut Kept),
) -> Vec<checkpoint::Digest> {
    let mut digests = vec![checkpoint::Digest::NONE; entries.len()];
    for some in files.chunks(4096) {
        let mut payload = Vec::new();
        let packed = some.iter().map(|(file, bytes)| {
            let offset = payload.len() as u32;
            payload.extend_from_slice(bytes);
            digests[*file as usize] = content(bytes);
            PackedFile { file: *file, offset, len: 8, digest: digests[*file as usize] }
        });
        let files = packed.collect();
        kept.done(&compose::piece(attempt, Piece::Pack { files, payload: Bytes::from(payload) }));
        after_each(kept);
    }
    digests
}

/// What a snapshot is made of, taken as apply takes it: it is encoded when the ledger is free again.
fn frozen(kept: &Kept, told: &mut Vec<(&'static str, Took)>) -> Frozen {
    let mut longest = Duration::ZERO;
    let frozen = timed(&mut longest, || kept.ledger.freeze());
    // Encoding takes far longer: it is not part of this.
    let shortest = |what: &dyn Fn()| {
        let once = |_| {
            let begun = std::time::Instant::now();
            what();
            begun.elapsed()
        };
        (0..5).map(once).min().unwrap()
    };
    let (copy, encoding) =
        (shortest(&|| drop(kept.ledger.freeze())), shortest(&|| drop(kept.ledger.encode())));
    assert!(4 * copy < encoding, "a copy took {copy:?}, to encode {encoding:?}");
    told.push(("copy for a snapshot", Took { locked: longest, waited: longest, all: longest }));
    frozen
}

/// `EPOCHLOG_FILES` sets another size than the one for every day: a million is the most that an epoch may have.
#[test]
fn a_large_seal_locks_the_ledger_for_moments_only() {
    let most = Duration::from_millis(50);
    let count = std::env::var("EPOCHLOG_FILES").map_or(60_000, |count| count.parse().unwrap());
    let (entries, files) = many(0, count);
    let pages = Pages::new(&entries);
    let mut kept = Kept::default();
    let mut told = Vec::new();
    kept.step(&compose::begin(&opening(), &pages));
    let mut part = Took::default();
    for record in pages.parts(0, 0) {
        let (step, took) = applied(&mut kept, &record);
        assert_eq!(step.verdict, Verdict::DONE);
        part = part.most(took);
    }
    told.push(("page of the plan", part));
    let digests = packed(&mut kept, 0, &entries, &files, |_| ());
    let made = entries.iter().zip(digests).map(|(entry, digest)| ManifestEntry::new(entry, digest));
    let root = Manifest { entries: made.collect() }.root();

    // The same without preparation, on a copy: so that the rest of this test cannot pass for nothing.
    let seal = compose::seal(0, root);
    assert!(kept.ledger.step(next(&kept.ledger), &seal.header).is_err(), "nobody has read its plan");
    let mut copy = Kept { ledger: kept.ledger.clone(), pages: kept.pages.clone() };
    let mut unprepared = Duration::ZERO;
    let plain = timed(&mut unprepared, || copy.step(&seal));

    // As while a snapshot is encoded: what the seal changes is shared with it.
    let copied = frozen(&kept, &mut told);
    let (sealed, took) = applied(&mut kept, &compose::seal(0, root));
    drop(copied);
    assert!(matches!(sealed.verdict, Verdict::Accepted(Accepted::Sealed(_))), "{}", sealed.verdict);
    assert_eq!(sealed, plain, "prepared or not, a record does the same");
    assert_eq!(kept.ledger.digest(), copy.ledger.digest());
    told.push(("seal", took));
    let copied = frozen(&kept, &mut told);
    let expire = compose::expire(&opening().job, vec![1], true, "", Vec::new());
    let plain = copy.step(&expire);
    let (expired, took) = applied(&mut kept, &expire);
    drop(copied);
    assert!(
        matches!(&expired.effects[..], [Effect::Expire { released, .. }] if released.len() == files.len())
    );
    assert_eq!(expired, plain, "prepared or not, a record does the same");
    assert_eq!(kept.ledger.digest(), copy.ledger.digest());
    told.push(("expiry", took));

    told.iter().for_each(|(what, took)| took.tell(what, count));
    println!("a seal without preparation: {unprepared:?}");
    for (what, Took { locked, .. }) in told {
        assert!(locked < most, "{what}: the ledger was locked for {locked:?}");
    }
    assert_eq!(Ledger::decode(&kept.ledger.encode()).unwrap().digest(), kept.ledger.digest());
}

/// Epochs of other contents follow each other, while a snapshot shares what is there. Of every other the tree is put
/// together while its content comes in, as at a follower. `EPOCHLOG_FILES` as above.
#[test]
fn a_large_seal_is_as_quick_where_much_is_held_already() {
    let count = std::env::var("EPOCHLOG_FILES").map_or(60_000, |count| count.parse().unwrap());
    let mut kept = Kept::default();
    for epoch in 1..=4 {
        let (entries, files) = many(epoch * count, count);
        let pages = Pages::new(&entries);
        let attempt = next(&kept.ledger).index;
        let commit = CommitId::from_bytes([epoch as u8; 16]);
        kept.step(&compose::begin(&Opening { commit, ..opening() }, &pages));
        pages.parts(attempt, 0).for_each(|part| kept.done(&part));
        let (mut begun, mut went_on) = (Duration::ZERO, 0);
        let digests = packed(&mut kept, attempt, &entries, &files, |kept| {
            if epoch % 2 == 0 && kept.ledger.has_much_more(attempt) {
                gathered(kept, attempt, &mut begun);
                went_on += 1;
                assert!(!kept.ledger.has_much_more(attempt), "it was taken");
            }
        });
        assert_eq!(went_on > 1, epoch % 2 == 0, "{went_on} times");
        let made = entries.iter().zip(digests).map(|(entry, digest)| ManifestEntry::new(entry, digest));
        let root = Manifest { entries: made.collect() }.root();
        let seal = compose::seal(attempt, root);
        // A copy has no half of a tree, and does all of it.
        let mut copy = Kept { ledger: kept.ledger.clone(), pages: kept.pages.clone() };
        let plain = copy.step(&seal);
        let copied = kept.ledger.freeze();
        let (sealed, took) = applied(&mut kept, &seal);
        drop(copied);
        assert!(matches!(sealed.verdict, Verdict::Accepted(Accepted::Sealed(_))), "{}", sealed.verdict);
        assert_eq!(sealed, plain, "begun before or not, a seal does the same");
        assert_eq!(kept.ledger.digest(), copy.ledger.digest());
        took.tell(&format!("seal {epoch}"), count);
        println!("  begun before {went_on} times, {begun:?} locked at once");
    }
    assert_eq!(kept.ledger.contents().count() as u64, 4 * count);
    // Ids that are free again are taken again, the lowest first.
    let expire = compose::expire(&opening().job, vec![1, 3], true, "", Vec::new());
    applied(&mut kept, &expire).1.tell("expiry of two", count);
    assert_eq!(kept.ledger.contents().count() as u64, 2 * count);
}

/// What was put together of a tree before its attempt was complete is let go of when its writer is silent or it ends.
#[test]
fn half_a_tree_is_not_kept_for_who_says_nothing() {
    let (entries, files) = many(0, 20_000);
    let pages = Pages::new(&entries);
    for ends in [false, true] {
        let mut kept = Kept::default();
        kept.step(&compose::begin(&opening(), &pages));
        pages.parts(0, 0).for_each(|part| kept.done(&part));
        packed(&mut kept, 0, &entries, &files[..18_000], |_| ());
        assert!(kept.ledger.has_much_more(0));
        assert_eq!(kept.ledger.gathered_with(u64::MAX), 0);
        gathered(&mut kept, 0, &mut Duration::default());
        assert_eq!(kept.ledger.gathered_with(u64::MAX), entries.len());
        if ends {
            kept.done(&compose::abort(0, "over"));
        } else {
            (0..20).for_each(|_| kept.done(&compose::tick(TICK_MS_MAX)));
            assert!(kept.ledger.has_much_more(0), "it begins anew");
        }
        assert_eq!(kept.ledger.gathered_with(u64::MAX), 0);
    }
}

/// A page as a machine applies it.
fn read_beforehand(kept: &mut Kept, record: &LogRecord) -> Step {
    let paged = kept.ledger.paging(&record.header).map(Paging::read).expect("a long page, and the next one");
    kept.ledger.keep_paged(paged);
    kept.step(record)
}

#[test]
fn a_page_says_the_same_whether_it_was_read_beforehand_or_not() {
    let (entries, _) = many(0, 30_000);
    let pages = Pages::new(&entries);
    assert!(pages.count() > 2);
    let mut kept = Kept::default();
    kept.step(&compose::begin(&opening(), &pages));
    let mut other = Kept { ledger: kept.ledger.clone(), pages: kept.pages.clone() };
    let good: Vec<LogRecord> = pages.parts(0, 0).collect();
    let bytes = |page: usize| {
        let nativelog::record::Kind::Part(part) = good[page].header.kind.clone().unwrap() else {
            unreachable!()
        };
        part.entries
    };
    for page in 0..pages.count() {
        let right = &good[page as usize];
        let whole = bytes(page as usize);
        let out_of_order = bytes(1 - (page as usize).min(1));
        let mut spoiled = whole.to_vec();
        let before = checkpoint::plan::entries(&whole).take(100).map(|read| read.unwrap().bytes.len());
        spoiled[before.sum::<usize>()] = b'x';
        let bad = [whole.slice(..whole.len() - 3), out_of_order, spoiled.into()];
        for wrong in bad.map(|entries| compose::part(0, page, entries)) {
            let plain = other.step(&wrong);
            assert!(!plain.verdict.is_accepted(), "{}", plain.verdict);
            assert_eq!(read_beforehand(&mut kept, &wrong), plain);
            // What was read of another page is of no use.
            let paged = kept.ledger.paging(&wrong.header).map(Paging::read).unwrap();
            kept.ledger.keep_paged(paged);
            assert_eq!(kept.ledger.check(&right.header), other.ledger.check(&right.header));
        }
        assert_eq!(read_beforehand(&mut kept, right), other.step(right));
        assert!(kept.ledger.paging(&right.header).is_none(), "it is here");
        assert_eq!(kept.ledger.digest(), other.ledger.digest());
        // Half of a plan survives a snapshot.
        kept.ledger = Ledger::decode(&kept.ledger.encode()).unwrap();
    }
    assert_eq!(kept.ledger.attempt(0).unwrap().pages_here, pages.count());
}

/// The content in quarantine may be held by nobody but the attempts that its quarantine ends.
#[test]
fn a_quarantine_does_the_same_whether_it_was_prepared_or_not() {
    let (entries, files) = many(0, 5000);
    let pages = Pages::new(&entries);
    let mut kept = Kept::default();
    kept.step(&compose::begin(&opening(), &pages));
    pages.parts(0, 0).for_each(|part| kept.done(&part));
    let digests = packed(&mut kept, 0, &entries, &files, |_| ());
    let made = entries.iter().zip(&digests).map(|(entry, digest)| ManifestEntry::new(entry, *digest));
    let root = Manifest { entries: made.collect() }.root();
    let (sealed, ..) = applied(&mut kept, &compose::seal(0, root));
    assert!(matches!(sealed.verdict, Verdict::Accepted(Accepted::Sealed(_))), "{}", sealed.verdict);

    let leaning = next(&kept.ledger).index;
    kept.step(&compose::begin(&Opening { commit: CommitId::from_bytes([8; 16]), ..opening() }, &pages));
    pages.parts(leaning, 0).for_each(|part| kept.done(&part));
    for some in files.chunks(1024) {
        let files = some.iter().map(|(file, _)| (*file, digests[*file as usize])).collect();
        kept.done(&compose::piece(leaning, Piece::Reuse { files }));
    }
    kept.done(&compose::expire(&opening().job, vec![1], true, "", Vec::new()));
    let content = digests[files[0].0 as usize];
    let brought = kept.ledger.brought(&content).expect("the attempt holds it");

    let record = compose::quarantine(content, brought, [(1, "corrupt".to_owned())]);
    let mut copy = Kept { ledger: kept.ledger.clone(), pages: kept.pages.clone() };
    let plain = copy.step(&record);
    assert!(kept.ledger.holding(&record.header).is_some(), "it lets go of much");
    let (step, ..) = applied(&mut kept, &record);
    assert_eq!(step, plain);
    assert_eq!(kept.ledger.digest(), copy.ledger.digest());
    assert!(kept.ledger.attempt(leaning).is_none(), "its writer begins anew");
    assert_eq!(kept.ledger.contents().count(), 0);
    assert_eq!(Ledger::decode(&kept.ledger.encode()).unwrap().digest(), kept.ledger.digest());
}

/// Ages for people come from the clock of the leader that proposed the seal: whatever that says, no epoch of a job looks
/// older than the one before it, nothing is decided by it, and a snapshot keeps it.
#[test]
fn the_time_of_a_seal_is_kept_for_people_and_never_goes_back() {
    let directory = Directory::parse("f:0");
    let pages = Pages::new(&directory.entries);
    let mut kept = Kept::default();
    for (epoch, told, known) in
        [(1, 0, 0), (2, 5_000, 5_000), (3, 4_000, 5_000), (4, 0, 0), (5, 6_000, 6_000)]
    {
        let commit = CommitId::from_bytes([epoch as u8; 16]);
        let opening = Opening { commit, epoch: Some(epoch), ..opening() };
        let record = match epoch % 2 {
            0 => compose::whole(&opening, &pages, &[], directory.root()).unwrap(),
            _ => {
                let begun = next(&kept.ledger).index;
                kept.step(&compose::begin(&opening, &pages));
                kept.done(&pages.part(begun, 0));
                compose::seal(begun, directory.root())
            }
        };
        let stamped = record.sealed_at(told);
        assert_eq!(check_shape(&stamped.header, Some(&stamped.payload)), Ok(()));
        // Whoever composed it had no say.
        let verdict = kept.step(&record.sealed_at(77).sealed_at(told)).verdict;
        assert!(matches!(verdict, Verdict::Accepted(Accepted::Sealed(_))), "{epoch}: {verdict}");
        assert_eq!(kept.ledger.epoch(&opening.job, epoch).unwrap().sealed_wall_ms, known, "{epoch}");
        // A repeat by another leader, whose clock is elsewhere, finds what was sealed.
        let again = kept.step(&record.sealed_at(9_000)).verdict;
        assert!(matches!(again, Verdict::Accepted(Accepted::Sealed(sealed)) if sealed.already), "{epoch}");
        assert_eq!(kept.ledger.epoch(&opening.job, epoch).unwrap().sealed_wall_ms, known, "{epoch}");
    }
    let kept_in_snapshot = Ledger::decode(&kept.ledger.encode()).unwrap();
    assert_eq!(kept_in_snapshot.digest(), kept.ledger.digest());
    assert_eq!(kept_in_snapshot.epoch(&opening().job, 3).unwrap().sealed_wall_ms, 5_000);
    let tick = compose::tick(5);
    assert_eq!(tick.sealed_at(9_000).header, tick.header, "other records are as they were");
}

//! What a ledger takes in memory and in a snapshot, counted to the byte.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use checkpoint::digest::{Digest, content};
use checkpoint::{CommitId, EntryKind, JobName, Manifest, ManifestEntry, Piece, PlanEntry, RelPath};
use nativelog::LogId;
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{Ledger, OUTCOMES_MAX};
use nativelog::record::LogRecord;

/// The system's allocator, and the bytes that it has given out.
struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
/// One test counts at a time.
static TURN: Mutex<()> = Mutex::new(());

#[global_allocator]
static COUNTED: Counted = Counted;

#[expect(unsafe_code, reason = "nothing else sees what a ledger holds")]
// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What an entry of an open plan may hold, bytes.
const ENTRY_BOUND: usize = 16;
/// What may be held and written, bytes.
const BOUND: usize = 64 << 20;
/// Epochs of a job that are kept.
const KEPT: u64 = 2;

struct Filled {
    held: usize,
    snapshot: usize,
    outcomes: usize,
}

fn step(ledger: &mut Ledger, record: &LogRecord) {
    let index = ledger.applied().map_or(0, |id| id.index + 1);
    let step = ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap();
    assert!(step.verdict.is_accepted(), "{}", step.verdict);
    drop(ledger.take_changed(usize::MAX));
}

/// One file of 8 bytes, with a content of its own.
fn whole(job: &JobName, commit: u64, born: u64) -> LogRecord {
    let bytes = [commit.to_be_bytes(), born.to_be_bytes()].concat();
    let entry = |path: &[u8], kind, mode, size| PlanEntry {
        path: RelPath::parse(path).unwrap(),
        kind,
        mode,
        size,
        target: Vec::new(),
    };
    let entries = [
        entry(b"", EntryKind::Directory, 0o755, 0),
        entry(b"state", EntryKind::File, 0o644, bytes.len() as u64),
    ];
    let digest = content(&bytes);
    let digests = [Digest::NONE, digest];
    let manifest = Manifest {
        entries: entries
            .iter()
            .zip(digests)
            .map(|(entry, digest)| ManifestEntry::new(entry, digest))
            .collect(),
    };
    let id = content(&[job.as_str().as_bytes(), &commit.to_be_bytes()].concat());
    let opening = Opening {
        job: job.clone(),
        epoch: Some(commit),
        token: None,
        commit: CommitId::from_slice(&id.as_bytes()[..16]).unwrap(),
        born,
        chunk_bytes: 64 << 10,
        base: None,
        labels: vec![("time".into(), "2026-11-28T14:00:00Z".into())],
        depends_on: Vec::new(),
    };
    let file = checkpoint::PackedFile { file: 1, offset: 0, len: bytes.len() as u32, digest };
    let pack = Piece::Pack { files: vec![file], payload: bytes.into() };
    compose::whole(&opening, &Pages::new(&entries), &[pack], manifest.root()).unwrap()
}

/// So many jobs with so many commits each, of which all but the newest two epochs have expired.
fn filled(jobs: u64, commits: u64) -> Filled {
    let before = HELD.load(Ordering::Relaxed);
    let mut ledger = Ledger::default();
    for commit in 1..=commits {
        for job in 0..jobs {
            let job = JobName::try_from(format!("job-{job:06}").as_str()).unwrap();
            let born = ledger.applied().map_or(0, |id| id.index);
            step(&mut ledger, &whole(&job, commit, born));
            if commit > KEPT {
                step(&mut ledger, &compose::expire(&job, vec![commit - KEPT], false, "", Vec::new()));
            }
        }
    }
    let held = HELD.load(Ordering::Relaxed) - before;
    let began = Instant::now();
    let frozen = ledger.freeze();
    println!("frozen for a snapshot in {:?}, {} outcomes", began.elapsed(), ledger.outcomes());
    let encoded = frozen.encode();
    assert_eq!(Ledger::decode(&encoded).unwrap().digest(), ledger.digest());
    drop(frozen);
    Filled { held, snapshot: encoded.len(), outcomes: ledger.outcomes() }
}

/// Whatever number of commits 2,000 jobs made, and with two epochs left of each: memory and snapshot stay small. The
/// whole of it, 2,000 commits each, with `EPOCHLOG_EXHAUSTIVE=1` (and `--release`); else what one outcome takes is
/// measured, and counted as often as there may be outcomes.
#[test]
fn many_commits_of_many_jobs_leave_a_small_ledger() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if std::env::var_os("EPOCHLOG_EXHAUSTIVE").is_some() {
        let full = filled(2000, 2000);
        println!("{} outcomes, {} bytes held, {} in a snapshot", full.outcomes, full.held, full.snapshot);
        assert_eq!(full.outcomes, OUTCOMES_MAX);
        assert!(full.held < BOUND && full.snapshot < BOUND);
        return;
    }
    // Powers of two: a ring that has just grown would count for more than it is.
    let (few, many) = (filled(2048, 2), filled(2048, 16));
    let more = many.outcomes - few.outcomes;
    assert_eq!(more, 2048 * 14);
    let whole = |few: usize, many: usize| few + (many - few).div_ceil(more) * OUTCOMES_MAX;
    let (held, snapshot) = (whole(few.held, many.held), whole(few.snapshot, many.snapshot));
    println!("held {}, then {}: {held}", few.held, many.held);
    println!("a snapshot {}, then {}: {snapshot}", few.snapshot, many.snapshot);
    assert!(held < BOUND, "{held} bytes held");
    assert!(snapshot < BOUND, "{snapshot} bytes in a snapshot");
}

/// A ledger from elsewhere says in four bytes how many slots its content has. Those that are free take next to nothing,
/// however many it claims.
#[test]
fn free_slots_that_a_ledger_claims_take_little() {
    /// The lengths that a row begins with, bytes.
    const LENS: usize = 8;
    /// The first row's key, version of the rules and log time: the number of slots follows.
    const BEFORE: usize = 1 + 4 + 8;
    /// A word for each thousand slots of four thousand millions, bytes.
    const CLAIMED_BOUND: usize = 40 << 20;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ledger = Ledger::default();
    step(&mut ledger, &whole(&JobName::try_from("job").unwrap(), 1, 0));
    let honest = ledger.encode();
    let first = honest.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let slots = first + LENS + BEFORE..first + LENS + BEFORE + 4;
    assert_eq!(honest[slots.clone()], ledger.content_slots().to_be_bytes());
    for claimed in [1 << 24, u32::MAX] {
        let mut forged = honest.clone();
        forged[slots.clone()].copy_from_slice(&claimed.to_be_bytes());
        let at = forged.len() - 32;
        let digest = content(&forged[..at]);
        forged[at..].copy_from_slice(digest.as_bytes());
        let before = HELD.load(Ordering::Relaxed);
        let mut decoded = Ledger::decode(&forged).unwrap();
        let held = HELD.load(Ordering::Relaxed) - before;
        assert_eq!(decoded.content_slots(), claimed);
        assert!(held < CLAIMED_BOUND, "{held} bytes for {claimed} slots");
        step(&mut decoded, &whole(&JobName::try_from("job").unwrap(), 2, 0));
        assert_eq!((decoded.content_slots(), decoded.contents().count()), (claimed, 2));
    }
}

/// The pages of a plan lie on disk: of each entry, however long its path, little is in memory. Nothing is while a page is
/// judged but that page.
#[test]
fn an_open_plan_of_a_million_entries_takes_sixteen_bytes_an_entry() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = |path: String, kind, mode, size| PlanEntry {
        path: RelPath::parse(path.as_bytes()).unwrap(),
        kind,
        mode,
        size,
        target: Vec::new(),
    };
    let mut entries = vec![entry(String::new(), EntryKind::Directory, 0o755, 0)];
    for dir in 0..1000 {
        entries.push(entry(format!("dir-{dir:04}"), EntryKind::Directory, 0o755, 0));
        let files = (1..1000).filter(|file| (dir, *file) != (0, 1));
        entries.extend(
            files.map(|file| entry(format!("dir-{dir:04}/file-{file:04}"), EntryKind::File, 0o644, 20)),
        );
    }
    assert_eq!(entries.len(), 1_000_000);
    let pages = Pages::new(&entries);
    drop(entries);
    let opening = Opening {
        job: JobName::try_from("train").unwrap(),
        epoch: None,
        token: None,
        commit: CommitId::from_bytes([1; 16]),
        born: 0,
        chunk_bytes: 64 << 10,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    // A page that is composed for the first time makes those who hold it larger.
    pages.parts(0, 0).for_each(drop);
    let mut ledger = Ledger::default();
    step(&mut ledger, &compose::begin(&opening, &pages));
    let held = || HELD.load(Ordering::Relaxed);
    let before = held();
    let last = pages.count() - 1;
    for page in 0..last {
        step(&mut ledger, &pages.part(0, page));
    }
    // With the last page nothing is left to check: what is kept for that counts, too, while it is there.
    let checking = held() - before;
    step(&mut ledger, &pages.part(0, last));
    let whole = held() - before;
    let encoded = ledger.encode();
    let after = held();
    let decoded = Ledger::decode(&encoded).unwrap();
    let anew = held() - after;
    assert_eq!(decoded.digest(), ledger.digest());
    println!(
        "{checking} bytes held before the last page, {whole} with it, {anew} read back, {} in a snapshot",
        encoded.len()
    );
    for (what, bytes) in [
        ("with all but the last page", checking),
        ("whole", whole),
        ("read back", anew),
        ("in a snapshot", encoded.len()),
    ] {
        assert!(bytes <= ENTRY_BOUND * 1_000_000, "{bytes} bytes {what}");
    }
}

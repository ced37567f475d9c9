//! What the ledger forgets, so that it stays small whatever a cluster writes, and what it never says of it.

use checkpoint::{CommitId, JobName};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{
    Accepted, Ledger, OUTCOME_KEPT_MS, OUTCOMES_MAX, RowKey, TICK_MS_MAX, TimeNeed, Verdict,
};
use nativelog::record::Kind;
use nativelog::{LogId, LogRecord};

use crate::directory::{CHUNK, Directory};
use crate::history::Remembered;

fn id(commit: u64) -> CommitId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&commit.to_be_bytes());
    CommitId::from_bytes(id)
}

fn job() -> JobName {
    JobName::try_from("train").unwrap()
}

fn opening(commit: u64, epoch: Option<u64>, born: u64) -> Opening {
    Opening {
        job: job(),
        epoch,
        token: None,
        commit: id(commit),
        born,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    }
}

fn directory(commit: u64) -> Directory {
    Directory::parse(&format!("state:20={commit}"))
}

fn whole_born(commit: u64, epoch: Option<u64>, born: u64) -> LogRecord {
    let directory = directory(commit);
    let pack = directory.pack(&directory.files());
    let pages = Pages::new(&directory.entries);
    compose::whole(&opening(commit, epoch, born), &pages, &[pack], directory.root()).unwrap()
}

fn whole(commit: u64, epoch: Option<u64>) -> LogRecord {
    whole_born(commit, epoch, 0)
}

fn begin(commit: u64, epoch: u64) -> LogRecord {
    compose::begin(&opening(commit, Some(epoch), 0), &Pages::new(&directory(commit).entries))
}

fn step(ledger: &mut Ledger, record: &LogRecord) -> Verdict {
    let index = ledger.applied().map_or(0, |id| id.index + 1);
    ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap().verdict
}

fn now(ledger: &Ledger) -> u64 {
    ledger.applied().map_or(0, |id| id.index)
}

fn sealed(verdict: Verdict) -> (u64, bool) {
    match verdict {
        Verdict::Accepted(Accepted::Sealed(sealed)) => (sealed.epoch, sealed.already),
        other => panic!("{other}"),
    }
}

fn reason(verdict: &Verdict) -> Option<&'static str> {
    verdict.rejected().map(|no| no.reason.as_str())
}

fn a_day_passes(ledger: &mut Ledger) {
    for _ in 0..OUTCOME_KEPT_MS / TICK_MS_MAX {
        assert_eq!(step(ledger, &compose::tick(TICK_MS_MAX)), Verdict::DONE);
    }
}

#[test]
fn an_attempt_that_lasted_long_keeps_its_own_outcome() {
    // It began first and ends last; over a thousand younger attempts of its job began and ended in between.
    let mut ledger = Ledger::default();
    step(&mut ledger, &compose::tick(0));
    let attempt = now(&ledger) + 1;
    assert!(step(&mut ledger, &begin(0, 5000)).is_accepted());
    let directory = directory(0);
    let part = Pages::new(&directory.entries).part(attempt, 0);
    let mut pages = Remembered::default();
    pages.remember(LogId { term: 1, node: 1, index: now(&ledger) + 1 }, &part.header);
    assert!(step(&mut ledger, &part).is_accepted());
    for commit in 1..1100 {
        sealed(step(&mut ledger, &whole(commit, Some(commit))));
    }
    assert!(step(&mut ledger, &compose::piece(attempt, directory.pack(&directory.files()))).is_accepted());
    let seal = compose::seal(attempt, directory.root());
    ledger.gather(&seal.header, &pages).unwrap();
    assert_eq!(sealed(step(&mut ledger, &seal)), (5000, false));
    assert_eq!(sealed(step(&mut ledger, &seal)), (5000, true), "a repeat whose first answer was lost");
    assert_eq!(sealed(step(&mut ledger, &begin(0, 5000))), (5000, true));
}

#[test]
fn outcomes_are_forgotten_after_a_day_and_then_nobody_lies_about_them() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.time_need(), TimeNeed::Nothing);
    for commit in 0..4 {
        assert_eq!(sealed(step(&mut ledger, &whole(commit, None))), (commit + 1, false));
    }
    let aborted = now(&ledger) + 1;
    assert!(step(&mut ledger, &begin(10, 9)).is_accepted());
    assert_eq!(ledger.time_need(), TimeNeed::Seconds);
    assert!(step(&mut ledger, &compose::abort(aborted, "")).is_accepted());
    assert!(step(&mut ledger, &compose::open_writer(&job(), id(20), 0)).is_accepted());
    assert!(step(&mut ledger, &compose::expire(&job(), vec![1, 2], true, "", Vec::new())).is_accepted());
    assert_eq!((ledger.time_need(), ledger.horizon()), (TimeNeed::Minutes, None));

    // While it is remembered, also of an epoch that has expired.
    match step(&mut ledger, &whole(0, Some(1))) {
        Verdict::Accepted(Accepted::Sealed(sealed)) => {
            assert_eq!((sealed.epoch, sealed.root), (1, directory(0).root()));
            assert!(sealed.already && sealed.expired && sealed.position.index == 0);
        }
        other => panic!("{other}"),
    }
    assert_eq!(reason(&step(&mut ledger, &compose::abort(999, ""))), Some("not-found"));

    let born = now(&ledger);
    a_day_passes(&mut ledger);
    assert_eq!((ledger.outcomes(), ledger.time_need()), (0, TimeNeed::Nothing));
    assert!(ledger.horizon().is_some_and(|horizon| horizon < born));
    // The epochs that are there keep their commits' ids.
    assert_eq!(sealed(step(&mut ledger, &whole(2, None))), (3, true));
    assert_eq!(sealed(step(&mut ledger, &whole(3, Some(4)))), (4, true));
    let other = compose::begin(&opening(3, Some(4), 0), &Pages::new(&Directory::parse("other:7").entries));
    assert_eq!(reason(&step(&mut ledger, &other)), Some("conflict"), "another plan under its id");
    // Of the others nobody can say anything.
    for (what, record) in [
        ("sealed and expired", whole(0, None)),
        ("by its number", whole(0, Some(1))),
        ("under a number that was not in use", whole(0, Some(77))),
        ("in pieces", begin(0, 1)),
        ("aborted", begin(10, 9)),
        ("a writer", compose::open_writer(&job(), id(20), 0)),
        ("by its attempt", compose::seal(aborted, directory(10).root())),
        ("to abort it", compose::abort(aborted, "")),
    ] {
        assert_eq!(reason(&step(&mut ledger, &record)), Some("too-old"), "{what}");
    }
    // An id that was born since is new.
    assert_eq!(sealed(step(&mut ledger, &whole_born(30, None, born))), (5, false));
    assert!(step(&mut ledger, &compose::open_writer(&job(), id(31), born)).is_accepted());
    // One of an unknown age is found when it is remembered.
    assert_eq!(sealed(step(&mut ledger, &whole(30, None))), (5, true));
    assert_eq!(Ledger::decode(&ledger.encode()).unwrap().encode(), ledger.encode());
}

#[test]
fn what_a_commit_tried_in_pieces_led_to_is_what_its_whole_epoch_sealed() {
    // The same commit has an open attempt, which its whole epoch subsumes: the seal is its outcome.
    let mut ledger = Ledger::default();
    assert!(step(&mut ledger, &begin(1, 7)).is_accepted());
    assert_eq!(sealed(step(&mut ledger, &whole(1, Some(7)))), (7, false));
    step(&mut ledger, &compose::expire(&job(), vec![7], true, "", Vec::new()));
    assert_eq!(sealed(step(&mut ledger, &whole(1, Some(7)))), (7, true));
}

#[test]
fn a_cluster_remembers_so_many_outcomes_and_forgets_the_oldest_ends() {
    let mut ledger = Ledger::default();
    let writer = |n: u64| compose::open_writer(&job(), id(n), 0);
    for n in 0..OUTCOMES_MAX as u64 + 10 {
        let newborn = compose::open_writer(&job(), id(n), now(&ledger));
        assert!(step(&mut ledger, &newborn).is_accepted());
        if n % 1000 == 0 {
            drop(ledger.take_changed(usize::MAX));
        }
    }
    assert_eq!((ledger.outcomes(), ledger.horizon()), (OUTCOMES_MAX, Some(9)));
    assert_eq!(reason(&step(&mut ledger, &writer(9))), Some("too-old"));
    assert_eq!(step(&mut ledger, &writer(10)), Verdict::Accepted(Accepted::Opened { token: 10 }));
    let newest = OUTCOMES_MAX as u64 + 9;
    assert_eq!(step(&mut ledger, &writer(newest)), Verdict::Accepted(Accepted::Opened { token: newest }));
}

#[test]
fn pins_that_have_ended_make_room_and_go() {
    let mut ledger = Ledger::default();
    sealed(step(&mut ledger, &whole(1, None)));
    let pin = |n: u64, for_ms| compose::pin(&job(), 1, &format!("reader{n}"), "", for_ms);
    for n in 0..64 {
        assert_eq!(step(&mut ledger, &pin(n, 1000)), Verdict::DONE);
    }
    assert_eq!(reason(&step(&mut ledger, &pin(64, 1000))), Some("quota"));
    assert_eq!(ledger.time_need(), TimeNeed::Seconds, "a pin that ends needs the time");
    step(&mut ledger, &compose::tick(1000));
    let pins = |ledger: &Ledger| ledger.rows().filter(|(key, _)| matches!(key, RowKey::Pin(..))).count();
    assert_eq!((pins(&ledger), ledger.time_need()), (0, TimeNeed::Minutes));
    for n in 64..128 {
        assert_eq!(step(&mut ledger, &pin(n, 0)), Verdict::DONE, "pin {n}");
    }
    assert_eq!(ledger.time_need(), TimeNeed::Minutes, "these have no end");
    assert_eq!(Ledger::decode(&ledger.encode()).unwrap().time_need(), TimeNeed::Minutes);
}

/// A Begin that declares so many entries; nobody brings them.
fn begin_large(job: u64, commit: u64, entries: u32) -> LogRecord {
    let name = JobName::try_from(format!("job{job}").as_str()).unwrap();
    let opening = Opening { job: name, ..opening(commit, Some(commit), 0) };
    let record = compose::begin(&opening, &Pages::new(&directory(commit).entries));
    let Some(Kind::Begin(mut begin)) = record.header.kind.clone() else { unreachable!() };
    begin.plan_entries = entries;
    LogRecord::new(Kind::Begin(begin), bytes::Bytes::new())
}

#[test]
fn open_plans_have_room_and_the_silent_give_way() {
    let mut ledger = Ledger::default();
    let open = |ledger: &Ledger| -> Vec<u64> { ledger.attempts().map(|attempt| attempt.id).collect() };
    // Indexes 0 to 7: two attempts each of four jobs, a million entries a job.
    for n in 0..8 {
        assert!(step(&mut ledger, &begin_large(n / 2, n, 500_000)).is_accepted());
    }
    for (job, why) in [(0, "of the job"), (9, "all open attempts")] {
        let full = step(&mut ledger, &begin_large(job, 20, 1));
        assert_eq!(reason(&full), Some("quota"));
        assert!(full.rejected().unwrap().detail.contains(why), "{full}");
        // Its own need, who has the rest, and which of them has most.
        assert!(full.rejected().unwrap().detail.contains("the plan has 1 entries"), "{full}");
        assert!(full.rejected().unwrap().detail.contains("(most: job"), "{full}");
    }
    for _ in 0..4 {
        step(&mut ledger, &compose::tick(TICK_MS_MAX));
    }
    // A sign of life of the oldest, and a minute later the others have been silent for five.
    assert!(step(&mut ledger, &begin_large(0, 0, 500_000)).is_accepted());
    assert_eq!(
        reason(&step(&mut ledger, &begin_large(9, 20, 1))),
        Some("quota"),
        "four minutes are not enough"
    );
    step(&mut ledger, &compose::tick(TICK_MS_MAX));
    // What a job lacks its own silent attempts give, what all lack the longest silent, and no more than is needed.
    assert!(step(&mut ledger, &begin_large(2, 21, 500_000)).is_accepted());
    assert_eq!(open(&ledger)[..7], [0, 1, 2, 3, 5, 6, 7]);
    assert!(step(&mut ledger, &begin_large(9, 22, 600_000)).is_accepted());
    assert_eq!(open(&ledger)[..5], [0, 3, 5, 6, 7]);
    assert_eq!(reason(&step(&mut ledger, &compose::seal(1, directory(1).root()))), Some("ended"));
    assert!(step(&mut ledger, &begin_large(0, 23, 500_000)).is_accepted());
    assert_eq!(reason(&step(&mut ledger, &begin_large(0, 24, 1))), Some("quota"), "its own were heard of");
    let again = Ledger::decode(&ledger.encode()).unwrap();
    assert_eq!(
        again.check(&begin_large(8, 25, 600_000).header),
        ledger.check(&begin_large(8, 25, 600_000).header)
    );
    // 64 small ones of one job, silent: the longest silent makes room for the 65th.
    let mut ledger = Ledger::default();
    for n in 0..64 {
        assert!(step(&mut ledger, &begin_large(0, n, 1)).is_accepted());
    }
    let full = step(&mut ledger, &begin_large(0, 64, 1));
    assert_eq!(reason(&full), Some("quota"));
    assert!(
        full.rejected().unwrap().detail.contains("64 open attempts (the longest silent: job0@"),
        "{full}"
    );
    for _ in 0..5 {
        step(&mut ledger, &compose::tick(TICK_MS_MAX));
    }
    assert!(step(&mut ledger, &begin_large(0, 64, 1)).is_accepted());
    assert_eq!((open(&ledger).len(), open(&ledger)[0]), (64, 1));
}

#[test]
fn holes_reserve_no_room_and_zeros_give_none_back() {
    const GIB: u64 = 1 << 30;
    let mut ledger = Ledger::default();
    let directory = Directory::parse("sparse:1=1");
    let pages = Pages::new(&directory.entries);
    let begin = |stored_bytes| {
        let record = compose::begin(&opening(1, Some(1), 0), &pages);
        let mut header = nativelog::record::Header::clone(&record.header).into_record();
        let Some(Kind::Begin(begin)) = &mut header.kind else { unreachable!() };
        (begin.declared_bytes, begin.stored_bytes) = (100 * GIB, stored_bytes);
        LogRecord::from_parts(std::sync::Arc::new(nativelog::record::Header::new(header)), Default::default())
    };
    let reserved = |stored_bytes| {
        let mut ledger = Ledger::default();
        assert!(step(&mut ledger, &begin(stored_bytes)).is_accepted());
        // As another replica has it, that takes the ledger as a whole.
        let taken = Ledger::decode(&ledger.encode()).unwrap();
        assert_eq!((taken.digest(), taken.reserved_bytes()), (ledger.digest(), ledger.reserved_bytes()));
        taken.reserved_bytes()
    };
    let dense = reserved(None);
    assert!(dense > 100 * GIB);
    assert!(reserved(Some(320 << 10)) < 1 << 20, "holes are free");
    assert_eq!(reserved(Some(u64::MAX)), dense, "no more than was declared");
    assert!(step(&mut ledger, &begin(Some(320 << 10))).is_accepted());
    assert_eq!(ledger.attempts().next().unwrap().stored_bytes, 320 << 10);
    // What was brought counts, not what files have, and stays counted.
    assert_eq!(ledger.brought_bytes(), 0);
    assert!(step(&mut ledger, &whole(7, None)).is_accepted());
    assert_eq!(ledger.brought_bytes(), 20);
    assert_eq!(step(&mut ledger, &compose::expire(&job(), vec![2], true, "", Vec::new())), Verdict::DONE);
    assert_eq!(ledger.brought_bytes(), 20);
}

#[test]
fn expiry_gives_back_all_content() {
    let job = job();
    let mut ledger = Ledger::default();
    for commit in 0..30 {
        step(&mut ledger, &whole(commit, None));
    }
    let expire = compose::expire(&job, (1..=30).collect(), true, "", Vec::new());
    assert_eq!(step(&mut ledger, &expire), Verdict::DONE);
    let kept = |key: &RowKey| {
        matches!(key, RowKey::Content(_) | RowKey::Epoch(..) | RowKey::EpochContent(..) | RowKey::Attempt(_))
    };
    assert_eq!(ledger.rows().filter(|(key, _)| kept(key)).count(), 0);
    assert_eq!(ledger.high_water(&job), Some(30));
    assert_eq!(ledger.reserved_bytes(), 0);
    // The ids of what is gone are taken again, in the same order everywhere.
    step(&mut ledger, &whole(99, None));
    assert!(ledger.rows().any(|(key, _)| key == RowKey::Content(0)));
}

#[test]
fn an_epoch_of_many_files_changes_three_rows_that_people_list() {
    let mut ledger = Ledger::default();
    let files: Vec<String> = (0..60).map(|file| format!("f{file:02}:30={}", file + 1)).collect();
    let directory = Directory::parse(&files.join(" "));
    let opening = Opening {
        job: JobName::try_from("train").unwrap(),
        epoch: None,
        token: None,
        commit: CommitId::from_bytes([1; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let (pages, pack) = (Pages::new(&directory.entries), directory.pack(&directory.files()));
    let record = compose::whole(&opening, &pages, &[pack], directory.root()).unwrap();
    sealed(step(&mut ledger, &record));
    assert_eq!(ledger.rows().filter(|(key, _)| matches!(key, RowKey::Content(_))).count(), 60);
    let keys = ledger.take_changed(usize::MAX).into_iter().map(|(key, _)| RowKey::from_bytes(&key).unwrap());
    let job = JobName::try_from("train").unwrap();
    assert_eq!(keys.collect::<Vec<_>>(), [RowKey::Meta, RowKey::Job(job.clone()), RowKey::Epoch(job, 1)]);
}

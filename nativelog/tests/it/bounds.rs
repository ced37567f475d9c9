//! What the ledger forgets, so that it stays small whatever a job writes.

use checkpoint::{CommitId, JobName};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{Accepted, COMMITS_REMEMBERED, Ledger, RowKey, Verdict};
use nativelog::{LogId, LogRecord};

use crate::directory::{CHUNK, Directory};

fn whole(commit: u64, epoch: Option<u64>) -> LogRecord {
    let directory = Directory::parse(&format!("state:20={commit}"));
    let mut id = [0; 16];
    id[..8].copy_from_slice(&commit.to_be_bytes());
    let opening = Opening {
        job: JobName::try_from("train").unwrap(),
        epoch,
        token: None,
        commit: CommitId::from_bytes(id),
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let pack = directory.pack(&directory.files());
    compose::whole(&opening, &Pages::new(&directory.entries), &[pack], directory.root()).unwrap()
}

fn step(ledger: &mut Ledger, record: &LogRecord) -> Verdict {
    let index = ledger.applied().map_or(0, |id| id.index + 1);
    ledger.step(LogId { term: 1, node: 1, index }, &record.header).unwrap().verdict
}

fn sealed(verdict: Verdict) -> (u64, bool) {
    match verdict {
        Verdict::Accepted(Accepted::Sealed(sealed)) => (sealed.epoch, sealed.already),
        other => panic!("{other}"),
    }
}

#[test]
fn a_job_remembers_its_last_commits_and_no_more() {
    let mut ledger = Ledger::default();
    let written = COMMITS_REMEMBERED as u64 + 50;
    for commit in 0..written {
        assert_eq!(sealed(step(&mut ledger, &whole(commit, None))), (commit + 1, false));
    }
    let count = |ledger: &Ledger, is: fn(&RowKey) -> bool| ledger.rows().filter(|(key, _)| is(key)).count();
    assert_eq!(count(&ledger, |key| matches!(key, RowKey::Commit(..))), COMMITS_REMEMBERED);
    assert_eq!(count(&ledger, |key| matches!(key, RowKey::Ended(_))), COMMITS_REMEMBERED);
    // The oldest that is remembered finds its outcome; what is older is told that its number is taken.
    assert_eq!(sealed(step(&mut ledger, &whole(50, None))), (51, true));
    assert_eq!(sealed(step(&mut ledger, &whole(49, Some(50)))), (50, true), "by number and root");
    let other = step(&mut ledger, &whole(48, Some(50)));
    assert_eq!(other.rejected().map(|no| no.reason.as_str()), Some("conflict"));
    assert_eq!(Ledger::decode(&ledger.encode()).unwrap().encode(), ledger.encode());
}

#[test]
fn expiry_gives_back_all_content() {
    let job = JobName::try_from("train").unwrap();
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

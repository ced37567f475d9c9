//! Commits on a ground without processes: a ledger in memory, behind a leader that goes when it is told to.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use checkpoint::disk::Pool;
use checkpoint::{Choice, Digest, JobName, Limits, Pattern, Plan, RealDisk, Store};
use client::{Certainty, wire};
use nativelog::ledger::{Ledger, Page, PlanPages};
use nativelog::record::{Kind, LogId, LogRecord};
use raft::{CutOff, Outcome, ProposeError};
use tokio::sync::mpsc;

mod in_store;

use super::origin::Local;
use super::*;
use crate::known::Known;

/// What becomes of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is in the log, and answered.
    Answered,
    /// It is in the log, and the answer is lost with the leader.
    Unanswered,
    /// Nobody took it, and that is known.
    Refused,
    /// It is lost with the leader; nobody knows.
    Lost,
}

type Decides = dyn Fn(usize, &LogRecord) -> Fate + Send + Sync;

/// A log, and what was decided by it.
struct Log {
    ledger: RwLock<Ledger>,
    pages: Mutex<Pages>,
    proposed: AtomicUsize,
    fate: Box<Decides>,
    leads: AtomicBool,
    /// Its data folder, and the shelves there.
    dir: tempfile::TempDir,
    shelves: Arc<Store>,
}

/// Pages of plans, by their place in the log.
#[derive(Default)]
struct Pages(BTreeMap<u64, Bytes>);

impl PlanPages for Pages {
    fn read(&self, page: &Page) -> io::Result<Bytes> {
        self.0.get(&page.index).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Log {
    fn append(&self, record: &LogRecord) -> (LogId, Verdict) {
        let mut ledger = self.ledger.write().unwrap();
        let mut pages = self.pages.lock().unwrap();
        let index = ledger.applied().map_or(0, |applied| applied.index + 1);
        if let Some(Kind::Part(part)) = &record.header.kind {
            pages.0.insert(index, part.entries.clone());
        }
        ledger.gather(&record.header, &*pages).unwrap();
        let id = LogId { term: 1, node: 1, index };
        (id, ledger.step(id, &record.header).unwrap().verdict)
    }

    fn propose(&self, record: &LogRecord) -> Outcome {
        let place = self.proposed.fetch_add(1, Ordering::Relaxed);
        let gone = || "the leader has gone".to_owned();
        match (self.fate)(place, record) {
            Fate::Answered => Ok(self.append(record)),
            Fate::Refused => Err(ProposeError::Unavailable { why: gone() }),
            Fate::Lost => Err(ProposeError::Unknown { why: gone() }),
            Fate::Unanswered => {
                self.append(record);
                Err(ProposeError::Unknown { why: gone() })
            }
        }
    }
}

/// A node whose log that is.
struct Pretended(Arc<Log>);

impl Pretended {
    /// `fate` decides by the number of a proposal, from 0 on, and by the record.
    fn new(fate: impl Fn(usize, &LogRecord) -> Fate + Send + Sync + 'static) -> Pretended {
        let mut ledger = Ledger::default();
        ledger.advance(LogId { term: 1, node: 1, index: 0 });
        let dir = tempfile::tempdir().unwrap();
        let shelves = Store::open(Arc::new(RealDisk), dir.path()).unwrap();
        Pretended(Arc::new(Log {
            dir,
            shelves: Arc::new(shelves),
            ledger: RwLock::new(ledger),
            pages: Mutex::default(),
            proposed: AtomicUsize::new(0),
            fate: Box::new(fate),
            leads: AtomicBool::new(true),
        }))
    }

    fn proposed(&self) -> usize {
        self.0.proposed.load(Ordering::Relaxed)
    }

    /// How many epochs of the job are sealed, and how many attempts are open.
    fn sealed_and_open(&self) -> (usize, usize) {
        let ledger = self.ledger();
        (ledger.epochs(&job()).count(), ledger.attempts().count())
    }
}

/// The way to a leader: it ends with the first record that goes wrong.
struct Way {
    log: Arc<Log>,
    over: AtomicBool,
}

impl Proposals for Way {
    type Pending = Ready<Outcome>;

    fn send(&self, record: LogRecord) -> impl Future<Output = Result<Ready<Outcome>, ProposeError>> + Send {
        if self.over.load(Ordering::Relaxed) {
            return ready(Err(ProposeError::Unavailable { why: "the leader has changed".into() }));
        }
        let outcome = self.log.propose(&record);
        self.over.store(outcome.is_err(), Ordering::Relaxed);
        ready(Ok(ready(outcome)))
    }
}

impl Ground for Pretended {
    type Stream = Way;

    fn node(&self) -> u64 {
        1
    }

    fn leads(&self) -> bool {
        self.0.leads.load(Ordering::Relaxed)
    }

    fn voters(&self) -> usize {
        3
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn propose(&self, record: LogRecord) -> impl Future<Output = Outcome> + Send + 'static {
        ready(self.0.propose(&record))
    }

    async fn stream(&self) -> Result<Way, ProposeError> {
        Ok(Way { log: self.0.clone(), over: AtomicBool::new(false) })
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        Ok(())
    }

    fn ledger(&self) -> impl Deref<Target = Ledger> {
        self.0.ledger.read().unwrap()
    }

    fn cut_off(&self) -> Option<CutOff> {
        None
    }

    fn no_way(&self) -> (Code, &'static str) {
        (Code::NoQuorum, "no quorum")
    }

    async fn newest_files(&self, _: &JobName, _: Option<u64>) -> Known {
        Known::nothing()
    }

    fn shelves(&self) -> Arc<Store> {
        self.0.shelves.clone()
    }

    fn has_room_for(&self, _: u64) -> Result<(), String> {
        Ok(())
    }

    fn too_old(&self) -> Option<String> {
        None
    }

    fn stage(&self, _: &'static str, _: Duration) {}
}

const CHUNK_BYTES: u32 = 1 << 20;

fn job() -> JobName {
    "job".parse().unwrap()
}

fn order() -> Order {
    Order {
        job: job(),
        epoch: Some(5),
        token: None,
        commit_id: CommitId::from_bytes([7; 16]),
        born: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
        take_over: false,
        if_not_exists: false,
        choice: Choice::default(),
        immutable: false,
        patience: LONG,
        chunk_bytes: CHUNK_BYTES,
        declared_bytes: 0,
        stored_bytes: 0,
        plan_digest: Digest::NONE,
        plan_entries: 1,
        plan_pages: 1,
        store: None,
        store_id: None,
    }
}

/// A directory that takes several records: chunks of a large file, and a pack.
fn source() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("large"), vec![7; 2 * CHUNK_BYTES as usize + 5]).unwrap();
    for n in 0..9 {
        std::fs::write(dir.path().join(format!("small-{n}")), format!("content {n}")).unwrap();
    }
    dir
}

/// Always the same commit, of what the directory holds now.
async fn committed(ground: &Pretended, dir: &Path, patience: Duration) -> Result<pb::Committed, Failure> {
    committed_as(ground, dir, Order { patience, ..order() }).await
}

/// As this order says, but for the plan.
async fn committed_as(ground: &Pretended, dir: &Path, order: Order) -> Result<pb::Committed, Failure> {
    let plan = Arc::new(Plan::scan(dir, &Limits::default()).unwrap());
    let order = Order {
        declared_bytes: plan.bytes(),
        stored_bytes: plan.stored_bytes(),
        plan_digest: plan.digest(),
        plan_entries: wire::id(plan.entries.len()),
        plan_pages: wire::id(wire::pages(&plan.entries).len()),
        ..order
    };
    assert!(!order.is_tiny(), "it takes several records");
    let (send, _answers) = mpsc::channel(64);
    let replies = Replies(send);
    let mut origin = Local::new("commit".into(), dir.to_owned(), plan, Pool::unbounded(), replies.clone());
    commit(ground, order, &mut origin, &replies).await
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_leader_that_goes_at_any_step_takes_no_commit_with_it() {
    let dir = source();
    let undisturbed = Pretended::new(|_, _| Fate::Answered);
    let root = committed(&undisturbed, dir.path(), LONG).await.unwrap().root;
    let steps = undisturbed.proposed();
    assert!(steps >= 6, "begin, plan, pieces, seal: {steps}");
    for fate in [Fate::Unanswered, Fate::Refused, Fate::Lost] {
        for step in 0..steps {
            let ground = Pretended::new(move |place, _| if place == step { fate } else { Fate::Answered });
            let done = committed(&ground, dir.path(), LONG).await;
            let done = done.unwrap_or_else(|failure| panic!("{fate:?} at step {step}: {failure:?}"));
            assert_eq!((done.epoch, &done.root, done.already), (5, &root, false), "{fate:?} at step {step}");
            assert!(ground.proposed() > steps, "it was noticed");
            assert_eq!(ground.sealed_and_open(), (1, 0), "{fate:?} at step {step}");
        }
    }
}

#[tokio::test]
async fn a_seal_without_an_answer_is_never_said_not_to_be_committed() {
    let dir = source();
    for (fate, sealed) in [(Fate::Unanswered, 1), (Fate::Lost, 0)] {
        let ground = Pretended::new(move |_, record| match record.header.kind {
            Some(Kind::Seal(_)) => fate,
            _ => Fate::Answered,
        });
        let failure = committed(&ground, dir.path(), SHORT).await.unwrap_err();
        assert_eq!((failure.code, failure.committed), (Code::Timeout, Certainty::Unknown), "{failure:?}");
        assert_eq!(failure.epoch, Some(5));
        assert_eq!(ground.sealed_and_open(), (sealed, 1 - sealed), "{fate:?}");
    }
}

#[tokio::test]
async fn what_no_leader_took_is_not_committed() {
    let dir = source();
    for from in 0..3 {
        let ground =
            Pretended::new(move |place, _| if place < from { Fate::Answered } else { Fate::Refused });
        let failure = committed(&ground, dir.path(), SHORT).await.unwrap_err();
        assert_eq!((failure.code, failure.committed), (Code::NoQuorum, Certainty::No), "{failure:?}");
        assert_eq!(ground.sealed_and_open().0, 0);
    }
}

#[tokio::test]
async fn a_repeat_finds_its_epoch_and_whether_the_directory_is_still_that() {
    let dir = source();
    let ground = Pretended::new(|_, _| Fate::Answered);
    let first = committed(&ground, dir.path(), LONG).await.unwrap();
    let again = committed(&ground, dir.path(), LONG).await.unwrap();
    assert_eq!((again.root, again.position, again.already), (first.root, first.position, true));
    std::fs::write(dir.path().join("small-0"), "changed 0").unwrap();
    let changed = committed(&ground, dir.path(), LONG).await.unwrap_err();
    assert_eq!((changed.code, changed.committed), (Code::Partial, Certainty::Yes), "{changed:?}");
    assert_eq!(ground.sealed_and_open(), (1, 0));
}

#[test]
fn a_client_is_sent_to_stream_only_when_nothing_is_left_of_what_was_begun() {
    let closed = || Failure::new(Code::PermissionDenied, "permission denied").committed(Certainty::No);
    let position = LogId { term: 1, node: 1, index: 9 };
    let answered = |given_up, is_closed_here| of_the_source(&order(), is_closed_here, given_up, closed());
    // `PermissionDenied` becomes StreamIt.
    assert_eq!(answered(GivenUp::Gone, true).code, Code::PermissionDenied);
    assert_eq!(answered(GivenUp::Sealed(Digest::NONE, position), true).code, Code::PermissionDenied);
    let late = answered(GivenUp::Unanswered, true);
    assert_eq!((late.code, late.committed), (Code::Unavailable, Certainty::No), "{late:?}");
    // What a client may not read is its own affair.
    assert_eq!(answered(GivenUp::Unanswered, false).code, Code::PermissionDenied);
    let sealed = answered(GivenUp::Sealed(Digest::NONE, position), false);
    assert_eq!((sealed.code, sealed.committed), (Code::Partial, Certainty::Yes), "{sealed:?}");
}

#[test]
fn the_command_to_repeat_tells_what_was_chosen() {
    let choice = Choice { include: vec![Pattern::new(b"**/*.sst")], exclude: vec![Pattern::new(b"tmp")] };
    let order = Order { born: Some(3), choice, immutable: true, ..order() };
    let fix = no::unknown(&order, "no answer").fix;
    assert!(fix.contains("--include '**/*.sst' --exclude tmp") && fix.contains("--immutable"), "{fix}");
}

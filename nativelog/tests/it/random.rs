//! Random histories: records that are often right, often stale and sometimes absurd, from a few jobs,
//! directories and writers, so that they meet. `History` watches what must hold.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::{CommitId, JobName};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{Admission, Ledger, NotAdmitted, Verdict};
use nativelog::record::{Header, Kind, LogRecord};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::directory::{CHUNK, Directory};
use crate::history::History;

/// One thing to try; which attempt, epoch or token it means is chosen when it happens.
#[derive(Debug, Clone)]
enum Try {
    Writer {
        job: u8,
        commit: u8,
    },
    Begin {
        job: u8,
        commit: u8,
        directory: u8,
        epoch: Option<u8>,
        token: Option<bool>,
        base: Option<u8>,
        whole: bool,
    },
    Part {
        attempt: Index,
        directory: u8,
    },
    Piece {
        attempt: Index,
        directory: u8,
        file: u8,
        chunk: u8,
        how: u8,
    },
    Fill {
        attempt: Index,
        directory: u8,
    },
    Seal {
        attempt: Index,
        directory: u8,
    },
    Abort {
        attempt: Index,
    },
    Expire {
        job: u8,
        epochs: Vec<u8>,
        by_hand: bool,
    },
    Pin {
        job: u8,
        epoch: u8,
        owner: u8,
        for_ms: u16,
    },
    RemoveJob {
        job: u8,
    },
    Unpin {
        job: u8,
        epoch: u8,
        owner: u8,
    },
    Tick {
        ms: u32,
    },
    Activate {
        version: u8,
    },
    Blank {
        node: u8,
    },
    /// The last record again, with one number of its header changed.
    Bent {
        with: u64,
    },
}

fn tries() -> impl Strategy<Value = Try> {
    let (job, commit, directory) = (0..2u8, 0..6u8, 0..3u8);
    let attempt = any::<Index>;
    prop_oneof![
        1 => (job.clone(), commit.clone()).prop_map(|(job, commit)| Try::Writer { job, commit }),
        6 => (
            job.clone(), commit, directory.clone(), prop::option::of(0..8u8), prop::option::weighted(0.3, any::<bool>()),
            prop::option::weighted(0.2, 0..6u8), prop::bool::weighted(0.3),
        ).prop_map(|(job, commit, directory, epoch, token, base, whole)| {
            Try::Begin { job, commit, directory, epoch, token, base, whole }
        }),
        6 => (attempt(), directory.clone()).prop_map(|(attempt, directory)| Try::Part { attempt, directory }),
        6 => (attempt(), directory.clone(), 0..7u8, 0..4u8, 0..5u8)
            .prop_map(|(attempt, directory, file, chunk, how)| Try::Piece { attempt, directory, file, chunk, how }),
        4 => (attempt(), directory.clone()).prop_map(|(attempt, directory)| Try::Fill { attempt, directory }),
        5 => (attempt(), directory).prop_map(|(attempt, directory)| Try::Seal { attempt, directory }),
        1 => attempt().prop_map(|attempt| Try::Abort { attempt }),
        3 => (job.clone(), prop::collection::vec(0..8u8, 1..3), any::<bool>())
            .prop_map(|(job, epochs, by_hand)| Try::Expire { job, epochs, by_hand }),
        1 => (job.clone(), 0..8u8, 0..2u8, 0..200u16)
            .prop_map(|(job, epoch, owner, for_ms)| Try::Pin { job, epoch, owner, for_ms }),
        // A job is rarely removed: none of its commits can be tried again.
        1 => (job, 0..8u8, 0..2u8, prop::bool::weighted(0.15)).prop_map(|(job, epoch, owner, remove)| match remove {
            true => Try::RemoveJob { job },
            false => Try::Unpin { job, epoch, owner },
        }),
        1 => (0..100_000u32).prop_map(|ms| Try::Tick { ms }),
        1 => (1..4u8).prop_map(|version| Try::Activate { version }),
        1 => (1..4u8).prop_map(|node| Try::Blank { node }),
        2 => prop_oneof![0..9u64, Just(1 << 60), Just(u64::MAX)].prop_map(|with| Try::Bent { with }),
    ]
}

fn directories() -> Arc<[Directory; 3]> {
    Arc::new([
        Directory::parse("a:100k b:2k c:192k=0 empty:0"),
        Directory::parse("a:100k b:2k=other d/ d/e:3k d/l->../a"),
        Directory::parse("tiny:10"),
    ])
}

struct Player {
    history: History,
    directories: Arc<[Directory; 3]>,
    last: Option<LogRecord>,
    sealed: usize,
}

impl Player {
    fn play(&mut self, what: &Try) {
        match what {
            Try::Blank { node } => {
                self.history.term += 1;
                self.history.node = u64::from(*node);
                self.history.blank();
            }
            Try::Fill { attempt, directory } => {
                let (attempt, directories) = (self.attempt(*attempt), self.directories.clone());
                for piece in pieces(&directories[*directory as usize]) {
                    self.apply(compose::piece(attempt, piece));
                }
            }
            _ => {
                if let Some(record) = self.record(what) {
                    self.apply(record);
                }
            }
        }
    }

    fn apply(&mut self, record: LogRecord) {
        let step = self.history.apply(&record);
        if let Verdict::Accepted(nativelog::ledger::Accepted::Sealed(_)) = step.verdict {
            self.sealed += 1;
        }
        self.last = Some(record);
    }

    /// An open attempt more often than not.
    fn attempt(&self, index: Index) -> u64 {
        let open: Vec<u64> = self.history.ledger.attempts().map(|attempt| attempt.id).collect();
        let any = self.history.next().index + 1;
        let pick = index.index(open.len() * 4 + 1);
        if open.is_empty() {
            index.index(any as usize) as u64
        } else {
            open.get(pick / 4).copied().unwrap_or(any / 2)
        }
    }

    fn record(&self, what: &Try) -> Option<LogRecord> {
        let job = |job: &u8| JobName::try_from(["train", "serve"][*job as usize]).unwrap();
        let owner = |owner: &u8| ["ann", "bob"][*owner as usize];
        Some(match what {
            Try::Writer { job: name, commit } => {
                compose::open_writer(&job(name), CommitId::from_bytes([*commit; 16]), 0)
            }
            Try::Begin { job: name, commit, directory, epoch, token, base, whole } => {
                let current = self.history.ledger.token(&job(name));
                let directory = &self.directories[*directory as usize];
                let opening = Opening {
                    job: job(name),
                    epoch: epoch.map(u64::from),
                    token: token.map(|right| if right { current } else { current.saturating_sub(1) }),
                    commit: CommitId::from_bytes([100 + *commit; 16]),
                    born: 0,
                    chunk_bytes: CHUNK as u32,
                    base: base.map(u64::from),
                    labels: Vec::new(),
                    depends_on: Vec::new(),
                };
                let plan = Pages::new(&directory.entries);
                if !*whole {
                    return Some(compose::begin(&opening, &plan));
                }
                let pack = directory.pack(&directory.files());
                return compose::whole(&opening, &plan, &[pack], directory.root());
            }
            Try::Part { attempt, directory } => {
                Pages::new(&self.directories[*directory as usize].entries).part(self.attempt(*attempt), 0)
            }
            Try::Piece { attempt, directory, file, chunk, how } => {
                let directory = &self.directories[*directory as usize];
                let files = directory.files();
                let file = *files.get(*file as usize)?;
                let offset = u64::from(*chunk) * CHUNK;
                let piece = match how {
                    0 => directory.pack(&[file]),
                    1 => directory.reuse(&[file]),
                    2 if offset == 0 => directory.zero(file, 0, directory.size(file).min(2 * CHUNK)),
                    _ if offset < directory.size(file) => directory.chunk(file, offset),
                    _ => return None,
                };
                compose::piece(self.attempt(*attempt), piece)
            }
            Try::Seal { attempt, directory } => {
                compose::seal(self.attempt(*attempt), self.directories[*directory as usize].root())
            }
            Try::Abort { attempt } => compose::abort(self.attempt(*attempt), "by hand"),
            Try::Expire { job: name, epochs, by_hand } => {
                let epochs = epochs.iter().copied().map(u64::from).collect();
                compose::expire(&job(name), epochs, *by_hand, "", Vec::new())
            }
            Try::Pin { job: name, epoch, owner: by, for_ms } => {
                compose::pin(&job(name), u64::from(*epoch), owner(by), "", u64::from(*for_ms))
            }
            Try::RemoveJob { job: name } => compose::remove_job(&job(name), ""),
            Try::Unpin { job: name, epoch, owner: by } => {
                compose::unpin(&job(name), u64::from(*epoch), owner(by))
            }
            Try::Tick { ms } => compose::tick(u64::from(*ms)),
            Try::Activate { version } => compose::activate(u32::from(*version)),
            Try::Bent { with } => return self.last.as_ref().map(|last| bent(last, *with)),
            Try::Fill { .. } | Try::Blank { .. } => unreachable!("not one record"),
        })
    }
}

/// All pieces of a directory: small files packed, the rest in chunks.
fn pieces(directory: &Directory) -> Vec<checkpoint::Piece> {
    let (small, large): (Vec<u32>, Vec<u32>) =
        directory.files().iter().partition(|file| directory.size(**file) < CHUNK);
    let mut pieces = vec![directory.pack(&small)];
    for file in large {
        pieces.extend(
            (0..directory.size(file).div_ceil(CHUNK)).map(|chunk| directory.chunk(file, chunk * CHUNK)),
        );
    }
    pieces
}

fn bent(record: &LogRecord, with: u64) -> LogRecord {
    let mut header = Header::clone(&record.header).into_record();
    match header.kind.as_mut().unwrap() {
        Kind::Chunk(chunk) => chunk.offset = with,
        Kind::Zero(zero) => (zero.offset, zero.len) = (with, with),
        Kind::Pack(pack) => pack.files[0].offset = with as u32,
        Kind::Reuse(reuse) => reuse.files[0].file = with as u32,
        Kind::Part(part) if with.is_multiple_of(2) => part.page = with as u32,
        Kind::Part(part) => part.entries = spoiled(&part.entries, with),
        Kind::Begin(begin) => (begin.epoch, begin.declared_bytes) = (Some(with), with),
        Kind::Whole(whole) => whole.entries = spoiled(&whole.entries, with),
        Kind::Seal(seal) => seal.attempt = with,
        Kind::Abort(abort) => abort.attempt = with,
        Kind::Pin(pin) => (pin.epoch, pin.for_ms) = (with, with),
        Kind::Expire(expire) => expire.epochs.push(with),
        Kind::Tick(tick) => tick.elapsed_ms = with,
        _ => header.payload_bytes = with,
    }
    LogRecord::from_parts(Arc::new(Header::new(header)), record.payload.clone())
}

/// Another byte somewhere.
fn spoiled(entries: &[u8], with: u64) -> Bytes {
    let mut entries = entries.to_vec();
    let at = with as usize % entries.len();
    entries[at] ^= 1 + (with >> 8) as u8 % 255;
    entries.into()
}

fn player() -> Player {
    Player { history: History::default(), directories: directories(), last: None, sealed: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_rules(tries in prop::collection::vec(tries(), 1..80)) {
        let mut player = player();
        for what in &tries {
            player.play(what);
        }
        player.history.finish();
    }

    #[test]
    fn damaged_snapshots_are_refused(tries in prop::collection::vec(tries(), 1..40), place in any::<Index>(), bit in 0..8u8) {
        let mut player = player();
        for what in &tries {
            player.play(what);
        }
        let mut bytes = player.history.ledger.encode();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(Ledger::decode(&bytes).is_err());
        prop_assert!(Ledger::decode(&bytes[..place]).is_err());
    }

    /// Whatever is admitted and then applied in order is never rejected for its bytes.
    #[test]
    fn admitted_pieces_never_overlap(picks in prop::collection::vec((0..2usize, 0..5u8, 0..4u8, 0..4u8, any::<bool>()), 1..60)) {
        let directories = [Directory::parse("a:100k b:2k c:192k=0 e:70k"), Directory::parse("a:100k=x b:2k=y c:192k=z e:70k")];
        let mut history = History::default();
        let opening = Opening {
            job: JobName::try_from("train").unwrap(), epoch: None, token: None, commit: CommitId::from_bytes([1; 16]), born: 0,
            chunk_bytes: CHUNK as u32, base: None, labels: Vec::new(), depends_on: Vec::new(),
        };
        let plan = Pages::new(&directories[0].entries);
        history.apply(&compose::begin(&opening, &plan));
        history.apply(&plan.part(0, 0));
        let mut admission = Admission::new();
        let mut in_flight = std::collections::VecDeque::new();
        let mut taken = 0;
        for (which, file, chunk, how, drain) in picks {
            let directory = &directories[which];
            let files = directory.files();
            let file = files[file as usize % files.len()];
            let offset = u64::from(chunk) * CHUNK;
            let piece = match how {
                0 => directory.pack(&[file, files[0]][..1 + usize::from(file != files[0])]),
                1 => directory.zero(file, 0, directory.size(file).min(2 * CHUNK)),
                _ if offset < directory.size(file) => directory.chunk(file, offset),
                _ => continue,
            };
            let record = compose::piece(0, piece);
            match admission.admit(&history.ledger, &record.header) {
                Ok(ticket) => in_flight.push_back((record, ticket)),
                Err(NotAdmitted::Answered(_) | NotAdmitted::Duplicate) => {}
                Err(NotAdmitted::Ungathered) => unreachable!("only a seal needs that"),
                Err(NotAdmitted::NoRoom(_)) => unreachable!("only what begins something asks for room"),
            }
            while drain && !in_flight.is_empty() {
                let (record, ticket) = in_flight.pop_front().unwrap();
                let verdict = history.apply(&record).verdict;
                prop_assert!(verdict.is_accepted(), "{verdict}");
                admission.release(ticket);
                taken += 1;
            }
        }
        for (record, ticket) in in_flight {
            prop_assert!(history.apply(&record).verdict.is_accepted());
            admission.release(ticket);
            taken += 1;
        }
        prop_assert_eq!(admission.in_flight(), 0);
        prop_assert!(taken <= history.next().index);
        history.finish();
    }
}

#[test]
fn random_histories_do_seal_epochs() {
    // A generator whose records all bounce would prove nothing.
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut sealed = 0;
    for _ in 0..120 {
        let tries = prop::collection::vec(tries(), 80).new_tree(&mut runner).unwrap().current();
        let mut player = player();
        tries.iter().for_each(|what| player.play(what));
        sealed += player.sealed;
    }
    assert!(sealed > 60, "only {sealed} epochs in 120 histories");
}

#[test]
fn pages_of_a_plan_follow_each_other_in_flight() {
    let names: String = (0..6000).map(|n| format!("{n:0>90}:0 ")).collect();
    let plan = Pages::new(&Directory::parse(&names).entries);
    assert!(plan.count() > 2);
    let opening = Opening {
        job: JobName::try_from("train").unwrap(),
        epoch: Some(7),
        token: None,
        commit: CommitId::from_bytes([1; 16]),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let mut history = History::default();
    history.apply(&compose::begin(&opening, &plan));
    let mut admission = Admission::new();
    let early = admission.admit(&history.ledger, &plan.part(0, 1).header);
    assert!(matches!(early, Err(NotAdmitted::Answered(Verdict::Rejected(_)))), "{early:?}");
    let tickets: Vec<_> =
        plan.parts(0, 0).map(|part| admission.admit(&history.ledger, &part.header).unwrap()).collect();
    assert_eq!(admission.admit(&history.ledger, &plan.part(0, 1).header), Err(NotAdmitted::Duplicate));
    for (part, ticket) in plan.parts(0, 0).zip(tickets) {
        assert_eq!(history.apply(&part).verdict, Verdict::DONE);
        admission.release(ticket);
    }
    assert_eq!(history.ledger.attempt(0).unwrap().pages_here, plan.count());
    history.finish();
}

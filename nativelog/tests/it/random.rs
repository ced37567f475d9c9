//! Random histories: records that are often right, often stale and sometimes absurd, from a few jobs,
//! directories and writers, so that they meet. `History` watches what must hold.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::{CommitId, JobName};
use nativelog::compose::{self, LinkedFile, Opening, Pages, StoredObject};
use nativelog::ledger::{Admission, Ledger, NotAdmitted, STORES_RULES, Verdict};
use nativelog::record::{Header, Kind, LogRecord};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::directory::{CHUNK, Directory};
use crate::history::History;
use crate::tries::{Try, tries};

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
    /// Of these, epochs in stores.
    stored: usize,
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
                let directory = &directories[*directory as usize];
                if self.history.ledger.attempt(attempt).is_some_and(|info| info.store.is_some()) {
                    self.apply(compose::link(attempt, &stored(9), &linked(directory, &directory.files())));
                    return;
                }
                for piece in pieces(directory) {
                    self.apply(compose::piece(attempt, piece));
                }
            }
            Try::Stored { job, commit, directory, store } => {
                let (job, commit, whole, store) = (*job, *commit, false, Some(*store));
                let (epoch, token, base) = (None, None, None);
                self.play(&Try::Begin {
                    job,
                    commit,
                    directory: *directory,
                    epoch,
                    token,
                    base,
                    whole,
                    store,
                });
                let newest = self.history.ledger.attempts().map(|attempt| attempt.id).max();
                let (Some(attempt), directories) = (newest, self.directories.clone()) else { return };
                let directory = &directories[*directory as usize];
                self.apply(Pages::new(&directory.entries).part(attempt, 0));
                self.apply(compose::link(attempt, &stored(8), &linked(directory, &directory.files())));
                let manifest = StoredObject { digest: directory.root(), nonce: 98, bytes: 100 };
                self.apply(compose::seal_with(attempt, directory.root(), &manifest));
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
        if let Verdict::Accepted(nativelog::ledger::Accepted::Sealed(sealed)) = step.verdict {
            self.sealed += 1;
            self.stored += usize::from(self.history.ledger.store_of(&sealed.job, sealed.epoch).is_some());
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
            Try::Begin { job: name, commit, directory, epoch, token, base, whole, store } => {
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
                    return Some(match store {
                        // The stores that a history begins with, or none.
                        Some(store) => compose::begin_in(&opening, &plan, u64::from(*store) + 1),
                        None => compose::begin(&opening, &plan),
                    });
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
            Try::Link { attempt, directory, file, object } => {
                let directory = &self.directories[*directory as usize];
                let mut files = directory.files();
                if let Some(file) = file {
                    files = files.get(*file as usize).copied().into_iter().collect();
                }
                compose::link(self.attempt(*attempt), &stored(*object), &linked(directory, &files))
            }
            Try::Seal { attempt, directory, manifest } => {
                let (attempt, root) = (self.attempt(*attempt), self.directories[*directory as usize].root());
                let stored = self.history.ledger.attempt(attempt).is_some_and(|info| info.store.is_some());
                if stored == *manifest {
                    let object = StoredObject { digest: root, nonce: 99, bytes: 100 };
                    return Some(compose::seal_with(attempt, root, &object));
                }
                compose::seal(attempt, root)
            }
            Try::DeleteBatch { nonce } => compose::delete_batch(1, u64::from(*nonce)),
            Try::Rehome { attempt, content, object } => {
                let ledger = &self.history.ledger;
                let homes = ledger.contents().filter_map(|(digest, _)| ledger.homes(&digest));
                let homes: Vec<_> = homes.filter(|home| !home.extents.is_empty()).collect();
                let home = homes.get(content.index(homes.len() + 1))?;
                let old = home.extents[0].object.key;
                compose::rehome(
                    self.attempt(*attempt),
                    home.digest,
                    (old.digest, old.attempt, old.nonce),
                    &stored(*object),
                    0,
                )
            }
            Try::Deleted { object } => {
                let ledger = &self.history.ledger;
                let mut keys: Vec<_> = ledger.released(None).map(|object| object.key).collect();
                keys.extend(ledger.objects_in(0..ledger.object_slots()).map(|object| object.key));
                let key = keys.get(object.index(keys.len() + 1))?;
                compose::deleted(key.store, [(key.digest, key.attempt, key.nonce)])
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
            Try::Fill { .. } | Try::Blank { .. } | Try::Stored { .. } => unreachable!("not one record"),
        })
    }
}

/// Files one after the other in an object.
fn linked(directory: &Directory, files: &[u32]) -> Vec<LinkedFile> {
    let mut end = 0;
    let place = |file: &u32| {
        let (offset, len) = (end, directory.size(*file));
        end += len;
        LinkedFile { file: *file, offset, len, digest: directory.digest(*file) }
    };
    files.iter().map(place).collect()
}

/// One of a few objects.
fn stored(object: u8) -> StoredObject {
    let digest = checkpoint::digest::content(&[object]);
    StoredObject { digest, nonce: u64::from(object), bytes: 1 << 20 }
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
        Kind::Link(link) if with.is_multiple_of(2) => link.object_bytes = with,
        Kind::Link(link) => link.attempt = with,
        Kind::DeleteBatch(batch) => batch.store = with,
        Kind::Deleted(deleted) => deleted.objects[0].nonce = with,
        Kind::Rehome(rehome) => rehome.offset = with,
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

/// A history that may begin with two object stores.
fn player(hybrid: bool) -> Player {
    let mut player =
        Player { history: History::default(), directories: directories(), last: None, sealed: 0, stored: 0 };
    if hybrid {
        player.history.apply(&compose::activate(STORES_RULES));
        player.history.apply(&compose::store("west", [1; 16], 0));
        player.history.apply(&compose::store("east", [2; 16], 0));
    }
    player
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_rules(hybrid in any::<bool>(), tries in prop::collection::vec(tries(), 1..80)) {
        let mut player = player(hybrid);
        for what in &tries {
            player.play(what);
        }
        player.history.finish();
    }

    #[test]
    fn damaged_snapshots_are_refused(tries in prop::collection::vec(tries(), 1..40), place in any::<Index>(), bit in 0..8u8) {
        let mut player = player(bit % 2 == 0);
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
    for (hybrid, few) in [(false, 60), (true, 60)] {
        let (mut sealed, mut stored, mut released) = (0, 0, 0);
        for _ in 0..120 {
            let tries = prop::collection::vec(tries(), 80).new_tree(&mut runner).unwrap().current();
            let mut player = player(hybrid);
            tries.iter().for_each(|what| player.play(what));
            let ledger = &player.history.ledger;
            sealed += player.sealed;
            released += ledger.released(None).count();
            stored += player.stored;
        }
        assert!(sealed > few, "only {sealed} epochs in 120 histories");
        assert_eq!(hybrid, stored > 20, "{stored} epochs in stores");
        assert_eq!(hybrid, released > 20, "{released} objects released");
    }
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

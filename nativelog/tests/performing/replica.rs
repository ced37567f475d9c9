//! One replica without consensus: the test says what is committed.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::store::{Layout, Store};
use checkpoint::{CommitId, JobName};
use nativelog::compose::{self, Opening, Pages};
use nativelog::machine::Machine;
use nativelog::performer::Publication;
use nativelog::store::{Identity, LogStore, Options};
use nativelog::{Body, Entry, LogId, LogRecord};

use crate::directory::{CHUNK, Directory};

/// Longer than the performer waits before it tries again.
const PATIENCE: Duration = Duration::from_secs(40);

pub fn job() -> JobName {
    "job".parse().unwrap()
}

pub struct Replica {
    pub store: Arc<Store>,
    pub log: LogStore,
    pub machine: Arc<Machine>,
    term: u64,
    next: u64,
}

impl Replica {
    /// Starts on what lies in `data`: all of the log above the newest snapshot is applied and performed again.
    pub fn start(disk: Arc<dyn Disk>, data: &Path, catalog: &Path) -> Replica {
        Replica::try_start(disk, data, catalog).expect("the replica starts")
    }

    /// `None` when the disk fails.
    pub fn try_start(disk: Arc<dyn Disk>, data: &Path, catalog: &Path) -> Option<Replica> {
        let replica = Replica::try_open(disk, data, catalog)?;
        replica.try_apply_all()?;
        Some(replica)
    }

    /// Applies what the log has; `None` when the disk fails.
    pub fn try_apply_all(&self) -> Option<()> {
        let applied = self.machine.ledger().applied().map_or(0, |id| id.index + 1);
        for entry in self.log.headers(applied..self.next).ok()? {
            self.machine.apply(&entry).ok()?;
        }
        Some(())
    }

    /// Without applying anything: nobody has said yet what of the log is committed.
    pub fn try_open(disk: Arc<dyn Disk>, data: &Path, catalog: &Path) -> Option<Replica> {
        let store = Arc::new(Store::open(disk, data).ok()?);
        let owner = Identity { node: 1, incarnation: [3; 16] };
        // Little: these disks are copied at every step.
        let options = Options { ahead_bytes: 4096, kept_bytes: 4096, ..Options::default() };
        let (log, _) = LogStore::open(store.disk().clone(), &Layout::new(data), owner, options).ok()?;
        let next = log.log_state().1.map_or(0, |last| last.index + 1);
        let machine = Machine::start(store.clone(), log.clone(), catalog).ok()?;
        let applied = machine.ledger().applied().map_or(0, |id| id.index + 1);
        // Read again: an install that was cut short makes the log go on behind its snapshot.
        let next = log.log_state().1.map_or(next, |last| last.index + 1);
        assert!(applied <= next, "{applied} are applied, but the log ends at {next}");
        Some(Replica { store, log, machine, term: 1, next })
    }

    /// Appends without committing.
    pub fn append(&mut self, bodies: Vec<Body>) -> Vec<Entry> {
        self.try_append(bodies).expect("the disk works")
    }

    fn try_append(&mut self, bodies: Vec<Body>) -> Option<Vec<Entry>> {
        let entries: Vec<Entry> = (self.next..)
            .zip(bodies)
            .map(|(index, body)| Entry { id: LogId { term: self.term, node: 1, index }, body })
            .collect();
        let (answer, answered) = mpsc::channel();
        self.log.append(entries.clone(), Box::new(move |result| drop(answer.send(result))));
        answered.recv_timeout(PATIENCE).expect("an answer").ok()?;
        self.next += entries.len() as u64;
        Some(entries)
    }

    /// A new leader drops what is not committed.
    pub fn lose_uncommitted(&mut self) {
        let committed = self.machine.ledger().applied();
        self.log.truncate_after(committed);
        self.next = committed.map_or(0, |id| id.index + 1);
        self.term += 1;
    }

    /// As openraft does after an install: everything up to the snapshot is purged.
    pub fn follow_install(&mut self) {
        let applied = self.machine.ledger().applied().expect("something was installed");
        self.log.purge(applied);
        self.next = self.next.max(applied.index + 1);
    }

    /// Commits a record that is accepted; its index.
    pub fn commit(&mut self, record: LogRecord) -> u64 {
        self.try_commit(record).expect("the disk works")
    }

    /// Applies records before this node has flushed them, as a leader with a slow disk does.
    pub fn commit_ahead(&mut self, records: Vec<LogRecord>) -> Vec<Entry> {
        let at = |index| LogId { term: self.term, node: 1, index };
        let bodies = records.into_iter().map(Body::Record);
        let entries: Vec<Entry> =
            (self.next..).zip(bodies).map(|(index, body)| Entry { id: at(index), body }).collect();
        for entry in &entries {
            let verdict = self.machine.apply(entry).unwrap();
            assert!(verdict.is_accepted(), "{verdict:?}");
        }
        entries
    }

    /// Flushes what [`Replica::commit_ahead`] applied.
    pub fn flush(&mut self, applied: Vec<Entry>) {
        self.append(applied.into_iter().map(|entry| entry.body).collect());
    }

    /// `None` when the disk fails.
    pub fn try_commit(&mut self, record: LogRecord) -> Option<u64> {
        let entry = self.try_append(vec![Body::Record(record)])?.remove(0);
        let verdict = self.machine.apply(&entry).ok()?;
        assert!(verdict.is_accepted(), "{verdict:?}");
        Some(entry.id.index)
    }

    pub fn commit_blanks(&mut self, count: usize) {
        for entry in self.append(vec![Body::Blank; count]) {
            self.machine.apply(&entry).unwrap();
        }
    }

    /// Opens an attempt and brings its plan; the attempt.
    pub fn begin(&mut self, epoch: u64, directory: &Directory) -> u64 {
        self.try_begin(epoch, directory).expect("the disk works")
    }

    /// `None` when the disk fails.
    pub fn try_begin(&mut self, epoch: u64, directory: &Directory) -> Option<u64> {
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
        let attempt = self.try_commit(compose::begin(&opening, &pages))?;
        for part in pages.parts(attempt, 0) {
            self.try_commit(part)?;
        }
        Some(attempt)
    }

    pub fn seal(&mut self, attempt: u64, directory: &Directory) {
        self.commit(compose::seal(attempt, directory.root()));
    }

    pub fn publication(&self, epoch: u64) -> Option<Publication> {
        let begun = Instant::now();
        loop {
            let publication = self.machine.publication(&job(), epoch);
            if publication != Some(Publication::NotLooked) {
                return publication;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody looks for epoch {epoch}");
            std::thread::yield_now();
        }
    }

    /// Waits until every effect was tried.
    pub fn wait_performed(&self) {
        self.try_wait_performed().expect("the log works");
    }

    /// `None` when the log has failed before.
    pub fn try_wait_performed(&self) -> Option<()> {
        let begun = Instant::now();
        while self.machine.marks().performed < self.next {
            assert!(begun.elapsed() < PATIENCE, "{:?} of {}", self.machine.marks(), self.next);
            if self.log.fatal().borrow().is_some() {
                return None;
            }
            std::thread::yield_now();
        }
        Some(())
    }

    /// Waits until the epoch is a directory here.
    pub fn wait_published(&self, epoch: u64) {
        let mut changes = self.machine.publications();
        let published = async {
            while self.publication(epoch) != Some(Publication::Published) {
                changes.changed().await.expect("the performer outlives this");
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let waited = runtime.block_on(async { tokio::time::timeout(PATIENCE, published).await });
        assert!(waited.is_ok(), "epoch {epoch}: {:?}", self.publication(epoch));
    }

    /// The epoch is a directory here, with the contents that were sealed.
    pub fn assert_published(&self, epoch: u64) {
        assert_eq!(self.publication(epoch), Some(Publication::Published));
        let report = self.store.verify(&job(), epoch).unwrap();
        assert!(report.is_good(), "{:?}", report.problems);
    }

    pub fn stop(self) {
        self.machine.shutdown();
    }
}

//! The catalog follows the ledger, once a second while something changes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::state::{Machine, lock};
use crate::catalog::{Catalog, CatalogError};
use crate::ledger::{ChangedRow, Ledger, RowKey};

/// How long the catalog may lie behind the ledger.
const PROJECT_EVERY: Duration = Duration::from_secs(1);
/// So many rows at a time: the ledger is held while they are copied.
const ROWS_MAX: usize = 256;
/// So many keys at a time are counted as changed.
const KEYS_MAX: usize = 4096;

/// Opens the catalog in `folder`. `ledger` counts what it says otherwise, or does not have, as changed.
pub(super) fn open(folder: &Path, ledger: &mut Ledger) -> Option<Catalog> {
    let opened = Catalog::open(folder).and_then(|catalog| match catalog.keys() {
        Ok(keys) => Ok((catalog, keys)),
        Err(error) => {
            tracing::warn!(%error, "the catalog is made anew");
            Ok((catalog.made_anew()?, Vec::new()))
        }
    });
    match opened {
        Ok((catalog, keys)) => {
            ledger.list_anew(keys);
            Some(catalog)
        }
        Err(error) => {
            tracing::warn!(%error, "the catalog does not open: nothing is listed there");
            None
        }
    }
}

impl Machine {
    /// Starts the thread.
    pub(super) fn follow(self: &Arc<Self>) -> io::Result<()> {
        let follower = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("catalog".into());
        thread.spawn(move || {
            loop {
                std::thread::sleep(PROJECT_EVERY);
                let Some(machine) = follower.upgrade() else { return };
                machine.project();
            }
        })?;
        Ok(())
    }

    /// Makes the catalog follow the ledger, which is held only while a few rows are copied.
    pub(super) fn project(&self) {
        let mut slot = lock(&self.catalog);
        let followed = slot.take().and_then(|catalog| or_none(self.followed(catalog)));
        if followed.is_none() {
            while !self.take_changed().is_empty() {}
        }
        *slot = followed;
    }

    fn followed(&self, catalog: Catalog) -> Result<Catalog, CatalogError> {
        if catalog.is_bloated(|| self.ledger().listed_rows()) {
            return self.made_anew(catalog);
        }
        self.fill(&catalog)?;
        Ok(catalog)
    }

    fn made_anew(&self, catalog: Catalog) -> Result<Catalog, CatalogError> {
        let mut catalog = catalog.made_anew()?;
        let mut last: Option<RowKey> = None;
        loop {
            // A statement of its own, as below. What comes or goes between two parts is a change like any other.
            let more = self.write().list_more(last.as_ref(), KEYS_MAX);
            let Some(more) = more else { break };
            last = Some(more);
        }
        self.fill(&catalog)?;
        catalog.is_whole(self.ledger().listed_rows());
        Ok(catalog)
    }

    fn fill(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        loop {
            // A statement of its own: the ledger is free while sled works.
            let changed = self.take_changed();
            if changed.is_empty() {
                return Ok(());
            }
            catalog.project(&changed)?;
        }
    }

    /// Looked for among readers first: a writer that waits holds off all others, and mostly nothing has changed.
    fn take_changed(&self) -> Vec<ChangedRow> {
        if !self.ledger().has_changed() {
            return Vec::new();
        }
        self.write().take_changed(ROWS_MAX)
    }

    /// The ledger has taken the place of `before`, which the catalog followed: what it may have of that one counts as
    /// changed. It is listed for a moment longer.
    pub(super) fn list_left_behind(&self, before: &Ledger) {
        let mut left = before.was_listed();
        loop {
            let part: Vec<RowKey> = left.by_ref().take(KEYS_MAX).collect();
            if part.is_empty() {
                return;
            }
            self.write().list(part);
        }
    }
}

fn or_none(followed: Result<Catalog, CatalogError>) -> Option<Catalog> {
    followed
        .inspect_err(|error| {
            tracing::warn!(%error, "the catalog cannot follow the ledger; it is made anew at the next start");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use checkpoint::CommitId;
    use checkpoint::disk::Disk;
    use checkpoint::store::{Layout, Store};
    use checkpoint::testing::CrashDisk;

    use super::*;
    use crate::compose;
    use crate::record::{Body, Entry, LogId, LogRecord};
    use crate::snapshot::Capture;
    use crate::store::{Identity, LogStore, Options};

    /// Far above what anything here takes.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A machine whose disk is in memory, and whose catalog is not.
    fn machine(catalog: &Path) -> Arc<Machine> {
        let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
        let data = Path::new("/data");
        disk.create_dir(data).unwrap();
        let store = Arc::new(Store::open(disk.clone(), data).unwrap());
        let owner = Identity { node: 1, incarnation: [1; 16] };
        let (log, _) = LogStore::open(disk, &Layout::new(data), owner, Options::default()).unwrap();
        Machine::start(store, log, catalog).unwrap()
    }

    /// One that others get their ledger from.
    fn sender() -> Arc<Machine> {
        machine(Path::new("/dev/null/no-catalog"))
    }

    fn apply(machine: &Machine, record: LogRecord) {
        let index = machine.ledger().applied().map_or(0, |id| id.index + 1);
        let entry = Entry { id: LogId { term: 1, node: 1, index }, body: Body::Record(record) };
        let verdict = machine.apply(&entry).unwrap();
        assert!(verdict.is_accepted(), "{verdict}");
    }

    /// Opens a writer, so that the job is there, with what no other writer of it has.
    fn open(machine: &Machine, job: &str) {
        let next = machine.ledger().applied().map_or(0, |id| id.index + 1);
        let commit = CommitId::from_bytes([next as u8; 16]);
        apply(machine, compose::open_writer(&job.parse().unwrap(), commit, 0));
    }

    fn capture(machine: &Machine) -> Capture {
        machine.capture(None).expect("something is applied")
    }

    /// Does `work` on a thread of its own, and does not wait for ever.
    fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || drop(done.send(work())));
        result.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
    }

    /// The catalog, once it has followed, lists what the ledger has, and nothing else.
    fn assert_lists(machine: &Machine) {
        machine.project();
        let catalog = lock(&machine.catalog);
        let ledger = machine.ledger();
        let listed = ledger.rows().filter(|(key, _)| key.is_listed());
        let listed: Vec<_> = listed.map(|(key, value)| (key.to_bytes(), value)).collect();
        assert_eq!(catalog.as_ref().expect("the catalog works").rows(), listed);
    }

    fn end(machines: &[&Arc<Machine>]) {
        for machine in machines {
            // First: the performer waits for entries that were never flushed.
            machine.log.shutdown();
            machine.shutdown();
        }
    }

    #[test]
    fn an_install_waits_for_no_catalog() {
        let temp = tempfile::tempdir().unwrap();
        let (sender, node) = (sender(), machine(&temp.path().join("catalog")));
        ["new", "both", "newer"].iter().for_each(|job| open(&sender, job));
        // Somebody writes down what the ledger before had, and that takes long.
        let slow = lock(&node.catalog);
        ["both", "old"].iter().for_each(|job| open(&node, job));
        let on_their_way = node.take_changed();
        assert!(on_their_way.len() >= 3, "the position and two jobs");
        let (installing, capture) = (node.clone(), capture(&sender));
        soon("an install beside a slow catalog", move || installing.install(&capture)).unwrap();
        assert_eq!(node.ledger().digest(), sender.ledger().digest());
        slow.as_ref().expect("the catalog works").project(&on_their_way).unwrap();
        drop(slow);
        assert_lists(&node);
        end(&[&sender, &node]);
    }

    /// Whoever has the catalog takes nothing that comes before it in the order of locks: an install may have all of that.
    #[test]
    fn a_catalog_waits_for_no_install() {
        let temp = tempfile::tempdir().unwrap();
        let node = machine(&temp.path().join("catalog"));
        let before = (lock(&node.snapshots), node.performer.pause(), node.pins.held());
        ["a", "b"].iter().for_each(|job| open(&node, job));
        let following = node.clone();
        soon("a catalog beside a slow install", move || following.project());
        assert!(!node.ledger().has_changed());
        drop(before);
        assert_lists(&node);
        end(&[&node]);
    }

    #[test]
    fn installs_beside_a_catalog_that_follows_end_and_are_listed() {
        const INSTALLS: u64 = 30;
        let temp = tempfile::tempdir().unwrap();
        let (sender, node) = (sender(), machine(&temp.path().join("catalog")));
        open(&node, "old");
        // Each has a job that the next has not, and one that the next has otherwise.
        let captures: Vec<Capture> = (0..INSTALLS)
            .map(|n| {
                ["often", &format!("job{n}")].iter().for_each(|job| open(&sender, job));
                if let Some(before) = n.checked_sub(1) {
                    let job = format!("job{before}").parse().unwrap();
                    apply(&sender, compose::remove_job(&job, "test"));
                }
                capture(&sender)
            })
            .collect();
        let over = Arc::new(AtomicBool::new(false));
        let (following, seen) = (node.clone(), over.clone());
        let follower = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                following.project();
            }
        });
        let installing = node.clone();
        let install = move || captures.iter().try_for_each(|capture| installing.install(capture));
        soon("installs beside a catalog that follows", install).unwrap();
        over.store(true, Ordering::Relaxed);
        soon("a catalog beside installs", move || follower.join()).unwrap();
        assert_eq!(node.ledger().digest(), sender.ledger().digest());
        assert_lists(&node);
        end(&[&sender, &node]);
    }
}

//! A node's folder on a crash disk, and what a housekeeper does with a replica in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::testing::CrashDisk;
use checkpoint::{CommitId, Digest};
use nativelog::compose::{self, Opening, Pages};
use nativelog::performer::Publication;
use nativelog::snapshot::{SnapshotError, SnapshotMeta};
use nativelog::{LogId, LogRecord};

use crate::directory::{CHUNK, Directory};
use crate::replica::{Replica, job};

/// Where the node lives on the crash disk.
pub const DATA: &str = "/data";
pub const ENOSPC: i32 = 28;
pub const EMFILE: i32 = 24;

/// Starts without a catalog; `None` when the disk fails.
pub fn try_start(disk: &CrashDisk) -> Option<Replica> {
    start_over(disk, Path::new("/dev/null/no-catalog"))
}

pub fn start(disk: &CrashDisk) -> Replica {
    try_start(disk).expect("the replica starts")
}

/// Starts and applies nothing of the log.
pub fn open_behind(disk: &CrashDisk) -> Replica {
    let opened =
        Replica::try_open(Arc::new(disk.clone()), Path::new(DATA), Path::new("/dev/null/no-catalog"));
    opened.expect("the replica opens")
}

/// Starts with a catalog in a folder of the real disk.
pub fn start_over(disk: &CrashDisk, catalog: &Path) -> Option<Replica> {
    let data = Path::new(DATA);
    // The node has made its folder before.
    let _ = disk.create_dir(data);
    let _ = disk.sync_dir(Path::new("/"));
    Replica::try_start(Arc::new(disk.clone()), data, catalog)
}

/// The file of that name in a directory.
pub fn file(directory: &Directory, path: &str) -> u32 {
    let at = directory.entries.iter().position(|entry| entry.path.as_bytes() == path.as_bytes());
    at.expect("the file is in the plan") as u32
}

/// A tiny epoch in one record.
pub fn whole_of(job: &str, epoch: u64, directory: &Directory) -> LogRecord {
    let opening = Opening {
        job: job.parse().unwrap(),
        epoch: Some(epoch),
        token: None,
        commit: CommitId::from_bytes(epoch.to_be_bytes().repeat(2).try_into().unwrap()),
        born: 0,
        chunk_bytes: CHUNK as u32,
        base: None,
        labels: Vec::new(),
        depends_on: Vec::new(),
    };
    let pieces = [directory.pack(&directory.files())];
    let pages = Pages::new(&directory.entries);
    compose::whole(&opening, &pages, &pieces, directory.root()).expect("small enough")
}

/// After how many operations of the next start the power goes a second time, when it went after `first` before. Every
/// 17th, so that over the first cuts each is met; all of them with `EPOCHLOG_EXHAUSTIVE=1`, which takes long.
pub fn second_cuts(first: u64) -> impl Iterator<Item = u64> {
    let step = if std::env::var_os("EPOCHLOG_EXHAUSTIVE").is_some() { 1 } else { 17 };
    (first % step..).step_by(step as usize)
}

impl Replica {
    pub fn keep(&self) -> Result<SnapshotMeta, SnapshotError> {
        let capture = self.machine.capture(None).expect("something is applied");
        self.machine.keep(capture)
    }

    /// A snapshot, or `None` when the disk fails.
    pub fn try_keep(&self) -> Option<SnapshotMeta> {
        self.machine.keep(self.machine.capture(None)?).ok()
    }

    /// Purges as far as it may, durably. False when nothing may go.
    pub fn purge(&self) -> bool {
        self.try_purge().expect("the disk works")
    }

    /// As far as it may when nobody can afford any more to keep the log for a pin.
    pub fn purge_beyond_pins(&self) -> bool {
        self.purge_to(self.machine.purge_limit_beyond_pins()).expect("the disk works")
    }

    pub fn try_purge(&self) -> Option<bool> {
        self.purge_to(self.machine.purge_limit())
    }

    fn purge_to(&self, limit: Option<LogId>) -> Option<bool> {
        let Some(limit) = limit else { return Some(false) };
        self.log.purge(limit);
        let (answer, answered) = std::sync::mpsc::channel();
        self.log.append(Vec::new(), Box::new(move |result| drop(answer.send(result))));
        answered.recv().expect("an answer").ok()?;
        Some(true)
    }

    /// Two snapshots, a purge and what may be given back then; `None` when the disk fails.
    pub fn try_clean_up(&self) -> Option<()> {
        self.try_keep()?;
        self.try_keep()?;
        self.try_purge()?;
        self.machine.reclaim().ok().map(drop)
    }

    /// A tiny epoch in one record; its log index.
    pub fn try_whole(&mut self, epoch: u64, directory: &Directory) -> Option<u64> {
        self.try_commit(whole_of(job().as_str(), epoch, directory))
    }

    /// Commits an epoch of a small directory, and waits for it.
    pub fn whole(&mut self, epoch: u64, directory: &Directory) {
        self.try_whole(epoch, directory).expect("the disk works");
        self.wait_performed();
    }

    pub fn try_expire(&mut self, epochs: Vec<u64>) -> Option<u64> {
        self.try_commit(compose::expire(&job(), epochs, true, "by hand", Vec::new()))
    }

    /// A record that the only node has no good copy of this content, as it was brought last.
    pub fn quarantine(&mut self, digest: Digest) {
        let brought = self.machine.ledger().brought(&digest).expect("somebody holds it");
        self.commit(compose::quarantine(digest, brought, [(1, "corrupt".to_owned())]));
    }

    /// Every epoch of the ledger is a directory here, with what was sealed.
    pub fn assert_all_published(&self, context: &str) {
        let epochs: Vec<u64> = self.machine.ledger().sealed(&job()).map(|sealed| sealed.epoch).collect();
        for epoch in epochs {
            assert_eq!(self.publication(epoch), Some(Publication::Published), "{context}: epoch {epoch}");
            let root = self.machine.ledger().epoch(&job(), epoch).unwrap().sealed.root;
            assert_eq!(self.store.published(&job(), epoch).unwrap(), Some(root), "{context}: epoch {epoch}");
            let report = self.store.verify(&job(), epoch).unwrap();
            assert!(report.is_good(), "{context}: epoch {epoch}: {:?}", report.problems);
        }
    }

    /// Ends everything that is open, expires everything, and gives back what can be.
    pub fn empty(&mut self) {
        let (open, epochs): (Vec<u64>, Vec<u64>) = {
            let ledger = self.machine.ledger();
            let open = ledger.attempts().map(|info| info.id).collect();
            (open, ledger.sealed(&job()).map(|sealed| sealed.epoch).collect())
        };
        for attempt in open {
            self.commit(compose::abort(attempt, "no more"));
        }
        if !epochs.is_empty() {
            self.try_expire(epochs).expect("the disk works");
        }
        self.commit_blanks(1);
        self.wait_performed();
        // Orphans are noticed by the first cleaning and given back by the second, behind their own snapshots.
        for _ in 0..2 {
            self.try_clean_up().expect("the disk works");
            self.commit_blanks(1);
        }
        self.try_clean_up().expect("the disk works");
    }
}

/// Everything below the group's folder, with names that count up taken together.
pub fn paths(disk: &CrashDisk) -> BTreeSet<PathBuf> {
    let group = Path::new(DATA).join("groups");
    let all = disk.paths().into_iter().filter(|path| path.starts_with(&group));
    all.map(|path| match path.extension().and_then(|extension| extension.to_str()) {
        Some("snap" | "wal") => path.with_file_name(format!("any.{}", path.extension().unwrap().display())),
        _ => path,
    })
    .collect()
}

/// Nothing is left of what ever was.
pub fn assert_baseline(disk: &CrashDisk, context: &str) {
    let new = CrashDisk::new();
    let mut replica = start(&new);
    replica.commit_blanks(1);
    replica.wait_performed();
    replica.try_clean_up().unwrap();
    replica.stop();
    let (baseline, found) = (paths(&new), paths(disk));
    let more: Vec<&PathBuf> = found.difference(&baseline).collect();
    let less: Vec<&PathBuf> = baseline.difference(&found).collect();
    assert!(more.is_empty() && less.is_empty(), "{context}: left behind {more:?}, missing {less:?}");
}

/// Snapshot files, and what else lies beside them.
pub fn snapshots(disk: &CrashDisk) -> Vec<PathBuf> {
    let dir = Path::new(DATA).join("groups/main/snapshots");
    disk.paths().into_iter().filter(|path| path.parent() == Some(&dir)).collect()
}

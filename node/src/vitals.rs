//! How a node is: its marks, its log, what waits to be given back. One look for status, metrics, health
//! and housekeeping, so that all of them say the same. Reads memory only, never the disk.

use checkpoint::JobName;
use nativelog::machine::{Garbage, Marks};
use raft::{Replica, Transfer};

use crate::pressure;

/// One look at a node.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// How far it is, as counts of entries.
    pub marks: Marks,
    /// The first index that is not purged from its log, durably.
    pub purged: u64,
    /// Bytes of its WAL.
    pub wal_bytes: u64,
    /// What waits to be given back.
    pub garbage: Garbage,
    /// Sealed epochs that are no directory here, and why; those that are just being published are not among them.
    pub unpublished: Vec<Unpublished>,
    /// Sealed epochs that it has not looked for since it started: nobody knows yet whether they are here.
    pub not_looked: u64,
    /// Why its log waits for space, while it does.
    pub stalled: Option<String>,
    /// Why it takes no new content, while it does not.
    pub short: Option<String>,
    /// What it is fetching from other nodes.
    pub transfer: Transfer,
}

/// A sealed epoch that is no directory here.
#[derive(Debug, Clone)]
pub struct Unpublished {
    /// The job.
    pub job: JobName,
    /// The epoch.
    pub epoch: u64,
    /// Why.
    pub why: String,
}

impl Vitals {
    /// How `node` is now, by its replica and by why it takes no content.
    pub fn of(node: u64, replica: &Replica, short: Option<String>) -> Vitals {
        let (log, machine) = (replica.log(), replica.machine());
        let missing = machine.missing();
        let unpublished = missing.into_iter().map(|missing| Unpublished {
            job: missing.job,
            epoch: missing.epoch,
            why: missing.why,
        });
        let gives_way = || machine.gives_way().then(|| pressure::gives_way(node));
        Vitals {
            marks: machine.marks(),
            purged: *log.purged().borrow(),
            wal_bytes: log.wal_bytes(),
            garbage: machine.garbage(),
            unpublished: unpublished.collect(),
            not_looked: machine.not_looked(),
            stalled: log.stalled().borrow().clone(),
            short: short.or_else(gives_way),
            transfer: *replica.transfer().borrow(),
        }
    }
}

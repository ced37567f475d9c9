//! Looks at the ledger that may take long, at a hundred thousand epochs or a million jobs: in slices, between which apply
//! gets its turn. They block: async callers have them done by [`elsewhere`].
//!
//! What comes and goes between two slices is met or not; what was there all along is met once
//! ([`Walk`](nativelog::ledger::Walk)).

use std::sync::Arc;

use checkpoint::JobName;
use nativelog::ledger::{EpochInfo, EpochView, Go, Walk};
use nativelog::machine::Machine;
use tokio::sync::Semaphore;

use crate::limits;

/// So many names are copied while apply waits.
const NAMES: usize = 4096;

/// Their turns, over all callers.
static LOOKS: Semaphore = Semaphore::const_new(limits::LOOKS_AT_ONCE);

/// Looks on a thread that may be blocked, when its turn has come.
pub async fn elsewhere<T: Send + 'static>(
    machine: &Arc<Machine>,
    look: impl FnOnce(&Machine) -> T + Send + 'static,
) -> T {
    let machine = machine.clone();
    // It goes with the look, which ends also when nobody waits for it any more.
    let turn = LOOKS.acquire().await.expect("nobody closes it");
    let looked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        look(&machine)
    })
    .await;
    looked.expect("a look at the ledger does not panic")
}

/// Walks to its end.
pub fn walk(machine: &Machine, mut walk: Walk, mut each: impl FnMut(EpochView<'_>) -> Go) {
    while walk.slice(&machine.ledger(), &mut each) {}
}

/// Job and number of every sealed epoch, or of those of one job.
pub fn all(machine: &Machine, of: Option<JobName>) -> Vec<(JobName, u64)> {
    let mut all = Vec::new();
    walk(machine, of.map_or_else(Walk::all, Walk::of), |epoch| {
        all.push((epoch.sealed().job.clone(), epoch.sealed().epoch));
        Go::On
    });
    all
}

/// The newest epoch of a job that holds nothing that is in quarantine.
pub fn newest(machine: &Machine, job: &JobName) -> Option<EpochInfo> {
    back(machine, job, 0).0
}

/// Of the epochs of a job that hold nothing that is in quarantine the one that is so many before the newest, and the
/// number of the newest.
pub fn back(machine: &Machine, job: &JobName, back: u64) -> (Option<EpochInfo>, Option<u64>) {
    let (mut found, mut newest, mut left) = (None, None, back);
    walk(machine, Walk::of(job.clone()), |epoch| {
        if !epoch.is_good() {
            return Go::On;
        }
        newest.get_or_insert(epoch.sealed().epoch);
        if left == 0 {
            found = Some(epoch.info());
            return Go::Stop;
        }
        left -= 1;
        Go::On
    });
    (found, newest)
}

/// Epochs that say that they depend on this one, as `JOB@EPOCH`, so many at most, and whether there are more.
pub fn dependents(machine: &Machine, job: &JobName, epoch: u64, most: usize) -> (Vec<String>, bool) {
    let (wanted, mut found) = (format!("{job}@{epoch}"), Vec::new());
    walk(machine, Walk::all(), |other| {
        if other.depends_on().contains(&wanted) {
            found.push(format!("{}@{}", other.sealed().job, other.sealed().epoch));
        }
        if found.len() <= most { Go::On } else { Go::Stop }
    });
    let more = found.len() > most;
    found.truncate(most);
    (found, more)
}

/// The names of all jobs, in order.
pub fn jobs(machine: &Machine) -> Vec<JobName> {
    let mut jobs: Vec<JobName> = Vec::new();
    loop {
        let before = jobs.len();
        // Not under the guard: what is there already may have to be moved.
        jobs.reserve(NAMES);
        let last = jobs.last().cloned();
        jobs.extend(machine.ledger().jobs_after(last.as_ref()).take(NAMES).cloned());
        if jobs.len() - before < NAMES {
            return jobs;
        }
    }
}

//! A walk through the sealed epochs, in slices: whoever wants to change the ledger waits for one slice, not for a hundred
//! thousand epochs.
//!
//! **What it promises** when the ledger changes between two slices: every epoch that is there from the first slice to the
//! last is met once, each as it is when it is met. One that is sealed or expires meanwhile is met or not, and never twice.
//! A job that is removed and made anew is another one: of it nothing is met after an epoch of the old one.

use std::ops::Bound;

use checkpoint::{Digest, JobName};

use super::job::EpochRecord;
use super::quarantine::QuarantineInfo;
use super::query::{EpochInfo, epoch_info};
use super::tables::Ledger;
use super::verdict::SealedEpoch;

/// What one slice may cost: a few milliseconds where every step misses the caches.
const SLICE: usize = 8192;
/// What it costs to come upon a job or an epoch. Each of its labels and pins is up to a few KiB to copy or compare, and
/// each content in quarantine is looked for in its content.
const STEP: usize = 16;
const LABEL: usize = 4;

/// How a walk goes on after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// With the next epoch.
    On,
    /// With the next job.
    NextJob,
    /// Not at all.
    Stop,
}

/// A sealed epoch where it lies: nothing of it is copied.
#[derive(Clone, Copy)]
pub struct EpochView<'a> {
    ledger: &'a Ledger,
    record: &'a EpochRecord,
}

/// Where a walk is: job by job in the order of names, in each the newest epoch first.
pub struct Walk {
    place: Place,
    last: Bound<JobName>,
}

enum Place {
    /// Before the first job from here on.
    Job(Bound<JobName>),
    /// In the job of this number, before its first epoch below.
    Epoch {
        job: JobName,
        number: u64,
        below: u64,
    },
    End,
}

impl Walk {
    /// Through the epochs of all jobs.
    pub fn all() -> Walk {
        Walk { place: Place::Job(Bound::Unbounded), last: Bound::Unbounded }
    }

    /// Through the epochs of one job.
    pub fn of(job: JobName) -> Walk {
        Walk { place: Place::Job(Bound::Included(job.clone())), last: Bound::Included(job) }
    }

    /// Goes on a little, and tells `each` of the epochs that it meets. True when the ledger is to be let go of and
    /// another slice to follow.
    pub fn slice(&mut self, ledger: &Ledger, each: impl FnMut(EpochView<'_>) -> Go) -> bool {
        self.walk(ledger, SLICE, each)
    }

    fn walk(&mut self, ledger: &Ledger, mut left: usize, mut each: impl FnMut(EpochView<'_>) -> Go) -> bool {
        loop {
            let (name, job, upper) = match &self.place {
                Place::End => return false,
                Place::Job(from) => {
                    let mut jobs = ledger.jobs.range::<JobName, _>((from.as_ref(), self.last.as_ref()));
                    let Some((name, job)) = jobs.next() else { return self.end() };
                    (name, job, Bound::Unbounded)
                }
                Place::Epoch { job, number, below } => match ledger.jobs.get_key_value(job) {
                    Some((name, there)) if there.number == *number => (name, there, Bound::Excluded(*below)),
                    // It was removed, and with it all that was left to meet.
                    _ => {
                        self.place = Place::Job(Bound::Excluded(job.clone()));
                        continue;
                    }
                },
            };
            let mut epochs = job.epochs.range((Bound::Unbounded, upper)).rev();
            let mut met = None;
            let pause = loop {
                if left == 0 {
                    break true;
                }
                let Some((epoch, record)) = epochs.next() else { break false };
                left = left.saturating_sub(cost(ledger, record));
                met = Some(*epoch);
                match each(EpochView { ledger, record }) {
                    Go::On => {}
                    Go::NextJob => break false,
                    Go::Stop => return self.end(),
                }
            };
            if pause {
                if let Some(below) = met {
                    self.place = Place::Epoch { job: name.clone(), number: job.number, below };
                }
                return true;
            }
            left = left.saturating_sub(STEP);
            self.place = Place::Job(Bound::Excluded(name.clone()));
        }
    }

    fn end(&mut self) -> bool {
        self.place = Place::End;
        false
    }
}

fn cost(ledger: &Ledger, record: &EpochRecord) -> usize {
    let EpochRecord { labels, depends_on, pins, .. } = record;
    STEP + ledger.quarantine.len() + LABEL * (labels.len() + depends_on.len() + pins.len())
}

impl<'a> EpochView<'a> {
    /// What its commit was answered.
    pub fn sealed(&self) -> &'a SealedEpoch {
        &self.record.sealed
    }

    /// Its labels, as given.
    pub fn labels(&self) -> &'a [(String, String)] {
        &self.record.labels
    }

    /// The epochs it depends on, as given.
    pub fn depends_on(&self) -> &'a [String] {
        &self.record.depends_on
    }

    /// Log time of its seal, in milliseconds.
    pub fn sealed_log_ms(&self) -> u64 {
        self.record.sealed_log_ms
    }

    /// For people: the wall clock of the leader at its seal, milliseconds since 1970; 0 when it was not told.
    pub fn sealed_wall_ms(&self) -> u64 {
        self.record.sealed_wall_ms
    }

    /// Whether it holds nothing that is in quarantine.
    pub fn is_good(&self) -> bool {
        !self.ledger.holds_quarantined(self.record)
    }

    /// What it holds that is in quarantine.
    pub fn quarantined(&self) -> impl Iterator<Item = Digest> {
        let all = self.ledger.quarantine.keys();
        let held = all.filter(|id| self.record.content.binary_search(id).is_ok());
        held.map(|id| self.ledger.content.get(*id).digest)
    }

    /// The same, and who found what.
    pub fn findings(&self) -> Vec<QuarantineInfo> {
        self.ledger.quarantined_in(&self.record.sealed.job, self.record.sealed.epoch)
    }

    /// A copy.
    pub fn info(&self) -> EpochInfo {
        epoch_info(self.record)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use checkpoint::CommitId;

    use super::super::job::Job;
    use super::*;
    use crate::record::LogId;

    fn name(job: &str) -> JobName {
        job.parse().unwrap()
    }

    fn record(job: &JobName, epoch: u64) -> EpochRecord {
        let sealed = SealedEpoch {
            job: job.clone(),
            epoch,
            root: Digest::NONE,
            position: LogId::default(),
            attempt: 0,
            files: 0,
            bytes: 0,
            new_bytes: 0,
            new_files: 0,
            log_bytes: 0,
            already: false,
            expired: false,
        };
        EpochRecord {
            sealed: Arc::new(sealed),
            commit: CommitId::from_bytes([0; 16]),
            plan: 0,
            base: None,
            labels: Vec::new(),
            depends_on: Vec::new(),
            sealed_log_ms: 0,
            sealed_wall_ms: 0,
            content: Arc::default(),
            pins: BTreeMap::new(),
            stored: None,
        }
    }

    fn seal(ledger: &mut Ledger, job: &str, epochs: impl IntoIterator<Item = u64>) {
        let job = name(job);
        let there = ledger.jobs.entry(job.clone()).or_default();
        there.epochs.extend(epochs.into_iter().map(|epoch| (epoch, Arc::new(record(&job, epoch)))));
    }

    fn three_jobs() -> Ledger {
        let mut ledger = Ledger::default();
        seal(&mut ledger, "a", 1..=5);
        seal(&mut ledger, "b", []);
        seal(&mut ledger, "c", 1..=3);
        ledger
    }

    /// What a walk meets whose slices cost so much, when `between` happens to the ledger before the slice of a number.
    fn met(ledger: &mut Ledger, mut walk: Walk, cost: usize, between: impl Fn(usize, &mut Ledger)) -> String {
        let mut met = Vec::new();
        for slice in 0.. {
            between(slice, ledger);
            let more = walk.walk(ledger, cost, |epoch| {
                met.push(format!("{}{}", epoch.sealed().job, epoch.sealed().epoch));
                Go::On
            });
            if !more {
                break;
            }
        }
        assert!(!walk.walk(ledger, cost, |_| panic!("the end is the end")));
        met.join(" ")
    }

    #[test]
    fn slices_of_any_size_meet_the_same_epochs_in_the_same_order() {
        for cost in [1, STEP, STEP + 1, 2 * STEP, 5 * STEP, 6 * STEP, SLICE] {
            let nothing = |_, _: &mut Ledger| {};
            let ledger = &mut three_jobs();
            assert_eq!(met(ledger, Walk::all(), cost, nothing), "a5 a4 a3 a2 a1 c3 c2 c1", "{cost}");
            assert_eq!(met(ledger, Walk::of(name("a")), cost, nothing), "a5 a4 a3 a2 a1", "{cost}");
            assert_eq!(met(ledger, Walk::of(name("b")), cost, nothing), "", "{cost}");
            assert_eq!(met(ledger, Walk::of(name("d")), cost, nothing), "", "{cost}");
        }
    }

    #[test]
    fn what_stays_is_met_once_whatever_comes_and_goes_between_two_slices() {
        // One epoch a slice: a5, a4 and a3 are met by then.
        let changed = |slice, ledger: &mut Ledger| {
            if slice == 3 {
                seal(ledger, "a", [6]);
                seal(ledger, "b", [1]);
                let a = ledger.jobs.get_mut(&name("a")).unwrap();
                a.epochs.retain(|epoch, _| ![2, 3, 5].contains(epoch));
            }
        };
        assert_eq!(met(&mut three_jobs(), Walk::all(), 1, changed), "a5 a4 a3 a1 b1 c3 c2 c1");
    }

    #[test]
    fn a_job_that_was_made_anew_is_another_one() {
        let anew = |slice, ledger: &mut Ledger| {
            if slice == 2 {
                ledger.jobs.insert(name("a"), Job { number: 7, ..Job::default() });
                seal(ledger, "a", 1..=2);
            }
        };
        assert_eq!(met(&mut three_jobs(), Walk::all(), 1, anew), "a5 a4 c3 c2 c1");
        let gone = |slice, ledger: &mut Ledger| {
            if slice == 2 {
                ledger.jobs.remove(&name("a"));
            }
        };
        assert_eq!(met(&mut three_jobs(), Walk::of(name("a")), 1, gone), "a5 a4");
    }

    #[test]
    fn a_job_or_the_rest_is_left_out_when_nobody_wants_it() {
        for cost in [1, SLICE] {
            let (mut walk, mut seen) = (Walk::all(), Vec::new());
            let ledger = three_jobs();
            while walk.walk(&ledger, cost, |epoch| {
                seen.push(epoch.sealed().epoch);
                match seen.len() {
                    2 => Go::NextJob,
                    4 => Go::Stop,
                    _ => Go::On,
                }
            }) {}
            assert_eq!(seen, [5, 4, 3, 2]);
        }
    }
}

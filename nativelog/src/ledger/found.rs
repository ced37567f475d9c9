//! What a commit id led to, or an attempt: a repeat whose first answer was lost finds its own outcome.
//!
//! **Never.** Nobody is told that something did not happen because it was forgotten. A commit id travels with a lower
//! bound of its birth; one that may be older than the horizon is *too old to know*, unless its epoch is still there:
//! that keeps the id itself.

use checkpoint::{CommitId, JobName};

use super::attempt::Attempt;
use super::job::Job;
use super::key::RowKey;
use super::outcomes::{Ending, Outcome, commit_key};
use super::tables::Ledger;
use super::verdict::{Reason, Rejected, SealedEpoch};
use crate::record::LogId;

/// What a commit id led to.
pub(super) enum Found<'a> {
    Writer {
        token: u64,
    },
    Open(u64, &'a Attempt),
    Sealed {
        sealed: SealedEpoch,
        plan: u64,
    },
    /// Its attempt ended without an epoch: the commit may be tried again.
    Lapsed,
    /// The job was removed since; what is there now is another of its name.
    JobRemoved,
}

impl Ledger {
    /// What a commit id led to. `born`: a log index at which it was not in use yet, 0 when nobody knows one.
    ///
    /// # Errors
    /// It is not found, and may have been forgotten.
    pub(super) fn found(
        &self,
        name: &JobName,
        commit: &CommitId,
        born: u64,
    ) -> Result<Option<Found<'_>>, Rejected> {
        let job = self.jobs.get(name);
        if let Some(job) = job {
            let mut open = job.open.iter().map(|id| (*id, &self.open[id]));
            if let Some((id, attempt)) = open.find(|(_, attempt)| attempt.terms.commit == *commit) {
                return Ok(Some(Found::Open(id, attempt)));
            }
        }
        if let Some(outcome) = self.outcomes.of_commit(name, commit) {
            let there = job.is_some_and(|job| job.number == outcome.job);
            return Ok(Some(match outcome.how {
                Ending::Sealed { plan, .. } => {
                    let sealed = self.sealed_outcome(name, outcome).expect("it is sealed");
                    Found::Sealed { sealed, plan }
                }
                _ if !there => Found::JobRemoved,
                Ending::Writer => Found::Writer { token: outcome.attempt },
                Ending::Aborted
                | Ending::Subsumed { .. }
                | Ending::Fenced
                | Ending::Replaced
                | Ending::GaveWay => Found::Lapsed,
            }));
        }
        if !self.outcomes.may_have_forgotten(born) {
            return Ok(None);
        }
        // An epoch that is there keeps its commit's id. Only those that were sealed after the birth, and whose outcomes
        // are forgotten, have to be looked at.
        let epochs = job.into_iter().flat_map(|job| job.epochs.values().rev());
        let mut epochs = epochs.take_while(|epoch| epoch.sealed.position.index >= born);
        match epochs.find(|epoch| epoch.commit == *commit) {
            Some(there) => {
                let sealed = SealedEpoch { already: true, ..SealedEpoch::clone(&there.sealed) };
                Ok(Some(Found::Sealed { sealed, plan: there.plan }))
            }
            None => Err(too_old("this commit id is older than what the log remembers")),
        }
    }

    /// The answer to a repeat of what sealed; less is known when the epoch has expired. `None` when it is no seal.
    pub(super) fn sealed_outcome(&self, name: &JobName, outcome: &Outcome) -> Option<SealedEpoch> {
        let Ending::Sealed { epoch, root, .. } = outcome.how else { return None };
        let job = self.jobs.get(name).filter(|job| job.number == outcome.job);
        let there = job.and_then(|job| job.epochs.get(&epoch));
        if let Some(there) = there.filter(|there| there.sealed.position == outcome.end) {
            return Some(SealedEpoch { already: true, ..SealedEpoch::clone(&there.sealed) });
        }
        Some(SealedEpoch {
            job: name.clone(),
            epoch,
            root,
            position: outcome.end,
            attempt: outcome.attempt,
            files: 0,
            bytes: 0,
            new_bytes: 0,
            new_files: 0,
            log_bytes: 0,
            already: true,
            expired: true,
        })
    }

    /// What an attempt became, while that is remembered and its job is there.
    pub(super) fn sealed_before(&self, attempt: u64) -> Option<SealedEpoch> {
        let outcome = self.outcomes.of_attempt(attempt)?;
        self.sealed_outcome(self.names.get(&outcome.job)?, outcome)
    }

    /// The open attempt that a record names.
    pub(super) fn open_attempt(&self, id: u64) -> Result<&Attempt, Rejected> {
        if let Some(attempt) = self.open.get(&id) {
            assert_eq!(
                attempt.terms.token,
                self.known_job(&attempt.terms.job).token,
                "a newer writer ends attempts"
            );
            return Ok(attempt);
        }
        let Some(outcome) = self.outcomes.of_attempt(id) else {
            return Err(self.no_attempt(id));
        };
        let job = self.names.get(&outcome.job).map(|name| self.known_job(name));
        Err(match outcome.how {
            Ending::Sealed { root, .. } => {
                Rejected::new(Reason::Ended, "the attempt is sealed").root(root).position(outcome.end)
            }
            Ending::Aborted => Rejected::new(Reason::Ended, "the attempt was aborted"),
            Ending::Subsumed { by } => {
                Rejected::new(Reason::Subsumed, format!("epoch {by} of the job was sealed first"))
                    .current(job.and_then(|job| job.mark).unwrap_or(by))
            }
            Ending::Fenced | Ending::Writer => fenced(job.map_or(outcome.end.index, |job| job.token)),
            Ending::Replaced => {
                let detail = "the attempt was silent, and another commit began the epoch anew";
                Rejected::new(Reason::Ended, detail)
            }
            Ending::GaveWay => {
                let detail = "the attempt was silent for minutes, and another one needed its room";
                Rejected::new(Reason::Ended, detail)
            }
        })
    }

    /// The job of an attempt or epoch that the ledger knows.
    pub(super) fn known_job(&self, name: &JobName) -> &Job {
        self.jobs.get(name).expect("attempts and epochs belong to jobs that are there")
    }

    /// An attempt that is neither open nor remembered.
    pub(super) fn no_attempt(&self, id: u64) -> Rejected {
        // An attempt ends after it began, and its id says when that was.
        if self.outcomes.may_have_forgotten(id) {
            return too_old(format!("attempt {id} is older than what the log remembers"));
        }
        Rejected::new(Reason::NotFound, format!("no attempt {id}"))
    }

    /// Records what became of a commit id, and makes room for it first.
    pub(super) fn remember(&mut self, name: &JobName, commit: &CommitId, outcome: (u64, Ending), end: LogId) {
        let (attempt, how) = outcome;
        self.forget_outcome(self.limits().outcomes_max, None);
        let job = self.jobs[name].number;
        let (key, end_ms) = (commit_key(name, commit), self.log_ms);
        self.touch(RowKey::Outcome(self.outcomes.next()));
        self.outcomes.push(Outcome { key, end, end_ms, attempt, job, how });
    }

    /// Forgets the oldest, when there are `max` or it ended at or before `until_ms`; false when it stays.
    pub(super) fn forget_outcome(&mut self, max: usize, until_ms: Option<u64>) -> bool {
        let Some(number) = self.outcomes.due(max, until_ms) else { return false };
        self.touch(RowKey::Outcome(number));
        self.outcomes.forget_oldest();
        true
    }
}

pub(super) fn job_removed() -> Rejected {
    Rejected::new(Reason::Ended, "the job was removed since this commit was first tried")
}

pub(super) fn fenced(current: u64) -> Rejected {
    Rejected::new(Reason::Fenced, "a newer writer holds the job").current(current)
}

fn too_old(detail: impl Into<String>) -> Rejected {
    Rejected::new(Reason::TooOld, detail)
}

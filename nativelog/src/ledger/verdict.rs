//! What the ledger answers to a record: accepted or rejected, on every replica the same.
//!
//! A verdict is data. It never says that something is unavailable or that a replica
//! failed: those are other types (see the crate's errors and [`LedgerFault`]).

mod wire;

use std::fmt;

use checkpoint::{Digest, JobName};
use serde::{Deserialize, Serialize};

use crate::record::{LogId, RECORD_VERSION, RECORD_VERSION_MIN, proto};

/// The log's answer to one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The record holds, or held already.
    Accepted(Accepted),
    /// The log says no; the ledger is unchanged.
    Rejected(Rejected),
}

/// What an accepted record brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accepted {
    /// Nothing more to say.
    Done,
    /// A writer is open; every lower token of the job is fenced.
    Opened {
        /// The writer's token: log index of the record that opened it.
        token: u64,
    },
    /// An attempt is open.
    Begun {
        /// The attempt's id: log index of its Begin record (`u64::MAX` in a dry run).
        attempt: u64,
        /// The epoch it tries to write.
        epoch: u64,
        /// The attempt was open before this record: ask for its coverage before sending pieces.
        resumed: bool,
        /// The writer token it goes by; 0 when the job has never had a writer.
        token: u64,
    },
    /// The epoch is sealed: what users call committed.
    Sealed(SealedEpoch),
}

/// A sealed epoch in one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedEpoch {
    /// The job.
    pub job: JobName,
    /// The epoch's number.
    pub epoch: u64,
    /// Digest of its canonical manifest.
    pub root: Digest,
    /// Log position of the record that sealed it.
    pub position: LogId,
    /// The attempt that became the epoch.
    pub attempt: u64,
    /// Files in the manifest.
    pub files: u64,
    /// Sum of their sizes, in bytes.
    pub bytes: u64,
    /// Of these, bytes of files that were not references to sealed content.
    pub new_bytes: u64,
    /// Files with content that were not references to sealed content.
    pub new_files: u64,
    /// Headers and payloads of every record that named the attempt, in bytes.
    pub log_bytes: u64,
    /// This record changed nothing: the epoch was sealed before, at `position`.
    pub already: bool,
    /// And has expired since: counts and bytes are not known any more.
    pub expired: bool,
}

/// Why a record was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The reason, for programs.
    pub reason: Reason,
    /// The reason, for people: one line.
    pub detail: String,
    /// The job's current token (`Fenced`), its high-water mark (`TooLate`, `Subsumed`), or the number in the way; else 0.
    pub current: u64,
    /// The root that is there (`Conflict`, `TooOld`) or that the records say (`WrongRoot`).
    pub root: Option<Digest>,
    /// Where the sealed epoch in the way stands in the log.
    pub position: Option<LogId>,
}

/// Reasons of a rejection; numbers as in `record.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// Shape, limits, paths or bounds.
    Malformed,
    /// A newer writer token exists.
    Fenced,
    /// Another plan or another root is there.
    Conflict,
    /// The epoch is at or below the job's high-water mark.
    TooLate,
    /// A later epoch of the job was sealed first.
    Subsumed,
    /// No such attempt, epoch or content.
    NotFound,
    /// The range is covered already, by other bytes.
    Overlap,
    /// Sealed too early, or pieces before their plan.
    Incomplete,
    /// The root named is not the one the records say.
    WrongRoot,
    /// Over a limit of the log.
    Quota,
    /// Needs an Activate first.
    NotActive,
    /// Newest committed, pinned, or base of an open attempt.
    Protected,
    /// Another cluster or incarnation.
    Identity,
    /// The attempt was aborted, or replaced after its writer fell silent.
    Ended,
    /// Another commit is writing this epoch.
    Busy,
    /// Older than what the log remembers: what became of it cannot be told.
    TooOld,
    /// The voters' disks have no room for it: a leader's word before it proposes, and no verdict of the log.
    NoSpace,
}

/// A record that this binary cannot judge: the replica must stop, not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerFault {
    /// The cluster activated rules that this binary does not know.
    #[error(
        "the log activates rules version {wanted}, this binary knows up to {known}: install on this node one that knows \
         version {wanted}, as every other node has"
    )]
    UnknownRules {
        /// Version that the record names.
        wanted: u32,
        /// Highest version this binary knows.
        known: u32,
    },
    /// A record in a format that this binary does not read.
    #[error(
        "the log holds a record of format {found}, this binary reads {} to {}: take the one that wrote it, or a newer",
        RECORD_VERSION_MIN,
        RECORD_VERSION
    )]
    UnknownRecord {
        /// Version of the record.
        found: u32,
    },
    /// A record of a kind that this binary does not know.
    #[error("the log holds a record of a kind that this binary does not know: upgrade it")]
    UnknownKind,
    /// What an open attempt is to become is known to all, and its plan cannot be read back here any more.
    #[error(
        "the plan of attempt {attempt} is lost here ({why}): with a majority of the others up, run `epochlog repair` on this node"
    )]
    PlanLost {
        /// The attempt.
        attempt: u64,
        /// What cannot be read, and why.
        why: String,
    },
}

impl Verdict {
    /// Accepted, with nothing more to say.
    pub const DONE: Verdict = Verdict::Accepted(Accepted::Done);

    /// Whether the record was accepted.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Verdict::Accepted(_))
    }

    /// The rejection, if it is one.
    pub fn rejected(&self) -> Option<&Rejected> {
        match self {
            Verdict::Accepted(_) => None,
            Verdict::Rejected(rejected) => Some(rejected),
        }
    }
}

impl Rejected {
    /// A rejection with a reason for programs and one for people.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Rejected { reason, detail: detail.into(), current: 0, root: None, position: None }
    }

    /// Adds the number in the way.
    #[must_use]
    pub fn current(mut self, current: u64) -> Self {
        self.current = current;
        self
    }

    /// Adds the root in the way.
    #[must_use]
    pub fn root(mut self, root: Digest) -> Self {
        self.root = Some(root);
        self
    }

    /// Adds the log position of what is in the way.
    #[must_use]
    pub fn position(mut self, position: LogId) -> Self {
        self.position = Some(position);
        self
    }
}

impl Reason {
    pub(super) const ALL: [(Reason, proto::Reason, &'static str); 17] = [
        (Reason::Malformed, proto::Reason::Malformed, "malformed"),
        (Reason::Fenced, proto::Reason::Fenced, "fenced"),
        (Reason::Conflict, proto::Reason::Conflict, "conflict"),
        (Reason::TooLate, proto::Reason::TooLate, "too-late"),
        (Reason::Subsumed, proto::Reason::Subsumed, "subsumed"),
        (Reason::NotFound, proto::Reason::NotFound, "not-found"),
        (Reason::Overlap, proto::Reason::Overlap, "overlap"),
        (Reason::Incomplete, proto::Reason::Incomplete, "incomplete"),
        (Reason::WrongRoot, proto::Reason::WrongRoot, "wrong-root"),
        (Reason::Quota, proto::Reason::Quota, "quota"),
        (Reason::NotActive, proto::Reason::NotActive, "not-active"),
        (Reason::Protected, proto::Reason::Protected, "protected"),
        (Reason::Identity, proto::Reason::Identity, "identity"),
        (Reason::Ended, proto::Reason::Ended, "ended"),
        (Reason::Busy, proto::Reason::Busy, "busy"),
        (Reason::TooOld, proto::Reason::TooOld, "too-old"),
        (Reason::NoSpace, proto::Reason::NoSpace, "no-space"),
    ];

    /// The reason's one word, as in logs and JSON.
    pub fn as_str(self) -> &'static str {
        Reason::ALL[self.place()].2
    }

    pub(super) fn place(self) -> usize {
        Reason::ALL.iter().position(|(reason, _, _)| *reason == self).expect("ALL lists every reason")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accepted(accepted) => fmt::Display::fmt(accepted, f),
            Verdict::Rejected(rejected) => fmt::Display::fmt(rejected, f),
        }
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accepted::Done => f.write_str("done"),
            Accepted::Opened { token } => write!(f, "opened token={token}"),
            Accepted::Begun { attempt, epoch, resumed, token } => {
                let word = if *resumed { "resumed" } else { "begun" };
                write!(f, "{word} attempt={attempt} epoch={epoch} token={token}")
            }
            Accepted::Sealed(sealed) => fmt::Display::fmt(sealed, f),
        }
    }
}

impl fmt::Display for SealedEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.already { "already-sealed" } else { "sealed" };
        let SealedEpoch { job, epoch, position, attempt, files, bytes, new_bytes, .. } = self;
        write!(f, "{word} {job}@{epoch} root={} position={position} attempt={attempt}", self.root.short())?;
        if self.expired {
            return f.write_str(" expired");
        }
        write!(f, " files={files} bytes={bytes} new-bytes={new_bytes}")
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected {}: {}", self.reason, self.detail)?;
        if self.current != 0 {
            write!(f, " current={}", self.current)?;
        }
        if let Some(root) = self.root {
            write!(f, " root={}", root.short())?;
        }
        if let Some(position) = self.position {
            write!(f, " position={position}")?;
        }
        Ok(())
    }
}

/// A verdict from the wire that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a verdict: {0}")]
pub struct VerdictError(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_reads_as_one_line() {
        let rejected = Rejected::new(Reason::Fenced, "a newer writer holds the job").current(12);
        assert_eq!(rejected.to_string(), "rejected fenced: a newer writer holds the job current=12");
    }
}

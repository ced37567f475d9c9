//! What the ledger answers to a record: accepted or rejected, on every replica the same.
//!
//! A verdict is data. It never says that something is unavailable or that a replica
//! failed: those are other types (see the crate's errors and [`LedgerFault`]).

use std::fmt;

use checkpoint::{Digest, JobName};
use serde::{Deserialize, Serialize};

use crate::record::{LogId, proto};

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
    /// The root that is there (`Conflict`) or that the records say (`WrongRoot`).
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
    /// The attempt was aborted, or replaced.
    Ended,
    /// Another commit is writing this epoch.
    Busy,
}

/// A record that this binary cannot judge: the replica must stop, not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerFault {
    /// The cluster activated rules that this binary does not know.
    #[error("the log activates rules version {wanted}, this binary knows up to {known}: upgrade it")]
    UnknownRules {
        /// Version that the record names.
        wanted: u32,
        /// Highest version this binary knows.
        known: u32,
    },
    /// A record in a newer format.
    #[error("the log holds a record of format {found}, this binary reads up to {known}: upgrade it")]
    UnknownRecord {
        /// Version of the record.
        found: u32,
        /// Highest version this binary reads.
        known: u32,
    },
}

/// A verdict from the wire that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a verdict: {0}")]
pub struct VerdictError(pub &'static str);

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

    /// The verdict as it travels.
    pub fn to_proto(&self) -> proto::Verdict {
        use proto::{accepted::Kind as A, verdict::Kind as K};
        let kind = match self {
            Verdict::Accepted(accepted) => K::Accepted(proto::Accepted {
                kind: Some(match accepted {
                    Accepted::Done => A::Done(proto::Done {}),
                    Accepted::Opened { token } => A::Opened(proto::Opened { token: *token }),
                    Accepted::Begun { attempt, epoch, resumed, token } => A::Begun(proto::Begun {
                        attempt: *attempt,
                        epoch: *epoch,
                        resumed: *resumed,
                        token: *token,
                    }),
                    Accepted::Sealed(sealed) => A::Sealed(sealed.to_proto()),
                }),
            }),
            Verdict::Rejected(rejected) => K::Rejected(rejected.to_proto()),
        };
        proto::Verdict { kind: Some(kind) }
    }

    /// Reads a verdict from the wire.
    ///
    /// # Errors
    /// Parts that are missing or out of range.
    pub fn from_proto(verdict: &proto::Verdict) -> Result<Verdict, VerdictError> {
        use proto::{accepted::Kind as A, verdict::Kind as K};
        match verdict.kind.as_ref().ok_or(VerdictError("empty"))? {
            K::Rejected(rejected) => Ok(Verdict::Rejected(Rejected::from_proto(rejected)?)),
            K::Accepted(accepted) => {
                let accepted = match accepted.kind.as_ref().ok_or(VerdictError("empty acceptance"))? {
                    A::Done(_) => Accepted::Done,
                    A::Opened(opened) => Accepted::Opened { token: opened.token },
                    A::Begun(begun) => Accepted::Begun {
                        attempt: begun.attempt,
                        epoch: begun.epoch,
                        resumed: begun.resumed,
                        token: begun.token,
                    },
                    A::Sealed(sealed) => Accepted::Sealed(SealedEpoch::from_proto(sealed)?),
                };
                Ok(Verdict::Accepted(accepted))
            }
        }
    }
}

impl SealedEpoch {
    /// As it travels.
    pub fn to_proto(&self) -> proto::Sealed {
        proto::Sealed {
            job: self.job.as_str().to_owned(),
            epoch: self.epoch,
            root: self.root.as_bytes().to_vec().into(),
            position: Some(position_to_proto(self.position)),
            attempt: self.attempt,
            files: self.files,
            bytes: self.bytes,
            new_bytes: self.new_bytes,
            log_bytes: self.log_bytes,
            already: self.already,
            new_files: self.new_files,
        }
    }

    /// From the wire.
    ///
    /// # Errors
    /// Parts that are missing or out of range.
    pub fn from_proto(sealed: &proto::Sealed) -> Result<SealedEpoch, VerdictError> {
        Ok(SealedEpoch {
            job: JobName::try_from(sealed.job.as_str()).map_err(|_| VerdictError("bad job name"))?,
            epoch: sealed.epoch,
            root: Digest::from_slice(&sealed.root).ok_or(VerdictError("bad root"))?,
            position: position_from_proto(sealed.position.as_ref().ok_or(VerdictError("no position"))?),
            attempt: sealed.attempt,
            files: sealed.files,
            bytes: sealed.bytes,
            new_bytes: sealed.new_bytes,
            new_files: sealed.new_files,
            log_bytes: sealed.log_bytes,
            already: sealed.already,
        })
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

    /// As it travels.
    pub fn to_proto(&self) -> proto::Rejected {
        proto::Rejected {
            reason: self.reason.to_proto() as i32,
            detail: self.detail.clone(),
            current: self.current,
            root: self.root.map(|root| root.as_bytes().to_vec()).unwrap_or_default().into(),
            position: self.position.map(position_to_proto),
        }
    }

    /// From the wire.
    ///
    /// # Errors
    /// Parts that are missing or out of range.
    pub fn from_proto(rejected: &proto::Rejected) -> Result<Rejected, VerdictError> {
        Ok(Rejected {
            reason: Reason::from_proto(rejected.reason)?,
            detail: rejected.detail.clone(),
            current: rejected.current,
            root: match rejected.root.len() {
                0 => None,
                _ => Some(Digest::from_slice(&rejected.root).ok_or(VerdictError("bad root"))?),
            },
            position: rejected.position.as_ref().map(position_from_proto),
        })
    }
}

impl Reason {
    const ALL: [(Reason, proto::Reason, &'static str); 15] = [
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
    ];

    /// The reason's one word, as in logs and JSON.
    pub fn as_str(self) -> &'static str {
        Reason::ALL[self.place()].2
    }

    /// As it travels.
    pub fn to_proto(self) -> proto::Reason {
        Reason::ALL[self.place()].1
    }

    /// From the wire.
    ///
    /// # Errors
    /// A number without a reason.
    pub fn from_proto(number: i32) -> Result<Reason, VerdictError> {
        let found = Reason::ALL.iter().find(|(_, wire, _)| *wire as i32 == number);
        found.map(|(reason, _, _)| *reason).ok_or(VerdictError("unknown reason"))
    }

    fn place(self) -> usize {
        Reason::ALL.iter().position(|(reason, _, _)| *reason == self).expect("ALL lists every reason")
    }
}

fn position_to_proto(id: LogId) -> proto::Position {
    proto::Position { term: id.term, node: id.node, index: id.index }
}

fn position_from_proto(position: &proto::Position) -> LogId {
    LogId { term: position.term, node: position.node, index: position.index }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Digest {
        Digest::from_slice(&[7; 32]).unwrap()
    }

    #[test]
    fn every_verdict_survives_the_wire() {
        let position = LogId { term: 3, node: 2, index: 15 };
        let sealed = SealedEpoch {
            job: JobName::try_from("train").unwrap(),
            epoch: 42,
            root: root(),
            position,
            attempt: 11,
            files: 3,
            bytes: 100,
            new_bytes: 60,
            new_files: 2,
            log_bytes: 1234,
            already: true,
        };
        let mut verdicts = vec![
            Verdict::DONE,
            Verdict::Accepted(Accepted::Opened { token: 9 }),
            Verdict::Accepted(Accepted::Begun { attempt: 5, epoch: 6, resumed: true, token: 7 }),
            Verdict::Accepted(Accepted::Sealed(sealed)),
        ];
        for (reason, _, _) in Reason::ALL {
            verdicts.push(Verdict::Rejected(Rejected::new(reason, "why")));
        }
        verdicts.push(Verdict::Rejected(
            Rejected::new(Reason::Conflict, "sealed").root(root()).position(position).current(4),
        ));
        for verdict in verdicts {
            assert_eq!(Verdict::from_proto(&verdict.to_proto()), Ok(verdict));
        }
    }

    #[test]
    fn garbage_is_no_verdict() {
        assert!(Verdict::from_proto(&proto::Verdict::default()).is_err());
        assert!(Reason::from_proto(0).is_err());
        assert!(Reason::from_proto(99).is_err());
    }

    #[test]
    fn a_rejection_reads_as_one_line() {
        let rejected = Rejected::new(Reason::Fenced, "a newer writer holds the job").current(12);
        assert_eq!(rejected.to_string(), "rejected fenced: a newer writer holds the job current=12");
    }
}

//! Verdicts as they travel.

use checkpoint::{Digest, JobName};

use super::{Accepted, Reason, Rejected, SealedEpoch, Verdict, VerdictError};
use crate::record::{LogId, proto};

impl Verdict {
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
            expired: self.expired,
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
            expired: sealed.expired,
        })
    }
}

impl Rejected {
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
}

fn position_to_proto(id: LogId) -> proto::Position {
    proto::Position { term: id.term, node: id.node, index: id.index }
}

fn position_from_proto(position: &proto::Position) -> LogId {
    LogId { term: position.term, node: position.node, index: position.index }
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
            expired: true,
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
}

//! The one error type people see: what happened, why, and what to do next.
//!
//! It says, always, whether the epoch it is about was committed: yes, no, or not known. It must
//! never guess: "no" is only for what is certain.

mod io;

use std::fmt;

use prost::Message;

use crate::pb;
pub use io::Cause;

/// The stable name of a failure; scripts compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the user documentation; `name` spells them")]
pub enum Code {
    NoQuorum,
    Unavailable,
    Busy,
    Fenced,
    Conflict,
    TooLate,
    TooOld,
    Subsumed,
    SourceChanged,
    Refused,
    QuotaExceeded,
    NoSpace,
    NotFound,
    Corrupt,
    NotLooked,
    Unauthenticated,
    PermissionDenied,
    Timeout,
    Partial,
    Usage,
    Interrupted,
    Internal,
}

/// What to do about a directory that is over a limit.
pub const SPLIT_OR_RAISE: &str =
    "split the directory, or raise [limits] of the nodes: they go up to 1,000,000 entries and 1 TiB";

const CODES: [(Code, &str); 22] = [
    (Code::NoQuorum, "NoQuorum"),
    (Code::Unavailable, "Unavailable"),
    (Code::Busy, "Busy"),
    (Code::Fenced, "Fenced"),
    (Code::Conflict, "Conflict"),
    (Code::TooLate, "TooLate"),
    (Code::TooOld, "TooOld"),
    (Code::Subsumed, "Subsumed"),
    (Code::SourceChanged, "SourceChanged"),
    (Code::Refused, "Refused"),
    (Code::QuotaExceeded, "QuotaExceeded"),
    (Code::NoSpace, "NoSpace"),
    (Code::NotFound, "NotFound"),
    (Code::Corrupt, "Corrupt"),
    (Code::NotLooked, "NotLooked"),
    (Code::Unauthenticated, "Unauthenticated"),
    (Code::PermissionDenied, "PermissionDenied"),
    (Code::Timeout, "Timeout"),
    (Code::Partial, "Partial"),
    (Code::Usage, "Usage"),
    (Code::Interrupted, "Interrupted"),
    (Code::Internal, "Internal"),
];

impl Code {
    /// The stable name.
    pub fn name(self) -> &'static str {
        CODES.iter().find(|(code, _)| *code == self).map_or("Internal", |(_, name)| name)
    }

    /// The code of a stable name; names of newer versions are `Internal`.
    pub fn from_name(name: &str) -> Code {
        CODES.iter().find(|(_, known)| *known == name).map_or(Code::Internal, |(code, _)| *code)
    }
}

/// Whether the epoch that a failure is about was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The call commits nothing.
    None,
    /// It was committed, and will stay so.
    Yes,
    /// It was not, and will not be.
    No,
    /// It may be, or may become so; repeating the command tells.
    Unknown,
}

impl Certainty {
    /// `yes`, `no` or `unknown`; nothing for calls that commit nothing.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Certainty::None => None,
            Certainty::Yes => Some("yes"),
            Certainty::No => Some("no"),
            Certainty::Unknown => Some("unknown"),
        }
    }
}

/// A failure in four lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its stable name.
    pub code: Code,
    /// Whether the epoch was committed.
    pub committed: Certainty,
    /// The first line: one sentence.
    pub sentence: String,
    /// What was being done.
    pub what: String,
    /// Why it did not work.
    pub why: String,
    /// What to do next.
    pub fix: String,
    /// The epoch it is about, when it has got a number.
    pub epoch: Option<u64>,
    /// The log's own word about this commit: nothing of it that is still under way anywhere changes it.
    pub of_the_log: bool,
}

impl Failure {
    /// A failure of a call that commits nothing.
    pub fn new(code: Code, sentence: impl Into<String>) -> Failure {
        Failure {
            code,
            committed: Certainty::None,
            sentence: sentence.into(),
            what: String::new(),
            why: String::new(),
            fix: String::new(),
            epoch: None,
            of_the_log: false,
        }
    }

    /// The same with another first line.
    pub fn sentence(mut self, sentence: impl Into<String>) -> Failure {
        self.sentence = sentence.into();
        self
    }

    /// The same with its `what` line.
    pub fn what(mut self, what: impl Into<String>) -> Failure {
        self.what = what.into();
        self
    }

    /// The same with its `why` line.
    pub fn why(mut self, why: impl Into<String>) -> Failure {
        self.why = why.into();
        self
    }

    /// The same, about this file.
    pub fn why_of(self, path: &str) -> Failure {
        let why = format!("{path}: {}", self.why);
        self.why(why)
    }

    /// The same with its `do` line.
    pub fn fix(mut self, fix: impl Into<String>) -> Failure {
        self.fix = fix.into();
        self
    }

    /// The same, about an epoch with this certainty.
    pub fn committed(mut self, committed: Certainty) -> Failure {
        self.committed = committed;
        self
    }

    /// Whether another node, or the same a little later, may well answer otherwise.
    pub fn is_transient(&self) -> bool {
        matches!(self.code, Code::NoQuorum | Code::Unavailable | Code::Busy | Code::Timeout)
    }

    /// As it travels.
    pub fn to_pb(&self) -> pb::Failed {
        let committed = match self.committed {
            Certainty::None => pb::Certainty::Unspecified,
            Certainty::Yes => pb::Certainty::Yes,
            Certainty::No => pb::Certainty::No,
            Certainty::Unknown => pb::Certainty::Unknown,
        };
        pb::Failed {
            code: self.code.name().into(),
            committed: committed.into(),
            what: self.what.clone(),
            why: self.why.clone(),
            r#do: self.fix.clone(),
            sentence: self.sentence.clone(),
            epoch: self.epoch.unwrap_or_default(),
            has_epoch: self.epoch.is_some(),
            r#final: self.of_the_log,
        }
    }

    /// From what has travelled.
    pub fn from_pb(failed: pb::Failed) -> Failure {
        let committed = match failed.committed() {
            pb::Certainty::Unspecified => Certainty::None,
            pb::Certainty::Yes => Certainty::Yes,
            pb::Certainty::No => Certainty::No,
            pb::Certainty::Unknown => Certainty::Unknown,
        };
        Failure {
            code: Code::from_name(&failed.code),
            committed,
            sentence: failed.sentence,
            what: failed.what,
            why: failed.why,
            fix: failed.r#do,
            epoch: failed.has_epoch.then_some(failed.epoch),
            of_the_log: failed.r#final,
        }
    }

    /// As the status of a unary call; the whole failure stands in its details.
    pub fn to_status(&self) -> tonic::Status {
        let code = match self.code {
            Code::NotFound => tonic::Code::NotFound,
            Code::NoQuorum | Code::Unavailable | Code::NotLooked => tonic::Code::Unavailable,
            Code::Timeout => tonic::Code::DeadlineExceeded,
            Code::Usage | Code::Refused => tonic::Code::InvalidArgument,
            Code::Corrupt => tonic::Code::DataLoss,
            Code::Unauthenticated => tonic::Code::Unauthenticated,
            Code::PermissionDenied => tonic::Code::PermissionDenied,
            Code::Busy | Code::NoSpace | Code::QuotaExceeded => tonic::Code::ResourceExhausted,
            Code::Internal => tonic::Code::Internal,
            _ => tonic::Code::FailedPrecondition,
        };
        tonic::Status::with_details(code, self.to_string(), self.to_pb().encode_to_vec().into())
    }

    /// What a node has said in a status; nothing when it is the transport that speaks.
    pub fn told(status: &tonic::Status) -> Option<Failure> {
        if status.details().is_empty() {
            return None;
        }
        let failed = pb::Failed::decode(status.details()).ok()?;
        (!failed.code.is_empty()).then(|| Failure::from_pb(failed))
    }

    /// From a status; one without our details is the transport speaking.
    pub fn from_status(status: &tonic::Status) -> Failure {
        if let Some(told) = Failure::told(status) {
            return told;
        }
        // The likeliest slip: the port beside it.
        if status.message().contains("grpc-status header missing") {
            return Failure::new(Code::Usage, "this is not the gRPC port of a node")
                .why(status.message())
                .fix("name in --endpoints what `serve --listen` names: by default port 7411 (7421 is for HTTP)");
        }
        let code = match status.code() {
            tonic::Code::Unauthenticated => Code::Unauthenticated,
            tonic::Code::PermissionDenied => Code::PermissionDenied,
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange | tonic::Code::Unimplemented => {
                Code::Refused
            }
            _ => Code::Unavailable,
        };
        Failure::new(code, "the connection broke").why(transport_reason(status))
    }
}

/// What lies below a transport error, without the library's own words.
fn transport_reason(status: &tonic::Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(inner) = source {
        reason = inner.to_string();
        source = inner.source();
    }
    if reason.is_empty() { status.code().to_string() } else { reason }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sentence)?;
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        Failure::from_status(&status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_way_through_a_status() {
        let failure = Failure::new(Code::Fenced, "fenced, the epoch was NOT committed")
            .what("commit etl@57")
            .why("a newer writer holds token 9")
            .fix("stop this writer")
            .committed(Certainty::No);
        assert_eq!(Failure::from_status(&failure.to_status()), failure);
    }

    #[test]
    fn the_http_port_is_told_by_name() {
        let status =
            tonic::Status::unimplemented("grpc-status header missing, mapped from HTTP status code 404");
        let failure = Failure::from_status(&status);
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.fix.contains("7411"), "{failure:?}");
    }

    #[test]
    fn every_code_has_its_own_name() {
        for (code, name) in CODES {
            assert_eq!(code.name(), name);
            assert_eq!(Code::from_name(name), code);
        }
        assert_eq!(Code::from_name("FromTheFuture"), Code::Internal);
    }
}

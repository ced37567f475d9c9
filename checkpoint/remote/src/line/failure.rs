//! One failed request: what it says about the store, and what it does not.

use std::error::Error;
use std::io::{self, ErrorKind::*};
use std::time::Duration;

use checkpoint::disk::is_rot;
use object_store::client::HttpErrorKind;
use tokio::time::Instant;

use crate::limits::SAID_CHARS_MAX;
use crate::secret::Mask;
use crate::tap::Facts;

/// What a failed request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not there (an object, or an upload).
    Missing,
    /// There already, or a condition did not hold. Also said of one's own success, and of nothing at all (409).
    Exists,
    /// The store asks for patience. It may have done it all the same.
    Busy,
    /// No answer or no whole one. The store may have done it.
    Broken,
    /// Who we are is not known, or may not.
    Denied,
    /// The store did not get what we sent.
    Garbled,
    /// The store does not do that.
    Refused,
}

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub kind: Kind,
    pub why: String,
    pub code: Option<String>,
    pub advice: Option<&'static str>,
    pub status: Option<u16>,
    /// Whether the store said anything.
    pub answered: bool,
    /// The generation of credentials that it was sent with.
    pub credentials: u64,
    /// When it was sent.
    pub sent: Instant,
}

impl Failure {
    pub(crate) fn new(kind: Kind, why: impl Into<String>) -> Failure {
        Failure {
            kind,
            why: why.into(),
            code: None,
            advice: None,
            status: None,
            answered: true,
            credentials: 0,
            sent: Instant::now(),
        }
    }

    /// Nothing moved for too long; `facts` says since when, and whether an answer had begun.
    pub(crate) fn quiet(facts: &Facts) -> Failure {
        let why = format!("nothing came for {} s", facts.moved.elapsed().as_secs());
        Failure { answered: facts.status.is_some(), ..Failure::new(Kind::Broken, why) }
    }

    /// Whether the same request may have another answer.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Busy | Kind::Broken)
    }

    /// Two requests that were under way at once, as a store says it: no word about what is there. Azure says of an
    /// object that is there that it conflicts, too.
    pub(crate) fn is_conflict(&self) -> bool {
        self.kind == Kind::Exists
            && self.status == Some(409)
            && self.code.as_deref() != Some("BlobAlreadyExists")
    }

    pub(crate) fn gave_up(mut self, waited: Duration) -> Failure {
        self.why = format!("{}; given up after {} s without progress", self.why, waited.as_secs());
        self
    }

    /// What an error says of one of several things that were asked for at once.
    pub(crate) fn of_one(error: &object_store::Error, mask: &Mask) -> Failure {
        of_error(error, mask)
    }

    /// What the answer to one of several things that were asked for at once means.
    pub(crate) fn of_part(status: u16) -> Failure {
        let kind = match status {
            401 | 403 => Kind::Denied,
            404 => Kind::Missing,
            429 | 503 => Kind::Busy,
            408 | 500.. => Kind::Broken,
            _ => Kind::Refused,
        };
        Failure { status: Some(status), ..Failure::new(kind, format!("the store answered {status}")) }
    }

    /// What an error of the crate means, together with what the tap saw.
    pub(crate) fn judge(error: &object_store::Error, facts: &Facts, mask: &Mask) -> Failure {
        if let Some(status) = facts.status {
            return of_status(status, error, facts, mask);
        }
        if facts.broken.is_some() {
            return Failure { answered: false, ..Failure::new(Kind::Broken, transport(error, facts, mask)) };
        }
        if let Some(credentials) = facts.credentials {
            return of_credentials(credentials, error, facts, mask);
        }
        of_error(error, mask)
    }
}

// The store was never asked: what gives out credentials did not.
fn of_credentials(status: Option<u16>, error: &object_store::Error, facts: &Facts, mask: &Mask) -> Failure {
    let said = transport(error, facts, mask);
    match status {
        Some(status) if status < 500 && status != 429 => {
            let why = format!("no credentials were given out (answer {status}): {said}");
            Failure {
                advice: Some("give the store credentials, or this machine a role"),
                ..Failure::new(Kind::Denied, why)
            }
        }
        _ => Failure {
            answered: false,
            ..Failure::new(Kind::Broken, format!("no credentials were given out: {said}"))
        },
    }
}

fn of_status(status: u16, error: &object_store::Error, facts: &Facts, mask: &Mask) -> Failure {
    let code = facts.code.as_deref().unwrap_or_default();
    let (kind, advice) = match (status, code) {
        (_, "SlowDown" | "ServerBusy" | "RequestLimitExceeded" | "TooManyRequests") | (429 | 503, _) => {
            (Kind::Busy, None)
        }
        (_, "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch")
        | (_, "Md5Mismatch" | "Crc64Mismatch") => (Kind::Garbled, None),
        // An idle or cut connection, as S3 says it.
        (400, "RequestTimeout" | "IncompleteBody") => (Kind::Broken, None),
        (_, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" | "ExpiredAuthenticationToken") => {
            (Kind::Denied, Some("the credentials have expired: put new ones where they are read from"))
        }
        (_, "RequestTimeTooSkewed") => (Kind::Denied, Some("set the clock of this machine")),
        (_, "InvalidObjectState" | "BlobArchived") => (
            Kind::Refused,
            Some("the object was moved to an archive: bring it back, and exempt this prefix from that rule"),
        ),
        (_, "NoSuchBucket" | "ContainerNotFound") => {
            (Kind::Refused, Some("make the bucket, or correct its name in the configuration"))
        }
        // The answer to a HEAD has no body that says which: expired credentials, or an idle connection.
        (400, "") => (Kind::Denied, None),
        (301 | 307 | 308, _) => (Kind::Refused, Some("set the region and the endpoint of the bucket")),
        (401 | 403, _) => (Kind::Denied, None),
        (404, _) => (Kind::Missing, None),
        (304 | 409 | 412, _) => (Kind::Exists, None),
        (501, _) | (_, "NotImplemented") => (
            Kind::Refused,
            Some(
                "the store lacks something: `checksum_algorithm = \"\"`, \
             `conditional_put = \"disabled\"` and `disable_bulk_delete = true` ask less of it",
            ),
        ),
        (400..=499, _) if status != 408 => (Kind::Refused, None),
        // 5xx, and a success that the crate could not use: whether it was done is open.
        _ => (Kind::Broken, None),
    };
    let mut why = format!("the store answered {status}");
    if !code.is_empty() {
        why = format!("{why} {}", mask.show(code, 80));
    }
    match &facts.message {
        Some(message) => why = format!("{why}: {}", mask.show(message, SAID_CHARS_MAX)),
        None if code.is_empty() && status < 300 => why = format!("{why}: {}", transport(error, facts, mask)),
        None => {}
    }
    Failure { code: facts.code.clone(), advice, status: Some(status), ..Failure::new(kind, why) }
}

fn transport(error: &object_store::Error, facts: &Facts, mask: &Mask) -> String {
    let kind = match facts.broken {
        Some(HttpErrorKind::Connect) => "cannot connect: ",
        Some(HttpErrorKind::Timeout) => "timed out: ",
        _ => "",
    };
    // The innermost error says it; those around it repeat the address.
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    format!("{kind}{}", mask.show(&innermost.to_string(), SAID_CHARS_MAX))
}

// No request was seen: a folder, or an error before the first byte (credentials, an address).
fn of_error(error: &object_store::Error, mask: &Mask) -> Failure {
    let why = mask.show(&error.to_string(), SAID_CHARS_MAX);
    let kind = match error {
        object_store::Error::NotFound { .. } => Kind::Missing,
        object_store::Error::AlreadyExists { .. }
        | object_store::Error::Precondition { .. }
        | object_store::Error::NotModified { .. } => Kind::Exists,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            Kind::Denied
        }
        _ => match io_error(error) {
            Some(e) if e.kind() == NotFound => Kind::Missing,
            Some(e) if e.kind() == PermissionDenied => Kind::Denied,
            // A server of files that does not answer is said so in many ways, by some clients as a lost sector is.
            Some(e) if is_rot(e) || AWAY.contains(&e.kind()) => Kind::Broken,
            _ => Kind::Refused,
        },
    };
    let full = io_error(error).is_some_and(|e| matches!(e.kind(), StorageFull | QuotaExceeded));
    let advice = (kind == Kind::Refused && full).then_some("make room on the shared file system");
    Failure { advice, ..Failure::new(kind, why) }
}

const AWAY: [io::ErrorKind; 11] = [
    Interrupted,
    TimedOut,
    WouldBlock,
    ResourceBusy,
    StaleNetworkFileHandle,
    HostUnreachable,
    NetworkUnreachable,
    NetworkDown,
    NotConnected,
    ConnectionReset,
    ConnectionAborted,
];

fn io_error(error: &object_store::Error) -> Option<&io::Error> {
    let mut at: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        at = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_files_that_does_not_answer_is_away() {
        // EIO, ETIMEDOUT, EHOSTUNREACH, ESTALE, ENOENT, EACCES, ENOSPC, ENOTDIR of Linux.
        for (errno, kind) in [
            (5, Kind::Broken),
            (110, Kind::Broken),
            (113, Kind::Broken),
            (116, Kind::Broken),
            (2, Kind::Missing),
            (13, Kind::Denied),
            (28, Kind::Refused),
            (20, Kind::Refused),
        ] {
            let source = io::Error::from_raw_os_error(errno).into();
            let error = object_store::Error::Generic { store: "folder", source };
            let failure = of_error(&error, &Mask::default());
            assert_eq!(failure.kind, kind, "{errno}");
            assert_eq!(failure.advice.is_some(), errno == 28);
        }
    }
}

//! One failed request: what it says about the store, and what it does not.

use std::error::Error;
use std::io;
use std::time::Duration;

use object_store::client::HttpErrorKind;

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

    pub(crate) fn gave_up(mut self, waited: Duration) -> Failure {
        self.why = format!("{}; given up after {} s without progress", self.why, waited.as_secs());
        self
    }

    /// What an error says of one of several things that were asked for at once.
    pub(crate) fn of_one(error: &object_store::Error, mask: &Mask) -> Failure {
        of_error(error, mask)
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
        _ => match io_kind(error) {
            Some(io::ErrorKind::NotFound) => Kind::Missing,
            Some(io::ErrorKind::PermissionDenied) => Kind::Denied,
            Some(
                io::ErrorKind::Interrupted | io::ErrorKind::TimedOut | io::ErrorKind::StaleNetworkFileHandle,
            ) => Kind::Broken,
            _ => Kind::Refused,
        },
    };
    let advice = (kind == Kind::Refused && io_kind(error) == Some(io::ErrorKind::StorageFull))
        .then_some("make room on the shared file system");
    Failure { advice, ..Failure::new(kind, why) }
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut at: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        at = error.source();
    }
    None
}

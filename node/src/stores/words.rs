//! A store's errors, for people who asked for no commit.

use client::{Code, Failure};
use remote::{StoreError, Trouble};

/// What an error of a store means to who asked for no commit.
pub fn failure(what: &str, error: &StoreError) -> Failure {
    let code = match error.trouble() {
        Trouble::Configuration => Code::Usage,
        Trouble::Away | Trouble::Missing => Code::Unavailable,
        Trouble::Denied => Code::PermissionDenied,
        Trouble::Damaged | Trouble::Changed => Code::Corrupt,
        Trouble::Refused | Trouble::Foreign => Code::Refused,
        Trouble::Disk => Code::Internal,
    };
    let why = format!("{}: {}", error.what(), error.why());
    Failure::new(code, "the object store cannot be used").what(what).why(why).fix(error.advice())
}

//! Exit codes: what a script may rely on.

use client::{Certainty, Code, Failure};

/// The exit code of a failure.
pub fn code(failure: &Failure) -> i32 {
    match failure.code {
        Code::Usage => 2,
        Code::Partial => 3,
        Code::NotFound => 4,
        Code::Conflict | Code::Fenced | Code::TooLate | Code::TooOld | Code::Subsumed => 5,
        Code::Corrupt | Code::NotLooked => 6,
        Code::NoQuorum | Code::Unavailable | Code::Busy if failure.committed == Certainty::Unknown => 124,
        Code::NoQuorum | Code::Unavailable | Code::Busy => 7,
        Code::Unauthenticated | Code::PermissionDenied => 8,
        Code::NoSpace | Code::QuotaExceeded => 9,
        Code::Timeout => 124,
        Code::Interrupted => super::signals::exit_code(),
        Code::SourceChanged | Code::Refused | Code::Internal => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_documentation() {
        let exit = |code_of, committed| code(&Failure::new(code_of, "x").committed(committed));
        assert_eq!(exit(Code::SourceChanged, Certainty::No), 1);
        assert_eq!(exit(Code::Usage, Certainty::None), 2);
        assert_eq!(exit(Code::Partial, Certainty::Yes), 3);
        assert_eq!(exit(Code::NotFound, Certainty::None), 4);
        assert_eq!(exit(Code::Fenced, Certainty::No), 5);
        // To repeat it tells nothing new: a person has to look.
        assert_eq!(exit(Code::TooOld, Certainty::Unknown), 5);
        assert_eq!(exit(Code::Corrupt, Certainty::None), 6);
        assert_eq!(exit(Code::NotLooked, Certainty::None), 6);
        assert_eq!(exit(Code::NoQuorum, Certainty::No), 7);
        assert_eq!(exit(Code::Busy, Certainty::No), 7);
        assert_eq!(exit(Code::PermissionDenied, Certainty::No), 8);
        assert_eq!(exit(Code::NoSpace, Certainty::No), 9);
        assert_eq!(exit(Code::Unavailable, Certainty::Unknown), 124);
        assert_eq!(exit(Code::Timeout, Certainty::Unknown), 124);
        assert_eq!(exit(Code::Interrupted, Certainty::Unknown), 130);
    }
}

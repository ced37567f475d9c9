//! Exit codes: what a script may rely on. The one table of them: help, the command line and whatever else ends the
//! process read it here.

use client::{Certainty, Code, Failure};

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it should.
    Done = 0,
    /// None of the others.
    Other = 1,
    /// Usage or configuration.
    Usage = 2,
    /// Committed, but not all of what was asked.
    Partial = 3,
    /// There is no such thing.
    NotFound = 4,
    /// Something else is in the way, for good.
    Conflict = 5,
    /// Damaged, or not looked at.
    Damaged = 6,
    /// Nobody who could do it was reached; it was not done.
    NoQuorum = 7,
    /// Not permitted.
    NotPermitted = 8,
    /// No space, or over a limit.
    NoSpace = 9,
    /// Nobody knows yet whether it was done.
    Unknown = 124,
    /// A signal ended it: this code for Ctrl-C, [`by_signal`] for each.
    Interrupted = 130,
}

/// All of them, as help tells them.
pub const ALL: [(Exit, &str); 12] = [
    (Exit::Done, "done"),
    (Exit::Other, "other: the source changed, refused, a node that a fault has stopped"),
    (Exit::Usage, "usage or configuration"),
    (Exit::Partial, "committed, but not on all nodes as asked; or the directory has changed since"),
    (Exit::NotFound, "not found"),
    (Exit::Conflict, "conflict, or too old to know"),
    (Exit::Damaged, "damaged, or not looked at"),
    (Exit::NoQuorum, "no quorum, or no node reached: to repeat is safe"),
    (Exit::NotPermitted, "not permitted"),
    (Exit::NoSpace, "no space, or over a limit"),
    (Exit::Unknown, "no answer in time; of a commit: outcome unknown, to repeat is safe"),
    (Exit::Interrupted, "interrupted"),
];

impl Exit {
    /// How a command ends that has failed.
    pub fn of(failure: &Failure) -> Exit {
        match failure.code {
            Code::Usage => Exit::Usage,
            Code::Partial => Exit::Partial,
            Code::NotFound => Exit::NotFound,
            Code::Conflict | Code::Fenced | Code::TooLate | Code::TooOld | Code::Subsumed => Exit::Conflict,
            Code::Corrupt | Code::NotLooked => Exit::Damaged,
            Code::NoQuorum | Code::Unavailable | Code::Busy if failure.committed == Certainty::Unknown => {
                Exit::Unknown
            }
            Code::NoQuorum | Code::Unavailable | Code::Busy => Exit::NoQuorum,
            Code::Unauthenticated | Code::PermissionDenied => Exit::NotPermitted,
            Code::NoSpace | Code::QuotaExceeded => Exit::NoSpace,
            Code::Timeout => Exit::Unknown,
            Code::Interrupted => Exit::Interrupted,
            Code::SourceChanged | Code::Refused | Code::Internal => Exit::Other,
        }
    }

    /// The number.
    pub fn code(self) -> i32 {
        self as i32
    }
}

/// The number for a process that ends because this signal came: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
pub fn by_signal(signal: i32) -> i32 {
    128 + signal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_documentation() {
        let exit = |code_of, committed| Exit::of(&Failure::new(code_of, "x").committed(committed)).code();
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
        assert_eq!(by_signal(2), Exit::Interrupted.code());
    }

    #[test]
    fn the_readme_names_every_exit_code_in_their_order() {
        let readme = include_str!("../../README.md");
        let (_, after) = readme.split_once("Exit codes:").expect("the README tells them");
        let mut words = after.split_whitespace();
        for (exit, _) in ALL {
            let number = exit.code().to_string();
            assert!(words.any(|word| word == number), "{exit:?} is not in its place");
        }
    }
}

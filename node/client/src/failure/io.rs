//! What an error of the operating system means to whoever typed the command: the one place where it becomes a code and
//! advice. Everybody who meets one asks here, so that a full disk is 9 and a closed door 8 wherever they are met.

use std::io::{self, ErrorKind};

use checkpoint::IoError;
use checkpoint::disk::{is_rot, lacks_handles};

use super::{Code, Failure};

/// What an error of the operating system means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The stable name, which makes the exit code.
    pub code: Code,
    /// What it is, in a few words that begin a sentence.
    pub is: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

const fn cause(code: Code, is: &'static str, fix: &'static str) -> Cause {
    Cause { code, is, fix }
}

const FULL: Cause =
    cause(Code::NoSpace, "no space", "make room on that file system, then repeat the command");
const QUOTA: Cause = cause(
    Code::QuotaExceeded,
    "over the disk quota",
    "remove files of this user there, or have the quota raised; then repeat the command",
);
const TOO_LARGE: Cause = cause(
    Code::QuotaExceeded,
    "the file is too large for its file system or this process",
    "raise the limit (`ulimit -f`) or use another file system, then repeat the command",
);
const DENIED: Cause = cause(
    Code::PermissionDenied,
    "permission denied",
    "run it as a user who may, or change owner or mode of what is named; then repeat the command",
);
const READ_ONLY: Cause = cause(
    Code::PermissionDenied,
    "the file system is read-only",
    "mount it writable, or name another directory; if it became so by itself, look at its disk",
);
const NOT_THERE: Cause = cause(
    Code::Usage,
    "it does not exist",
    "correct the name, or make what is named; then repeat the command",
);
const NO_DIRECTORY: Cause = cause(Code::Usage, "it is not a directory", "name a directory");
const A_DIRECTORY: Cause = cause(Code::Usage, "it is a directory", "name a file");
const BAD_NAME: Cause = cause(Code::Usage, "the name cannot be used", "use a shorter or another name");
const THERE: Cause = cause(Code::Usage, "it is there already", "name another one, or move it away first");
const IN_USE: Cause =
    cause(Code::Usage, "the address is in use", "stop what listens there, or choose another address");
const NOT_OURS: Cause =
    cause(Code::Usage, "the address is not one of this machine", "name an address of this machine");
const BUSY: Cause = cause(
    Code::Refused,
    "it is in use",
    "it may be a mount point, or another program holds it: name another directory, or stop that program",
);
const OTHER_DEVICE: Cause = cause(
    Code::Refused,
    "it lies on another file system",
    "name a directory that is wholly on one file system",
);
const LINKS: Cause = cause(
    Code::Refused,
    "a file has too many links",
    "use another file system, or remove some of its names; then repeat the command",
);
const HANDLES: Cause = cause(
    Code::Refused,
    "too many files are open",
    "raise the limit of open files (`ulimit -n`) of the process that says so, then repeat the command",
);
const MEMORY: Cause =
    cause(Code::Refused, "out of memory", "free memory, or raise the limit of the process; then repeat");
const CANNOT: Cause = cause(
    Code::Refused,
    "the file system cannot do that",
    "use a directory on another file system, then repeat the command",
);
const STALE: Cause =
    cause(Code::Refused, "the network file system has lost it", "mount it again, then repeat the command");
const ROT: Cause = cause(
    Code::Refused,
    "the disk cannot read or write it",
    "look at that disk (the kernel's log names it); take the data from another copy",
);
const OTHER: Cause =
    cause(Code::Refused, "the operating system refused", "see to what is named, then repeat the command");

impl Cause {
    /// What `error` means.
    pub fn of(error: &io::Error) -> Cause {
        match error.kind() {
            ErrorKind::StorageFull => FULL,
            ErrorKind::QuotaExceeded => QUOTA,
            ErrorKind::FileTooLarge => TOO_LARGE,
            ErrorKind::PermissionDenied => DENIED,
            ErrorKind::ReadOnlyFilesystem => READ_ONLY,
            ErrorKind::NotFound => NOT_THERE,
            ErrorKind::NotADirectory => NO_DIRECTORY,
            ErrorKind::IsADirectory => A_DIRECTORY,
            ErrorKind::InvalidFilename => BAD_NAME,
            ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => THERE,
            ErrorKind::AddrInUse => IN_USE,
            ErrorKind::AddrNotAvailable => NOT_OURS,
            ErrorKind::ResourceBusy | ErrorKind::ExecutableFileBusy => BUSY,
            ErrorKind::CrossesDevices => OTHER_DEVICE,
            ErrorKind::TooManyLinks => LINKS,
            ErrorKind::OutOfMemory => MEMORY,
            ErrorKind::Unsupported => CANNOT,
            ErrorKind::StaleNetworkFileHandle => STALE,
            _ if lacks_handles(error) => HANDLES,
            _ if is_rot(error) => ROT,
            _ => OTHER,
        }
    }

    /// Whether this machine or user lacks something, and nothing is wrong with what was named.
    pub fn is_want(&self) -> bool {
        matches!(self.code, Code::NoSpace | Code::QuotaExceeded | Code::PermissionDenied)
    }
}

impl Failure {
    /// What an error of the operating system means to whoever typed the command: its code, what it is, where, and what
    /// to do. Who knows what was being done says so in the sentence.
    pub fn from_io(error: &IoError) -> Failure {
        let Cause { code, is, fix } = Cause::of(&error.source);
        Failure::new(code, is).why(error.to_string()).fix(fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every error that a directory, a disk or a port can answer with: number on Linux, code, a word of the advice.
    const TABLE: [(i32, &str, Code, &str); 27] = [
        (28, "ENOSPC", Code::NoSpace, "make room"),
        (122, "EDQUOT", Code::QuotaExceeded, "quota"),
        (27, "EFBIG", Code::QuotaExceeded, "ulimit -f"),
        (13, "EACCES", Code::PermissionDenied, "a user who may"),
        (1, "EPERM", Code::PermissionDenied, "a user who may"),
        (30, "EROFS", Code::PermissionDenied, "writable"),
        (2, "ENOENT", Code::Usage, "correct the name"),
        (20, "ENOTDIR", Code::Usage, "name a directory"),
        (21, "EISDIR", Code::Usage, "name a file"),
        (36, "ENAMETOOLONG", Code::Usage, "shorter"),
        (17, "EEXIST", Code::Usage, "another one"),
        (39, "ENOTEMPTY", Code::Usage, "another one"),
        (98, "EADDRINUSE", Code::Usage, "another address"),
        (99, "EADDRNOTAVAIL", Code::Usage, "of this machine"),
        (16, "EBUSY", Code::Refused, "mount point"),
        (26, "ETXTBSY", Code::Refused, "stop that program"),
        (18, "EXDEV", Code::Refused, "one file system"),
        (31, "EMLINK", Code::Refused, "another file system"),
        (24, "EMFILE", Code::Refused, "ulimit -n"),
        (23, "ENFILE", Code::Refused, "ulimit -n"),
        (12, "ENOMEM", Code::Refused, "memory"),
        (95, "EOPNOTSUPP", Code::Refused, "another file system"),
        (38, "ENOSYS", Code::Refused, "another file system"),
        (116, "ESTALE", Code::Refused, "mount it again"),
        (5, "EIO", Code::Refused, "look at that disk"),
        (117, "EUCLEAN", Code::Refused, "look at that disk"),
        (11, "EAGAIN", Code::Refused, "see to what is named"),
    ];

    #[test]
    fn every_error_of_the_system_has_its_code_and_advice() {
        for (number, name, code, advice) in TABLE {
            let source = io::Error::from_raw_os_error(number);
            let failure = Failure::from_io(&IoError { path: "/a/b".into(), what: "write", source });
            assert_eq!(failure.code, code, "{name}: {failure:?}");
            assert!(failure.fix.contains(advice), "{name}: {failure:?}");
            assert!(failure.why.starts_with("/a/b: cannot write: "), "{name}: {failure:?}");
            assert!(!failure.sentence.is_empty(), "{name}: {failure:?}");
        }
    }
}

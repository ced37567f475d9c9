//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// With fewer a node does not start: log, staged files and peers could not do with what its guests leave them.
pub const FILES_MIN: u64 = 256;

/// Raises the limit to the most that this process may have. A node has files open, and a socket for every client: with
/// the 1024 that many systems begin with, clients could take the handles that the log needs. Where the system
/// does not let it, it goes on with what it has.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, limit = limit.current, "the limit of open files stays");
    }
}

/// How many this process may have open now.
pub fn files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many it may have after [`raise`].
pub fn files_at_most() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

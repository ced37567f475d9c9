//! Why a log cannot be opened.

use std::io;
use std::path::PathBuf;

/// Why a log cannot be opened. What is on disk stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log belongs to another node or to another life of this one.
    #[error(
        "the log in {dir} belongs to node {found}, not to node {expected} with this identity; \
         give the node its own data folder"
    )]
    Owner {
        /// The log folder.
        dir: PathBuf,
        /// Node id in the log.
        found: u64,
        /// Node id that was asked for.
        expected: u64,
    },
    /// Acknowledged content is damaged.
    #[error(
        "the log in {dir} is damaged at offset {position}: {why}; this node must not vote with it. \
         Run `epochlog repair` on this node: it fetches from the peers what was acknowledged and keeps the damaged \
         log beside the new one"
    )]
    Damaged {
        /// The log folder.
        dir: PathBuf,
        /// Offset in the whole WAL.
        position: u64,
        /// What was found.
        why: String,
    },
    /// Nothing here says for certain how this node has voted: no repair can help.
    #[error(
        "the log in {dir} does not say for certain how this node has voted: {why}; it must never vote under this id \
         again; the other nodes hold everything that was acknowledged"
    )]
    VoteLost {
        /// The log folder.
        dir: PathBuf,
        /// What was found.
        why: String,
    },
    /// A read or write failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// [`OpenError::Io`] of what was tried.
pub fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
    let what = what.into();
    move |source| OpenError::Io { what, source }
}

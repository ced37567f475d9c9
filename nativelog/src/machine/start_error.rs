//! Why a machine does not start.

use std::io;
use std::path::PathBuf;

use crate::record::LogId;
use crate::snapshot::OpenFault;

/// Why a machine cannot start. What is on disk stays as it is, but for damaged snapshots, which were renamed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing here covers what the log has forgotten.
    #[error(
        "the log in {dir} begins after {purged}, and no snapshot here reaches that far ({found}): what lies \
         between is on the other nodes only; with a majority of them up, run `epochlog repair` on this one"
    )]
    NotCovered {
        /// The log's folder.
        dir: PathBuf,
        /// Up to where the log was purged.
        purged: LogId,
        /// What was found of snapshots.
        found: String,
    },
    /// A snapshot that this program cannot read.
    #[error("{path} was made by another version of this program: start that one")]
    Version {
        /// The file.
        path: String,
    },
    /// A read or write failed, or the system gives no thread.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl From<OpenFault> for StartError {
    fn from(fault: OpenFault) -> StartError {
        match fault {
            OpenFault::Version(path) => StartError::Version { path },
            OpenFault::Io { what, source } => StartError::Io { what, source },
        }
    }
}

/// [`StartError::Io`] of what was tried.
pub fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::Io { what, source }
}

//! Why a directory could not be read to its end.

use crate::io_error::IoError;

/// Why a directory could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// A file grew, shrank, changed or vanished after it was planned.
    #[error("{path}: the source changed: {why}")]
    SourceChanged {
        /// The path, escaped.
        path: String,
        /// What happened.
        why: String,
    },
    /// Something could not be read.
    #[error(transparent)]
    Io(#[from] IoError),
}

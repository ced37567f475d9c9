//! Why a directory was not restored.

use std::path::PathBuf;

use super::others::Others;
use super::source::SourceError;
use crate::io_error::IoError;

/// Why a directory was not restored. Nothing appeared at the target, and nothing else was left behind, unless it is
/// told.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target is there, and not empty.
    #[error("{} exists and is not empty", .0.display())]
    Exists(PathBuf),
    /// The target is there, and holds what no restore wrote, or what has changed since.
    #[error("{} holds {others} that no restore wrote, or that changed since", path.display())]
    Others {
        /// The target.
        path: PathBuf,
        /// What would be lost.
        others: Others,
    },
    /// The target cannot be a restored directory.
    #[error("{}: {why}", path.display())]
    Target {
        /// The target, or what in it.
        path: PathBuf,
        /// The reason.
        why: String,
        /// What to do.
        fix: &'static str,
    },
    /// Blocks cannot be shared with content of this machine.
    #[error("{0}")]
    Link(String),
    /// No entry of the epoch matches.
    #[error("none of its entries matches")]
    NothingMatches,
    /// It was told to end.
    #[error("it was stopped")]
    Stopped,
    /// Content came that is not what the manifest says.
    #[error("{path}: {why}")]
    Corrupt {
        /// The entry's path, escaped.
        path: String,
        /// What does not fit.
        why: String,
    },
    /// The source of the content failed.
    #[error("{path}: {source}")]
    Source {
        /// The entry's path, escaped.
        path: String,
        /// What the source says.
        source: SourceError,
    },
    /// It failed, and something of it, or of an earlier one, could not be removed.
    #[error("{error}; could not remove {}", paths(left))]
    Left {
        /// Why it failed.
        error: Box<RestoreError>,
        /// What is left.
        left: Vec<PathBuf>,
    },
    /// The disk refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

//! What can go wrong, one enum per operation. Every message says which path,
//! what was tried and why it failed.

use std::io;
use std::path::{Path, PathBuf};

/// An input or output that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {what}: {source}", path.display())]
pub struct IoError {
    /// Where.
    pub path: PathBuf,
    /// What was tried, a verb.
    pub what: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

impl IoError {
    /// The same once more, for another who is concerned.
    pub(crate) fn again(&self) -> IoError {
        let source = match self.source.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        IoError { path: self.path.clone(), what: self.what, source }
    }
}

/// Says where and what to an error of the operating system.
pub(crate) fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IoError + 'a {
    move |source| IoError { path: path.to_path_buf(), what, source }
}

/// Why a directory cannot be planned, or a list of entries is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An entry that cannot be reproduced, or that must not be.
    #[error("{path}: refused: {why}")]
    Refused {
        /// The path, escaped; `.` for the root.
        path: String,
        /// The reason.
        why: String,
    },
    /// More than the limits allow.
    #[error("the directory is over the limit: {what}, at most {limit} {unit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// Its unit.
        unit: &'static str,
    },
    /// The directory changed while it was scanned.
    #[error("{path}: changed while it was scanned: {why}")]
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

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the form that encoding makes.
    #[error("the manifest is malformed at byte {at}: {why}")]
    Malformed {
        /// Where, bytes from the start.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Made by a later version.
    #[error("the manifest has version {found}, this program reads {known}")]
    Version {
        /// In the file.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// A checksum or root that does not fit.
    #[error("the manifest is damaged: {0}")]
    Damaged(&'static str),
    /// The device has lost what was written there, or a link or a folder is in the file's place.
    #[error("the manifest cannot be read: {0}")]
    Unreadable(io::Error),
    /// Entries that no directory can have, or that must not be written.
    #[error(transparent)]
    Entries(#[from] PlanError),
}

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

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A manifest that cannot be read.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// No such epoch is published here.
    #[error("{job}@{epoch} is not published here")]
    NotPublished {
        /// The job.
        job: String,
        /// The epoch.
        epoch: u64,
    },
}

/// Why an epoch could not be published here. Other epochs are not concerned.
#[derive(Debug, thiserror::Error)]
pub enum Unpublished {
    /// Content that should be here is not.
    #[error("{path}: {what} is missing at {}", at.display())]
    Missing {
        /// The entry's path, escaped.
        path: String,
        /// What kind of content was looked for.
        what: &'static str,
        /// Where it was looked for.
        at: PathBuf,
    },
    /// Content that is here is not what the manifest says.
    #[error("{path}: the content at {} is corrupt: {why}", at.display())]
    Corrupt {
        /// The entry's path, escaped.
        path: String,
        /// Where the content lies.
        at: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// Another epoch of this number is there.
    #[error("{} holds another root, {found}", at.display())]
    Occupied {
        /// The epoch's folder.
        at: PathBuf,
        /// Its root.
        found: String,
    },
    /// Content that it reuses was not read since the start, and is read now.
    #[error("what it reuses is read and verified first: {} of {} MiB are left", left >> 20, bytes >> 20)]
    Verifying {
        /// All of it, bytes.
        bytes: u64,
        /// What is still to be read, bytes.
        left: u64,
    },
    /// The disk refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

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
        others: crate::restore::Others,
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
        source: crate::restore::SourceError,
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

//! Why the store could not do something, and why an epoch could not be published.

use std::path::PathBuf;

use crate::digest::Digest;
use crate::io_error::IoError;
use crate::manifest::ManifestError;

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
        /// BLAKE3 of the content.
        content: Digest,
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

/// What a step of publishing, linking or mending comes to.
pub(super) type Step = Result<(), Unpublished>;

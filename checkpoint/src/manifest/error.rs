//! Why bytes are no manifest.

use std::io;

use crate::encoding::Malformed;
use crate::tree_rules::RuleError;

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
    Entries(#[from] RuleError),
}

impl From<Malformed> for ManifestError {
    fn from(Malformed { at, why }: Malformed) -> ManifestError {
        ManifestError::Malformed { at, why }
    }
}

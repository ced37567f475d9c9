//! Why a directory cannot be planned.

use crate::io_error::IoError;
use crate::tree_rules::RuleError;

/// Why a directory cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// What is there must not, or cannot, be reproduced, or is more than the limits allow.
    #[error(transparent)]
    Rules(#[from] RuleError),
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

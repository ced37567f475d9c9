//! The errors of this crate, one enum per operation.

use openraft::errors::{ClientWriteError, Fatal, ForwardReason};

use crate::types::TypeConfig;

/// A replica could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings that do not fit together.
    #[error("raft settings: {0}")]
    Config(String),
    /// The log belongs to somebody else.
    #[error("the log belongs to another node or incarnation than the configuration says")]
    Identity,
    /// The consensus did not come up from what is on disk.
    #[error("raft: {0}")]
    Raft(String),
}

/// Why a proposal or a linearizable read brought no answer. A rejection by the ledger is no error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Surely not in the log: try again.
    #[error("unavailable: {why}")]
    Unavailable {
        /// What is missing.
        why: String,
    },
    /// The record may be in the log, now or later: find out before repeating it.
    #[error("the outcome is unknown: {why}")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// This node (or the leader's) must stop.
    #[error("fault: {why}")]
    Fault {
        /// What broke.
        why: String,
    },
}

impl ProposeError {
    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        ProposeError::Unavailable { why: why.into() }
    }

    pub(crate) fn unknown(why: impl Into<String>) -> Self {
        ProposeError::Unknown { why: why.into() }
    }

    pub(crate) fn fault(why: impl Into<String>) -> Self {
        ProposeError::Fault { why: why.into() }
    }
}

/// openraft's answer to a write that did not go through: the error, and whether the same leader in
/// the same term may take it a moment later (its lease had run out while it was busy).
pub(crate) fn write_failed(error: ClientWriteError<TypeConfig>) -> (ProposeError, bool) {
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            let soon = forward.reason == ForwardReason::LeaseExpired;
            (ProposeError::unavailable(format!("not the leader ({:?})", forward.reason)), soon)
        }
        ClientWriteError::LogEntryDiscarded(_) => {
            (ProposeError::unknown("leadership changed while the record was on its way"), false)
        }
        other => (ProposeError::unavailable(other.to_string()), false),
    }
}

/// The consensus has ended on this node.
pub(crate) fn stopped(fatal: &Fatal<TypeConfig>) -> ProposeError {
    match fatal {
        Fatal::Stopped => ProposeError::unavailable("this node is shutting down"),
        other => ProposeError::fault(other.to_string()),
    }
}

//! The errors of this crate, one enum per operation.

/// A replica could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings that do not fit together.
    #[error("raft settings: {0}")]
    Config(String),
    /// The log belongs to somebody else.
    #[error("the log belongs to another node or incarnation than the configuration says")]
    Identity,
    /// The log has other members than the configuration says.
    #[error("{0}")]
    Members(String),
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

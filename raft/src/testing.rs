//! Inner parts for this crate's own integration tests; nothing else may use them.

pub use crate::identity::{Check, Known};
pub use crate::log_store::RaftLog;
pub use crate::network::peers::{Client, Lane, Peers};
pub use crate::snapshot::{Meta, Snap, SnapshotData};
pub use crate::state_machine::{Builder, StateMachine};
pub use crate::types::*;

/// Has `replica` step down, if it leads.
pub fn step_down(replica: &crate::Replica, why: &str) {
    replica.step_down(why);
}

//! Log store, ledger and performer of one replica together: from records to directories.
#![allow(clippy::unwrap_used, reason = "tests")]

mod crash_points;
#[path = "../it/directory.rs"]
#[allow(dead_code, reason = "shared with the tests of the ledger, which need more of it")]
mod directory;
mod leader_change;
#[allow(dead_code, reason = "shared with the tests of keeping, which need more of it")]
mod replica;
mod restart;
mod retry;
mod waiting;

//! What lets a log live for years: snapshots, purge, what is given back, install, and the start over all that.
#![allow(clippy::unwrap_used, reason = "tests")]

mod aside;
mod attempts;
mod catch_up;
mod crash_install;
mod crash_points;
mod damage;
mod debts;
#[path = "../it/directory.rs"]
#[allow(dead_code, reason = "shared with the tests of the ledger, which need more of it")]
mod directory;
mod distrust;
mod faults;
mod house;
mod hybrid;
mod pages;
mod pins;
mod removed_jobs;
#[path = "../performing/replica.rs"]
#[allow(dead_code, reason = "shared with the tests of the performer, which need more of it")]
mod replica;
mod restart;
mod trees;

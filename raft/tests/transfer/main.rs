//! Snapshots and content on their way between replicas over loopback and real disks: catching up, mending,
//! rejoining, and what hostile or full peers can do to it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod catch_up;
#[path = "../cluster/mod.rs"]
mod cluster;
mod fits;
mod full;
mod holes;
mod hostile;
mod lives;
mod log_lost;
mod looks;
mod mending;
mod quarantine;
mod staged;

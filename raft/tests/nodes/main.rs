//! Clusters of nodes in this process, over loopback and real disks: who leads, what is acknowledged, what a fault stops, and
//! whom a node hears. One binary, since each takes long to link. Content on its way is in `transfer`; `pace` measures time.

#![allow(clippy::unwrap_used, reason = "tests")]

mod agreement;
#[path = "../cluster/mod.rs"]
mod cluster;
mod faults;
mod hand_over;
mod hydration;
mod links;
mod pins;
mod strangers;
mod three_nodes;
mod zeros;

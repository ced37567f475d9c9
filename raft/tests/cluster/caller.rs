//! A member that is no replica, and calls one.

use raft::testing::{Check, Client, Known, Lane, Peers};

use super::quick;

/// A member that calls another on the transfer connection, past its replica.
pub fn caller(name: &str, from: u64, to: (u64, &str)) -> Client {
    let config = quick(from, [from as u8; 16], name, vec![]);
    let peers = Peers::new(&config, Known::new(&config));
    peers.client(to.0, to.1, Lane::Transfer, Check::Full).unwrap()
}

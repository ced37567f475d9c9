//! Peer to peer: three HTTP/2 connections to each peer, so that nothing small waits behind bulk.
//!
//! | connection | carries |
//! |---|---|
//! | control | hello, votes, pre-votes, heartbeats, transfer of leadership |
//! | bulk | append streams, 1 MiB a request, 64 requests deep |
//! | forward | proposals, reads, status |
//!
//! A connection is made when it is first needed and made again after it broke.

pub mod bulk;
pub mod control;
pub mod convert;
pub mod peers;
pub mod server;

use std::sync::Arc;
use std::time::Duration;

use openraft::BasicNode;
use openraft::errors::{RPCError, Unreachable};
use openraft::network::{Backoff, NetBackoff, RaftNetworkFactory};
use tonic::Status;
use tonic::transport::Server;

use crate::config::{FRAME_BYTES, WINDOW_BYTES};
use crate::types::TypeConfig;
use peers::Peers;

/// A tonic server set up for peer traffic: windows, no Nagle, keepalive. Add services and serve.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .max_frame_size(Some(FRAME_BYTES))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// Makes the clients that openraft asks for.
pub struct Factory {
    peers: Arc<Peers>,
}

impl Factory {
    /// Clients over the connections of `peers`.
    pub fn new(peers: Arc<Peers>) -> Self {
        Factory { peers }
    }
}

/// openraft's client to one peer.
pub struct Network {
    pub(crate) peers: Arc<Peers>,
    pub(crate) target: u64,
    pub(crate) address: String,
    /// Append streams go over the control connection: they are heartbeats.
    pub(crate) heartbeats: bool,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Network {
        Network { peers: self.peers.clone(), target, address: node.addr.clone(), heartbeats: false }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Network {
        Network { peers: self.peers.clone(), target, address: node.addr.clone(), heartbeats: true }
    }
}

impl NetBackoff<TypeConfig> for Network {
    /// 50 ms doubling to 500 ms: a node that comes back is served again at once.
    fn backoff(&self) -> Option<Backoff> {
        let steps =
            (0u32..).map(|n| Duration::from_millis(50u64 << n.min(5)).min(Duration::from_millis(500)));
        Some(Backoff::new(steps))
    }
}

/// Every failure of a peer call makes openraft back off; none is retried at once.
pub(crate) fn unreachable(target: u64, status: &Status) -> RPCError<TypeConfig> {
    let why = format!("node {target}: {:?}: {}", status.code(), status.message());
    RPCError::Unreachable(Unreachable::from_string(why))
}

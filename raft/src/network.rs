//! Peer to peer: four HTTP/2 connections to each peer, so that nothing small waits behind bulk.
//!
//! | connection | carries |
//! |---|---|
//! | control | hello, votes, pre-votes, heartbeats, transfer of leadership |
//! | bulk | append streams, 1 MiB a request, 64 requests deep |
//! | forward | proposals, reads, status |
//! | transfer | snapshots and content for replicas that were away or lost something |
//!
//! A connection is made when it is first needed and made again after it broke, or after the other side's kernel was
//! silent (`line`). It begins with a `greeting`, in which both sides prove the secret of the cluster; on the other side
//! it comes in through the `door`. `reach` remembers who answers, and what they tell.

mod bulk;
mod control;
pub(crate) mod convert;
pub(crate) mod door;
mod forward;
mod greeting;
pub(crate) mod line;
pub(crate) mod peers;
pub(crate) mod reach;
mod snapshots;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use openraft::BasicNode;
use openraft::errors::{RPCError, Unreachable};
use openraft::network::{Backoff, NetBackoff, RaftNetworkFactory};
use tonic::Status;
use tonic::transport::Server;

use crate::agreement::Agreement;
use crate::config::{FRAME_BYTES, WINDOW_BYTES};
use crate::intake::Heard;
use crate::types::TypeConfig;
pub use door::{Proven, source};
use peers::{BULK_PING_TIMEOUT, Peers};

/// Names, in the refusal of an append request, the entry that is not what it should be.
pub(crate) const REFUSED_ENTRY: &str = "epochlog-refused-entry";

/// A tonic server with the windows, frames and keepalive of peer traffic. Add services and serve.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .max_frame_size(Some(FRAME_BYTES))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(BULK_PING_TIMEOUT))
}

/// Makes the clients that openraft asks for.
pub(crate) struct Factory {
    peers: Arc<Peers>,
    heard: Arc<Heard>,
    agreement: Arc<Agreement>,
}

impl Factory {
    /// Clients over the connections of `peers`; `heard` is told who refuses content, `agreement` who contradicts.
    pub fn new(peers: Arc<Peers>, heard: Arc<Heard>, agreement: Arc<Agreement>) -> Self {
        Factory { peers, heard, agreement }
    }

    fn client(&self, target: u64, node: &BasicNode, purpose: Purpose) -> Network {
        let (peers, heard, agreement) = (self.peers.clone(), self.heard.clone(), self.agreement.clone());
        Network { peers, heard, agreement, target, address: node.addr.clone(), purpose }
    }
}

/// openraft's client to one peer.
pub(crate) struct Network {
    peers: Arc<Peers>,
    heard: Arc<Heard>,
    agreement: Arc<Agreement>,
    target: u64,
    address: String,
    purpose: Purpose,
}

/// What openraft uses a client for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Votes, transfer of leadership, append streams.
    Log,
    /// Append streams go over the control connection.
    Heartbeats,
    /// Snapshots.
    Snapshots,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Network {
        self.client(target, node, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Network {
        self.client(target, node, Purpose::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Network {
        self.client(target, node, Purpose::Snapshots)
    }
}

impl NetBackoff<TypeConfig> for Network {
    /// 50 ms doubling to 500 ms: a node that comes back is served again at once. A snapshot that a node cannot
    /// take is offered more and more rarely, up to every 3 s: it is read, and pins things, each time.
    fn backoff(&self) -> Option<Backoff> {
        let longest = Duration::from_millis(if self.purpose == Purpose::Snapshots { 3000 } else { 500 });
        let steps = (0u32..).map(move |n| Duration::from_millis(50u64 << n.min(6)).min(longest));
        Some(Backoff::new(steps))
    }
}

/// Every failure of a peer call makes openraft back off; none is retried at once.
fn unreachable(target: u64, status: &Status) -> RPCError<TypeConfig> {
    let why = format!("node {target}: {:?}: {}", status.code(), status.message());
    RPCError::Unreachable(Unreachable::from_string(why))
}

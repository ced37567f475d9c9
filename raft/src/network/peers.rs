//! The connections to the peers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use uncopied::Outlet;

use crate::config::{MESSAGE_BYTES_MAX, ReplicaConfig, WINDOW_BYTES};
use crate::identity::{Check, Known};
use crate::proto::peer_client::PeerClient;

/// Which of the connections to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Small and urgent.
    Control,
    /// Append streams.
    Bulk,
    /// Proposals, reads, status.
    Forward,
    /// Snapshots and content.
    Transfer,
}

/// A client of one peer; every call carries our header.
pub type Client = PeerClient<InterceptedService<Outlet<Channel>, Stamp>>;

/// Puts the header into every call.
#[derive(Clone)]
pub struct Stamp {
    known: Arc<Known>,
    to: u64,
    check: Check,
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.known.stamp(self.to, self.check, request.metadata_mut());
        Ok(request)
    }
}

/// All connections of this node to its peers.
pub struct Peers {
    known: Arc<Known>,
    connect_timeout: Duration,
    append_stall: Duration,
    channels: Mutex<HashMap<(String, Lane), Channel>>,
    addresses: RwLock<BTreeMap<u64, String>>,
}

impl Peers {
    /// No connection yet.
    pub fn new(config: &ReplicaConfig, known: Arc<Known>) -> Arc<Peers> {
        Arc::new(Peers {
            known,
            connect_timeout: config.connect_timeout,
            append_stall: config.append_stall,
            channels: Mutex::default(),
            addresses: RwLock::new(config.members.iter().cloned().collect()),
        })
    }

    /// Who we are.
    pub fn known(&self) -> &Arc<Known> {
        &self.known
    }

    /// See [`ReplicaConfig::append_stall`].
    pub fn append_stall(&self) -> Duration {
        self.append_stall
    }

    /// See [`ReplicaConfig::connect_timeout`].
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Takes the addresses of a membership; those of other nodes stay.
    pub fn learn(&self, members: &[(u64, String)]) {
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        for (node, address) in members {
            if addresses.get(node).is_none_or(|known| known != address) {
                addresses.insert(*node, address.clone());
            }
        }
    }

    /// The address of `node`, if it is a member.
    pub fn address(&self, node: u64) -> Option<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Every member but `me`, in order.
    pub fn others(&self, me: u64) -> Vec<u64> {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        addresses.keys().copied().filter(|node| *node != me).collect()
    }

    /// A client of `node`, which is at `address`.
    ///
    /// # Errors
    /// An address that is none.
    pub fn client(&self, node: u64, address: &str, lane: Lane, check: Check) -> Result<Client, Status> {
        let channel = self.channel(address, lane)?;
        let stamp = Stamp { known: self.known.clone(), to: node, check };
        let client = PeerClient::with_interceptor(Outlet(channel), stamp);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client of member `node` by its known address.
    ///
    /// # Errors
    /// Unknown nodes and addresses that are none.
    pub fn member(&self, node: u64, lane: Lane, check: Check) -> Result<Client, Status> {
        let address = self.address(node);
        let address =
            address.ok_or_else(|| Status::unavailable(format!("the address of node {node} is not known")))?;
        self.client(node, &address, lane, check)
    }

    fn channel(&self, address: &str, lane: Lane) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address.to_owned(), lane);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| Status::unavailable(format!("{address:?} is no address: {e}")))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(lane == Lane::Control);
        let channel = endpoint.connect_lazy();
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}

/// True when a call surely never left this node.
pub fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;

    #[tokio::test]
    async fn a_call_to_nobody_was_surely_never_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = ReplicaConfig::new(1, [1; 16], "c", vec![(2, address)]);
        let peers = Peers::new(&config, Known::new(&config));
        let mut client = peers.member(2, Lane::Forward, Check::Full).unwrap();
        let status = client.propose(proto::ProposeRequest::default()).await.unwrap_err();
        assert!(never_sent(&status), "{status:?}");
        assert!(!never_sent(&Status::unavailable("somebody said so")));
        assert!(peers.member(3, Lane::Forward, Check::Full).is_err());
    }
}

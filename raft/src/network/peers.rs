//! The connections to the peers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use uncopied::Outlet;

use crate::config::{MESSAGE_BYTES_MAX, ReplicaConfig, WINDOW_BYTES};
use crate::identity::{Check, Known};
use crate::network::line::{Dialer, Links};
use crate::network::reach::Reach;
use crate::proto::peer_client::PeerClient;

/// Whoever has not answered for so long is not waited for when somebody asks how all are; on a slow clock for so many
/// heartbeats.
const SILENT: Duration = Duration::from_secs(2);
const SILENT_HEARTBEATS: u32 = 5;

/// How long a ping may take behind a chunk on a thin link: 1 MiB for each of two followers at 1 Mbit/s are 17 s.
pub(super) const BULK_PING_TIMEOUT: Duration = Duration::from_secs(30);
/// A process that takes longer to answer a ping, on a connection on which nothing large is before it, is hung.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

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
    heartbeat: Duration,
    append_stall: Duration,
    links: Arc<Links>,
    reach: Reach,
    /// While true, nothing is said to the others as their leader.
    hushed: watch::Sender<bool>,
    channels: Mutex<HashMap<(u64, String, Lane), Channel>>,
    addresses: RwLock<BTreeMap<u64, String>>,
}

impl Peers {
    /// No connection yet.
    pub fn new(config: &ReplicaConfig, known: Arc<Known>) -> Arc<Peers> {
        Arc::new(Peers {
            known,
            heartbeat: config.heartbeat,
            append_stall: config.append_stall,
            links: Links::new(config.link_silence(), config.connect_timeout),
            reach: Reach::default(),
            hushed: watch::Sender::new(false),
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
        self.links.connect_timeout
    }

    /// Who answers.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// For how long `node` has not answered, when that is longer than it should be.
    pub fn silent(&self, node: u64) -> Option<Duration> {
        let limit = SILENT.max(self.heartbeat * SILENT_HEARTBEATS);
        Some(self.reach.silence(node)).filter(|silence| *silence > limit)
    }

    /// Bytes of appended entries that the kernel of `node` has acknowledged so far.
    pub fn carried(&self, node: u64) -> u64 {
        self.address(node).map_or(0, |address| self.links.carried(&address))
    }

    /// Neither heartbeats nor entries are sent while this is so.
    pub fn hush(&self, hushed: bool) {
        self.hushed.send_replace(hushed);
    }

    /// Whether they are not.
    pub fn is_hushed(&self) -> bool {
        *self.hushed.borrow()
    }

    /// Returns when they are not.
    pub async fn hushed(&self) {
        // The sender is ours.
        let _ = self.hushed.subscribe().wait_for(|hushed| *hushed).await;
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

    /// Where clients reach `node`, as it told itself; `None` before it did, and where they do not.
    pub fn clients_at(&self, node: u64) -> Option<String> {
        self.reach.pulse(node).map(|pulse| pulse.clients_at).filter(|address| !address.is_empty())
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
        let channel = self.channel(node, address, lane)?;
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

    fn channel(&self, node: u64, address: &str, lane: Lane) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (node, address.to_owned(), lane);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| Status::unavailable(format!("{address:?} is no address: {e}")))?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            // Something is out at least so often while an answer is waited for: what the other side sent may be
            // what a cut has swallowed, and only its silence to this tells.
            .http2_keep_alive_interval(self.heartbeat)
            .keep_alive_timeout(if lane == Lane::Control { PING_TIMEOUT } else { BULK_PING_TIMEOUT })
            .keep_alive_while_idle(lane == Lane::Control);
        let counted = (lane == Lane::Bulk).then_some(address);
        let dialer = Dialer::new(self.links.clone(), self.known.clone(), node, counted);
        let channel = endpoint.connect_with_connector_lazy(dialer);
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

    #[tokio::test]
    async fn a_connection_that_never_came_about_has_sent_nothing() {
        // A listener whose queue is full: the kernel answers nothing, as behind a cut link.
        use rustix::net::{AddressFamily, SocketType};
        let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let listener = std::net::TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        let full = (0..2).map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)));
        let _held: Vec<_> = full.collect();
        let mut config = ReplicaConfig::new(1, [1; 16], "c", vec![(2, address.to_string())]);
        config.connect_timeout = Duration::from_millis(300);
        let peers = Peers::new(&config, Known::new(&config));
        let mut client = peers.member(2, Lane::Forward, Check::Full).unwrap();
        let status = client.propose(proto::ProposeRequest::default()).await.unwrap_err();
        assert!(never_sent(&status), "{status:?}");
    }
}

//! The wiring of one node: folder, log, ledger, replica, servers. It wires and does nothing else.
//!
//! The order at start is the order of trust: whose folder it is, then the log, then the ledger, then
//! the consensus, and only then anybody is listened to. A fault ends the process at once, so that
//! nothing is acknowledged after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::store::layout::Layout;
use checkpoint::{Digest, JobName, RealDisk, Store};
use client::pb::epochlog_client::EpochlogClient;
use client::pb::epochlog_server::EpochlogServer;
use client::{Client, Options};
use nativelog::machine::Machine;
use nativelog::performer::Publication;
use nativelog::store::{LogStore, Options as LogOptions};
use raft::{Replica, ReplicaConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;

use crate::api::{Api, Reads};
use crate::config::Config;
use crate::identity::{self, Claim, IdentityError};
use crate::space::{Space, Spaces};
use crate::{housekeeping, http};

/// Open calls have so long to end when the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long a commit waits for the epoch before it to be published here.
const PUBLISHING_PATIENCE: Duration = Duration::from_secs(5);

/// Why a node did not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder is not usable by this node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be trusted or read.
    #[error("the log: {0}")]
    Log(String),
    /// The shelves cannot be opened.
    #[error("the store: {0}")]
    Store(String),
    /// An address cannot be listened on.
    #[error("{name} cannot listen on {address}: {error}")]
    Listen {
        /// gRPC or HTTP.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The consensus did not start.
    #[error("the replica: {0}")]
    Replica(String),
    /// A server ended by itself.
    #[error("{0}")]
    Server(String),
}

impl ServeError {
    /// Whether the configuration is what has to change.
    pub fn is_configuration(&self) -> bool {
        matches!(self, ServeError::Identity(_) | ServeError::Listen { .. })
    }

    /// The first line.
    pub fn sentence(&self) -> &'static str {
        match self {
            ServeError::Server(_) => "the node stopped",
            _ => "the node did not start",
        }
    }

    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            ServeError::Identity(_) => "nothing was changed; see the reason above",
            ServeError::Listen { .. } => "free the port, or choose another with --listen and --http",
            ServeError::Log(_) => {
                "do not delete anything: the other nodes hold what is committed; replace this node if its disk is broken"
            }
            _ => "see the reason above",
        }
    }
}

/// A running node, as the API, HTTP and housekeeping see it.
pub struct Node {
    /// Its configuration.
    pub config: Config,
    /// Its replica.
    pub replica: Replica,
    /// Its shelves.
    pub store: Arc<Store>,
    /// Free space of all voters, as far as it is known.
    pub spaces: Spaces,
    /// Reads of content for Fetch.
    pub reads: Reads,
    peers: BTreeMap<u64, (String, Client)>,
}

impl Node {
    /// Node ids that vote.
    pub fn voters(&self) -> Vec<u64> {
        self.config.members.iter().map(|(node, _)| *node).collect()
    }

    /// The public API of another node, and its address.
    pub fn peer(&self, node: u64) -> Option<(String, EpochlogClient<Channel>)> {
        let (address, client) = self.peers.get(&node)?;
        Some((address.clone(), client.stub(address).ok()?))
    }

    /// Why this node must stop, if it must.
    pub fn fatal(&self) -> Option<String> {
        self.replica.fatal().borrow().clone()
    }

    /// Free space here.
    pub fn space(&self) -> std::io::Result<Space> {
        Space::of(&self.config.data_dir, self.config.reserve)
    }

    /// Whether this node has published the epoch with this root; else why not.
    pub fn published(&self, job: &JobName, epoch: u64, root: &[u8]) -> Result<(), String> {
        let machine = self.replica.machine();
        let known = machine.ledger().epoch(job, epoch).map(|found| found.sealed.root);
        if known.is_none_or(|known| known.as_bytes() != root) {
            return Err("it is not known here yet".into());
        }
        match machine.publication(job, epoch) {
            Some(Publication::Published) => Ok(()),
            Some(Publication::Pending) => Err("it is being published".into()),
            Some(Publication::Unpublished(why)) => Err(why),
            None => Err("it is not known here yet".into()),
        }
    }

    /// Waits until the epoch is published here, at most until `deadline`; else why not.
    pub async fn wait_published(
        &self,
        job: &JobName,
        epoch: u64,
        root: &[u8],
        deadline: Instant,
    ) -> Result<(), String> {
        let machine = self.replica.machine();
        let (mut publications, mut applied) = (machine.publications(), machine.applied());
        loop {
            publications.borrow_and_update();
            applied.borrow_and_update();
            let why = match self.published(job, epoch, root) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let changed = async {
                tokio::select! {
                    changed = publications.changed() => changed,
                    changed = applied.changed() => changed,
                }
            };
            match tokio::time::timeout(left, changed).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(why),
            }
        }
    }

    /// Size and digest of the files of the job's newest epoch that is published here and may be
    /// referred to, by path. One that is just being published is waited for, a little: sending its
    /// content again would take longer.
    pub async fn newest_files(&self, job: &JobName) -> BTreeMap<Vec<u8>, (u64, Digest)> {
        let newest = self.replica.machine().ledger().newest(job).map(|found| found.sealed);
        let Some(newest) = newest else { return BTreeMap::new() };
        let deadline = Instant::now() + PUBLISHING_PATIENCE;
        if let Err(why) = self.wait_published(job, newest.epoch, newest.root.as_bytes(), deadline).await {
            tracing::debug!(%job, epoch = newest.epoch, why, "an older epoch is taken for references");
        }
        let (store, wanted) = (self.store.clone(), job.clone());
        let read = tokio::task::spawn_blocking(move || match store.epochs(&wanted)?.into_iter().max() {
            Some(epoch) => store.manifest(&wanted, epoch),
            None => Ok(None),
        })
        .await;
        let manifest = match read.expect("reading a manifest does not panic") {
            Ok(Some((_, manifest))) => manifest,
            Ok(None) => return BTreeMap::new(),
            Err(error) => {
                tracing::warn!(%job, %error, "the newest manifest cannot be read: nothing is reused");
                return BTreeMap::new();
            }
        };
        let ledger = self.replica.machine().ledger();
        manifest
            .entries
            .into_iter()
            .filter(|entry| entry.kind == checkpoint::EntryKind::File && entry.size > 0)
            .filter(|entry| ledger.content(&entry.digest).is_some())
            .map(|entry| (entry.path.as_bytes().to_vec(), (entry.size, entry.digest)))
            .collect()
    }
}

/// Runs a node until a signal or a fault ends it.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let grpc = listen("gRPC", config.grpc).await?;
    let http = listen("HTTP", config.http).await?;
    let opening = config.clone();
    let opened = tokio::task::spawn_blocking(move || open(&opening)).await;
    let (claim, store, log, machine) = opened.expect("opening does not panic")?;
    let replica = Replica::start(replica_config(&config, &claim), log, machine.clone())
        .await
        .map_err(|error| ServeError::Replica(error.to_string()))?;
    let node = Arc::new(Node {
        spaces: Spaces::default(),
        reads: Reads::default(),
        peers: peers(&config),
        store,
        replica: replica.clone(),
        config,
    });
    let (stop, stopping) = watch::channel(false);
    let grpc_server = tokio::spawn(serve_grpc(node.clone(), grpc, stopping.clone()));
    let http_server = tokio::spawn(serve_http(node.clone(), http, stopping.clone()));
    replica.initialize_when_ready();
    let chores = tokio::spawn(housekeeping::run(node.clone(), claim));
    tracing::info!(node = node.config.id, grpc = %node.config.grpc, http = %node.config.http, "the node serves");

    let mut fatal = replica.fatal();
    let ended = tokio::select! {
        name = signal() => {
            tracing::info!(signal = name, "the node stops");
            Ok(())
        }
        why = fatal.wait_for(Option::is_some) => {
            let why = why.ok().and_then(|why| why.clone()).unwrap_or_default();
            // Nothing more may be acknowledged: no farewell, no flush.
            tracing::error!(why, "fault: this node stops now");
            std::process::exit(1);
        }
        ended = grpc_server => Err(ServeError::Server(format!("the gRPC server ended: {}", outcome(ended)))),
        ended = http_server => Err(ServeError::Server(format!("the HTTP server ended: {}", outcome(ended)))),
    };
    replica.shutdown().await;
    stop.send_replace(true);
    chores.abort();
    let folder_closed = tokio::task::spawn_blocking(move || machine.shutdown());
    if tokio::time::timeout(STOP_PATIENCE, folder_closed).await.is_err() {
        tracing::warn!("the performer did not end in time; it goes on at the next start");
    }
    ended?;
    // A fault on the way out counts as one before: something may not be on the disk.
    let fault = node.fatal().or_else(|| replica.log().fatal().borrow().clone());
    fault.map_or(Ok(()), |why| Err(ServeError::Server(format!("fault during shutdown: {why}"))))
}

fn outcome(ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "without a reason".into(),
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    }
}

type Opened = (Claim, Arc<Store>, LogStore, Arc<Machine>);

/// Opens what is on disk. Blocks.
fn open(config: &Config) -> Result<Opened, ServeError> {
    let disk: Arc<dyn checkpoint::Disk> = Arc::new(RealDisk);
    let layout = Layout::new(&config.data_dir);
    let mut claim = identity::claim(&config.data_dir, config.id)?;
    if claim.is_new
        && let Some(owner) =
            LogStore::owner_of(&disk, &layout).map_err(|error| ServeError::Log(error.to_string()))?
    {
        claim.adopt(owner)?;
    }
    let store =
        Store::open(disk.clone(), &config.data_dir).map_err(|error| ServeError::Store(error.to_string()))?;
    let store = Arc::new(store);
    if let Err(error) = crate::capture::sweep(&layout.capture_dir()) {
        tracing::warn!(%error, "old captures stay behind");
    }
    let (log, recovered) = LogStore::open(disk, &layout, claim.identity, LogOptions::default())
        .map_err(|error| ServeError::Log(error.to_string()))?;
    tracing::info!(?recovered, "the log is open");
    if claim.is_new {
        if log.log_state().1.is_some() || log.vote().is_some() {
            return Err(IdentityError::NoIdentity { dir: config.data_dir.clone() }.into());
        }
        claim.write(None)?;
    }
    let machine = Machine::start(store.clone(), log.clone(), &layout.catalog_dir())
        .map_err(|error| ServeError::Store(error.to_string()))?;
    Ok((claim, store, log, machine))
}

fn replica_config(config: &Config, claim: &Claim) -> ReplicaConfig {
    let mut replica =
        ReplicaConfig::new(config.id, claim.identity.incarnation, &config.cluster, config.members.clone());
    replica.cluster = claim.cluster;
    replica.heartbeat = config.heartbeat;
    replica.election_timeout = config.election_timeout;
    replica
}

fn peers(config: &Config) -> BTreeMap<u64, (String, Client)> {
    let others = config.members.iter().filter(|(node, _)| *node != config.id);
    others
        .map(|(node, address)| (*node, (address.clone(), Client::new([address.clone()], Options::default()))))
        .collect()
}

async fn listen(name: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Listen { name, address, error })
}

async fn serve_grpc(
    node: Arc<Node>,
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let api = EpochlogServer::new(Api::new(node.clone()))
        .max_decoding_message_size(client::REQUEST_BYTES_MAX)
        .max_encoding_message_size(client::MESSAGE_BYTES_MAX);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<EpochlogServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(client::pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| error.to_string())?;
    raft::network::server()
        .add_service(node.replica.service())
        .add_service(api)
        .add_service(health_service)
        .add_service(reflection)
        // Without this, Nagle's algorithm and delayed acknowledgements cost every small answer 40 ms.
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            // An error means that the node is gone altogether.
            let _ = stopping.wait_for(|stop| *stop).await;
        })
        .await
        .map_err(|error| error.to_string())
}

async fn serve_http(
    node: Arc<Node>,
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    axum::serve(listener, http::routes(node))
        .with_graceful_shutdown(async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        })
        .await
        .map_err(|error| error.to_string())
}

/// Waits for SIGTERM or SIGINT.
async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// Whether the data folder could be used, without touching it.
pub fn check_disk(config: &Config) -> Result<String, String> {
    let mut existing: PathBuf = config.data_dir.clone();
    while !existing.exists() {
        if !existing.pop() {
            return Err(format!("{} cannot be made", config.data_dir.display()));
        }
    }
    if existing.as_os_str().is_empty() {
        existing = ".".into();
    }
    let probe = tempfile::Builder::new().prefix(".epochlog-check").tempfile_in(&existing);
    probe.map_err(|error| format!("{} cannot be written: {error}", existing.display()))?;
    let space =
        Space::of(&existing, config.reserve).map_err(|error| format!("{}: {error}", existing.display()))?;
    let line = format!(
        "{} has {} free, {} stay reserved",
        existing.display(),
        crate::units::size(space.free),
        crate::units::size(space.reserve)
    );
    if space.free > space.reserve { Ok(line) } else { Err(line) }
}

//! The wiring of one node: folder, log, ledger, replica, servers. It wires and does nothing else.
//!
//! The order at start is the order of trust: whose folder it is, then the log, then the ledger, then
//! the consensus, and only then anybody is listened to. A fault ends the process at once, so that
//! nothing is acknowledged after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{JobName, Store};
use client::{Client, Code, Options, Stub};
use nativelog::performer::Publication;
use raft::{Replica, ReplicaConfig, RoomJudge, RoomProbe, Secret};
use tokio::sync::{Mutex, watch};
use tonic_health::server::HealthReporter;

use crate::api::Reads;
use crate::config::Config;
use crate::identity::Claim;
use crate::known::Known;
use crate::memory::Buffers;
use crate::metrics::Metrics;
use crate::neighbours::{self, Neighbours};
use crate::opening::{Opened, open};
use crate::refusal::ServeError;
use crate::space::{Gate, Space, Spaces};
use crate::turns::AllTurns;
use crate::{epochs, housekeeping, pressure, servers};

/// Open calls have so long to end when the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two rounds of giving space back that were asked for.
const RECLAIM_PAUSE: Duration = Duration::from_secs(2);

/// How long a commit waits for the epoch before it to be published here.
const PUBLISHING_PATIENCE: Duration = Duration::from_secs(5);

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
    /// Where content is read to.
    pub(crate) buffers: Buffers,
    /// How many calls of a kind are worked on at once.
    pub(crate) turns: AllTurns,
    /// What clients on this machine have handed over.
    pub neighbours: Neighbours,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Why no new content is taken, while the node is short of space.
    pub short: watch::Sender<Option<String>>,
    /// Held while something is given back; when that last ended.
    reclaimed: Arc<Mutex<Option<Instant>>>,
    /// Connections to the public API of the other nodes.
    others: Client,
}

impl Node {
    /// Node ids that vote.
    pub fn voters(&self) -> Vec<u64> {
        self.config.members.iter().map(|(node, _)| *node).collect()
    }

    /// The public API of another node, and its address, once that node has told where clients reach it.
    pub fn peer(&self, node: u64) -> Option<(String, Stub)> {
        let address = self.replica.clients_at(node)?;
        let stub = self.others.stub(&address).ok()?;
        Some((address, stub))
    }

    /// Where other nodes are, `HOST:PORT`: for peers, and where they have told that clients reach them.
    pub fn addresses(&self) -> Vec<String> {
        let others = self.config.members.iter().filter(|(node, _)| *node != self.config.id);
        others
            .flat_map(|(node, peers)| [Some(peers.clone()), self.replica.clients_at(*node)])
            .flatten()
            .collect()
    }

    /// What it means for a caller that nothing can be committed or read here now. A node that knows that it has no
    /// quorum says so for good; whoever cannot reach the leader, or is just without one, may do so soon.
    pub fn no_way(&self) -> (Code, &'static str) {
        match self.replica.cut_off() {
            Some(cut_off) if cut_off.no_majority => (Code::NoQuorum, "no quorum"),
            Some(_) => (Code::Unavailable, "no way to the leader"),
            None => (Code::Unavailable, "no quorum has answered"),
        }
    }

    /// Why this node must stop, if it must.
    pub fn fatal(&self) -> Option<String> {
        self.replica.fatal().borrow().clone()
    }

    /// Has what is garbage given back, in the background; one round at a time, with a pause between two.
    pub fn reclaim(&self) {
        let Ok(mut last) = self.reclaimed.clone().try_lock_owned() else { return };
        if last.is_some_and(|last| last.elapsed() < RECLAIM_PAUSE) {
            return;
        }
        let replica = self.replica.clone();
        tokio::spawn(async move {
            match replica.reclaim_now().await {
                Ok(reclaimed) if reclaimed.files == 0 => {}
                Ok(reclaimed) => {
                    tracing::info!(files = reclaimed.files, bytes = reclaimed.bytes, "space was given back");
                }
                Err(error) => tracing::warn!(%error, "space cannot be given back now; it is tried again"),
            }
            *last = Some(Instant::now());
        });
    }

    /// Whether this node has published the epoch with this root; else why not.
    pub fn published(&self, job: &JobName, epoch: u64, root: &[u8]) -> Result<(), String> {
        let machine = self.replica.machine();
        let known = machine.ledger().sealed_as(job, epoch).map(|sealed| sealed.root);
        if known.is_none_or(|known| known.as_bytes() != root) {
            return Err("it is not known here yet".into());
        }
        match machine.publication(job, epoch) {
            Some(Publication::Published) => Ok(()),
            Some(Publication::NotLooked) => Err("it started a moment ago and has not looked yet".into()),
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

    /// The files of the job's newest epoch that is published here and may be referred to. One that is just being
    /// published is waited for, a little: sending its content again would take longer.
    pub async fn newest_files(&self, job: &JobName) -> Known {
        let wanted = job.clone();
        let newest =
            epochs::elsewhere(self.replica.machine(), move |machine| epochs::newest(machine, &wanted));
        let Some(newest) = newest.await.map(|found| found.sealed) else { return Known::nothing() };
        let deadline = Instant::now() + PUBLISHING_PATIENCE;
        if let Err(why) = self.wait_published(job, newest.epoch, newest.root.as_bytes(), deadline).await {
            tracing::debug!(%job, epoch = newest.epoch, why, "an older epoch is taken for references");
        }
        Known::of(self.store.clone(), self.replica.machine().clone(), job.clone()).await
    }
}

/// Runs a node until a signal or a fault ends it.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let secret = config.secret()?;
    let grpc = servers::listen("gRPC", config.grpc).await?;
    let peers = match config.secret_file {
        Some(_) => Some(servers::listen("gRPC for peers", config.peers).await?),
        None => None,
    };
    let http = servers::listen("HTTP", config.http).await?;
    let metrics = Arc::new(Metrics::new());
    let (opening, counting) = (config.clone(), metrics.clone());
    let opened = tokio::task::spawn_blocking(move || open(&opening, &counting)).await;
    let Opened { claim, store, log, machine } = opened.expect("opening does not panic")?;
    let gate = Arc::new(Gate::default());
    let settings =
        ReplicaConfig { judge: RoomJudge(gate.clone()), ..replica_config(&config, secret, &claim) };
    let replica = Replica::start(settings, log, machine.clone()).await?;
    let node = Arc::new(Node {
        spaces: Spaces::default(),
        reads: Reads::default(),
        buffers: Buffers::default(),
        turns: AllTurns::default(),
        neighbours: Neighbours::default(),
        short: watch::Sender::new(None),
        reclaimed: Arc::default(),
        others: Client::new(Vec::<String>::new(), Options::default()),
        metrics,
        store,
        replica: replica.clone(),
        config,
    });
    gate.opens_for(&node);
    let (stop, stopping) = watch::channel(false);
    let health = HealthReporter::new();
    servers::say_serving(&health).await;
    let grpc_server = tokio::spawn(servers::grpc(node.clone(), grpc, health.clone(), stopping.clone()));
    let peer_server = tokio::spawn(servers::peers(node.clone(), peers, stopping.clone()));
    let http_server = tokio::spawn(servers::http(node.clone(), http, stopping.clone()));
    neighbours::serve(&node);
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
            servers::say_not_serving(&health).await;
            std::process::exit(1);
        }
        why = replica.wiped() => Err(ServeError::Wiped(why)),
        ended = grpc_server => Err(ServeError::Server(format!("the gRPC server ended: {}", outcome(ended)))),
        ended = peer_server => Err(ServeError::Server(format!("the server for peers ended: {}", outcome(ended)))),
        ended = http_server => Err(ServeError::Server(format!("the HTTP server ended: {}", outcome(ended)))),
    };
    servers::say_not_serving(&health).await;
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

/// The settings of the replica of the folder that was claimed.
pub(crate) fn replica_config(config: &Config, secret: Secret, claim: &Claim) -> ReplicaConfig {
    let mut replica =
        ReplicaConfig::new(config.id, claim.identity.incarnation, &config.cluster, config.members.clone());
    replica.cluster = claim.cluster;
    replica.secret = secret;
    replica.clients_at.clone_from(&config.advertise);
    replica.heartbeat = config.heartbeat;
    replica.election_timeout = config.election_timeout;
    if let Ok(space) = Space::of(&config.data_dir, config.reserve) {
        let bytes = pressure::in_flight_bytes(&space);
        replica.in_flight_bytes = replica.in_flight_bytes.min(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let (node, dir, reserve) = (config.id, config.data_dir.clone(), config.reserve);
    replica.room = RoomProbe(Arc::new(move |more| {
        let space = Space::of(&dir, reserve).ok()?;
        pressure::takes_no_content(&space, more).then(|| pressure::words(node, &space, None))
    }));
    replica
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

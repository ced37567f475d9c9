//! Replicas in one process, over loopback and real disks.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unused_imports,
    reason = "tests; not every test file uses everything"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::{CommitId, Coverage, Digest, JobName, Limits, Manifest, Plan, PlanEntry, Splitter, Store};
use futures::StreamExt;
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{Accepted, SealedEpoch, Verdict};
use nativelog::machine::Machine;
use nativelog::record::LogRecord;
use nativelog::store::{Identity, LogStore, Options};
use raft::{Hydrate, Keeping, ProposalStream, Replica, ReplicaConfig, Secret, Stores};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;

pub mod caller;
pub mod content;
pub mod depot;
pub mod proxy;
pub mod room;
pub mod slow;
pub use caller::caller;
pub use content::{directory, directory_of, noise};
use proxy::Proxy;
use room::Room;
use slow::SlowDisk;

/// What all nodes of all clusters here know.
pub const SECRET: &str = "a secret of tests, which everybody may know";

/// Longer than anything here may take, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A running node.
pub struct Node {
    pub id: u64,
    pub address: String,
    pub incarnation: [u8; 16],
    pub replica: Replica,
    pub machine: Arc<Machine>,
    pub log: LogStore,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<()>,
    accepted: Accepts,
}

/// Twins of the connections that a node has accepted: with the process they would be gone.
#[derive(Clone, Default)]
struct Accepts(Arc<Mutex<Vec<std::net::TcpStream>>>);

impl Accepts {
    fn keep(&self, stream: TcpStream) -> std::io::Result<TcpStream> {
        let stream = stream.into_std()?;
        self.0.lock().unwrap().push(stream.try_clone()?);
        TcpStream::from_std(stream)
    }

    fn cut(&self) {
        for stream in self.0.lock().unwrap().drain(..) {
            // One that is closed already is as it should be.
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }
}

/// Addresses and data folders of a cluster, and the nodes that run.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub name: &'static str,
    pub members: Vec<(u64, String)>,
    pub nodes: BTreeMap<u64, Node>,
    /// What stands between the nodes, if anything does.
    pub proxies: BTreeMap<u64, Proxy>,
    /// When nodes that are started purge and give back.
    pub keeping: Keeping,
    /// The disk of each node.
    pub disks: BTreeMap<u64, SlowDisk>,
    /// What each node keeps in flight, in bytes.
    pub in_flight_bytes: usize,
    /// Room on the disks.
    pub room: Room,
    /// The way of each node to stores, if it has one.
    pub stores: BTreeMap<u64, (Stores, Hydrate)>,
}

/// Nothing is purged unless a test asks for it.
pub fn by_hand() -> Keeping {
    Keeping {
        look_every: Duration::from_millis(50),
        garbage_bytes: u64::MAX,
        garbage_age: Duration::MAX,
        attempts_age: Duration::MAX,
        ..Keeping::default()
    }
}

/// What waits is given back soon.
pub fn eager() -> Keeping {
    Keeping {
        look_every: Duration::from_millis(50),
        garbage_age: Duration::from_millis(200),
        attempts_age: Duration::from_millis(200),
        ..Keeping::default()
    }
}

/// Settings with which another leader stands after about two seconds.
pub fn quick(node: u64, incarnation: [u8; 16], name: &str, members: Vec<(u64, String)>) -> ReplicaConfig {
    ReplicaConfig {
        heartbeat: Duration::from_millis(150),
        election_timeout: (Duration::from_millis(1500), Duration::from_millis(2400)),
        answer_stall: Duration::from_secs(5),
        leader_patience: Duration::from_secs(6),
        tick: Duration::from_millis(200),
        release_grace: Duration::from_secs(1),
        gone_for: Duration::from_secs(1),
        secret: Secret::of(SECRET).unwrap(),
        ..ReplicaConfig::new(node, incarnation, name, members)
    }
}

async fn listen(address: &str) -> TcpListener {
    within("the address is free", || async { TcpListener::bind(address).await.ok() }).await
}

impl Node {
    /// Starts a node over `dir`.
    pub async fn start(config: ReplicaConfig, dir: &Path, listener: TcpListener, disk: SlowDisk) -> Node {
        let (id, incarnation) = (config.node, config.incarnation);
        // Shown when a test fails; whoever came first has set it.
        drop(tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init());
        let disk: Arc<dyn Disk> = Arc::new(disk);
        std::fs::create_dir_all(dir).unwrap();
        let store = Arc::new(Store::open(disk.clone(), dir).unwrap());
        let layout = Layout::new(dir);
        let owner = Identity { node: id, incarnation };
        let (log, _) = LogStore::open(disk, &layout, owner, Options::default()).unwrap();
        let machine = Machine::start(store, log.clone(), &layout.catalog_dir()).unwrap();
        let replica = Replica::start(config, log.clone(), machine.clone()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = replica.service();
        let accepted = Accepts::default();
        let accepts = accepted.clone();
        let incoming = TcpListenerStream::new(listener).map(move |stream| accepts.keep(stream?));
        let incoming = replica.door(incoming);
        let server = tokio::spawn(async move {
            let serving = raft::network::server().add_service(service).serve_with_incoming(incoming);
            // Dropped at once when told to: connections break, as when a process dies.
            tokio::select! {
                served = serving => served.unwrap(),
                _ = stopped => {}
            }
        });
        replica.initialize_when_ready();
        Node { id, address, incarnation, replica, machine, log, stop: Some(stop), server, accepted }
    }

    /// Ends the node as a crash would look to the others.
    pub async fn kill(mut self) {
        drop(self.stop.take());
        self.server.abort();
        let _ = self.server.await;
        self.accepted.cut();
        self.replica.kill().await;
        let machine = self.machine.clone();
        tokio::task::spawn_blocking(move || machine.shutdown()).await.unwrap();
    }

    /// Ends the node in order.
    pub async fn shutdown(mut self) {
        self.replica.shutdown().await;
        drop(self.stop.take());
        let _ = self.server.await;
        self.accepted.cut();
        let machine = self.machine.clone();
        tokio::task::spawn_blocking(move || machine.shutdown()).await.unwrap();
    }
}

impl Cluster {
    /// Starts nodes 1 to `size`, all empty.
    pub async fn start(name: &'static str, size: u64) -> Cluster {
        Cluster::start_keeping(name, size, Keeping::default()).await
    }

    /// The same, with other rules for purge and deletion.
    pub async fn start_keeping(name: &'static str, size: u64, keeping: Keeping) -> Cluster {
        Cluster::build(name, size, keeping, raft::PROPOSAL_BYTES, false, BTreeMap::new()).await
    }

    /// Nodes 1 to `size`, that reach each other through proxies.
    pub async fn behind_proxies(name: &'static str, size: u64) -> Cluster {
        Cluster::build(name, size, Keeping::default(), raft::PROPOSAL_BYTES, true, BTreeMap::new()).await
    }

    /// Nodes 1 to `size`, with so many bytes in flight.
    pub async fn start_with(
        name: &'static str,
        size: u64,
        keeping: Keeping,
        in_flight_bytes: usize,
    ) -> Cluster {
        Cluster::build(name, size, keeping, in_flight_bytes, false, BTreeMap::new()).await
    }

    async fn build(
        name: &'static str,
        size: u64,
        keeping: Keeping,
        in_flight_bytes: usize,
        proxied: bool,
        stores: BTreeMap<u64, (Stores, Hydrate)>,
    ) -> Cluster {
        let mut listeners = Vec::new();
        for _ in 0..size {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let mut members: Vec<_> = (1..=size)
            .zip(&listeners)
            .map(|(id, listener)| (id, listener.local_addr().unwrap().to_string()))
            .collect();
        let mut proxies = BTreeMap::new();
        for (id, address) in members.iter_mut().filter(|_| proxied) {
            let proxy = Proxy::start(address.clone()).await;
            address.clone_from(&proxy.address);
            proxies.insert(*id, proxy);
        }
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster {
            dir,
            name,
            members,
            nodes: BTreeMap::new(),
            proxies,
            keeping,
            disks: (1..=size).map(|id| (id, SlowDisk::default())).collect(),
            in_flight_bytes,
            room: Room::of(1..=size),
            stores,
        };
        for (id, listener) in (1..=size).zip(listeners) {
            let config = cluster.config(id, [id as u8; 16]);
            let node = Node::start(config, &cluster.data(id), listener, cluster.disks[&id].clone()).await;
            cluster.nodes.insert(id, node);
        }
        cluster
    }

    /// Settings of a node.
    pub fn config(&self, id: u64, incarnation: [u8; 16]) -> ReplicaConfig {
        let config = quick(id, incarnation, self.name, self.members.clone());
        let clients_at = format!("client.example:{id}");
        let (keeping, in_flight_bytes) = (self.keeping.clone(), self.in_flight_bytes);
        let (room, judge) = (self.room.probe(id), self.room.judge());
        let (stores, hydrate) = self.stores.get(&id).cloned().unwrap_or_default();
        ReplicaConfig { keeping, in_flight_bytes, clients_at, room, judge, stores, hydrate, ..config }
    }

    /// The data folder of a node.
    pub fn data(&self, id: u64) -> std::path::PathBuf {
        self.dir.path().join(format!("n{id}"))
    }

    /// Starts a stopped node again, over the folder `dir` and as `incarnation`.
    pub async fn restart(&mut self, id: u64, incarnation: [u8; 16], dir: &str) {
        let address = self.members.iter().find(|(node, _)| *node == id).unwrap().1.clone();
        let listener = listen(&address).await;
        let path = self.dir.path().join(dir);
        let node = Node::start(self.config(id, incarnation), &path, listener, self.disks[&id].clone()).await;
        self.nodes.insert(id, node);
    }

    /// Kills a node and starts it again over its folder.
    pub async fn bounce(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().kill().await;
        self.resume(id).await;
    }

    /// Starts a killed node again over its folder.
    pub async fn resume(&mut self, id: u64) {
        self.restart(id, [id as u8; 16], &format!("n{id}")).await;
    }

    /// Kills a follower and says which.
    pub async fn lose_follower(&mut self) -> u64 {
        let id = self.follower().await.id;
        self.nodes.remove(&id).unwrap().kill().await;
        id
    }

    /// Purges and gives back on all running nodes, until none of them holds an entry that `away` would need.
    pub async fn purge(&self) {
        for node in self.nodes.values() {
            within("the log is purged", || async {
                node.replica.reclaim_now().await.unwrap();
                let (purged, last) = node.log.log_state();
                (purged.map(|id| id.index + 16) >= last.map(|id| id.index)).then_some(())
            })
            .await;
        }
    }

    /// The leader that is ready and that all running nodes agree on.
    pub async fn leader(&self) -> u64 {
        within("a leader that all agree on", || async {
            let leader = self.nodes.values().find(|node| node.replica.is_leader())?.id;
            let agreed = self.nodes.values().all(|node| node.replica.leader() == Some(leader));
            agreed.then_some(leader)
        })
        .await
    }

    /// A running node that does not lead.
    pub async fn follower(&self) -> &Node {
        let leader = self.leader().await;
        self.nodes.values().find(|node| node.id != leader).unwrap()
    }

    /// Waits until all running nodes have applied the same and hold the same ledger.
    pub async fn agree(&self) -> String {
        within("equal ledgers", || async {
            let states: Vec<_> = self.nodes.values().map(|node| node.replica.status()).collect();
            let first = &states[0];
            let equal = states.iter().all(|state| state.applied == first.applied && state.last == first.last);
            if equal && first.applied == first.last {
                assert!(states.iter().all(|state| state.ledger_digest == first.ledger_digest), "{states:#?}");
                return Some(first.ledger_digest.clone());
            }
            None
        })
        .await
    }

    /// Ends all nodes in order.
    pub async fn shutdown(self) {
        for (_, node) in self.nodes {
            node.shutdown().await;
        }
    }
}

/// Waits for a condition, with the deadline.
pub async fn within<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Commits an epoch of `bytes` bytes that no other one has, through the leader.
pub async fn commit_epoch(cluster: &Cluster, job: &str, number: u8, bytes: usize) -> SealedEpoch {
    let leader = cluster.leader().await;
    let source = directory_of(bytes, number);
    Commit::of(source.path(), job, number).write(source.path(), &cluster.nodes[&leader].replica).await
}

/// Removes epochs, the newest included.
pub async fn remove_epochs(cluster: &Cluster, job: &str, epochs: Vec<u64>) {
    let leader = cluster.leader().await;
    let record = compose::expire(&JobName::try_from(job).unwrap(), epochs, true, "test", vec![leader]);
    let (_, verdict) = cluster.nodes[&leader].replica.propose(record).await.unwrap();
    assert!(verdict.is_accepted(), "{verdict}");
}

/// Waits until `node` has installed a snapshot, and says how many it has: the ledger shows one a moment before it is counted.
pub async fn installed(node: &Node) -> u64 {
    within(&format!("node {} has installed a snapshot", node.id), || async {
        Some(node.replica.transfer().borrow().installed_total).filter(|count| *count > 0)
    })
    .await
}

/// Waits until `node` has every sealed epoch of its ledger as a directory, reads all of them again, and says
/// how many.
pub async fn verified(node: &Node) -> usize {
    let mut count = 0;
    let sealed: Vec<_> = {
        let ledger = node.machine.ledger();
        ledger.jobs().flat_map(|job| ledger.epochs(job).collect::<Vec<_>>()).collect()
    };
    for info in sealed {
        let (job, epoch, root) = (info.sealed.job.clone(), info.sealed.epoch, info.sealed.root);
        within(&format!("{job}@{epoch} is published on node {}", node.id), || async {
            node.machine.store().published(&job, epoch).unwrap().filter(|there| *there == root)
        })
        .await;
        let report = node.machine.store().verify(&job, epoch).unwrap();
        assert!(report.is_good(), "node {}: {job}@{epoch}: {report:?}", node.id);
        count += 1;
    }
    count
}

/// What a commit by hand is made of.
pub struct Commit {
    pub plan: Plan,
    pub pages: Pages,
    pub opening: Opening,
}

impl Commit {
    /// Plans an epoch of `dir`.
    pub fn of(dir: &Path, job: &str, commit: u8) -> Commit {
        let plan = Plan::scan(dir, &Limits::default()).unwrap();
        let pages = Pages::new(&plan.entries);
        let opening = Opening {
            job: JobName::try_from(job).unwrap(),
            epoch: None,
            token: None,
            commit: CommitId::from_bytes([commit; 16]),
            born: 0,
            chunk_bytes: 1 << 20,
            base: None,
            labels: vec![],
            depends_on: vec![],
        };
        Commit { plan, pages, opening }
    }

    /// Opens the attempt and sends its plan.
    pub async fn begin(&self, stream: &ProposalStream) -> u64 {
        let begun = accepted(stream, compose::begin(&self.opening, &self.pages)).await;
        let Accepted::Begun { attempt, .. } = begun else { panic!("{begun:?}") };
        for part in self.pages.parts(attempt, 0) {
            accepted(stream, part).await;
        }
        attempt
    }

    /// All pieces as records, and the root.
    pub fn pieces(&self, dir: &Path, attempt: u64) -> (Vec<LogRecord>, Digest) {
        let covered = Coverage::default();
        let mut splitter =
            Splitter::new(dir, &self.plan, self.opening.chunk_bytes, &covered, &|_| None).unwrap();
        let pieces = splitter.by_ref().map(|piece| compose::piece(attempt, piece.unwrap())).collect();
        (pieces, splitter.finish_root().unwrap())
    }

    /// As [`Commit::pieces`], with files reused that an epoch of this manifest has.
    pub fn pieces_reusing(&self, dir: &Path, attempt: u64, manifest: &Manifest) -> (Vec<LogRecord>, Digest) {
        let covered = Coverage::default();
        let previous = |file: &PlanEntry| {
            manifest.entries.iter().find(|entry| entry.path == file.path).map(|entry| entry.digest)
        };
        let mut splitter =
            Splitter::new(dir, &self.plan, self.opening.chunk_bytes, &covered, &previous).unwrap();
        let pieces = splitter.by_ref().map(|piece| compose::piece(attempt, piece.unwrap())).collect();
        (pieces, splitter.finish_root().unwrap())
    }

    /// Writes the whole epoch through `replica`, pieces pipelined.
    pub async fn write(&self, dir: &Path, replica: &Replica) -> SealedEpoch {
        let stream = replica.stream().await.unwrap();
        let attempt = self.begin(&stream).await;
        let (pieces, root) = self.pieces(dir, attempt);
        let mut pending = Vec::new();
        for piece in pieces {
            pending.push(stream.send(piece).await.unwrap());
        }
        for answer in pending {
            let (_, verdict) = answer.await.unwrap();
            assert!(verdict.is_accepted(), "{verdict}");
        }
        let sealed = accepted(&stream, compose::seal(attempt, root)).await;
        let Accepted::Sealed(sealed) = sealed else { panic!("{sealed:?}") };
        assert_eq!(sealed.root, root);
        sealed
    }
}

/// Sends `record` and expects it to be accepted.
pub async fn accepted(stream: &ProposalStream, record: LogRecord) -> Accepted {
    match stream.send(record).await.unwrap().await.unwrap() {
        (_, Verdict::Accepted(accepted)) => accepted,
        (_, rejected) => panic!("{rejected}"),
    }
}

//! Replicas in one process, over loopback and real disks.

#![allow(clippy::unwrap_used, dead_code, reason = "tests; not every test file uses everything")]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::{CommitId, Coverage, JobName, Limits, Plan, RealDisk, Splitter, Store};
use nativelog::compose::{self, Opening, Pages};
use nativelog::ledger::{Accepted, SealedEpoch, Verdict};
use nativelog::machine::Machine;
use nativelog::record::LogRecord;
use nativelog::store::{Identity, LogStore, Options};
use raft::{ProposalStream, Replica, ReplicaConfig};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;

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
}

/// Addresses and data folders of a cluster, and the nodes that run.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub name: &'static str,
    pub members: Vec<(u64, String)>,
    pub nodes: BTreeMap<u64, Node>,
}

/// Settings with which elections take about a second.
pub fn quick(node: u64, incarnation: [u8; 16], name: &str, members: Vec<(u64, String)>) -> ReplicaConfig {
    ReplicaConfig {
        heartbeat: Duration::from_millis(150),
        election_timeout: (Duration::from_millis(600), Duration::from_millis(1200)),
        answer_stall: Duration::from_secs(5),
        leader_patience: Duration::from_secs(6),
        tick: Duration::from_millis(200),
        ..ReplicaConfig::new(node, incarnation, name, members)
    }
}

async fn listen(address: &str) -> TcpListener {
    within("the address is free", || async { TcpListener::bind(address).await.ok() }).await
}

impl Node {
    /// Starts a node over `dir`.
    pub async fn start(
        id: u64,
        incarnation: [u8; 16],
        name: &str,
        members: &[(u64, String)],
        dir: &Path,
        listener: TcpListener,
    ) -> Node {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        std::fs::create_dir_all(dir).unwrap();
        let store = Arc::new(Store::open(disk.clone(), dir).unwrap());
        let layout = Layout::new(dir);
        let owner = Identity { node: id, incarnation };
        let (log, _) = LogStore::open(disk, &layout, owner, Options::default()).unwrap();
        let machine = Machine::start(store, log.clone(), &layout.catalog_dir()).unwrap();
        let config = quick(id, incarnation, name, members.to_vec());
        let replica = Replica::start(config, log.clone(), machine.clone()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = replica.service();
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let serving = raft::network::server().add_service(service).serve_with_incoming(incoming);
            // Dropped at once when told to: connections break, as when a process dies.
            tokio::select! {
                served = serving => served.unwrap(),
                _ = stopped => {}
            }
        });
        replica.initialize_when_ready();
        Node { id, address, incarnation, replica, machine, log, stop: Some(stop), server }
    }

    /// Ends the node as a crash would look to the others.
    pub async fn kill(mut self) {
        drop(self.stop.take());
        self.server.abort();
        let _ = self.server.await;
        self.replica.kill().await;
        let machine = self.machine.clone();
        tokio::task::spawn_blocking(move || machine.shutdown()).await.unwrap();
    }

    /// Ends the node in order.
    pub async fn shutdown(mut self) {
        self.replica.shutdown().await;
        drop(self.stop.take());
        let _ = self.server.await;
        let machine = self.machine.clone();
        tokio::task::spawn_blocking(move || machine.shutdown()).await.unwrap();
    }
}

impl Cluster {
    /// Starts nodes 1 to `size`, all empty.
    pub async fn start(name: &'static str, size: u64) -> Cluster {
        let mut listeners = Vec::new();
        for _ in 0..size {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let members: Vec<_> = (1..=size)
            .zip(&listeners)
            .map(|(id, listener)| (id, listener.local_addr().unwrap().to_string()))
            .collect();
        let mut cluster =
            Cluster { dir: tempfile::tempdir().unwrap(), name, members, nodes: BTreeMap::new() };
        for (id, listener) in (1..=size).zip(listeners) {
            let node = Node::start(
                id,
                [id as u8; 16],
                name,
                &cluster.members,
                &cluster.dir.path().join(format!("n{id}")),
                listener,
            )
            .await;
            cluster.nodes.insert(id, node);
        }
        cluster
    }

    /// Starts a stopped node again, over the folder `dir` and as `incarnation`.
    pub async fn restart(&mut self, id: u64, incarnation: [u8; 16], dir: &str) {
        let address = self.members.iter().find(|(node, _)| *node == id).unwrap().1.clone();
        let listener = listen(&address).await;
        let path = self.dir.path().join(dir);
        let node = Node::start(id, incarnation, self.name, &self.members, &path, listener).await;
        self.nodes.insert(id, node);
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

    /// Writes the whole epoch through `replica`, pieces pipelined.
    pub async fn write(&self, dir: &Path, replica: &Replica) -> SealedEpoch {
        let stream = replica.stream().await.unwrap();
        let attempt = self.begin(&stream).await;
        let covered = Coverage::default();
        let mut splitter =
            Splitter::new(dir, &self.plan, self.opening.chunk_bytes, &covered, &|_| None).unwrap();
        let mut pieces = Vec::new();
        for piece in splitter.by_ref() {
            pieces.push(compose::piece(attempt, piece.unwrap()));
        }
        let root = splitter.finish().unwrap().root();
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

/// A directory with a bit of everything.
pub fn directory(big_bytes: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<u8> =
        (0..big_bytes as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(dir.path().join("big"), big).unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/small"), b"small").unwrap();
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
    dir
}

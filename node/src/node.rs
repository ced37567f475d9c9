//! The state of one running node, and what can be said of it. It imports nothing that serves: the API, HTTP, housekeeping
//! and the rest take from it what they need, and `serve` puts them together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{JobName, Store};
use client::{Client, Code, Failure, Options, Stub};
use nativelog::performer::Publication;
use raft::Replica;
use tokio::sync::{Mutex, watch};

use crate::config::Config;
use crate::handed::Handed;
use crate::memory::Buffers;
use crate::metrics::Metrics;
use crate::outward;
use crate::reads::Reads;
use crate::space::Space;
use crate::stores::Stores;
use crate::turns::AllTurns;
use crate::vitals::Vitals;
use crate::voters::{Spaces, Voter};

/// Pause between two rounds of giving space back that were asked for.
const RECLAIM_PAUSE: Duration = Duration::from_secs(2);

/// A running node, as the API, HTTP and housekeeping see it.
pub struct Node {
    /// Its configuration.
    pub config: Config,
    /// Its replica.
    pub replica: Replica,
    /// Its shelves.
    pub store: Arc<Store>,
    /// Its object stores.
    pub stores: Arc<Stores>,
    /// Free space of all voters, as far as it is known.
    pub spaces: Spaces,
    /// Reads of content for Fetch.
    pub reads: Reads,
    /// Where content is read to.
    pub(crate) buffers: Buffers,
    /// How many calls of a kind are worked on at once.
    pub(crate) turns: AllTurns,
    /// What clients on this machine have handed over.
    pub handed: Handed,
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
    /// A node of these, which has counted nothing yet but what `metrics` holds.
    pub fn new(
        config: Config,
        store: Arc<Store>,
        stores: Arc<Stores>,
        replica: Replica,
        metrics: Arc<Metrics>,
    ) -> Node {
        Node {
            stores,
            spaces: Spaces::default(),
            reads: Reads::default(),
            buffers: Buffers::default(),
            turns: AllTurns::default(),
            handed: Handed::default(),
            short: watch::Sender::new(None),
            reclaimed: Arc::default(),
            others: Client::new(Vec::<String>::new(), Options::default()),
            metrics,
            store,
            replica,
            config,
        }
    }

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

    /// How this node is now.
    pub fn vitals(&self) -> Vitals {
        Vitals::of(self.config.id, &self.replica, self.short.borrow().clone())
    }

    /// Free space here; reads memory and asks the file system.
    pub fn space(&self) -> std::io::Result<Space> {
        let space = Space::of(&self.config.data_dir, self.config.reserve)?;
        // What is to be hydrated comes as well, whenever its store gives it.
        let hydration = self.replica.hydration().bytes;
        let lacking = self.replica.transfer().borrow().lacking_bytes.saturating_add(hydration);
        Ok(Space { garbage: self.replica.machine().garbage().all_bytes(), lacking, ..space })
    }

    /// Asks all other voters for their space.
    pub async fn ask_voters(&self) {
        let others = || {
            let others = self.voters().into_iter().filter(|id| *id != self.config.id);
            others.map(|id| (id, self.peer(id).map(|(_, stub)| stub))).collect()
        };
        self.spaces.refresh(&self.replica, others).await;
    }

    /// How many voters are short of space, as far as they told it lately; this node too.
    pub fn full_voters(&self) -> usize {
        self.voters_space().iter().filter(|voter| voter.short.is_some()).count()
    }

    /// What is known of all voters while this node leads.
    pub(crate) fn voters_space(&self) -> Vec<Voter> {
        let own = self.config.id;
        let mut voters = self.spaces.of(self.voters().into_iter().filter(|id| *id != own));
        let held = self.replica.machine().ledger().brought_bytes();
        let (space, short) = (self.space().ok(), self.short.borrow().clone());
        voters.push(Voter { node: own, leads: true, space, held, short });
        voters
    }

    /// A text for whoever asks.
    pub fn outward(&self, text: impl AsRef<str>) -> String {
        outward::text(text.as_ref(), &self.config.data_dir)
    }

    /// A failure for whoever asks.
    pub fn outward_failure(&self, failure: Failure) -> Failure {
        outward::failure(failure, &self.config.data_dir)
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
}

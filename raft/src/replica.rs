//! One replica: the consensus, its log and its ledger, wired together. Start, stop, and the one
//! path on which a fault travels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nativelog::machine::Machine;
use nativelog::record::LogId;
use nativelog::store::LogStore;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::ReplicaConfig;
use crate::error::{ProposeError, StartError};
use crate::identity::Known;
use crate::keeper::Keeper;
use crate::leader::{self, Leadership};
use crate::log_store::RaftLog;
use crate::network::peers::Peers;
use crate::network::server::PeerService;
use crate::network::{Factory, server};
use crate::propose::InFlight;
use crate::space::{self, Refusal, VoterSpace};
use crate::state_machine::StateMachine;
use crate::transfer::gather::Gather;
use crate::transfer::install::Turn;
use crate::transfer::pace::Foreground;
use crate::transfer::serve::Service;
use crate::transfer::source::Source;
use crate::transfer::{Progress, Stop, Transfer};
use crate::types::Raft;
use crate::{clock, keeper, membership, proto, repair};

/// How long a leader that shuts down waits for somebody else to lead.
const HANDOVER: Duration = Duration::from_secs(2);
/// How long the one that shall lead may take to say that it is there.
const PROBE: Duration = Duration::from_millis(500);
/// Pause before it is asked again.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// A member of the cluster on this node. Clones share it. Needs a tokio runtime with several threads.
#[derive(Clone)]
pub struct Replica {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: ReplicaConfig,
    pub raft: Raft,
    pub log: LogStore,
    pub machine: Arc<Machine>,
    pub peers: Arc<Peers>,
    pub known: Arc<Known>,
    /// This node's leadership, while it leads.
    pub leadership: watch::Sender<Option<Arc<Leadership>>>,
    /// Bytes of unanswered proposals.
    pub in_flight: Arc<InFlight>,
    /// Bytes of unanswered entries from append streams.
    pub append_permits: Arc<Semaphore>,
    /// Sees when this node has a hand in commits.
    pub foreground: Arc<Foreground>,
    /// What this node is fetching.
    pub transfer: Arc<Progress>,
    /// One receiver at a time.
    pub transfer_turn: Turn,
    /// What peers may fetch here.
    pub content: Arc<Service>,
    /// Wakes the keeper.
    pub keeper: Arc<Keeper>,
    /// What is refused at the ingress at present, for want of space.
    pub refusal: Refusal,
    /// Why content is not proposed here at present.
    pub no_content: RwLock<Option<String>>,
    /// What the other voters told of their space.
    pub told: RwLock<BTreeMap<u64, VoterSpace>>,
    pub fatal: watch::Sender<Option<String>>,
    /// The ledger's digest at the position where it was last asked for.
    pub digest: Mutex<Option<(Option<LogId>, String)>>,
    closing: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Inner {
    /// Ok while proposals and reads are taken.
    pub fn running(&self) -> Result<(), ProposeError> {
        if let Some(why) = self.fatal.borrow().as_deref() {
            return Err(ProposeError::fault(why));
        }
        if *self.closing.borrow() {
            return Err(ProposeError::unavailable("this node is shutting down"));
        }
        Ok(())
    }

    /// Waits until the replica closes or can promise nothing any more.
    pub async fn ended(&self) {
        let (mut closing, mut fatal) = (self.closing.subscribe(), self.fatal.subscribe());
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            _ = fatal.wait_for(Option::is_some) => {}
        }
    }

    /// Why entries with content are not taken from a leader now. While there is a reason, space is short: what is
    /// garbage is given back at once, and nothing is fetched.
    pub fn takes_no_content(&self) -> Option<String> {
        self.refusal.why().or_else(|| self.stalled()).or_else(|| (self.config.room.0)())
    }

    /// Why content is not proposed here now: this node is short of space, or so many voters are that no majority would
    /// take it.
    pub fn proposes_no_content(&self) -> Option<String> {
        let own = self.no_content.read().unwrap_or_else(PoisonError::into_inner).clone();
        own.or_else(|| self.stalled()).or_else(|| {
            let refused = self.peers.short_lately();
            let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
            if refused.is_empty() && told.values().all(|told| told.short.is_none()) {
                return None;
            }
            let metrics = self.raft.metrics().borrow_watched().clone();
            let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            space::too_few_take_content(&voters, &refused, &told)
        })
    }

    /// Whether content from a leader is let in: there is room, or it is the bounded part that a node which is short
    /// takes all the same. `last` is the index of the last of these records.
    pub fn admit_content(&self, records: usize, payload: u64, last: u64) -> Result<(), String> {
        match self.takes_no_content() {
            Some(_) if self.stalled().is_none() && self.refusal.lets_in(records, payload, last) => Ok(()),
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// The log knows of a full disk before anybody has looked.
    fn stalled(&self) -> Option<String> {
        let stalled = self.log.stalled();
        let why = stalled.borrow();
        why.as_ref().map(|why| format!("node {} is short of space: {why}", self.config.node))
    }

    /// A way to bring content here; `stop` ends it.
    pub fn gather(&self, stop: Stop) -> Gather {
        let (peers, store) = (self.peers.clone(), self.machine.store().clone());
        Gather::new(peers, store, self.config.node, self.transfer.clone(), stop).with_room(&self.config.room)
    }

    /// True once this node stops.
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Keeps a background task until shutdown.
    pub fn keep(&self, task: JoinHandle<()>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    fn fail(&self, why: &str) {
        let first = self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                *fatal = Some(why.to_owned());
            }
            first
        });
        if first {
            tracing::error!(node = self.config.node, why, "this replica must stop");
        }
    }
}

impl Replica {
    /// Starts the replica over an open log and machine. It takes part as soon as the node serves
    /// [`Replica::service`]; nothing waits for that here.
    ///
    /// # Errors
    /// Settings that do not fit together, a log of somebody else, storage that cannot be read.
    pub async fn start(
        config: ReplicaConfig,
        log: LogStore,
        machine: Arc<Machine>,
    ) -> Result<Replica, StartError> {
        let settings = config.openraft().map_err(StartError::Config)?;
        let owner = log.owner();
        if owner.node != config.node || owner.incarnation != config.incarnation {
            return Err(StartError::Identity);
        }
        let known = Known::new(&config);
        let peers = Peers::new(&config, known.clone());
        let state_machine =
            StateMachine::new(machine.clone(), known.clone()).map_err(|e| StartError::Raft(e.to_string()))?;
        let raft = Raft::new(
            config.node,
            Arc::new(settings),
            Factory::new(peers.clone()),
            RaftLog::new(log.clone()),
            state_machine,
        )
        .await
        .map_err(|e| StartError::Raft(e.to_string()))?;
        let foreground = Arc::new(Foreground::default());
        let inner = Arc::new(Inner {
            raft,
            log,
            transfer: Arc::default(),
            transfer_turn: Turn::default(),
            content: Service::new(Source::new(machine.clone()), foreground.clone()),
            foreground,
            keeper: Arc::default(),
            machine,
            peers,
            known,
            leadership: watch::Sender::new(None),
            in_flight: InFlight::new(config.proposal_bytes() as u64),
            append_permits: Arc::new(Semaphore::new(config.append_bytes())),
            refusal: Refusal::default(),
            no_content: RwLock::new(None),
            told: RwLock::default(),
            fatal: watch::Sender::new(None),
            digest: Mutex::default(),
            closing: watch::Sender::new(false),
            tasks: Mutex::default(),
            config,
        });
        inner.keep(tokio::spawn(leader::follow(Arc::downgrade(&inner))));
        inner.keep(tokio::spawn(clock::run(Arc::downgrade(&inner))));
        inner.keep(tokio::spawn(keeper::run(Arc::downgrade(&inner))));
        inner.keep(tokio::spawn(repair::run(Arc::downgrade(&inner))));
        inner.keep(tokio::spawn(watch_log(inner.clone())));
        inner.keep(tokio::spawn(watch_raft(inner.clone())));
        Ok(Replica { inner })
    }

    /// The gRPC service for peers. Add it to the node's server, which should be
    /// [`network::server`](crate::network::server) or set up like it.
    pub fn service(&self) -> uncopied::Inlet<proto::peer_server::PeerServer<PeerService>> {
        server::service(self.inner.clone())
    }

    /// This node's id.
    pub fn node(&self) -> u64 {
        self.inner.config.node
    }

    /// The settings it was started with.
    pub fn config(&self) -> &ReplicaConfig {
        &self.inner.config
    }

    /// The ledger and its performer.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.inner.machine
    }

    /// The log.
    pub fn log(&self) -> &LogStore {
        &self.inner.log
    }

    /// The leader that this node knows; itself included.
    pub fn leader(&self) -> Option<u64> {
        self.inner.raft.server_metrics().borrow_watched().current_leader
    }

    /// True when no entry was proposed or taken in here for some seconds.
    pub fn is_idle(&self) -> bool {
        self.inner.foreground.is_idle()
    }

    /// True while this node leads and may judge proposals.
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.borrow().as_ref().is_some_and(|leadership| leadership.is_ready())
    }

    /// The address at which member `node` is reached.
    pub fn member_address(&self, node: u64) -> Option<String> {
        self.inner.peers.address(node)
    }

    /// The cluster's uuid, once the log says it.
    pub fn cluster(&self) -> Option<[u8; 16]> {
        self.inner.known.cluster()
    }

    /// Set once, when the replica can no longer promise anything: the node must exit non-zero.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.inner.fatal.subscribe()
    }

    /// Refuses appends that bring content or begin something, with the reason, until called with `None`: the
    /// node is short of space. Votes go on, and so do records that end, expire or seal; what is refused here is
    /// sent again later, and a part of it ([`crate::ReplicaConfig::in_flight_bytes`]) let in after a moment, so that
    /// what stands behind it in the log comes through. While it refuses, snapshots, purge and deletion run at once.
    pub fn refuse_appends(&self, why: Option<String>) {
        let short = why.is_some();
        self.inner.refusal.set(why, self.inner.config.append_bytes() as u64);
        if short {
            self.inner.keeper.wake();
        }
    }

    /// While this node leads, proposes nothing that brings content or begins something, with the reason, until
    /// called with `None`. Called before [`Replica::refuse_appends`] would be: what a leader has in its log has to
    /// reach the followers before anything that makes room can.
    pub fn refuse_content(&self, why: Option<String>) {
        *self.inner.no_content.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Takes what the other voters told of their space. While this node leads, it has no more on its way than each of
    /// them keeps free for it, and proposes no content while too few have room. Before the first call its own bound
    /// holds alone.
    pub fn heed(&self, told: BTreeMap<u64, VoterSpace>) {
        let own = self.inner.config.proposal_bytes() as u64;
        let least = told.values().map(|voter| voter.in_flight_bytes).min();
        self.inner.in_flight.set_bound(least.map_or(own, |least| own.min(least)));
        *self.inner.told.write().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// What this replica fetches from others, as it changes.
    pub fn transfer(&self) -> watch::Receiver<Transfer> {
        self.inner.transfer.watch()
    }

    /// Asks the leader, which must be this node, to hand over to `to`. Returns once asked.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), ProposeError> {
        self.inner.raft.trigger().transfer_leader(to).await.map_err(|fatal| crate::error::stopped(&fatal))
    }

    /// Stops the replica: takes nothing more in, answers what is on its way, hands over leadership,
    /// ends the consensus. The log and the machine are the caller's to shut down afterwards.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        if inner.closing.send_replace(true) {
            return;
        }
        self.drain().await;
        self.hand_over().await;
        if let Err(why) = inner.raft.shutdown().await {
            tracing::warn!(node = inner.config.node, %why, "the consensus did not end cleanly");
        }
        self.end();
    }

    /// Ends the consensus at once, as a crash would look to the others: nothing is handed over.
    pub async fn kill(&self) {
        let inner = &self.inner;
        inner.closing.send_replace(true);
        let _ = inner.raft.shutdown().await;
        self.end();
    }

    fn end(&self) {
        let inner = &self.inner;
        inner.in_flight.close();
        inner.append_permits.close();
        for task in inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        leader::end(inner);
    }

    /// Waits until every proposal is answered, as long as a majority answers at all.
    async fn drain(&self) {
        let _ = tokio::time::timeout(HANDOVER, self.inner.in_flight.drained()).await;
    }

    async fn hand_over(&self) {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        if !metrics.state.is_leader() {
            return;
        }
        let me = inner.config.node;
        let peers = metrics.replication.into_iter().flatten().filter(|(node, _)| *node != me);
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let best = peers.filter(|(node, _)| voters.contains(node)).max_by_key(|(_, matched)| *matched);
        let Some((to, Some(_))) = best else { return };
        if inner.raft.trigger().transfer_leader(to).await.is_ok() {
            let another =
                |now: &openraft::RaftMetrics<_>| now.current_leader.is_some_and(|leader| leader != me);
            let wait = inner.raft.wait(Some(HANDOVER));
            tokio::select! {
                _ = wait.metrics(another, "another leader") => {}
                why = self.gone(to) => {
                    tracing::info!(node = me, to, why, "nobody is there to hand leadership over to");
                }
            }
        }
    }
}

impl Replica {
    /// Returns when `node` does not answer or is stopping as well, and says so.
    async fn gone(&self, node: u64) -> String {
        loop {
            let asked = tokio::time::timeout(PROBE, membership::hello(&self.inner, node)).await;
            match asked {
                Ok(Ok(_)) => tokio::time::sleep(PROBE_PAUSE).await,
                Ok(Err(status)) => return status.message().to_owned(),
                Err(_) => return "no answer".to_owned(),
            }
        }
    }
}

/// A log that can no longer promise anything stops the node.
async fn watch_log(inner: Arc<Inner>) {
    let mut fatal = inner.log.fatal();
    if let Ok(why) = fatal.wait_for(Option::is_some).await {
        let why = why.clone().unwrap_or_default();
        inner.fail(&why);
    }
}

/// So does a consensus that has ended by itself.
async fn watch_raft(inner: Arc<Inner>) {
    let mut metrics = inner.raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        match state {
            Ok(()) => {}
            Err(Fatal::Stopped) if *inner.closing.borrow() => return,
            Err(why) => return inner.fail(&why.to_string()),
        }
        if metrics.changed().await.is_err() {
            if !*inner.closing.borrow() {
                inner.fail("the consensus ended");
            }
            return;
        }
    }
}

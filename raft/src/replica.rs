//! One replica, wired together: the public facade. It builds the rooms, starts what goes on in them, and ends it;
//! what they do is theirs. Nothing in this crate knows it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::JobName;
use checkpoint::store::Reclaimed;
use futures::Stream;
use nativelog::machine::Machine;
use nativelog::record::{LogId, LogRecord};
use nativelog::store::LogStore;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::agreement::Agreement;
use crate::config::ReplicaConfig;
use crate::consensus::{Consensus, settings};
use crate::depot::Hydrate;
use crate::error::{ProposeError, StartError};
use crate::hand_over::HandOver;
use crate::identity::Known;
use crate::intake::{Intake, VoterSpace};
use crate::keeper::{KeepError, Keeper};
use crate::leader::Leading;
use crate::life::Life;
use crate::membership::{self, Members};
use crate::network::Factory;
use crate::network::door::{self, Proven};
use crate::network::peers::Peers;
use crate::peer::{self, PeerService};
use crate::propose::{Outcome, ProposalStream, Proposer};
use crate::quarantine::Quarantine;
use crate::quorum::{CutOff, Quorum};
use crate::read::Reads;
use crate::release::{self, Deletes};
use crate::repair::{Contents, Hydration, Hydrator, Mender, Payloads, RepairError, RepairReport, Site};
use crate::status::{Reporter, Standing, Status};
use crate::transfer::serve::Service;
use crate::transfer::source::Source;
use crate::transfer::{Hydrating, Line, Transfer, Transfers};
use crate::{clock, ending, proto, snapshot, upgrade};

/// A member of the cluster on this node. Clones share it. Needs a tokio runtime with several threads.
#[derive(Clone)]
pub struct Replica {
    rooms: Arc<Rooms>,
}

struct Rooms {
    config: Arc<ReplicaConfig>,
    log: LogStore,
    life: Arc<Life>,
    reads: Reads,
    keeper: Arc<Keeper>,
    mender: Arc<Mender>,
    deletes: Arc<Deletes>,
    for_peers: Arc<peer::Rooms>,
}

/// Ways to the rooms.
impl Replica {
    fn proposer(&self) -> &Arc<Proposer> {
        &self.rooms.for_peers.proposer
    }

    fn members(&self) -> &Arc<Members> {
        &self.rooms.for_peers.members
    }

    fn reporter(&self) -> &Arc<Reporter> {
        &self.rooms.for_peers.reporter
    }

    fn leading(&self) -> &Arc<Leading> {
        &self.proposer().leading
    }

    fn intake(&self) -> &Arc<Intake> {
        &self.proposer().intake
    }

    fn consensus(&self) -> &Consensus {
        &self.proposer().consensus
    }
}

impl Replica {
    /// Whether a start with these members, configured as [`ReplicaConfig::members`], would accept the membership that the
    /// node's disk holds.
    ///
    /// # Errors
    /// [`StartError`] as the start would say it.
    pub fn check_members(
        members: &[(u64, String)],
        on_disk: Option<&(LogId, bytes::Bytes)>,
    ) -> Result<(), StartError> {
        let logged = snapshot::members_in(on_disk).map_err(|error| StartError::Raft(error.to_string()))?;
        membership::agree(members, &logged).map_err(StartError::Members)
    }

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
        settings(&config).map_err(StartError::Config)?;
        let (owner, node) = (log.owner(), config.node);
        if owner.node != node || owner.incarnation != config.incarnation {
            return Err(StartError::Identity);
        }
        let logged = snapshot::logged(&log, &machine).map_err(|error| StartError::Raft(error.to_string()))?;
        membership::agree(&config.members, &logged).map_err(StartError::Members)?;
        let config = Arc::new(config);
        let life = Life::new(node);
        let intake = Intake::new(&config, log.clone(), machine.clone());
        let known = Known::new(&config);
        let peers = Peers::new(&config, known.clone());
        let agreement = Agreement::new(known.clone(), machine.clone(), log.clone());
        let clients = Factory::new(peers.clone(), intake.heard().clone(), agreement.clone());
        let consensus = Consensus::start(&config, clients, &log, &machine, &known, &agreement, &life).await?;
        let quorum = Quorum::new(&config, consensus.clone(), peers.clone(), life.clone());
        let leading = Leading::new(node, consensus.clone(), quorum.clone(), life.clone());
        let hand_over = HandOver::new(
            &config,
            leading.clone(),
            consensus.clone(),
            peers.clone(),
            intake.heard().clone(),
            log.clone(),
            life.clone(),
        );
        let proposer = Arc::new(Proposer {
            config: config.clone(),
            leading: leading.clone(),
            intake: intake.clone(),
            consensus: consensus.clone(),
            machine: machine.clone(),
            peers: peers.clone(),
            life: life.clone(),
        });
        let members =
            Arc::new(Members { proposer: proposer.clone(), known: known.clone(), log: log.clone() });
        let keeper = Keeper::new(
            node,
            config.keeping.clone(),
            machine.clone(),
            log.clone(),
            consensus.clone(),
            intake.clone(),
            life.clone(),
        );
        let hydrating = Hydrating::default();
        let line = Line::new(config.stores.clone(), hydrating.clone());
        let transfers = Transfers::new(
            node,
            peers.clone(),
            machine.clone(),
            consensus.clone(),
            intake.clone(),
            keeper.clone(),
            Arc::new(proposer.clone()),
            (line, config.hydrate == Hydrate::Store),
        );
        let quarantine =
            Quarantine::new(node, machine.clone(), consensus.clone(), Arc::new(proposer.clone()));
        let payloads = Payloads {
            node,
            log: log.clone(),
            transfers: transfers.clone(),
            consensus: consensus.clone(),
            intake: intake.clone(),
            life: life.clone(),
            keeper: keeper.clone(),
        };
        let contents = Arc::new(Contents {
            node,
            machine: machine.clone(),
            transfers: transfers.clone(),
            life: life.clone(),
            quarantine,
        });
        let site = Site { node, machine: machine.clone() };
        let hydrator =
            Hydrator::new(site.clone(), transfers.clone(), contents.clone(), intake.clone(), life.clone());
        let mender = Arc::new(Mender {
            site,
            payloads,
            contents,
            hydrator,
            transfers: transfers.clone(),
            intake: intake.clone(),
            life: life.clone(),
        });
        let reporter = Reporter::new(
            config.clone(),
            consensus.clone(),
            machine.clone(),
            log.clone(),
            known.clone(),
            peers.clone(),
            life.clone(),
        );
        let content = Service::new(Source::new(machine.clone(), hydrating), intake.foreground().clone());
        let reads = Reads {
            config: config.clone(),
            leading: leading.clone(),
            consensus: consensus.clone(),
            machine,
            peers,
            life: life.clone(),
        };
        life.keep(tokio::spawn(leading.follow()));
        life.keep(tokio::spawn(quorum.run()));
        life.keep(tokio::spawn(hand_over.clone().run()));
        life.keep(tokio::spawn(members.clone().follow()));
        life.keep(tokio::spawn(members.clone().lead()));
        life.keep(tokio::spawn(clock::run(proposer.clone())));
        life.keep(tokio::spawn(upgrade::run(proposer.clone())));
        let deletes = Deletes::new(proposer.clone());
        life.keep(tokio::spawn(release::run(deletes.clone())));
        life.keep(tokio::spawn(keeper.clone().run()));
        life.keep(tokio::spawn(mender.clone().run()));
        ending::watch(log.clone(), consensus, agreement.clone(), &life);
        let for_peers = peer::Rooms { proposer, members, transfers, content, reporter, hand_over, agreement };
        let for_peers = Arc::new(for_peers);
        let rooms = Rooms { config, log, life, reads, keeper, mender, deletes, for_peers };
        Ok(Replica { rooms: Arc::new(rooms) })
    }

    /// The gRPC service for peers, alone on a server of its own, which should be
    /// [`network::server`](crate::network::server) or set up like it. It hears only who came through [`Replica::door`].
    pub fn service(&self) -> uncopied::Inlet<proto::peer_server::PeerServer<PeerService>> {
        peer::service(self.rooms.for_peers.clone())
    }

    /// Of the connections that come in, those whose other side has proved the secret of the cluster.
    pub fn door<S>(&self, incoming: S) -> impl Stream<Item = io::Result<Proven>> + Send + use<S>
    where
        S: Stream<Item = io::Result<TcpStream>> + Send,
    {
        door::proven(self.members().known.clone(), incoming)
    }

    /// This node's id.
    pub fn node(&self) -> u64 {
        self.rooms.config.node
    }

    /// The settings it was started with.
    pub fn config(&self) -> &ReplicaConfig {
        &self.rooms.config
    }

    /// The ledger and its performer.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.proposer().machine
    }

    /// The log.
    pub fn log(&self) -> &LogStore {
        &self.rooms.log
    }

    /// The leader that this node knows; itself included.
    pub fn leader(&self) -> Option<u64> {
        self.consensus().leader()
    }

    /// Why nothing can be committed or read through this node now: it has no majority, or no way to the leader.
    pub fn cut_off(&self) -> Option<CutOff> {
        self.leading().quorum.cut_off()
    }

    /// Returns, with the reason in words, when other members know this node with another data folder, while there is
    /// nothing in this one: it was wiped, and what it promised is lost. It must not come back under this id.
    pub async fn wiped(&self) -> String {
        self.members().wiped().await
    }

    /// For how long `node` has not answered, when that is longer than it should be: whoever asks how all are does
    /// better not to wait for it.
    pub fn silence(&self, node: u64) -> Option<Duration> {
        self.proposer().peers.silent(node).filter(|_| node != self.node())
    }

    /// Whether `node` was there last with another data folder than the log knows: then it cannot come back.
    pub fn is_wiped(&self, node: u64) -> bool {
        self.leading().quorum.is_wiped(node)
    }

    /// Steps down when this node leads: it says nothing to the others for two election timeouts.
    pub(crate) fn step_down(&self, why: &str) {
        self.rooms.for_peers.hand_over.step_down(why);
    }

    /// True when no entry was proposed or taken in here for some seconds.
    pub fn is_idle(&self) -> bool {
        self.intake().foreground().is_idle()
    }

    /// True while this node leads and may judge proposals.
    pub fn is_leader(&self) -> bool {
        self.leading().now().is_some_and(|leadership| leadership.is_ready())
    }

    /// The address at which clients reach `node`, as it has told itself; `None` while it has not.
    pub fn clients_at(&self, node: u64) -> Option<String> {
        self.proposer().peers.clients_at(node)
    }

    /// The members that do not know the rules of this version, and up to which each does: `None` for one that has not said so
    /// since this node runs, 0 for one of before anybody said so. What needs these rules waits for these nodes.
    pub fn too_old_for(&self, rules: u32) -> Vec<(u64, Option<u32>)> {
        upgrade::too_old(self.proposer(), rules)
    }

    /// The cluster's uuid, once the log says it.
    pub fn cluster(&self) -> Option<[u8; 16]> {
        self.members().known.cluster()
    }

    /// Set once, when the replica can no longer promise anything: the node must exit non-zero.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.rooms.life.fatal()
    }

    /// Refuses appends that bring content or begin something, with the reason, until called with `None`: the
    /// node is short of space. Votes go on, and so do records that end, expire or seal; what is refused here is
    /// sent again later, and a part of it ([`crate::ReplicaConfig::in_flight_bytes`]) let in after a moment, so that
    /// what stands behind it in the log comes through. While it refuses, snapshots, purge and deletion run at once.
    pub fn refuse_appends(&self, why: Option<String>) {
        let short = why.is_some();
        self.intake().refuse_appends(why);
        if short {
            self.rooms.keeper.wake();
        }
    }

    /// While this node leads, proposes nothing that brings content or begins something, with the reason, until
    /// called with `None`. Called before [`Replica::refuse_appends`] would be: what a leader has in its log has to
    /// reach the followers before anything that makes room can.
    pub fn refuse_content(&self, why: Option<String>) {
        self.intake().refuse_content(why);
    }

    /// Takes what the other voters told of their space. While this node leads, it has no more on its way than each of
    /// them keeps free for it, and proposes no content while too few have room. Before the first call its own bound
    /// holds alone.
    pub fn heed(&self, told: BTreeMap<u64, VoterSpace>) {
        self.intake().heed(told);
    }

    /// What this replica fetches from others, as it changes.
    pub fn transfer(&self) -> watch::Receiver<Transfer> {
        self.rooms.for_peers.transfers.progress().watch()
    }

    /// What this replica is still to bring of epochs that lie in stores. Its room is spoken for.
    pub fn hydration(&self) -> Hydration {
        self.rooms.mender.hydrator.report()
    }

    /// Deletes in object stores, while this node leads.
    pub fn deletes(&self) -> &Deletes {
        &self.rooms.deletes
    }

    /// Asks the leader, which must be this node, to hand over to `to`. Returns once asked.
    ///
    /// # Errors
    /// When the replica has stopped.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), ProposeError> {
        self.consensus().hand_over(to).await
    }
}

/// Records and reads.
impl Replica {
    /// Proposes one record to the leader and waits for the verdict.
    ///
    /// While a leader is sought, and as long as the record is surely not in the log, it tries again
    /// for [`ReplicaConfig::leader_patience`].
    ///
    /// # Errors
    /// [`ProposeError`]; a rejection is no error.
    pub async fn propose(&self, record: LogRecord) -> Outcome {
        self.proposer().propose(record).await
    }

    /// Opens a pipelined stream of proposals to the present leader, tied to its term.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when there is no leader for a while; faults.
    pub async fn stream(&self) -> Result<ProposalStream, ProposeError> {
        self.proposer().stream().await
    }

    /// Returns when the local ledger has applied at least everything that was committed when this
    /// was called, and says up to where that was.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] without a majority or leader for [`ReplicaConfig::leader_patience`]; faults.
    pub async fn read_barrier(&self) -> Result<LogId, ProposeError> {
        self.rooms.reads.barrier().await
    }

    /// Waits until the local ledger has applied `index`.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] after `time`, or when the replica stops.
    pub async fn wait_applied(&self, index: u64, time: Duration) -> Result<(), ProposeError> {
        self.rooms.reads.wait_applied(index, time).await
    }
}

/// Upkeep and state.
impl Replica {
    /// Initialises a new cluster in the background when that is this node's part: it is the lowest
    /// of the initial members and empty. Returns at once; a node that is part of a cluster, or not
    /// the lowest, does nothing.
    pub fn initialize_when_ready(&self) {
        self.rooms.life.keep(tokio::spawn(self.members().clone().initialize()));
    }

    /// Takes snapshots, purges the log as far as it may be, and gives back what waits, at once.
    ///
    /// # Errors
    /// [`KeepError`]; what was done stays done.
    pub async fn reclaim_now(&self) -> Result<Reclaimed, KeepError> {
        self.rooms.keeper.reclaim_now().await
    }

    /// Reads an epoch that is published here and compares it with its manifest; what does not verify is
    /// refetched from peers and put in place. An epoch that is missing here is published.
    ///
    /// # Errors
    /// [`RepairError`].
    pub async fn repair_epoch(&self, job: &JobName, epoch: u64) -> Result<RepairReport, RepairError> {
        self.rooms.mender.epoch(job, epoch).await
    }

    /// What other nodes said that contradicts this one, which leads or led, by node: until they follow again. Of each
    /// two, one has lost what it had acknowledged.
    pub fn contradictions(&self) -> BTreeMap<u64, String> {
        self.rooms.for_peers.agreement.told()
    }

    /// Where it stands. Digests nothing.
    pub fn standing(&self) -> Standing {
        self.reporter().standing()
    }

    /// This replica's state. Digesting the ledger takes time with its size.
    pub fn status(&self) -> Status {
        self.reporter().status()
    }

    /// The state of every member, each asked itself; the error says why one did not answer.
    pub async fn status_of_all(&self) -> BTreeMap<u64, Result<Status, String>> {
        self.reporter().status_of_all().await
    }
}

/// The end.
impl Replica {
    /// Stops the replica: takes nothing more in, answers what is on its way, hands over leadership,
    /// ends the consensus. The log and the machine are the caller's to shut down afterwards.
    pub async fn shutdown(&self) {
        if self.rooms.life.close() {
            return;
        }
        // As long as a majority answers at all.
        let _ = tokio::time::timeout(ending::HANDOVER, self.intake().drained()).await;
        ending::hand_over(self.node(), self.consensus(), self.members()).await;
        self.consensus().shutdown().await;
        self.end();
    }

    /// Ends the consensus at once, as a crash would look to the others: nothing is handed over.
    pub async fn kill(&self) {
        self.rooms.life.close();
        self.consensus().shutdown().await;
        self.end();
    }

    fn end(&self) {
        self.intake().close();
        self.rooms.life.end();
        self.leading().end();
    }
}

//! What a replica knows about itself. Each node is asked itself; nobody reports about another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use nativelog::ledger::RULES_VERSION_MAX;
use nativelog::machine::{Machine, Marks};
use nativelog::record::LogId;
use nativelog::store::LogStore;
use serde::Serialize;

use crate::config::ReplicaConfig;
use crate::consensus::Consensus;
use crate::identity::{Check, Known, hex};
use crate::life::Life;
use crate::network::peers::{Lane, Peers};
use crate::positions::{from_position, position};
use crate::proto;

/// How long another node has for its status.
const PATIENCE: Duration = Duration::from_secs(2);

/// One replica's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Its node id.
    pub node: u64,
    /// Its incarnation, in hex.
    pub incarnation: String,
    /// The cluster's uuid in hex; empty before the first record.
    pub cluster: String,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: String,
    /// The term it is in.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<u64>,
    /// Node ids that vote.
    pub voters: Vec<u64>,
    /// Addresses of all members.
    pub members: BTreeMap<u64, String>,
    /// On the leader: how far each peer is.
    pub peers: BTreeMap<u64, Lag>,
    /// Last entry of its log.
    pub last: Option<LogId>,
    /// Last entry that it knows to be committed.
    pub committed: Option<LogId>,
    /// Last entry applied to its ledger; `ledger_digest` is the ledger's at this position.
    pub applied: Option<LogId>,
    /// Equal positions mean equal digests on all replicas; hex.
    pub ledger_digest: String,
    /// How far it is, in counts of entries.
    pub marks: Marks,
    /// Version of the ledger's rules in force.
    pub rules: u32,
    /// The highest version that its binary knows; 0 for one of before anybody said so.
    pub rules_known: u32,
    /// Why the node must stop, if it must.
    pub fatal: Option<String>,
}

/// How far a peer is behind the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Last entry that it has in common with the leader.
    pub matched: Option<LogId>,
    /// Entries it lacks.
    pub entries: u64,
}

/// Where a replica stands in the cluster: what its metrics need, at no cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The term it is in.
    pub term: u64,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: &'static str,
    /// On the leader: entries that each peer lacks.
    pub lags: BTreeMap<u64, u64>,
}

/// Answers for the state of one replica, and asks the others for theirs.
pub(crate) struct Reporter {
    config: Arc<ReplicaConfig>,
    consensus: Consensus,
    machine: Arc<Machine>,
    log: LogStore,
    known: Arc<Known>,
    peers: Arc<Peers>,
    life: Arc<Life>,
}

impl Reporter {
    /// A reporter of this replica.
    pub fn new(
        config: Arc<ReplicaConfig>,
        consensus: Consensus,
        machine: Arc<Machine>,
        log: LogStore,
        known: Arc<Known>,
        peers: Arc<Peers>,
        life: Arc<Life>,
    ) -> Arc<Reporter> {
        Arc::new(Reporter { config, consensus, machine, log, known, peers, life })
    }

    /// Entries that the log holds or held.
    fn next_index(&self) -> u64 {
        self.log.log_state().1.map_or(0, |last| last.index + 1)
    }

    /// Where it stands, without the ledger.
    pub fn standing(&self) -> Standing {
        let (now, next, me) = (self.consensus.view(), self.next_index(), self.config.node);
        let peers = now.matched.iter().filter(|(node, _)| **node != me);
        let lags = peers.map(|(node, matched)| (*node, lag(next, *matched).entries)).collect();
        Standing { term: now.term, role: now.role, lags }
    }

    /// This replica's state.
    pub fn status(&self) -> Status {
        let (now, next, me) = (self.consensus.view(), self.next_index(), self.config.node);
        let (applied, ledger_digest, rules) = {
            let ledger = self.machine.ledger();
            (ledger.applied(), ledger.digest().to_string(), ledger.rules())
        };
        let peers = now.matched.iter().filter(|(node, _)| **node != me);
        Status {
            node: me,
            incarnation: hex(&self.known.incarnation()),
            cluster: self.known.cluster().map(|id| hex(&id)).unwrap_or_default(),
            role: now.role.to_owned(),
            term: now.term,
            leader: now.leader,
            voters: now.voters,
            members: now.members.into_iter().collect(),
            peers: peers.map(|(node, matched)| (*node, lag(next, *matched))).collect(),
            last: self.log.log_state().1,
            committed: now.committed,
            applied,
            ledger_digest,
            marks: self.machine.marks(),
            rules,
            rules_known: RULES_VERSION_MAX,
            fatal: self.life.fatal().borrow().clone(),
        }
    }

    /// The state of every member, each asked itself; the error says why one did not answer.
    pub async fn status_of_all(&self) -> BTreeMap<u64, Result<Status, String>> {
        let own = self.status();
        let mut nodes: Vec<u64> = own.members.keys().copied().collect();
        nodes.extend(self.config.members.iter().map(|(node, _)| *node));
        nodes.sort_unstable();
        nodes.dedup();
        let asked = nodes.into_iter().filter(|node| *node != own.node).map(|node| async move {
            let asked = tokio::time::timeout(PATIENCE, self.ask(node)).await;
            (node, asked.unwrap_or_else(|_| Err(format!("no answer for {PATIENCE:?}"))))
        });
        let mut all: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
        all.insert(own.node, Ok(own));
        all
    }

    async fn ask(&self, node: u64) -> Result<Status, String> {
        let words = |status: tonic::Status| status.message().to_owned();
        let mut client = self.peers.member(node, Lane::Forward, Check::Full).map_err(words)?;
        let reply = client.status(proto::StatusRequest {}).await.map_err(words)?;
        Ok(from_proto(reply.into_inner()))
    }
}

fn lag(next: u64, matched: Option<LogId>) -> Lag {
    Lag { matched, entries: next - matched.map_or(0, |at| at.index + 1).min(next) }
}

/// A status for the wire.
pub(crate) fn to_proto(status: Status) -> proto::StatusReply {
    proto::StatusReply {
        node: status.node,
        incarnation: status.incarnation,
        cluster: status.cluster,
        role: status.role,
        term: status.term,
        leader: status.leader,
        voters: status.voters,
        members: status.members.into_iter().map(|(node, address)| proto::Member { node, address }).collect(),
        peers: status
            .peers
            .into_iter()
            .map(|(node, lag)| proto::Lag { node, matched: lag.matched.map(position), entries: lag.entries })
            .collect(),
        last: status.last.map(position),
        committed: status.committed.map(position),
        applied: status.applied.map(position),
        ledger_digest: status.ledger_digest,
        mark_snapshot: status.marks.snapshot,
        mark_performed: status.marks.performed,
        mark_applied: status.marks.applied,
        mark_flushed: status.marks.flushed,
        fatal: status.fatal.unwrap_or_default(),
        rules: status.rules,
        rules_known: status.rules_known,
    }
}

fn from_proto(reply: proto::StatusReply) -> Status {
    let id = |at: Option<proto::Position>| at.as_ref().map(from_position);
    let peers = reply.peers.into_iter().map(|lag| {
        (lag.node, Lag { matched: lag.matched.as_ref().map(from_position), entries: lag.entries })
    });
    Status {
        node: reply.node,
        incarnation: reply.incarnation,
        cluster: reply.cluster,
        role: reply.role,
        term: reply.term,
        leader: reply.leader,
        voters: reply.voters,
        members: reply.members.into_iter().map(|member| (member.node, member.address)).collect(),
        peers: peers.collect(),
        last: id(reply.last),
        committed: id(reply.committed),
        applied: id(reply.applied),
        ledger_digest: reply.ledger_digest,
        marks: Marks {
            snapshot: reply.mark_snapshot,
            performed: reply.mark_performed,
            applied: reply.mark_applied,
            flushed: reply.mark_flushed,
        },
        rules: reply.rules,
        rules_known: reply.rules_known,
        fatal: Some(reply.fatal).filter(|why| !why.is_empty()),
    }
}

//! What a replica knows about itself. Each node is asked itself; nobody reports about another.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use futures::future::join_all;
use nativelog::machine::Marks;
use nativelog::record::LogId;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use serde::Serialize;

use crate::identity::{Check, hex};
use crate::network::convert::{from_position, position};
use crate::network::peers::Lane;
use crate::proto;
use crate::replica::{Inner, Replica};
use crate::types::log_id;

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

impl Replica {
    /// Where it stands. Digests nothing.
    pub fn standing(&self) -> Standing {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let next = self.inner.log.log_state().1.map_or(0, |last| last.index + 1);
        let me = self.inner.config.node;
        let peers = metrics.replication.iter().flatten().filter(|(node, _)| **node != me);
        let behind =
            |matched: &Option<_>| next - matched.as_ref().map_or(0, |at| log_id(at).index + 1).min(next);
        let lags = peers.map(|(node, matched)| (*node, behind(matched))).collect();
        Standing { term: metrics.current_term, role: role(metrics.state), lags }
    }
}

impl Replica {
    /// This replica's state. Digesting the ledger takes time with its size.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// The state of every member, each asked itself; the error says why one did not answer.
    pub async fn status_of_all(&self) -> BTreeMap<u64, Result<Status, String>> {
        let own = self.inner.status();
        let mut nodes: Vec<u64> = own.members.keys().copied().collect();
        nodes.extend(self.inner.config.members.iter().map(|(node, _)| *node));
        nodes.sort_unstable();
        nodes.dedup();
        let inner = &self.inner;
        let asked = nodes.into_iter().filter(|node| *node != own.node).map(|node| async move {
            let asked = tokio::time::timeout(PATIENCE, ask(inner, node)).await;
            (node, asked.unwrap_or_else(|_| Err(format!("no answer for {PATIENCE:?}"))))
        });
        let mut all: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
        all.insert(own.node, Ok(own));
        all
    }
}

async fn ask(inner: &Inner, node: u64) -> Result<Status, String> {
    let words = |status: tonic::Status| status.message().to_owned();
    let mut client = inner.peers.member(node, Lane::Forward, Check::Full).map_err(words)?;
    let reply = client.status(proto::StatusRequest {}).await.map_err(words)?;
    Ok(from_proto(reply.into_inner()))
}

impl Inner {
    pub(crate) fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let (applied, ledger_digest) = self.ledger_digest();
        let last = self.log.log_state().1;
        let next = last.map_or(0, |last| last.index + 1);
        let peers = metrics.replication.iter().flatten().filter(|(node, _)| **node != self.config.node);
        let lag = |matched: Option<LogId>| Lag {
            matched,
            entries: next - matched.map_or(0, |at| at.index + 1).min(next),
        };
        Status {
            node: self.config.node,
            incarnation: hex(&self.known.incarnation()),
            cluster: self.known.cluster().map(|id| hex(&id)).unwrap_or_default(),
            role: role(metrics.state).to_owned(),
            term: metrics.current_term,
            leader: metrics.current_leader,
            voters: metrics.membership_config.voter_ids().collect(),
            members: metrics.membership_config.nodes().map(|(node, at)| (*node, at.addr.clone())).collect(),
            peers: peers.map(|(node, matched)| (*node, lag(matched.as_ref().map(log_id)))).collect(),
            last,
            committed: metrics.cluster_committed.as_ref().map(log_id),
            applied,
            ledger_digest,
            marks: self.machine.marks(),
            fatal: self.fatal.borrow().clone(),
        }
    }
}

impl Inner {
    /// The last applied position and the ledger's digest there. Digested once per position.
    fn ledger_digest(&self) -> (Option<LogId>, String) {
        let mut last = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = self.machine.ledger();
        let applied = ledger.applied();
        if let Some((at, digest)) = &*last
            && *at == applied
        {
            return (applied, digest.clone());
        }
        let digest = ledger.digest().to_string();
        *last = Some((applied, digest.clone()));
        (applied, digest)
    }
}

fn role(state: ServerState) -> &'static str {
    match state {
        ServerState::Learner => "learner",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Leader => "leader",
        ServerState::Shutdown => "shutdown",
    }
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
        fatal: Some(reply.fatal).filter(|why| !why.is_empty()),
    }
}

//! The beginning of a cluster, and who belongs to it.
//!
//! A cluster is initialised once, by the lowest of its initial members, and only when all of them
//! answer and are empty. The first leader's first record (Genesis) fixes the cluster's uuid and the
//! incarnation of every member that it can reach; a member that comes later gets a Join record.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::future::join_all;
use nativelog::compose;
use openraft::BasicNode;
use openraft::async_runtime::watch::WatchReceiver;
use tonic::Status;

use crate::identity::{Check, hex};
use crate::leader::Leadership;
use crate::network::peers::Lane;
use crate::propose::propose_tied;
use crate::proto;
use crate::replica::{Inner, Replica};

/// How long a member has for an introduction.
const HELLO: Duration = Duration::from_secs(2);
/// How long the first leader waits for members before it goes without them.
const GENESIS_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between rounds.
const ROUND: Duration = Duration::from_millis(200);
/// Pause between looks for newcomers.
const WATCH: Duration = Duration::from_secs(1);
/// The same obstacle is logged once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Asks `node` who it is.
pub(crate) async fn hello(inner: &Inner, node: u64) -> Result<proto::HelloReply, Status> {
    if node == inner.config.node {
        return Ok(inner.hello());
    }
    let mut client = inner.peers.member(node, Lane::Control, Check::Introduction)?;
    let reply = tokio::time::timeout(HELLO, client.hello(proto::HelloRequest {})).await;
    let reply = reply.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
    if reply.node != node || reply.incarnation.len() != 16 {
        return Err(Status::failed_precondition(format!(
            "node {} answers at the address of node {node}",
            reply.node
        )));
    }
    Ok(reply)
}

impl Inner {
    /// This node's introduction.
    pub(crate) fn hello(&self) -> proto::HelloReply {
        let (purged, last) = self.log.log_state();
        let members = self.config.members.iter();
        proto::HelloReply {
            node: self.config.node,
            incarnation: self.known.incarnation().to_vec().into(),
            cluster: self.known.cluster().map(|id| id.to_vec().into()).unwrap_or_default(),
            empty: self.log.vote().is_none() && purged.is_none() && last.is_none(),
            initial_members: members
                .map(|(node, address)| proto::Member { node: *node, address: address.clone() })
                .collect(),
        }
    }
}

impl Replica {
    /// Initialises a new cluster in the background when that is this node's part: it is the lowest
    /// of the initial members and empty. Returns at once; a node that is part of a cluster, or not
    /// the lowest, does nothing.
    pub fn initialize_when_ready(&self) {
        let lowest = self.inner.config.members.iter().map(|(node, _)| *node).min();
        if lowest == Some(self.inner.config.node) && self.inner.hello().empty {
            let inner = Arc::downgrade(&self.inner);
            self.inner.keep(tokio::spawn(initialize(inner)));
        }
    }
}

async fn initialize(inner: Weak<Inner>) {
    let mut said: Option<(String, Instant)> = None;
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if inner.running().is_err() || !inner.hello().empty {
            return;
        }
        match all_empty(&inner).await {
            Ok(()) => {
                let members = inner.config.members.iter();
                let members: BTreeMap<_, _> =
                    members.map(|(node, address)| (*node, BasicNode::new(address))).collect();
                match inner.raft.initialize(members).await {
                    Ok(()) => {
                        tracing::info!(node = inner.config.node, "a new cluster is initialised");
                        return;
                    }
                    Err(why) => {
                        tracing::warn!(node = inner.config.node, %why, "the cluster is not initialised")
                    }
                }
            }
            Err(why) => {
                let due = said.as_ref().is_none_or(|(last, at)| *last != why || at.elapsed() >= SAY_AGAIN);
                if due {
                    tracing::info!(node = inner.config.node, why, "waiting to initialise the cluster");
                    said = Some((why, Instant::now()));
                }
            }
        }
        drop(inner);
        tokio::time::sleep(ROUND).await;
    }
}

/// Ok when every initial member answers, is empty and has the same list of initial members.
async fn all_empty(inner: &Inner) -> Result<(), String> {
    let mine = sorted(inner.hello().initial_members);
    let asked = join_all(
        inner.config.members.iter().map(|(node, _)| async move { (*node, hello(inner, *node).await) }),
    );
    for (node, reply) in asked.await {
        let reply = reply.map_err(|status| format!("node {node}: {}", status.message()))?;
        if !reply.empty {
            let whose =
                if reply.cluster.is_empty() { String::new() } else { format!(" {}", hex(&reply.cluster)) };
            return Err(format!(
                "node {node} belongs to a cluster{whose} already, this node is empty: \
                 if its data folder was wiped, it must not come back under this id"
            ));
        }
        if sorted(reply.initial_members) != mine {
            return Err(format!("node {node} is configured with other initial_members"));
        }
    }
    Ok(())
}

fn sorted(members: Vec<proto::Member>) -> Vec<(u64, String)> {
    let mut members: Vec<_> = members.into_iter().map(|member| (member.node, member.address)).collect();
    members.sort();
    members
}

/// A new leader's duty: Genesis when the log has none, then `ready`, then a Join for every member
/// whose incarnation the log lacks. Runs until the leadership ends.
pub(crate) async fn identify(inner: &Weak<Inner>, leadership: &Arc<Leadership>, ready: impl FnOnce()) {
    let began = Instant::now();
    let mut ready = Some(ready);
    loop {
        let Some(inner) = inner.upgrade() else { return };
        if inner.running().is_err() {
            return;
        }
        if inner.known.cluster().is_none() {
            genesis(&inner, leadership, began.elapsed() >= GENESIS_PATIENCE).await;
        }
        if inner.known.cluster().is_some() {
            if let Some(ready) = ready.take() {
                ready();
            }
            join_newcomers(&inner, leadership).await;
        }
        drop(inner);
        tokio::time::sleep(if ready.is_some() { ROUND } else { WATCH }).await;
    }
}

fn member_ids(inner: &Inner) -> Vec<u64> {
    let metrics = inner.raft.server_metrics();
    let members = metrics.borrow_watched().membership_config.clone();
    members.nodes().map(|(node, _)| *node).collect()
}

fn voters(inner: &Inner) -> usize {
    let metrics = inner.raft.server_metrics();
    let members = metrics.borrow_watched().membership_config.clone();
    members.voter_ids().count()
}

/// Asks `nodes` for their incarnations; those that do not answer are left out.
async fn incarnations(inner: &Inner, nodes: &[u64]) -> Vec<(u64, [u8; 16])> {
    let asked = nodes.iter().map(|node| async move { hello(inner, *node).await.ok() });
    let replies = join_all(asked).await.into_iter().flatten();
    replies.filter_map(|reply| Some((reply.node, reply.incarnation[..].try_into().ok()?))).collect()
}

async fn genesis(inner: &Arc<Inner>, leadership: &Arc<Leadership>, late: bool) {
    let nodes = member_ids(inner);
    let members = incarnations(inner, &nodes).await;
    let enough = if late { voters(inner) / 2 + 1 } else { nodes.len() };
    if members.len() < enough {
        return;
    }
    let record = compose::genesis(uuid::Uuid::new_v4().into_bytes(), members);
    match propose_tied(inner, leadership, &record).await {
        Ok((position, verdict)) => tracing::info!(%position, ?verdict, "the cluster has its identity"),
        Err(why) => tracing::warn!(%why, "the cluster's identity is not in the log yet"),
    }
}

async fn join_newcomers(inner: &Arc<Inner>, leadership: &Arc<Leadership>) {
    let new: Vec<_> =
        member_ids(inner).into_iter().filter(|node| inner.known.incarnation_of(*node).is_none()).collect();
    for (node, incarnation) in incarnations(inner, &new).await {
        let record = compose::join(node, incarnation);
        match propose_tied(inner, leadership, &record).await {
            Ok((position, verdict)) => tracing::info!(node, %position, ?verdict, "a member has its identity"),
            Err(why) => tracing::warn!(node, %why, "a member's identity is not in the log yet"),
        }
    }
}

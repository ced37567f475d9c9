//! The beginning of a cluster, and who belongs to it.
//!
//! A cluster is initialised once, by the lowest of its initial members, and only when all of them
//! answer and are empty. The first leader's first record (Genesis) fixes the cluster's uuid and the
//! incarnation of every member that it can reach; a member that comes later gets a Join record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nativelog::compose;
use nativelog::store::LogStore;
use tonic::Status;

use crate::identity::{Check, Known, hex};
use crate::leader::Leadership;
use crate::network::peers::Lane;
use crate::propose::Proposer;
use crate::proto;

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

/// Knows who belongs to the cluster, and lets the others know.
pub(crate) struct Members {
    pub proposer: Arc<Proposer>,
    pub known: Arc<Known>,
    pub log: LogStore,
}

/// Introductions.
impl Members {
    /// This node's introduction.
    pub fn hello(&self) -> proto::HelloReply {
        let (purged, last) = self.log.log_state();
        let config = &self.proposer.config;
        let members = config.members.iter();
        proto::HelloReply {
            node: config.node,
            incarnation: self.known.incarnation().to_vec().into(),
            cluster: self.known.cluster().map(|id| id.to_vec().into()).unwrap_or_default(),
            empty: self.log.vote().is_none() && purged.is_none() && last.is_none(),
            initial_members: members
                .map(|(node, address)| proto::Member { node: *node, address: address.clone() })
                .collect(),
        }
    }

    /// Asks `node` who it is.
    pub async fn hello_of(&self, node: u64) -> Result<proto::HelloReply, Status> {
        if node == self.proposer.config.node {
            return Ok(self.hello());
        }
        let mut client = self.proposer.peers.member(node, Lane::Control, Check::Introduction)?;
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
}

/// What goes on while this node runs.
impl Members {
    /// Initialises a new cluster when that is this node's part: it is the lowest of the initial members and empty.
    /// Waits for the others; ends at once when it is another's part.
    pub async fn initialize(self: Arc<Self>) {
        let config = self.proposer.config.clone();
        if config.members.iter().map(|(node, _)| *node).min() != Some(config.node) {
            return;
        }
        let mut said: Option<(String, Instant)> = None;
        while self.proposer.life.running().is_ok() && self.hello().empty {
            match self.all_empty().await {
                Ok(()) => match self.proposer.consensus.initialize(&config.members).await {
                    Ok(()) => {
                        tracing::info!(node = config.node, "a new cluster is initialised");
                        return;
                    }
                    Err(why) => tracing::warn!(node = config.node, why, "the cluster is not initialised"),
                },
                Err(why) => {
                    let due =
                        said.as_ref().is_none_or(|(last, at)| *last != why || at.elapsed() >= SAY_AGAIN);
                    if due {
                        tracing::info!(node = config.node, why, "waiting to initialise the cluster");
                        said = Some((why, Instant::now()));
                    }
                }
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// See [`crate::Replica::wiped`].
    pub async fn wiped(&self) -> String {
        let mut told = self.known.known_otherwise();
        loop {
            let by = told.wait_for(Option::is_some).await.ok().and_then(|by| *by);
            // The sender lives as long as this.
            let Some(by) = by else { return std::future::pending().await };
            if self.hello().empty {
                let node = self.proposer.config.node;
                return format!(
                    "node {by} knows node {node} with another data folder than this one, in which there is nothing yet"
                );
            }
            // A node that has a log of its own is not ended by what somebody says.
            if told.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Takes the addresses of members from the log.
    pub async fn follow(self: Arc<Self>) {
        let mut changes = self.proposer.consensus.changes();
        loop {
            self.proposer.peers.learn(&changes.members());
            if !changes.changed().await {
                return;
            }
        }
    }

    /// Makes every leadership of this node ready, then keeps the members' identities in the log complete.
    pub async fn lead(self: Arc<Self>) {
        let mut leaderships = self.proposer.leading.watch();
        loop {
            let leadership = leaderships.borrow_and_update().clone();
            if let Some(leadership) = leadership {
                let work = async {
                    if self.proposer.leading.caught_up().await {
                        self.identify(&leadership).await;
                    }
                };
                tokio::select! {
                    () = work => {}
                    () = leadership.ended() => {}
                }
            }
            if leaderships.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ok when every initial member answers, is empty and has the same list of initial members.
    async fn all_empty(&self) -> Result<(), String> {
        let mine = sorted(self.hello().initial_members);
        let members = self.proposer.config.members.iter();
        let asked = join_all(members.map(|(node, _)| async move { (*node, self.hello_of(*node).await) }));
        for (node, reply) in asked.await {
            let reply = reply.map_err(|status| format!("node {node}: {}", status.message()))?;
            if !reply.empty {
                // Which one is for who looks closely: logs go further than a uuid should.
                tracing::debug!(node, cluster = hex(&reply.cluster), "it is not empty");
                return Err(format!(
                    "node {node} belongs to a cluster already, this node is empty: if its data folder was wiped, it \
                     must not come back under this id"
                ));
            }
            if sorted(reply.initial_members) != mine {
                return Err(format!("node {node} is configured with other initial_members"));
            }
        }
        Ok(())
    }

    /// A new leader's duty: Genesis when the log has none, then ready, then a Join for every member whose
    /// incarnation the log lacks. Runs until the leadership ends.
    async fn identify(&self, leadership: &Arc<Leadership>) {
        let began = Instant::now();
        let mut ready = false;
        while self.proposer.life.running().is_ok() {
            if self.known.cluster().is_none() {
                self.genesis(leadership, began.elapsed() >= GENESIS_PATIENCE).await;
            }
            if self.known.cluster().is_some() {
                if !std::mem::replace(&mut ready, true) {
                    leadership.set_ready();
                }
                self.join_newcomers(leadership).await;
            }
            tokio::time::sleep(if ready { WATCH } else { ROUND }).await;
        }
    }

    fn ids(&self) -> Vec<u64> {
        self.proposer.consensus.view().members.into_iter().map(|(node, _)| node).collect()
    }

    /// Asks `nodes` for their incarnations; those that do not answer are left out.
    async fn incarnations(&self, nodes: &[u64]) -> Vec<(u64, [u8; 16])> {
        let asked = nodes.iter().map(|node| async move { self.hello_of(*node).await.ok() });
        let replies = join_all(asked).await.into_iter().flatten();
        replies.filter_map(|reply| Some((reply.node, reply.incarnation[..].try_into().ok()?))).collect()
    }

    async fn genesis(&self, leadership: &Arc<Leadership>, late: bool) {
        let nodes = self.ids();
        let members = self.incarnations(&nodes).await;
        let voters = self.proposer.consensus.view().voters.len();
        let enough = if late { voters / 2 + 1 } else { nodes.len() };
        if members.len() < enough {
            return;
        }
        let record = compose::genesis(uuid::Uuid::new_v4().into_bytes(), members);
        match self.proposer.propose_tied(leadership, &record).await {
            Ok((position, verdict)) => tracing::info!(%position, %verdict, "the cluster has its identity"),
            Err(why) => tracing::warn!(%why, "the cluster's identity is not in the log yet"),
        }
    }

    async fn join_newcomers(&self, leadership: &Arc<Leadership>) {
        let ids = self.ids().into_iter();
        let new: Vec<_> = ids.filter(|node| self.known.incarnation_of(*node).is_none()).collect();
        for (node, incarnation) in self.incarnations(&new).await {
            let record = compose::join(node, incarnation);
            match self.proposer.propose_tied(leadership, &record).await {
                Ok((position, verdict)) => {
                    tracing::info!(node, %position, %verdict, "a member has its identity")
                }
                Err(why) => tracing::warn!(node, %why, "a member's identity is not in the log yet"),
            }
        }
    }
}

/// Ok when the configuration names the members that the log has, or the log has none yet.
///
/// # Errors
/// Both lists, in words.
pub(crate) fn agree(configured: &[(u64, String)], logged: &[(u64, String)]) -> Result<(), String> {
    let lists = [configured, logged].map(|members| {
        let mut members: Vec<_> = members.to_vec();
        members.sort();
        members
    });
    let [configured, logged] = &lists;
    // Nobody calls a cluster of one: it may listen elsewhere.
    let alone = logged.len() == 1 && configured.len() == 1 && logged[0].0 == configured[0].0;
    if logged.is_empty() || configured.is_empty() || alone || configured == logged {
        return Ok(());
    }
    let text = |members: &[(u64, String)]| {
        members.iter().map(|(node, address)| format!("{node}={address}")).collect::<Vec<_>>().join(", ")
    };
    Err(format!(
        "the configuration names the members {}, the log of this node has {}",
        text(configured),
        text(logged)
    ))
}

fn sorted(members: Vec<proto::Member>) -> Vec<(u64, String)> {
    let mut members: Vec<_> = members.into_iter().map(|member| (member.node, member.address)).collect();
    members.sort();
    members
}

#[cfg(test)]
mod tests {
    use super::agree;

    fn list(members: &[(u64, &str)]) -> Vec<(u64, String)> {
        members.iter().map(|(node, address)| (*node, (*address).to_owned())).collect()
    }

    #[test]
    fn other_members_than_the_log_has_are_refused_with_both_lists() {
        let logged = list(&[(1, "a:1"), (2, "b:1")]);
        assert_eq!(agree(&list(&[(2, "b:1"), (1, "a:1")]), &logged), Ok(()));
        assert_eq!(agree(&logged, &[]), Ok(()), "an empty log takes what is configured");
        for other in [
            list(&[(1, "a:1")]),
            list(&[(1, "a:1"), (2, "b:1"), (3, "c:1")]),
            list(&[(1, "a:1"), (2, "b:2")]),
            list(&[(1, "a:1"), (3, "b:1")]),
        ] {
            let why = agree(&other, &logged).unwrap_err();
            assert!(why.contains("the log of this node has 1=a:1, 2=b:1"), "{why}");
            assert!(why.contains(&format!("{}={}", other[0].0, other[0].1)), "{why}");
        }
        // From one to three, and the other way.
        assert!(agree(&list(&[(1, "a:1"), (2, "b:1"), (3, "c:1")]), &list(&[(1, "a:1")])).is_err());
        assert_eq!(
            agree(&list(&[(1, "a:2")]), &list(&[(1, "a:1")])),
            Ok(()),
            "nobody calls a cluster of one"
        );
        assert!(agree(&list(&[(2, "a:1")]), &list(&[(1, "a:1")])).is_err());
    }
}

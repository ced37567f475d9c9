//! What the consensus sees, in words of ours.

use std::collections::BTreeMap;

use nativelog::record::LogId;
use nativelog::store::Vote;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;

use crate::types::{StoredMembers, TypeConfig, log_id, vote};

/// How things stand, as this node sees them.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The term it is in.
    pub term: u64,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: &'static str,
    /// The leader it knows; itself included.
    pub leader: Option<u64>,
    /// Node ids that vote.
    pub voters: Vec<u64>,
    /// All members and their addresses.
    pub members: Vec<(u64, String)>,
    /// On the leader: what each member, this node included, has in common with it.
    pub matched: BTreeMap<u64, Option<LogId>>,
    /// Last entry that is known to be committed.
    pub committed: Option<LogId>,
}

impl View {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> View {
        let matched = metrics.replication.iter().flatten();
        View {
            term: metrics.current_term,
            role: role(metrics.state),
            leader: metrics.current_leader,
            voters: metrics.membership_config.voter_ids().collect(),
            members: addresses(&metrics.membership_config),
            matched: matched.map(|(node, at)| (*node, at.as_ref().map(log_id))).collect(),
            committed: metrics.cluster_committed.as_ref().map(log_id),
        }
    }

    /// True when this node leads.
    pub fn leads(&self) -> bool {
        self.role == role(ServerState::Leader)
    }

    /// On the leader: voters beside `me`, the one with most of the log first.
    pub fn successors(&self, me: u64) -> Vec<u64> {
        let others = self.matched.iter().filter(|(node, _)| **node != me && self.voters.contains(node));
        let mut others: Vec<_> = others.collect();
        others.sort_by_key(|(_, matched)| std::cmp::Reverse(**matched));
        others.into_iter().map(|(node, _)| *node).collect()
    }
}

fn addresses(members: &StoredMembers) -> Vec<(u64, String)> {
    members.nodes().map(|(node, at)| (*node, at.addr.clone())).collect()
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

/// Votes, leaders and memberships, as they change.
pub(crate) struct Changes(WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>);

impl Changes {
    pub(super) fn of(metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>) -> Changes {
        Changes(metrics)
    }

    /// The vote under which this node leads, while it does.
    pub fn leads(&self, me: u64) -> Option<Vote> {
        let now = self.0.borrow_watched();
        let given = vote(&now.vote);
        (given.committed && given.node == me && now.state.is_leader()).then_some(given)
    }

    /// The leader that this node knows; itself included.
    pub fn leader(&self) -> Option<u64> {
        self.0.borrow_watched().current_leader
    }

    /// All members and their addresses.
    pub fn members(&self) -> Vec<(u64, String)> {
        addresses(&self.0.borrow_watched().membership_config)
    }

    /// Returns when something has changed; false when the consensus has ended.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

//! Whether anything can be committed or read through this node: a majority answers it, and so does the leader.
//!
//! Every other member is asked for its pulse all the time, on the control connection: on that of the proposals the question
//! would wait behind their bytes, and a thin link would pass for a cut one. Whoever has answered nothing for an election
//! timeout is silent. A leader whose majority is silent leads nobody any more, whatever its
//! consensus believes; a follower whose leader is silent cannot forward to it. Both say so at once to whoever asks, and to
//! whoever waits already, so that a client goes on at another node.
//!
//! **Never.** Nothing here decides who leads or what is committed, and no clock is trusted for that: a node that is cut
//! off refuses, it does not conclude. What it had proposed before may still be committed: those who wait for it are told
//! that its outcome is unknown.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::config::ReplicaConfig;
use crate::consensus::Consensus;
use crate::error::ProposeError;
use crate::identity::Check;
use crate::life::Life;
use crate::network::peers::{Lane, Peers};
use crate::proto;

/// Why nothing can be committed or read through a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    /// These voters are silent, for so long; the others are no majority.
    Minority(Vec<(u64, Duration)>),
    /// This leader is silent.
    LeaderSilent(u64, Duration),
    /// A majority answers, and none of them leads.
    Leaderless(Duration),
}

/// Why nothing can be committed or read through this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutOff {
    /// In words, with the nodes that are silent and for how long.
    pub why: String,
    /// Fewer than a majority answer this node. Otherwise a majority is there, and may soon have a leader that this
    /// node reaches.
    pub no_majority: bool,
}

/// How a node stands among the others.
struct Seen<'s> {
    node: u64,
    voters: &'s [u64],
    leads: bool,
    leader: Option<u64>,
    /// For how long it has known no leader.
    leaderless: Duration,
}

fn judge(seen: &Seen<'_>, silence: impl Fn(u64) -> Duration, limit: Duration) -> Option<Cause> {
    let of = |voter: &u64| if *voter == seen.node { Duration::ZERO } else { silence(*voter) };
    let silent: Vec<_> = seen.voters.iter().map(|voter| (*voter, of(voter))).collect();
    let silent: Vec<_> = silent.into_iter().filter(|(_, silence)| *silence > limit).collect();
    // A cluster that has not begun has no voters, and nobody to miss.
    if !seen.voters.is_empty() && seen.voters.len() - silent.len() <= seen.voters.len() / 2 {
        return Some(Cause::Minority(silent));
    }
    if seen.leads || seen.voters.is_empty() {
        return None;
    }
    match seen.leader.filter(|leader| *leader != seen.node) {
        Some(leader) => {
            Some(of(&leader)).filter(|silence| *silence > limit).map(|at| Cause::LeaderSilent(leader, at))
        }
        // A majority that answers elects one, if not at the first try.
        None => Some(seen.leaderless).filter(|time| *time > limit * 2).map(Cause::Leaderless),
    }
}

impl Cause {
    /// In words, of `node`.
    fn words(&self, node: u64) -> String {
        let for_seconds = |time: &Duration| format!("for {} s", time.as_secs());
        match self {
            Cause::Minority(silent) => {
                let silent: Vec<_> = silent
                    .iter()
                    .map(|(voter, silence)| format!("node {voter} has not answered {}", for_seconds(silence)))
                    .collect();
                format!("node {node} has no quorum: {}", silent.join(", "))
            }
            Cause::LeaderSilent(leader, silence) => {
                format!("node {node} cannot reach the leader, node {leader}, {}", for_seconds(silence))
            }
            Cause::Leaderless(time) => format!("node {node} knows of no leader {}", for_seconds(time)),
        }
    }
}

/// Knows whether this node is cut off.
pub(crate) struct Quorum {
    node: u64,
    consensus: Consensus,
    peers: Arc<Peers>,
    life: Arc<Life>,
    limit: Duration,
    heartbeat: Duration,
    cut_off: watch::Sender<bool>,
    /// Since when no leader is known.
    leaderless: Mutex<Option<Instant>>,
    /// Who answered last that its folder is another one than the log knows.
    wiped: Mutex<BTreeSet<u64>>,
}

/// What a node answers whose folder is not the one that the log knows. Refusals are words alone.
const WIPED: &str = "must not come back under this id";

impl Quorum {
    /// For a node that has heard nobody yet.
    pub fn new(
        config: &ReplicaConfig,
        consensus: Consensus,
        peers: Arc<Peers>,
        life: Arc<Life>,
    ) -> Arc<Quorum> {
        Arc::new(Quorum {
            node: config.node,
            consensus,
            peers,
            life,
            limit: config.election_timeout.1,
            heartbeat: config.heartbeat,
            cut_off: watch::Sender::new(false),
            leaderless: Mutex::default(),
            wiped: Mutex::default(),
        })
    }

    /// Whether `node` was there last with another folder than the log knows: then it cannot come back.
    pub fn is_wiped(&self, node: u64) -> bool {
        self.wiped.lock().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    /// Why nothing can be committed or read through this node now.
    pub fn cut_off(&self) -> Option<CutOff> {
        if !*self.cut_off.borrow() {
            return None;
        }
        let cause = self.judged()?;
        Some(CutOff { why: cause.words(self.node), no_majority: matches!(cause, Cause::Minority(_)) })
    }

    fn judged(&self) -> Option<Cause> {
        let view = self.consensus.view();
        let leader = view.leader;
        let leaderless = {
            let mut since = self.leaderless.lock().unwrap_or_else(PoisonError::into_inner);
            if leader.is_some() {
                *since = None
            } else {
                since.get_or_insert_with(Instant::now);
            }
            since.map_or(Duration::ZERO, |since| since.elapsed())
        };
        let seen = Seen { node: self.node, voters: &view.voters, leads: view.leads(), leader, leaderless };
        judge(&seen, |node| self.peers.reach().silence(node), self.limit)
    }

    /// Waits until this node is cut off, and says why.
    pub async fn lost(&self) -> String {
        let mut cut_off = self.cut_off.subscribe();
        loop {
            // The sender is ours.
            let _ = cut_off.wait_for(|is| *is).await;
            if let Some(cut_off) = self.cut_off() {
                return cut_off.why;
            }
            if cut_off.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until somebody else than `leader` is known to lead.
    pub async fn deposed(&self, leader: u64) {
        let mut changes = self.consensus.changes();
        while changes.leader().is_none_or(|now| now == leader) {
            if !changes.changed().await {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ok while this node is not known to be cut off. As quick as it has to be for every record.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`], with the reason.
    pub fn reached(&self) -> Result<(), ProposeError> {
        match *self.cut_off.borrow() {
            false => Ok(()),
            true => self.cut_off().map_or(Ok(()), |cut_off| Err(ProposeError::unavailable(cut_off.why))),
        }
    }

    /// Waits until `leader` has answered something lately.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when this node is cut off before, or another one leads.
    pub async fn way_to(&self, leader: u64) -> Result<(), ProposeError> {
        let answers = async {
            while self.peers.silent(leader).is_some() {
                tokio::time::sleep(self.heartbeat / 4).await;
            }
        };
        tokio::select! {
            biased;
            () = answers => Ok(()),
            why = self.lost() => Err(ProposeError::unavailable(why)),
            () = self.deposed(leader) => Err(ProposeError::unavailable(format!("node {leader} leads no more"))),
        }
    }

    /// Asks the others, for as long as this node lives.
    pub async fn run(self: Arc<Self>) {
        let mut asked = BTreeSet::new();
        let mut answers = FuturesUnordered::new();
        let mut before = false;
        while !self.life.is_closing() {
            for node in self.peers.others(self.node) {
                if asked.insert(node) {
                    answers.push(self.ask(node));
                }
            }
            let round = tokio::time::sleep(self.heartbeat / 2);
            tokio::pin!(round);
            loop {
                tokio::select! {
                    () = &mut round => break,
                    Some(node) = answers.next() => { asked.remove(&node); }
                }
            }
            // Seen twice: after a pause of this process its own clock runs ahead of the answers that lie ready.
            let cut_off = self.judged();
            let is = cut_off.is_some() && before;
            before = cut_off.is_some();
            let changed = self.cut_off.send_if_modified(|now| std::mem::replace(now, is) != is);
            if changed {
                match cut_off.filter(|_| is) {
                    Some(why) => tracing::warn!(
                        why = why.words(self.node),
                        "nothing can be committed through this node"
                    ),
                    None => tracing::info!(node = self.node, "this node reaches leader and majority again"),
                }
            }
        }
    }

    /// Asks `node` for its pulse.
    async fn ask(&self, node: u64) -> u64 {
        let pulse = async {
            let mut client = self.peers.member(node, Lane::Control, Check::Full)?;
            client.pulse(proto::PulseRequest {}).await
        };
        match tokio::time::timeout(self.limit / 2, pulse).await {
            Ok(Ok(pulse)) => {
                self.peers.reach().told(node, pulse.into_inner());
                self.wiped.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
            }
            Ok(Err(status)) if status.message().contains(WIPED) => {
                self.wiped.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
            }
            // Whether it is there at all is told by its silence.
            Ok(Err(_)) | Err(_) => {}
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(4);

    fn seconds(time: u64) -> Duration {
        Duration::from_secs(time)
    }

    fn of(leads: bool, leader: Option<u64>, silent: [u64; 2]) -> Option<String> {
        let seen = Seen { node: 1, voters: &[1, 2, 3], leads, leader, leaderless: seconds(silent[0]) };
        judge(&seen, |node| seconds(silent[node as usize - 2]), LIMIT).map(|why| why.words(1))
    }

    #[test]
    fn a_leader_needs_a_majority_that_answers() {
        assert_eq!(of(true, Some(1), [0, 0]), None);
        assert_eq!(of(true, Some(1), [9, 0]), None, "one is enough");
        assert_eq!(of(true, Some(1), [4, 4]), None, "not yet");
        let why = "node 1 has no quorum: node 2 has not answered for 9 s, node 3 has not answered for 8 s";
        assert_eq!(of(true, Some(1), [9, 8]).as_deref(), Some(why));
    }

    #[test]
    fn a_follower_needs_its_leader() {
        assert_eq!(of(false, Some(2), [0, 9]), None);
        let why = "node 1 cannot reach the leader, node 2, for 9 s";
        assert_eq!(of(false, Some(2), [9, 0]).as_deref(), Some(why));
        assert!(of(false, Some(2), [9, 9]).unwrap().contains("no quorum"));
        assert_eq!(of(false, None, [3, 0]), None, "one is being elected");
        assert_eq!(of(false, None, [8, 0]), None, "not at the first try");
        assert_eq!(of(false, None, [9, 0]).as_deref(), Some("node 1 knows of no leader for 9 s"));
    }

    #[test]
    fn one_node_is_a_majority_of_itself_and_no_cluster_is_missed() {
        let alone = Seen { node: 1, voters: &[1], leads: true, leader: Some(1), leaderless: Duration::ZERO };
        assert_eq!(judge(&alone, |_| seconds(99), LIMIT), None);
        let empty = Seen { node: 1, voters: &[], leads: false, leader: None, leaderless: seconds(99) };
        assert_eq!(judge(&empty, |_| seconds(99), LIMIT), None);
    }
}

//! A leader that should not lead lets another one: it looks at itself and at the voters all the time, and does what
//! `policy` says.
//!
//! | file | what it holds |
//! |---|---|
//! | `policy` | stay, hand over, or step down; pure |
//! | `watch` | what of its own disk and of the links a leader sees; pure |

mod policy;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nativelog::ledger::RULES_VERSION_MAX;
use nativelog::store::LogStore;
use tokio::sync::Notify;

use crate::config::ReplicaConfig;
use crate::consensus::{Consensus, View};
use crate::intake::Heard;
use crate::leader::{Leadership, Leading};
use crate::life::Life;
use crate::network::peers::Peers;
use crate::proto;
use policy::{Policy, Seen, Step};
use watch::{Awake, Marks, Other, Sight, Waiting, Watch};

/// A leader that steps down says nothing to the others for so long, in election timeouts.
const QUIET: u32 = 2;

/// Looks after the leadership of one node.
pub(crate) struct HandOver {
    node: u64,
    heartbeat: Duration,
    election: Duration,
    /// Where clients reach this node.
    clients_at: String,
    consensus: Consensus,
    leading: Arc<Leading>,
    peers: Arc<Peers>,
    heard: Arc<Heard>,
    log: LogStore,
    life: Arc<Life>,
    /// Entries of this node's log that wait for its disk.
    waiting: Mutex<(Awake, Waiting)>,
    /// Somebody asks it to step down, with the reason.
    asked: Mutex<Option<String>>,
    wake: Notify,
}

impl HandOver {
    /// For one node.
    pub fn new(
        config: &ReplicaConfig,
        leading: Arc<Leading>,
        consensus: Consensus,
        peers: Arc<Peers>,
        heard: Arc<Heard>,
        log: LogStore,
        life: Arc<Life>,
    ) -> Arc<HandOver> {
        Arc::new(HandOver {
            node: config.node,
            heartbeat: config.heartbeat,
            election: config.election_timeout.1,
            clients_at: config.clients_at.clone(),
            consensus,
            leading,
            peers,
            heard,
            log,
            life,
            waiting: Mutex::new((Awake::new(config.heartbeat, Instant::now()), Waiting::default())),
            asked: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// How this node is, for whoever asks.
    pub fn pulse(&self) -> proto::PulseReply {
        let view = self.consensus.view();
        let lag = self.flush_lag();
        proto::PulseReply {
            term: view.term,
            leader: view.leader,
            flush_lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
            clients_at: self.clients_at.clone(),
            rules_known: RULES_VERSION_MAX,
            rules_wanted: self.peers.reach().wanted_rules(),
        }
    }

    fn flush_lag(&self) -> Duration {
        let flushed = *self.log.flushed().borrow();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (awake, waiting) = &mut *waiting;
        let (now, _) = awake.look(Instant::now());
        waiting.look(self.last(), flushed, now)
    }

    /// Entries that the log holds or held.
    fn last(&self) -> u64 {
        self.log.log_state().1.map_or(0, |last| last.index + 1)
    }

    /// Steps down as soon as this node leads and may.
    pub fn step_down(&self, why: &str) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        self.wake.notify_one();
    }

    /// Looks after it, for as long as this node lives.
    pub async fn run(self: Arc<Self>) {
        let now = Instant::now();
        let mut awake = Awake::new(self.heartbeat, now);
        let mut policy = Policy::new(self.election, now);
        let mut watch = Watch::new(now);
        let mut term = None;
        let mut said = String::new();
        while !self.life.is_closing() {
            tokio::select! {
                () = tokio::time::sleep(self.heartbeat) => {}
                () = self.wake.notified() => {}
            }
            let (now, away) = awake.look(Instant::now());
            self.flush_lag();
            let Some(leadership) = self.leading.now() else {
                term = None;
                continue;
            };
            if term.replace(leadership.lead().term) != Some(leadership.lead().term) {
                policy.begins(now);
                watch = Watch::new(now);
            }
            if let Some(why) = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
                policy.ask(why);
            }
            if away {
                // Answers lie ready that nobody has taken in yet.
                continue;
            }
            let seen = self.look(&leadership, &mut watch, now);
            match policy.step(&seen, now) {
                Step::Stay => said.clear(),
                Step::StayAlone(why) => {
                    if said.is_empty() {
                        tracing::warn!(node = self.node, why, "this node leads on");
                    }
                    said = why;
                }
                Step::HandOver { to, why } => {
                    tracing::warn!(node = self.node, to, why, "leadership is handed over");
                    if let Err(why) = self.consensus.hand_over(to).await {
                        tracing::warn!(node = self.node, %why, "leadership stays");
                    }
                }
                Step::Resign { why } => {
                    tracing::warn!(node = self.node, why, "this leader steps down");
                    self.be_quiet().await;
                    // Where it leads on, what stood still was held up by this node.
                    term = None;
                }
            }
        }
    }

    fn look(&self, leadership: &Leadership, watch: &mut Watch, now: Instant) -> Seen {
        let view = self.consensus.view();
        let others = self.voters(&view);
        if others.is_empty() {
            // There is nobody to lead instead.
            return Seen { ready: true, ..Seen::default() };
        }
        let count = |at: Option<nativelog::record::LogId>| at.map_or(0, |at| at.index + 1);
        let full = self.heard.short_lately();
        let other = |node: &u64| {
            let pulse = self.peers.reach().pulse(*node);
            let other = Other {
                answers: self.peers.silent(*node).is_none(),
                has: count(view.matched.get(node).copied().flatten()),
                carried: self.peers.carried(*node),
                lag: pulse.map(|pulse| Duration::from_millis(pulse.flush_lag_ms)),
                no_room: full.contains_key(node),
            };
            (*node, other)
        };
        let marks = Marks {
            last: self.last(),
            committed: count(view.committed),
            flushed: *self.log.flushed().borrow(),
            no_room: self.log.stalled().borrow().clone(),
            others: others.iter().map(other).collect(),
        };
        let Sight { behind, stuck, successors } = watch.look(marks, self.election, now);
        let refused = self.heard.refused_without_fault(&view.voters);
        let refused = refused.map(|(index, why)| format!("a majority refuses entry {index}: {why}"));
        // A cluster without an identity waits for its members, which is nobody's fault.
        let ready = leadership.is_ready() || self.peers.known().cluster().is_none();
        Seen { ready, behind, successors, refused, stuck }
    }

    fn voters(&self, view: &View) -> Vec<u64> {
        view.voters.iter().copied().filter(|voter| *voter != self.node).collect()
    }

    /// Says nothing to the others for a while, so that one of them leads; and does not stand.
    async fn be_quiet(&self) {
        let until = tokio::time::Instant::now() + self.election * QUIET;
        self.leading.hush(true);
        self.peers.hush(true);
        self.consensus.hush(true);
        let mut changes = self.consensus.changes();
        let deposed = async {
            while changes.leader().is_none_or(|leader| leader == self.node) && changes.changed().await {}
        };
        let led = tokio::time::timeout_at(until, deposed).await.is_ok();
        // Whoever leads must be answered, and a leader that nobody followed may lead on.
        self.peers.hush(false);
        self.leading.hush(false);
        if led {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.life.ended() => {}
            }
        }
        self.consensus.hush(false);
    }
}

//! How content travels between replicas beside the log: to one that was away past the purge, to one that lost
//! something, and to one whose log is gone.
//!
//! ```text
//!  leader  send ── InstallSnapshot: the ledger ─────────────────▶ install          this node
//!  peers   serve ◀─ manifests, blobs, ranges, packed files ────── receive, gather, ask
//!                                                                   │ all of it checked, in place, fsynced
//!                                                                   ▼
//!                                                                 consensus.install
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `install` | the receiver's part: one at a time, a new one replaces the one before |
//! | `receive` | from a ledger to the epochs and ranges that this disk lacks, and then has |
//! | `gather` | contents spread over the peers, a few streams at a time, resumed where they ended |
//! | `answers`, `lost` | what may be concluded when nobody brings it, and said in the log |
//! | `anywhere` | one thing from whoever has it: manifests, payloads, ranges |
//! | `ask` | one call to one peer; trusts no size, count or order |
//! | `serve`, `source` | what peers may fetch here: checked before it leaves, bounded, behind commits |
//!
//! **Never.** Nothing is installed before all that it refers to is here, verified and fsynced, but for *sealed* content
//! that every live peer says it has no good copy of: that is owed, its epochs are missing here, and it is asked for
//! again and again. A staged range is never owed: an attempt with one that nobody can serve is ended by a record first,
//! and so is one that leans on sealed content which a majority has looked for in vain.
//! A record is made only of what nodes say that have carried out what they are asked about.
//! No byte leaves a node unchecked, and none that came is believed: the digest in the ledger decides.

pub(crate) mod answers;
pub(crate) mod anywhere;
pub(crate) mod ask;
pub(crate) mod gather;
pub(crate) mod install;
pub(crate) mod lost;
pub(crate) mod receive;
pub(crate) mod serve;
pub(crate) mod source;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;
use futures::future::BoxFuture;
use nativelog::LogRecord;
use nativelog::ledger::Verdict;
use nativelog::machine::Machine;
use serde::Serialize;
use tokio::sync::watch;

use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::network::peers::Peers;
use gather::{Brought, Gather};
use install::Turn;
use lost::Lost;

/// Gives back what this node's own records allow, because something that comes needs room.
pub(crate) trait MakeRoom: Send + Sync {
    /// Returns when it is given back; the error says why not all is.
    fn make_room(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Brings this node's own records to the leader.
pub(crate) trait Records: Send + Sync {
    /// Returns when the log has answered; the error says why it has not, or that nobody knows.
    fn propose(&self, record: LogRecord) -> BoxFuture<'_, Result<Verdict, String>>;
}

/// Transfers to one replica.
pub(crate) struct Transfers {
    node: u64,
    peers: Arc<Peers>,
    machine: Arc<Machine>,
    consensus: Consensus,
    intake: Arc<Intake>,
    /// Makes room for a snapshot.
    keeper: Arc<dyn MakeRoom>,
    /// Ends attempts that can never be whole here.
    records: Arc<dyn Records>,
    /// What this node is fetching.
    progress: Arc<Progress>,
    /// One receiver at a time.
    turn: Turn,
    /// Content, and its bytes, that open attempts lean on and that was nowhere to be had when their ledger came.
    leaning: Mutex<BTreeMap<Digest, u64>>,
}

impl Transfers {
    /// Transfers from `peers` to this machine.
    pub fn new(
        node: u64,
        peers: Arc<Peers>,
        machine: Arc<Machine>,
        consensus: Consensus,
        intake: Arc<Intake>,
        keeper: Arc<dyn MakeRoom>,
        records: Arc<dyn Records>,
    ) -> Arc<Transfers> {
        let (progress, turn, leaning) = (Arc::default(), Turn::default(), Mutex::default());
        Arc::new(Transfers {
            node,
            peers,
            machine,
            consensus,
            intake,
            keeper,
            records,
            progress,
            turn,
            leaning,
        })
    }

    /// What open attempts lean on and this node lacks: digest and bytes. Not known any more after a start.
    pub fn leaning(&self) -> MutexGuard<'_, BTreeMap<Digest, u64>> {
        self.leaning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node is fetching.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// One receiver at a time.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// A way to bring content here that the ledger knows; `stop` ends it.
    pub fn gather(&self, stop: Stop) -> Gather {
        let machine = self.machine.clone();
        self.gather_by(Arc::new(move |digest| machine.ledger().brought(digest)), stop)
    }

    fn gather_by(&self, brought: Brought, stop: Stop) -> Gather {
        let (peers, store) = (self.peers.clone(), self.machine.store().clone());
        Gather::new(peers, store, self.node, self.progress.clone(), brought, stop)
            .with_room(self.intake.room())
    }
}

/// What a replica is fetching at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing.
    #[default]
    Idle,
    /// The content of a snapshot that the leader sent.
    Snapshot,
    /// Content that is missing or damaged here.
    Repair,
}

/// How far a transfer to this replica is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// What is going on.
    pub stage: Stage,
    /// Log index of the snapshot that is being received.
    pub position: Option<u64>,
    /// Epochs that are still to be published here.
    pub epochs_lacking: u64,
    /// Bytes that are known to be lacking still.
    pub lacking_bytes: u64,
    /// Bytes of content that came in this transfer.
    pub fetched_bytes: u64,
    /// Bytes of content that came since this process started.
    pub fetched_bytes_total: u64,
    /// Contents that did not verify when they had come, and were thrown away, since this process started.
    pub came_wrong_total: u64,
    /// Snapshots that were installed since this process started.
    pub installed_total: u64,
}

/// Keeps a [`Transfer`] current.
#[derive(Debug, Default)]
pub struct Progress {
    now: watch::Sender<Transfer>,
}

impl Progress {
    /// What it is, as it changes.
    pub fn watch(&self) -> watch::Receiver<Transfer> {
        self.now.subscribe()
    }

    pub(crate) fn begin(&self, stage: Stage, position: Option<u64>) {
        self.now.send_modify(|now| {
            *now = Transfer {
                stage,
                position,
                fetched_bytes_total: now.fetched_bytes_total,
                came_wrong_total: now.came_wrong_total,
                installed_total: now.installed_total,
                ..Transfer::default()
            };
        });
    }

    pub(crate) fn epochs(&self, lacking: usize) {
        self.now.send_modify(|now| now.epochs_lacking = lacking as u64);
    }

    pub(crate) fn lacks(&self, bytes: u64) {
        self.now.send_modify(|now| now.lacking_bytes += bytes);
    }

    pub(crate) fn fetched(&self, bytes: u64) {
        self.now.send_modify(|now| {
            now.fetched_bytes += bytes;
            now.fetched_bytes_total += bytes;
            now.lacking_bytes = now.lacking_bytes.saturating_sub(bytes);
        });
    }

    /// Something that had come is thrown away and lacking again.
    pub(crate) fn came_wrong(&self, bytes: u64) {
        self.now.send_modify(|now| {
            now.came_wrong_total += 1;
            now.lacking_bytes += bytes;
        });
    }

    pub(crate) fn end(&self, installed: bool) {
        self.now.send_modify(|now| {
            now.stage = Stage::Idle;
            now.position = None;
            now.epochs_lacking = 0;
            now.lacking_bytes = 0;
            now.installed_total += u64::from(installed);
        });
    }
}

/// Why a transfer did not come to its end. What came is kept and need not come again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// No peer that answers has it, and some that live did not say so.
    #[error("{what} is not to be had from any peer: {why}")]
    Lacking {
        /// What is lacking.
        what: String,
        /// What the peers said.
        why: String,
    },
    /// Every peer that lives said that it has no good copy.
    #[error("{what} is nowhere to be had: {why}")]
    Nowhere {
        /// What is lacking.
        what: String,
        /// What the peers said.
        why: String,
        /// The contents.
        lost: Vec<Lost>,
    },
    /// Nobody can serve bytes of open attempts: these must end before anything above is acknowledged here.
    #[error("{}", .0.iter().map(|(attempt, why)| format!("attempt {attempt}: {why}")).collect::<Vec<_>>().join("; "))]
    Staged(Vec<(u64, String)>),
    /// This node's disk refuses.
    #[error("this node cannot take it: {0}")]
    Here(String),
    /// Somebody ended it.
    #[error("the transfer was ended")]
    Stopped,
}

/// Becomes true when a transfer has to end.
pub(crate) type Stop = watch::Receiver<bool>;

/// Returns when the transfer has to end.
pub(crate) async fn stopped(stop: &Stop) {
    // A sender that is gone has nobody left who waits for the transfer.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}

/// True when the transfer has to end.
pub(crate) fn is_stopped(stop: &Stop) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

/// Runs `work`, which waits for the disk, on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TransferError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| TransferError::Here("a thread of this node panicked".into()))
}

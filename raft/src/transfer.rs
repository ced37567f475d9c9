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
//! | `anywhere` | one thing from whoever has it: manifests, payloads, ranges |
//! | `ask` | one call to one peer; trusts no size, count or order |
//! | `turn`, `progress`, `error` | one transfer at a time, how far it is, why it ended |
//! | `needs` | what others do for it: room, records |
//! | `serve`, `source` | what peers may fetch here: checked before it leaves, bounded, behind commits |
//!
//! **Never.** Nothing is installed before all that it refers to is here, verified and fsynced, but for *sealed* content
//! that every live peer says it has no good copy of: that is owed, its epochs are missing here, and it is asked for
//! again and again. A staged range is never owed: an attempt with one that nobody can serve is ended by a record first.
//! No byte leaves a node unchecked, and none that came is believed: the digest in the ledger decides.

pub(crate) mod anywhere;
pub(crate) mod ask;
mod error;
pub(crate) mod gather;
pub(crate) mod install;
mod needs;
mod progress;
pub(crate) mod receive;
pub(crate) mod serve;
pub(crate) mod source;
mod turn;

use std::sync::Arc;

use nativelog::machine::Machine;

use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::network::peers::Peers;
use gather::Gather;
use turn::{Stop, Turn};

pub use error::TransferError;
pub(crate) use error::{Lost, blocking};
pub(crate) use needs::{MakeRoom, Records};
pub use progress::{Progress, Stage, Transfer};

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
        let (progress, turn) = (Arc::default(), Turn::default());
        Arc::new(Transfers { node, peers, machine, consensus, intake, keeper, records, progress, turn })
    }

    /// What this node is fetching.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// One receiver at a time.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// A way to bring content here; `stop` ends it.
    pub fn gather(&self, stop: Stop) -> Gather {
        let (peers, store) = (self.peers.clone(), self.machine.store().clone());
        Gather::new(peers, store, self.node, self.progress.clone(), stop).with_room(self.intake.room())
    }
}

//! How content travels between replicas beside the log: to one that was away past the purge, to one that lost
//! something, and to one whose log is gone.
//!
//! ```text
//!  leader  send ── InstallSnapshot: the ledger ─────────────────▶ install          this node
//!  peers   serve ◀─ manifests, blobs, pages, ranges, packed ───── receive, gather, ask
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
//! | `batches` | what is fetched and shelved as one |
//! | `stored` | whether they fit, by what they hold |
//! | `answers`, `lost` | what may be concluded when nobody brings it, and said in the log |
//! | `anywhere` | one thing from whoever has it: manifests, payloads, pages, ranges |
//! | `ask` | one call to one peer; trusts no size, count or order |
//! | `turn`, `progress`, `error` | one transfer at a time, how far it is, why it ended |
//! | `needs` | what others do for it: room, records |
//! | `serve`, `source`, `copies`, `outlet` | what peers may fetch here: checked before it leaves, bounded, behind commits |
//!
//! **Never.** Nothing is installed before all that it refers to is here, verified and fsynced, but for *sealed* content
//! that every live peer says it has no good copy of, or that this disk has no room for: that is owed, its epochs are missing here, and it is asked for
//! again and again. A staged range or a page is never owed: an attempt with one that nobody can serve is ended by a record
//! first, and so is one that leans on sealed content which a majority has looked for in vain.
//! A record is made only of what nodes say that have carried out what they are asked about.
//! No byte leaves a node unchecked, and none that came is believed: the digest in the ledger decides.

mod answers;
pub(crate) mod anywhere;
pub(crate) mod ask;
mod batches;
pub(crate) mod copies;
mod error;
pub(crate) mod gather;
pub(crate) mod install;
pub(crate) mod lost;
mod needs;
pub(crate) mod outlet;
mod progress;
pub(crate) mod receive;
pub(crate) mod serve;
pub(crate) mod source;
mod stored;
mod turn;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;
use nativelog::machine::Machine;

use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::network::peers::Peers;
use gather::{Brought, Gather};
use turn::{Stop, Turn};

pub use error::TransferError;
pub(crate) use error::blocking;
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
            .with_kept(self.intake.append_bytes(), self.intake.kept())
    }
}

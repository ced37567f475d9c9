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
//! | `gather` | what a transfer goes by: whom it asks, which ledger, how much room |
//! | `bring`, `from_peer`, `writer` | contents spread over the peers, a few streams at a time, resumed where they ended |
//! | `from_store`, `runs`, `way`, `hydrating` | contents from the objects that they lie in, when no peer has them, or first |
//! | `batches` | what is fetched and shelved as one |
//! | `stored` | whether they fit, by what they hold |
//! | `owed` | what a snapshot leaves to be brought later |
//! | `answers`, `lost` | what may be concluded when nobody brings it, and said in the log |
//! | `anywhere` | one thing from whoever has it: manifests, payloads, pages, ranges |
//! | `tree` | a manifest from a peer or a store |
//! | `sealed` | what the ledger says of sealed content: who brought it, where it lies |
//! | `ask` | one call to one peer; trusts no size, count or order |
//! | `turn`, `progress`, `error` | one transfer at a time, how far it is, why it ended |
//! | `needs` | what others do for it: room, records |
//! | `serve`, `source`, `copies`, `outlet` | what peers may fetch here: checked before it leaves, bounded, behind commits |
//!
//! **Never.** Nothing is installed before all that it refers to is here, verified and fsynced, but for *sealed* content
//! that every live peer says it has no good copy of, or that this disk has no room for, or that lies in a store: that is owed, its epochs are missing here, and it is asked for
//! again and again. No snapshot waits for a store, and none is asked for it. A staged range or a page is never owed: an attempt with one that nobody can serve is ended by a record
//! first, and so is one that leans on sealed content which a majority has looked for in vain.
//! A record is made only of what nodes say that have carried out what they are asked about.
//! No byte leaves a node unchecked, and none that came is believed: the digest in the ledger decides.

mod answers;
pub(crate) mod anywhere;
pub(crate) mod ask;
mod batches;
mod bring;
pub(crate) mod copies;
mod error;
mod from_peer;
mod from_store;
pub(crate) mod gather;
mod hydrating;
pub(crate) mod install;
pub(crate) mod lost;
mod needs;
pub(crate) mod outlet;
pub(crate) mod owed;
mod progress;
pub(crate) mod receive;
mod runs;
mod sealed;
pub(crate) mod serve;
pub(crate) mod source;
mod stored;
mod tree;
mod turn;
mod way;
mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use checkpoint::Digest;
use nativelog::machine::Machine;

use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::network::peers::Peers;
use gather::Gather;
use sealed::{Present, Sealed};
use turn::{Stop, Turn};

pub use error::TransferError;
pub(crate) use error::blocking;
pub(crate) use hydrating::Hydrating;
pub(crate) use needs::{MakeRoom, Records};
pub use progress::{Progress, Stage, Transfer};
pub(crate) use way::{Line, Pace, Way};

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
    /// Content, and its bytes, that open attempts lean on and that was nowhere to be had when their ledger came, or that
    /// epochs of the log lack and that lies in a store.
    leaning: Mutex<BTreeMap<Digest, u64>>,
    /// The way to the stores, and whether it is the first.
    line: Line,
    store_first: bool,
    /// What comes from there, or from peers for epochs that lie there: it may come beside other transfers.
    hydrated: Arc<Progress>,
}

impl Transfers {
    /// Transfers from `peers` to this machine, and from stores by `line`.
    #[expect(clippy::too_many_arguments, reason = "the rooms that it needs")]
    pub fn new(
        node: u64,
        peers: Arc<Peers>,
        machine: Arc<Machine>,
        consensus: Consensus,
        intake: Arc<Intake>,
        keeper: Arc<dyn MakeRoom>,
        records: Arc<dyn Records>,
        (line, store_first): (Line, bool),
    ) -> Arc<Transfers> {
        let (progress, hydrated, turn, leaning) =
            (Arc::default(), Arc::default(), Turn::default(), Mutex::default());
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
            line,
            store_first,
            hydrated,
        })
    }

    /// What others lean on and this node lacks: digest and bytes. Not known any more after a start.
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

    /// A way to bring content here that the ledger knows; `stop` ends it. No store is asked.
    pub fn gather(&self, stop: Stop) -> Gather {
        self.gather_by(Arc::new(Present(self.machine.clone())), stop)
    }

    /// The same, that asks stores, too: only with a share of the turn, for it may take as long as a store wants. `since` is
    /// for how long what is wanted was not to be had.
    pub fn gather_with_stores(&self, stop: Stop, since: Duration, pace: Pace) -> (Gather, Way) {
        let way = Way::new(&self.line, self.store_first, since, pace);
        let gather = self.gather(stop).with_progress(&self.hydrated).with_stores(way.clone());
        (gather, way)
    }

    /// What came for epochs that lie in stores.
    pub fn hydrated(&self) -> &Progress {
        &self.hydrated
    }

    /// The way to the stores.
    pub fn line(&self) -> &Line {
        &self.line
    }

    fn gather_by(&self, sealed: Arc<dyn Sealed>, stop: Stop) -> Gather {
        let (peers, store) = (self.peers.clone(), self.machine.store().clone());
        Gather::new(peers, store, self.node, self.progress.clone(), sealed, stop)
            .with_room(self.intake.room())
            .with_kept(self.intake.append_bytes(), self.intake.kept())
    }
}

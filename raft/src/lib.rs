//! The staircase of epochlog: records climb to a leader and come down committed on every replica.
//!
//! The only crate that knows openraft; nothing public here shows any of its types.
//!
//! | room | what it holds |
//! |---|---|
//! | `replica` | the public facade: builds the rooms below, starts and ends them; nothing here knows it |
//! | `life` | whether this replica takes anything in, faults, background tasks |
//! | `consensus`, `consensus/*` | openraft, spoken to in words of ours |
//! | `log_store`, `state_machine`, `snapshot`, `types` | openraft over `nativelog`'s log store and machine |
//! | `network`, `network/*` | four connections to each peer, and openraft's clients over them; the door for those of peers |
//! | `intake`, `intake/*` | what is let in, and how much: proposals, entries, content on a disk that is nearly full |
//! | `begins` | whether there is room for what begins: asked at the leader, of whoever knows the disks |
//! | `leader` | this node's leadership, and who leads else |
//! | `quorum` | whether a majority and the leader answer this node |
//! | `hand_over`, `hand_over/*` | a leader that should not lead lets another one |
//! | `propose`, `propose/*` | records to the leader, wherever it is, and judged there |
//! | `read` | linearizable reads |
//! | `membership`, `identity` | the beginning of a cluster; who is who in every peer call |
//! | `secret`, `own_vote`, `terms` | what peers prove to each other; whose votes, and which terms, nobody believes |
//! | `keeper` | when snapshots are taken, the log is purged and space is given back |
//! | `transfer`, `transfer/*` | content on its way between replicas, and the receiver of snapshots |
//! | `repair`, `repair/*`, `quarantine` | what is missing or damaged here, refetched; content that nobody can serve |
//! | `depot`, `release`, `release/*` | the object stores of this node, as a replica sees them; objects that nobody needs, deleted |
//! | `rejoin`, `rejoin/*` | a new log for a node whose own is damaged |
//! | `peer`, `peer/*` | what peers may call, and which room answers |
//! | `agreement`, `agreement/*` | whether this node's history is that of the cluster |
//! | `quarantine` | content that nobody can serve, and its way back |
//! | `ending` | how a replica ends, by itself or when it is told to |
//! | `status`, `clock`, `upgrade` | what a replica says about itself; log time; newer rules, once every node knows them |
//! | `proto`, `positions` | the peers' messages; positions in them |
//! | `config`, `error` | settings and bounds; the three kinds of no |
//!
//! Arrows between the files run down only: whoever is imported imports nothing of whoever imports it, a room's own
//! table of contents included. `docs/decisions/` says why it is built this way.

mod agreement;
mod begins;
mod clock;
mod config;
mod consensus;
mod depot;
mod ending;
mod error;
mod hand_over;
mod identity;
mod intake;
mod keeper;
mod leader;
mod life;
mod log_store;
mod membership;
pub mod network;
mod own_vote;
mod peer;
mod positions;
mod propose;
pub mod proto;
mod quarantine;
mod quorum;
mod read;
mod rejoin;
mod release;
mod repair;
mod replica;
mod secret;
mod snapshot;
mod state_machine;
mod status;
mod terms;
#[doc(hidden)]
pub mod testing;
mod transfer;
mod types;
mod upgrade;

pub use begins::{RoomJudge, Rooms, Sight};
pub use config::{
    APPEND_BYTES, Keeping, MESSAGE_BYTES_MAX, PROPOSAL_BYTES, ReplicaConfig, RoomProbe, WINDOW_BYTES,
};
pub use depot::{
    DeletesBegin, Depot, DepotError, DepotTrouble, Hydrate, ObjectRange, RANGE_BYTES_MAX, Stores,
};
pub use error::{ProposeError, StartError};
pub use intake::VoterSpace;
pub use keeper::KeepError;
pub use network::Proven;
pub use peer::PeerService;
pub use propose::{Outcome, Pending, ProposalStream};
pub use quorum::CutOff;
pub use rejoin::{RejoinError, RejoinStep, Rejoined, rejoin};
pub use release::{DELETES_AT_ONCE, Deletes, NotDeleted};
pub use repair::{Hydration, RepairError, RepairReport};
pub use replica::Replica;
pub use secret::{Secret, SecretError};
pub use status::{Lag, Standing, Status};
pub use transfer::{Stage, Transfer, TransferError};

//! The staircase of epochlog: records climb to a leader and come down committed on every replica.
//!
//! The only crate that knows openraft; nothing public here shows any of its types.
//!
//! | file | what it holds |
//! |---|---|
//! | `replica` | the whole, wired: start, stop, faults |
//! | `propose`, `propose/*` | records to the leader, wherever it is; `leader` judges them there |
//! | `read` | linearizable reads |
//! | `membership`, `identity` | the beginning of a cluster; who is who in every peer call |
//! | `log_store`, `state_machine` | openraft over `nativelog`'s log store and machine |
//! | `network`, `network/*` | four connections to each peer, and the service for peers |
//! | `keeper` | when snapshots are taken, the log is purged and space is given back |
//! | `snapshot`, `transfer`, `transfer/*` | snapshots and content on their way between replicas |
//! | `space` | content refused for want of space, here and by followers |
//! | `repair` | what is missing or damaged here, refetched |
//! | `rejoin`, `rejoin/*` | a new log for a node whose own is damaged |
//! | `status`, `clock` | what a replica says about itself; log time |
//!
//! `docs/decisions/` says why it is built this way.

mod clock;
mod config;
mod error;
mod identity;
mod keeper;
mod leader;
mod log_store;
mod membership;
pub mod network;
mod propose;
mod read;
mod rejoin;
mod repair;
mod replica;
mod snapshot;
mod space;
mod state_machine;
mod status;
#[doc(hidden)]
pub mod testing;
mod transfer;
mod types;

/// The messages of `proto/raft.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented in the .proto"
)]
pub mod proto {
    tonic::include_proto!("epochlog.raft");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/raft.descriptors"));
}

pub use config::{
    APPEND_BYTES, Keeping, MESSAGE_BYTES_MAX, PROPOSAL_BYTES, ReplicaConfig, RoomProbe, WINDOW_BYTES,
};
pub use error::{ProposeError, StartError};
pub use network::server::PeerService;
pub use propose::{Outcome, Pending, ProposalStream};
pub use rejoin::{RejoinError, RejoinStep, Rejoined, rejoin};
pub use repair::{RepairError, RepairReport};
pub use replica::Replica;
pub use space::VoterSpace;
pub use status::{Lag, Standing, Status};
pub use transfer::{Stage, Transfer, TransferError};

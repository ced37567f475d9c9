//! The client of epochlog: hand a directory to a cluster, list its epochs, get one back.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Failure> {
//! let client = client::Client::new(["127.0.0.1:7411"], client::Options::default());
//! let job = "wordcount".parse().expect("a job name");
//! let done = client.commit("./chk-42".as_ref(), client::Commit::new(job), &|_| {}).await?;
//! println!("epoch {} is durable on a quorum", done.committed.epoch);
//! # Ok(()) }
//! ```
//!
//! Any node takes any call: the node finds the leader. When a node dies, the client goes on at the
//! next endpoint under the same commit id and sends only what the log does not have yet.

pub mod codec;
mod commit;
mod connect;
mod dial;
mod failure;
mod fetch;
pub mod neighbour;
mod objects;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;

/// The public protobuf API, `proto/epochlog.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented in the .proto"
)]
pub mod pb {
    tonic::include_proto!("epochlog");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/epochlog.descriptors"));
}

pub use commit::{Commit, Done, Event};
pub use connect::{Client, MESSAGE_BYTES_MAX, Options, REQUEST_BYTES_MAX, Stub};
pub use failure::{Cause, Certainty, Code, Failure, SPLIT_OR_RAISE};
pub use fetch::{EpochContent, Fetched, ReplicaContent};

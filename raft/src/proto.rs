//! The messages of `proto/raft.proto`.
#![allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented in the .proto"
)]

tonic::include_proto!("epochlog.raft");

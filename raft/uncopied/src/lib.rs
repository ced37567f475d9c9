//! Streams of gRPC requests whose payloads are never copied in memory.
//!
//! ```text
//!  message ── encode ──▶ Rope: head, payload, head, payload ──▶ body ══ HTTP/2 ══▶ Rope ── decode ──▶ message
//!                              (small)  (as it was)                                (slices of what came)
//! ```
//!
//! The bytes on the wire are those of any gRPC call: five bytes of prefix, then the protobuf message. tonic's own
//! codec writes a message into one buffer and collects what comes in another that grows. For messages of 1 MiB that was a
//! quarter of all CPU of a commit: two copies and a move of the growing buffer for each follower, and their page faults.
//! Here a payload leaves as it is, and what arrives in one HTTP/2 frame is the payload that the message has.
//!
//! Only the body of a request is exchanged; the call itself, its headers, interceptors and replies stay tonic's.
//!
//! | side | how |
//! |---|---|
//! | caller | [`request`] puts the messages in a slot of the request, [`Outlet`] around the channel makes them the body |
//! | callee | [`Inlet`] around the service puts the body in a slot, [`Incoming`] takes it from there |

mod incoming;
mod outgoing;
mod rope;
mod slot;

pub use incoming::Incoming;
pub use outgoing::{Messages, body, request};
pub use slot::{Inlet, Outlet};

/// Bytes before each message: whether it is compressed (never), and its length.
const PREFIX_BYTES: usize = 5;

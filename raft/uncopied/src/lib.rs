//! Streams of gRPC requests whose payloads are not copied in memory.
//!
//! ```text
//!  message ── encode ──▶ Rope: head, payload, head, payload ──▶ body ══ HTTP/2 ══▶ Rope ── decode ──▶ message
//!                              (small)  (as it was)                                (slices of what came)
//! ```
//!
//! The bytes on the wire are those of any gRPC call: five bytes of prefix, then the protobuf message. tonic's own
//! codec writes a message into one buffer and collects what comes in another, which moves when the rest of the message is
//! reserved behind its first frame. For messages of 1 MiB that was a quarter of all CPU of a commit: two copies and the
//! move for each follower, and their page faults. Here a payload of 16 KiB or more leaves as it is, and when it arrives in
//! one HTTP/2 frame, that frame is the payload that the message has. What is smaller is collected, so that nobody can
//! make a message cost a multiple of its bytes by sending it in crumbs.
//!
//! Only the body of a request is exchanged; the call itself, its headers, interceptors and replies stay tonic's. The
//! limits of a generated client and service on the size of messages do not reach such a body, nor does a codec of their
//! own: sizes and decoder are arguments here.
//!
//! | side | how |
//! |---|---|
//! | caller | [`request`] puts the messages in a slot of the request, [`Outlet`] around the channel makes them the body |
//! | callee | [`Inlet`] around the service puts the body in a slot, [`Incoming`] takes it from there |

mod incoming;
mod outgoing;
mod rope;
mod slot;

pub use incoming::{Decode, Incoming, decode};
pub use outgoing::{Messages, body, request};
pub use slot::{Inlet, Outlet};

/// Bytes before each message: whether it is compressed (never), and its length.
const PREFIX_BYTES: usize = 5;

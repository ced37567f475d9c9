//! Who comes in at the ports for clients and HTTP, where anybody may: how many connections, and how many calls of each
//! kind. No socket of a guest takes the place of a file of the log, nor of a peer.
//!
//! **Guarantees.** Connections and calls are bounded, together by a part of what the process may open ([`Bounds`]). Who
//! is silent makes room for who comes: of a full house the quietest leaves, of those from the address that has the
//! most, and only where all are at work is a newcomer turned away, with advice. So whoever brings 3,000 silent
//! connections, or 4,000 streams on which nothing comes, takes nobody's commit away. It ends by itself, too: a
//! connection without a call, a call whose client sends nothing that is waited for, an answer that nobody takes.
//!
//! **Not guaranteed.** Somebody who works on all his calls is like any other client until there are users.
//!
//! | file | what it does |
//! |---|---|
//! | `guests/house` | the bounds and the rules: who may stay, who goes. No socket, no clock of its own |
//! | `guests/port` | the house of one port, shared by its connections and calls |
//! | `guests/connection`, `guests/door` | a socket that can be ended from outside; how they come in |
//! | `guests/bodies`, `guests/admission` | the two halves of a call, watched; each call asks for its place |

mod admission;
mod bodies;
mod connection;
mod door;
mod house;
mod port;

pub use admission::{Admission, held, of_http};
pub use connection::{Connection, Guest};
pub use door::Door;
pub use house::{Bounds, Kind};
pub use port::{Call, Guests};

//! Who comes in at the ports for clients and HTTP, where anybody may: how many connections, and how many calls of each
//! kind. No socket of a guest takes the place of a file of the log, nor of a peer.
//!
//! **Guarantees.** Connections and calls are bounded, together by a part of what the process may open ([`Bounds`]). Who
//! is silent makes room for who comes: of a full house the quietest leaves, of those from the address that has the
//! most, and only where all are at work is a newcomer turned away, with advice. So whoever brings 3,000 silent
//! connections, or 4,000 streams on which nothing comes, takes nobody's commit away. It ends by itself, too: a
//! connection without a call, a call whose client sends nothing that is waited for, an answer that nobody takes. Commits that
//! send signs of life alone, and calls that only wait, make room for whoever has fewer; and a few places are kept for the
//! addresses of other nodes, whose questions every commit hangs on.
//!
//! **Not guaranteed.** Somebody who works on all his calls is like any other client until there are users. And a connection
//! is ended without a farewell of HTTP/2 (the server that we use can say GOAWAY to all of its connections, not to one): a
//! call that begins at that very moment finds it torn, and is made again by its client, a commit under the same id.
//!
//! | file | what it does |
//! |---|---|
//! | `guests/kind` | what calls are for, and how many there may be of each |
//! | `guests/members` | where other nodes are |
//! | `guests/turn` | one call: who waits for whom, and for how long. No clock of its own |
//! | `guests/house` | the rules: who may stay, who goes. No socket, no clock of its own |
//! | `guests/port` | the house of one port, shared by its connections and calls |
//! | `guests/connection`, `guests/door` | a socket that can be ended from outside; how they come in |
//! | `guests/bodies`, `guests/admission` | the two halves of a call, watched; each call asks for its place |

mod admission;
mod bodies;
mod connection;
mod door;
mod house;
mod kind;
mod members;
mod port;
mod turn;

pub use admission::{Admission, held, of_http};
pub use connection::{Connection, Guest};
pub use door::Door;
pub use house::Bounds;
pub use kind::Kind;
pub use members::follow;
pub use port::{Call, Guests};

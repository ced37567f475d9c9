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
//! | `guests/connection`, `guests/door` | a socket that can be ended from outside; how they come in |
//! | `guests/bodies`, `guests/admission` | the two halves of a call, watched; each call asks for its place |

mod admission;
mod bodies;
mod connection;
mod door;
mod house;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use client::{Code, Failure};
use tokio::sync::Notify;

use crate::metrics::Metrics;
pub use admission::{Admission, held, of_http};
pub use connection::{Connection, Guest};
pub use door::Door;
pub use house::{Bounds, Kind};
use house::{House, Turn};

/// The guests of one port.
pub struct Guests {
    port: &'static str,
    house: Mutex<House>,
    /// Somebody has left.
    left: Notify,
    metrics: Arc<Metrics>,
}

/// A call that has its place, until the last of this is dropped: by its answer, and by the task that works on it.
pub struct Call {
    guests: Arc<Guests>,
    id: u64,
    turn: Arc<Turn>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let kind = self.guests.house().call_left(self.id, Instant::now());
        if let Some(kind) = kind {
            self.guests.metrics.client_call(kind.name(), -1);
        }
    }
}

impl Guests {
    /// An empty house at `port`, with room for so many connections.
    pub fn new(port: &'static str, connections_max: usize, metrics: Arc<Metrics>) -> Arc<Guests> {
        let house = Mutex::new(House::new(connections_max));
        Arc::new(Guests { port, house, left: Notify::new(), metrics })
    }

    fn house(&self) -> MutexGuard<'_, House> {
        self.house.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call asks for its place.
    fn admit(self: &Arc<Self>, kind: Kind, guest: Option<&Guest>) -> Result<Arc<Call>, Failure> {
        let admitted = self.house().call_came(kind, guest.map(|guest| guest.id), Instant::now());
        if admitted.as_ref().is_ok_and(|admitted| admitted.ended_another) {
            self.metrics.client_refused("silent");
        }
        match admitted {
            Ok(admitted) => {
                self.metrics.client_call(kind.name(), 1);
                Ok(Arc::new(Call { guests: self.clone(), id: admitted.id, turn: admitted.turn }))
            }
            Err(most) => {
                self.metrics.client_refused("call");
                let what = kind.name();
                // Nothing louder: whoever floods the port is not to fill the log. The metric tells.
                tracing::debug!(
                    port = self.port,
                    kind = what,
                    most,
                    "a call was turned away: all are at work"
                );
                Err(Failure::new(Code::Unavailable, "the node is busy, the call was turned away")
                    .why(format!("it has {most} calls of the kind `{what}` at work, and takes no more"))
                    .fix("repeat the command a little later, or name more nodes with --endpoints"))
            }
        }
    }

    /// Ends who has been silent for too long.
    fn look(&self, now: Instant) {
        let ended = self.house().look(now);
        for _ in 0..ended {
            self.metrics.client_refused("idle");
        }
    }
}

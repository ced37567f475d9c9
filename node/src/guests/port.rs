//! The guests of one port, shared by all who let them in and serve them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use client::{Code, Failure};
use tokio::sync::Notify;

use super::house::House;
use super::kind::Kind;
use super::turn::{Asking, Turn};
use crate::metrics::Metrics;

/// The guests of one port.
pub struct Guests {
    pub(super) port: &'static str,
    house: Mutex<House>,
    /// Somebody has left.
    pub(super) left: Notify,
    pub(super) metrics: Arc<Metrics>,
}

/// A call that has its place, until the last of this is dropped: by its answer, and by the task that works on it.
pub struct Call {
    guests: Arc<Guests>,
    id: u64,
    pub(super) turn: Arc<Turn>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let kind = self.guests.house().call_left(self.id, Instant::now());
        if let Some(kind) = kind {
            self.guests.metrics.client_call(kind.name(), -1);
        }
    }
}

fn busy(why: String) -> Failure {
    Failure::new(Code::Unavailable, "the node is busy, the call was turned away")
        .why(why)
        .fix("repeat the command a little later, or name more nodes with --endpoints")
}

impl Call {
    /// What its client hears when it was ended while it only waited.
    pub(super) fn made_room(&self) -> Failure {
        busy("others needed the place of this call, which waited for longer than others".into())
    }

    /// Its directory was handed over: it takes no place of those that are streamed any more.
    pub fn is_by_path(&self) {
        if let Some(was) = self.guests.house().call_becomes(self.id, Kind::ByPath) {
            self.guests.metrics.client_call(was.name(), -1);
            self.guests.metrics.client_call(Kind::ByPath.name(), 1);
        }
    }

    /// Its client is asked, as long as the answer lives: for whoever stops to ask at times.
    pub fn asking(&self) -> Asking<'_> {
        self.turn.asking()
    }

    /// Its client has brought it on.
    pub fn progress(&self) {
        self.turn.progress();
    }
}

impl Guests {
    /// An empty house at `port`, with room for so many connections.
    pub fn new(port: &'static str, connections_max: usize, metrics: Arc<Metrics>) -> Arc<Guests> {
        let house = Mutex::new(House::new(connections_max));
        Arc::new(Guests { port, house, left: Notify::new(), metrics })
    }

    pub(super) fn house(&self) -> MutexGuard<'_, House> {
        self.house.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call asks for its place.
    pub(super) fn admit(self: &Arc<Self>, kind: Kind, guest: Option<u64>) -> Result<Arc<Call>, Failure> {
        let admitted = self.house().call_came(kind, guest, Instant::now());
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
                Err(busy(format!("it has {most} calls of the kind `{what}` at work, and takes no more")))
            }
        }
    }

    /// Ends who has been silent for too long.
    pub(super) fn look(&self, now: Instant) {
        let ended = self.house().look(now);
        for _ in 0..ended {
            self.metrics.client_refused("idle");
        }
    }
}

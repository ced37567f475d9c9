//! Bytes of proposals that are unanswered. A semaphore would do, but for two things: the bound moves, and one record
//! always goes, however large.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

/// The bytes that are out, and how many may be.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// First come, first served: only who holds it looks for room.
    turn: Mutex<()>,
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    out: u64,
    bound: u64,
    closed: bool,
}

/// Holds room for one record until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: Arc<InFlight>,
    bytes: u64,
}

impl InFlight {
    /// At most so many bytes are out at a time.
    pub fn new(bound: u64) -> Arc<InFlight> {
        let state = watch::Sender::new(State { out: 0, bound, closed: false });
        Arc::new(InFlight { turn: Mutex::default(), state })
    }

    /// From now on at most so many. What is out stays out.
    pub fn set_bound(&self, bound: u64) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.bound, bound) != bound);
    }

    /// Waits until so many more bytes may be out; `None` once it is closed.
    pub async fn permit(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let _turn = self.turn.lock().await;
        let mut changes = self.state.subscribe();
        let fits = |state: &State| state.out == 0 || state.out.saturating_add(bytes) <= state.bound;
        // Nobody else takes room meanwhile: what fits goes on to fit, unless the bound moves just now.
        let closed = changes.wait_for(|state| state.closed || fits(state)).await.ok()?.closed;
        if closed {
            return None;
        }
        self.state.send_modify(|state| state.out += bytes);
        Some(Permit { in_flight: self.clone(), bytes })
    }

    /// Waits until nothing is out. Whoever comes later waits behind this.
    pub async fn drained(&self) {
        let _turn = self.turn.lock().await;
        drop(self.state.subscribe().wait_for(|state| state.out == 0).await);
    }

    /// Nobody waits any more.
    pub fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.state.send_modify(|state| state.out -= self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Polls once.
    fn now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn at_once(in_flight: &Arc<InFlight>, bytes: u64) -> Option<Permit> {
        now(pin!(in_flight.permit(bytes))).flatten()
    }

    #[test]
    fn the_bound_holds_and_one_record_always_goes() {
        let in_flight = InFlight::new(10);
        let large = at_once(&in_flight, 50).expect("nothing else is out");
        assert!(at_once(&in_flight, 1).is_none());
        drop(large);
        let six = at_once(&in_flight, 6).unwrap();
        assert!(at_once(&in_flight, 5).is_none());
        let four = at_once(&in_flight, 4).unwrap();
        drop(six);
        assert!(at_once(&in_flight, 6).is_some());
        drop(four);
    }

    #[test]
    fn a_bound_that_moves_is_heeded_by_who_waits() {
        let in_flight = InFlight::new(10);
        let ten = at_once(&in_flight, 10).unwrap();
        let mut waiting = pin!(in_flight.permit(5));
        assert!(now(waiting.as_mut()).is_none());
        in_flight.set_bound(15);
        let five = now(waiting.as_mut()).flatten().expect("there is room now");
        in_flight.set_bound(1);
        drop(five);
        assert!(at_once(&in_flight, 1).is_none(), "ten are still out");
        drop(ten);
        assert!(at_once(&in_flight, 4).is_some(), "one always goes");
    }

    #[test]
    fn first_come_first_served() {
        let in_flight = InFlight::new(10);
        let ten = at_once(&in_flight, 10).unwrap();
        let (mut large, mut small) = (pin!(in_flight.permit(10)), pin!(in_flight.permit(1)));
        assert!(now(large.as_mut()).is_none());
        assert!(now(small.as_mut()).is_none());
        drop(ten);
        assert!(now(small.as_mut()).is_none(), "it came later");
        let large = now(large.as_mut()).flatten().unwrap();
        assert!(now(small.as_mut()).is_none());
        drop(large);
        assert!(now(small.as_mut()).is_some());
    }

    #[test]
    fn draining_waits_for_the_last_and_takes_nothing_in() {
        let in_flight = InFlight::new(10);
        let one = at_once(&in_flight, 1).unwrap();
        {
            let mut drained = pin!(in_flight.drained());
            assert!(now(drained.as_mut()).is_none());
            assert!(at_once(&in_flight, 1).is_none(), "there is room, but it drains");
            drop(one);
            assert!(now(drained.as_mut()).is_some());
        }
        assert!(at_once(&in_flight, 1).is_some());
    }

    #[test]
    fn closing_ends_waiting() {
        let in_flight = InFlight::new(1);
        let one = at_once(&in_flight, 1).unwrap();
        let mut waiting = pin!(in_flight.permit(1));
        assert!(now(waiting.as_mut()).is_none());
        in_flight.close();
        assert!(matches!(now(waiting.as_mut()), Some(None)));
        drop(one);
        assert!(matches!(now(pin!(in_flight.permit(1))), Some(None)), "it is closed");
    }
}

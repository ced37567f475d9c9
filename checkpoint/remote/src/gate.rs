//! How many requests may be under way: one more after a window of good ones, half as many after a bad one (AIMD, as
//! TCP; RFC 5681), and none at all while a store has asked for a pause. Retries alone cannot calm a store that is
//! busy: each request would wait by itself, and all of them come back at once.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Mutex as Turns, Notify};
use tokio::time::{Instant, sleep_until};

/// First pause after an answer of *busy* that names none.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause after answers of *busy* that name none.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The gate that every request passes.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Notify,
    // Who waits is let in as it came: an operation of a thousand requests must not keep out one of a single one.
    turns: Turns<()>,
}

#[derive(Debug)]
struct State {
    // Requests that may be under way; grows by fractions.
    room: f64,
    most: usize,
    under_way: usize,
    not_before: Option<Instant>,
    // Answers of *busy* in a row, for the pause.
    busy: u32,
    // Counted up at each halving: what was let in before it says nothing about the room since.
    round: u64,
}

/// Leave to send one request. Dropped without a word, it says nothing about the store.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    round: u64,
}

impl Gate {
    pub(crate) fn new(most: usize) -> Arc<Gate> {
        let most = most.max(1);
        let room = most as f64;
        let state = State { room, most, under_way: 0, not_before: None, busy: 0, round: 0 };
        Arc::new(Gate { state: Mutex::new(state), changed: Notify::new(), turns: Turns::new(()) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics inside the gate")
    }

    /// Waits until a request may go.
    pub(crate) async fn enter(self: &Arc<Gate>) -> Pass {
        let _turn = self.turns.lock().await;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let pause = {
                let mut state = self.state();
                let pause = state.not_before.filter(|until| *until > Instant::now());
                if pause.is_none() && state.under_way < state.room as usize {
                    state.under_way += 1;
                    return Pass { gate: Arc::clone(self), round: state.round };
                }
                pause
            };
            match pause {
                Some(until) => tokio::select! { () = sleep_until(until) => {}, () = changed => {} },
                None => changed.await,
            }
        }
    }

    /// Requests that may be under way now.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.state().room as usize
    }
}

impl Pass {
    /// The store did what was asked.
    pub(crate) fn went_well(self) {
        let mut state = self.gate.state();
        state.busy = 0;
        state.room = (state.room + 1.0 / state.room).min(state.most as f64);
    }

    /// The store asked for patience, for so long if it said so.
    pub(crate) fn was_busy(self, retry_after: Option<Duration>) {
        let mut state = self.gate.state();
        let first_of_its_round = halve(&mut state, self.round);
        if first_of_its_round {
            state.busy = (state.busy + 1).min(16);
        }
        let pause = retry_after.unwrap_or_else(|| {
            let pause = PAUSE_MIN.saturating_mul(1 << (state.busy.max(1) - 1).min(8)).min(PAUSE_MAX);
            // At least the pause: several machines must not come back together.
            pause.mul_f64(rand::rng().random_range(1.0..1.5))
        });
        if first_of_its_round || retry_after.is_some() {
            let until = Instant::now() + pause;
            state.not_before = Some(state.not_before.map_or(until, |before| before.max(until)));
        }
    }

    /// No answer, or a broken one: too many at once may be why.
    pub(crate) fn broke(self) {
        halve(&mut self.gate.state(), self.round);
    }
}

// Whether this was the first bad word since the last halving.
fn halve(state: &mut State, round: u64) -> bool {
    if round != state.round {
        return false;
    }
    state.round += 1;
    state.room = (state.room / 2.0).max(1.0);
    true
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.state().under_way -= 1;
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_bad_round_halves_once_and_good_ones_grow_back() {
        let gate = Gate::new(8);
        let passes: Vec<Pass> = futures::future::join_all((0..8).map(|_| gate.enter())).await;
        assert!(gate.enter().now_or_never().is_none());
        for pass in passes {
            pass.broke();
        }
        assert_eq!(gate.room(), 4);
        for _ in 0..100 {
            gate.enter().await.went_well();
        }
        assert_eq!(gate.room(), 8);
        for _ in 0..10 {
            gate.enter().await.broke();
        }
        assert_eq!(gate.room(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_much_keeps_out_nobody() {
        use futures::StreamExt;
        let gate = Gate::new(2);
        let request = || async {
            let pass = gate.enter().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            pass.went_well();
        };
        let much = futures::stream::iter(0..1000).map(|_| request()).buffer_unordered(4);
        let one = async {
            tokio::time::sleep(Duration::from_millis(15)).await;
            let begun = Instant::now();
            request().await;
            begun.elapsed()
        };
        let (_, waited) = tokio::join!(much.count(), one);
        assert!(waited < Duration::from_millis(100), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_passes_before_the_pause_that_a_store_asked_for() {
        let gate = Gate::new(2);
        let begun = Instant::now();
        gate.enter().await.was_busy(Some(Duration::from_secs(7)));
        gate.enter().await.went_well();
        assert_eq!(begun.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_store_sees_less_than_two_requests_a_second() {
        let gate = Gate::new(8);
        let begun = Instant::now();
        let mut sent = 0;
        while begun.elapsed() < Duration::from_secs(60) {
            let passes = futures::future::join_all((0..gate.room()).map(|_| gate.enter())).await;
            sent += passes.len();
            passes.into_iter().for_each(|pass| pass.was_busy(None));
        }
        assert!(sent < 40, "{sent} in a minute");
    }
}

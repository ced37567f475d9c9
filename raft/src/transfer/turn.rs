//! Who may receive, and how it is told to end.
//!
//! A snapshot that comes and what is mended have a turn each, alone. What comes from stores has a *share*: several at a
//! time, since a store that does not answer must keep no other waiting; and they all give way at once to whoever wants a
//! turn. They go on later, with what they have brought.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{RwLockReadGuard, RwLockWriteGuard, watch};

/// Becomes true when a transfer has to end.
pub(crate) type Stop = watch::Receiver<bool>;

/// Pause before a share is asked for again while others go first.
const GIVE_WAY: Duration = Duration::from_millis(50);

/// Returns when the transfer has to end.
pub(crate) async fn stopped(stop: &Stop) {
    // A sender that is gone has nobody left who waits for the transfer.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}

/// True when the transfer has to end.
pub(crate) fn is_stopped(stop: &Stop) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

/// Whose turn it is to receive.
#[derive(Default)]
pub struct Turn {
    held: tokio::sync::RwLock<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Ends who has the turn, or wants it and ends others for it.
    current: Option<watch::Sender<bool>>,
    /// How many wait who end others.
    taking: usize,
    /// How many wait for a turn, in all.
    waiting: usize,
    /// Ends those who have shares.
    shares: BTreeMap<u64, watch::Sender<bool>>,
    next: u64,
}

/// A turn.
pub struct Held<'a> {
    _held: RwLockWriteGuard<'a, ()>,
}

/// A share.
pub struct Share<'a> {
    _registered: Registered<'a>,
    _held: RwLockReadGuard<'a, ()>,
}

/// A share that somebody has or waits for: its end is to be told.
struct Registered<'a> {
    turn: &'a Turn,
    number: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.turn.state().shares.remove(&self.number);
    }
}

/// Counts who waits, also when they give up.
struct Waiting<'a> {
    turn: &'a Turn,
    takes: bool,
}

impl<'a> Waiting<'a> {
    fn new(turn: &'a Turn, takes: bool) -> Waiting<'a> {
        let mut state = turn.state();
        state.waiting += 1;
        state.taking += usize::from(takes);
        for share in state.shares.values() {
            share.send_replace(true);
        }
        drop(state);
        Waiting { turn, takes }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.turn.state();
        state.waiting -= 1;
        state.taking -= usize::from(self.takes);
    }
}

impl Turn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends who is at work now and waits until it has let go. `mine` is set when somebody else wants the turn.
    pub async fn take(&self, mine: watch::Sender<bool>) -> Held<'_> {
        let waiting = Waiting::new(self, true);
        let before = self.state().current.replace(mine);
        if let Some(before) = before {
            before.send_replace(true);
        }
        let held = self.held.write().await;
        drop(waiting);
        Held { _held: held }
    }

    /// Waits until nobody else is at work, and ends nobody but shares. A snapshot that comes ends who holds this.
    pub async fn wait(&self, mine: watch::Sender<bool>) -> Held<'_> {
        let waiting = Waiting::new(self, false);
        let held = self.held.write().await;
        let mut state = self.state();
        if state.taking > 0 {
            // Somebody came meanwhile who ends others.
            mine.send_replace(true);
        } else {
            state.current = Some(mine);
        }
        drop(state);
        drop(waiting);
        Held { _held: held }
    }

    /// `None` while somebody wants a turn.
    fn register(&self, mine: &watch::Sender<bool>) -> Option<Registered<'_>> {
        let mut state = self.state();
        if state.waiting > 0 {
            return None;
        }
        state.next += 1;
        let number = state.next;
        state.shares.insert(number, mine.clone());
        Some(Registered { turn: self, number })
    }

    /// Waits until nobody has or wants a turn. `mine` is set as soon as somebody wants one.
    pub async fn share(&self, mine: watch::Sender<bool>) -> Share<'_> {
        loop {
            let Some(registered) = self.register(&mine) else {
                tokio::time::sleep(GIVE_WAY).await;
                continue;
            };
            let share = Share { _registered: registered, _held: self.held.read().await };
            if !*mine.borrow() {
                return share;
            }
            // Somebody wanted a turn while this waited for its share.
            mine.send_replace(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pair() -> (watch::Sender<bool>, Stop) {
        watch::channel(false)
    }

    #[tokio::test]
    async fn shares_are_had_together_and_give_way_to_a_turn() {
        let turn = Arc::new(Turn::default());
        let ((one, one_ends), (two, two_ends)) = (pair(), pair());
        let (first, second) = (turn.share(one).await, turn.share(two).await);
        assert!(!is_stopped(&one_ends) && !is_stopped(&two_ends));
        let waits = {
            let turn = turn.clone();
            tokio::spawn(async move {
                let (mine, ends) = pair();
                let held = turn.wait(mine).await;
                assert!(!is_stopped(&ends));
                drop(held);
            })
        };
        stopped(&one_ends).await;
        stopped(&two_ends).await;
        assert!(!waits.is_finished(), "they have not let go");
        drop((first, second));
        waits.await.unwrap();
        let (three, three_ends) = pair();
        let _third = turn.share(three).await;
        assert!(!is_stopped(&three_ends));
    }

    #[tokio::test]
    async fn nobody_gets_a_share_while_somebody_has_or_wants_a_turn() {
        let turn = Arc::new(Turn::default());
        let (mine, _ends) = pair();
        let held = turn.wait(mine).await;
        let shares = {
            let turn = turn.clone();
            tokio::spawn(async move {
                let (mine, ends) = pair();
                let _share = turn.share(mine).await;
                assert!(!is_stopped(&ends), "what ended the first try does not end this one");
            })
        };
        let (next, next_ends) = pair();
        let mut wants = Box::pin(turn.wait(next));
        assert!(futures::poll!(&mut wants).is_pending());
        tokio::time::sleep(GIVE_WAY * 2).await;
        assert!(!shares.is_finished());
        drop(held);
        let held = wants.await;
        assert!(!is_stopped(&next_ends));
        tokio::time::sleep(GIVE_WAY * 2).await;
        assert!(!shares.is_finished());
        drop(held);
        shares.await.unwrap();
    }

    #[tokio::test]
    async fn who_comes_to_end_others_ends_also_who_was_before_it_in_the_queue() {
        let turn = Turn::default();
        let (first, first_ends) = pair();
        let held = turn.wait(first).await;
        let (second, second_ends) = pair();
        let mut waits = Box::pin(turn.wait(second));
        assert!(futures::poll!(&mut waits).is_pending());
        let (snapshot, snapshot_ends) = pair();
        let mut takes = Box::pin(turn.take(snapshot));
        assert!(futures::poll!(&mut takes).is_pending());
        assert!(is_stopped(&first_ends), "it holds the turn");
        drop(held);
        let held = waits.await;
        assert!(is_stopped(&second_ends), "it came to its turn while the other waits");
        drop(held);
        let _held = takes.await;
        assert!(!is_stopped(&snapshot_ends));
    }

    #[tokio::test]
    async fn who_gives_up_keeps_nobody_waiting() {
        let turn = Turn::default();
        let (one, one_ends) = pair();
        let share = turn.share(one).await;
        {
            let (mine, _ends) = pair();
            let mut gives_up = Box::pin(turn.take(mine));
            assert!(futures::poll!(&mut gives_up).is_pending());
        }
        assert!(is_stopped(&one_ends));
        drop(share);
        let (two, two_ends) = pair();
        let _share = turn.share(two).await;
        assert!(!is_stopped(&two_ends));
    }
}

//! Whose turn it is in a call: what its two bodies tell the house, and what the house tells them.
//!
//! **Rule.** Time counts against a client only while something of him is waited for. A node that does not ask, because its
//! log or its disk is slow, does not make a client silent; time before that is kept, so that a wait in many parts is as long
//! as one in one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

/// In a full house, a call that has said something, or does not take its answer, may be ended after so long.
const SILENCE_MIN: Duration = Duration::from_secs(5);

/// A word from the house to the one who polls a socket or a body: it ends now.
#[derive(Debug, Default)]
pub struct End {
    ended: AtomicBool,
    waker: AtomicWaker,
}

impl End {
    /// Whether it has ended; else the caller is woken when it does.
    pub fn has_come(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.is_said()
    }

    /// Whether it has ended.
    pub fn is_said(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn say(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

/// Whose turn it is in a call, as its two bodies see it.
#[derive(Debug, Default)]
pub struct Turn {
    /// The call is over, whatever it does: for what the client sends.
    pub end: End,
    /// The same for the answer, of calls that only wait: they send nothing more.
    pub answer_end: End,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Waits {
    /// Since when the client is waited for.
    asked: Option<Instant>,
    /// For how long before that, since something came.
    waited: Duration,
    /// For how long before that, since something came of use.
    dry: Duration,
    /// Since when a piece of the answer waits for him.
    unread: Option<Instant>,
    /// He has said something.
    heard: bool,
}

impl Waits {
    fn stop(&mut self, now: Instant) {
        if let Some(asked) = self.asked.take() {
            let took = now.saturating_duration_since(asked);
            self.waited += took;
            self.dry += took;
        }
    }

    /// Since when, with what was waited before.
    fn asked_since(&self) -> Option<Instant> {
        let asked = self.asked?;
        Some(asked.checked_sub(self.waited).unwrap_or(asked))
    }
}

/// The client is asked, as long as this lives.
#[must_use]
pub struct Asking<'a>(&'a Turn);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.rest(Instant::now());
    }
}

impl Turn {
    fn change<T>(&self, change: impl FnOnce(&mut Waits) -> T) -> T {
        change(&mut self.waits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Somebody asks the client who may stop it at any moment.
    pub fn asking(&self) -> Asking<'_> {
        Asking(self)
    }

    /// The client is waited for; answers since when, as if it had been in one part.
    pub fn ask(&self, now: Instant) -> Instant {
        self.change(|waits| {
            waits.asked.get_or_insert(now);
            waits.asked_since().unwrap_or(now)
        })
    }

    /// He is waited for no more, for now.
    pub fn rest(&self, now: Instant) {
        self.change(|waits| waits.stop(now));
    }

    /// He has sent something.
    pub fn hear(&self, now: Instant) {
        self.change(|waits| {
            waits.stop(now);
            (waits.waited, waits.heard) = (Duration::ZERO, true);
        });
    }

    /// What he has sent brings the call on.
    pub fn progress(&self) {
        self.change(|waits| waits.dry = Duration::ZERO);
    }

    /// A piece of the answer is on its way to him, or all before it was taken.
    pub fn tell(&self, unread: Option<Instant>) {
        self.change(|waits| waits.unread = unread);
    }

    /// Since when the call waits for its client, if it has done so for long enough to be ended for another's sake; a
    /// mute one after `mute_min`.
    pub(super) fn silent_since(&self, now: Instant, mute_min: Duration) -> Option<Instant> {
        let waits = self.change(|waits| *waits);
        let patience = if waits.heard { SILENCE_MIN } else { mute_min };
        let old = |since: Option<Instant>, patience| since.filter(|since| now - *since >= patience);
        old(waits.asked_since(), patience).or(old(waits.unread, SILENCE_MIN))
    }

    /// How long was waited for something of use.
    pub(super) fn dry(&self, now: Instant) -> Duration {
        let waits = self.change(|waits| *waits);
        waits.dry + waits.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked))
    }

    pub(super) fn unread_since(&self) -> Option<Instant> {
        self.change(|waits| waits.unread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_only_while_the_client_is_waited_for() {
        let (start, turn) = (Instant::now() + Duration::from_secs(600), Turn::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        turn.hear(start);
        turn.ask(start);
        turn.rest(at(3));
        assert_eq!(turn.silent_since(at(100), Duration::ZERO), None, "nobody asks");
        assert_eq!(turn.ask(at(100)), at(97));
        assert_eq!(turn.silent_since(at(101), Duration::ZERO), None);
        assert_eq!(turn.silent_since(at(102), Duration::ZERO), Some(at(97)), "five seconds in two parts");
        assert_eq!(turn.dry(at(102)), Duration::from_secs(5));
        turn.hear(at(102));
        assert_eq!(turn.ask(at(200)), at(200), "he was heard");
        assert_eq!(turn.dry(at(201)), Duration::from_secs(6), "of no use");
        turn.hear(at(201));
        turn.progress();
        assert_eq!(turn.dry(at(300)), Duration::ZERO);
        drop(turn.asking());
    }
}

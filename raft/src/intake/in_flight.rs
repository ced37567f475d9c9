//! Bytes of proposals that are not answered, or not flushed here yet. A semaphore would do, but for three things: the
//! bound moves; one record always goes, however large; and large ones leave room for small ones and do not hold them up:
//! no more of them is out than was answered lately in about a second, and in a moment while somebody commits small
//! epochs beside them (`rate`).
//!
//! A record that waits for room on disks rests: its bytes are not out meanwhile, and hold up nobody. They are in memory
//! still; so a part of the bound is for them, and those that it does not hold keep their bytes out.
//!
//! ```text
//!  bound ──┬── out: 7 of 8 parts ──┬── large: 7 of 8 parts of these
//!          │                       └── small and bare alone
//!          └── resting: the rest
//! ```

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::rate::{Rate, Sent};

/// What a record takes beyond its bytes.
pub(super) const RECORD_OVERHEAD: u64 = 256;
/// One part in so many of the bound is for records that rest.
const FOR_RESTING: u64 = 8;
/// One part in so many of what may be out is for small records alone.
const FOR_SMALL: u64 = 8;
/// What brings no content passes all that waits, as long as no more of it is out.
const BARE_BYTES: u64 = 64 << 10;
/// Whoever committed a small epoch may do so again, for so long.
const BESIDE: Duration = Duration::from_millis(500);

/// The bytes that are out, and how many may be.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// First come, first served, among the small, the large and what brings no content: only who holds it looks for room.
    turns: [Mutex<()>; 3],
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    out: u64,
    /// How many of them are of the records of each class.
    of: [u64; 3],
    /// Of those that are out and of those that rest.
    bound: u64,
    /// Bytes of records that rest.
    resting: u64,
    rate: Rate,
    /// When the last small epoch came.
    small: Option<Instant>,
    closed: bool,
}

impl State {
    fn of(&mut self, class: Class) -> &mut u64 {
        &mut self.of[class as usize]
    }

    fn back(&mut self, bytes: u64, class: Class) {
        self.out -= bytes;
        *self.of(class) -= bytes;
    }

    /// How many may rest.
    fn resting_max(&self) -> u64 {
        self.bound / FOR_RESTING
    }

    /// How many may be out: with those that may rest they are the bound.
    fn out_max(&self) -> u64 {
        self.bound - self.resting_max()
    }

    fn fits(&mut self, bytes: u64, class: Class, now: Instant) -> bool {
        let out_max = self.out_max();
        let fits = self.out.saturating_add(bytes) <= out_max;
        match class {
            Class::Small => return self.out == 0 || fits,
            Class::Bare => {
                let bare = *self.of(class);
                return fits || bare == 0 || bare.saturating_add(bytes) <= BARE_BYTES;
            }
            Class::Large => {}
        }
        let large = *self.of(class);
        let large_max = out_max - out_max / FOR_SMALL;
        // One that never fits goes when no other large one is out: small ones may be all the time.
        let alone = large == 0 && (self.out == 0 || bytes > large_max);
        let all = large.saturating_add(bytes);
        let beside = self.small.is_some_and(|at| now.saturating_duration_since(at) < BESIDE);
        alone || fits && all <= large_max && (large == 0 || self.rate.allows(all, bytes, beside, now))
    }
}

/// What a record is to those that wait beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It brings content or a plan, in few bytes.
    Small,
    /// In many.
    Large,
    /// It brings none: it makes room, ends something, or is what a leader needs to lead. Where records that ask for room
    /// have all that may be out, and wait for it, these are what gives them some.
    Bare,
}

/// Holds room for one record until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: Arc<InFlight>,
    bytes: u64,
    class: Class,
    held: std::sync::Mutex<Held>,
}

/// What a permit holds now.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Its bytes are not out.
    rests: bool,
    /// No large one was out when it left.
    alone: bool,
    sent: Sent,
}

impl Permit {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record is in the log: so much was carried since it got its permit.
    pub fn answered(&self) {
        let Held { alone, sent, .. } = *self.held();
        // Nobody is woken for it.
        self.in_flight.state.send_if_modified(|state| {
            match (self.class == Class::Large, alone) {
                (true, _) => state.rate.answered(sent, self.bytes, Instant::now()),
                (false, true) => state.rate.answered_alone(sent, Instant::now()),
                // It waited for others' bytes.
                (false, false) => {}
            }
            false
        });
    }

    /// The record waits for something that takes long, and leaves its bytes to others; unless too many do already.
    pub fn rest(&self) {
        let mut held = self.held();
        if held.rests {
            return;
        }
        self.in_flight.state.send_if_modified(|state| {
            held.rests = state.resting.saturating_add(self.bytes) <= state.resting_max();
            if held.rests {
                state.resting += self.bytes;
                state.back(self.bytes, self.class);
            }
            held.rests
        });
    }

    /// Rests no more, as soon as its bytes may be out. It came before those that wait for a permit, and not behind them.
    /// False once it is closed.
    pub async fn go_on(&self) -> bool {
        if !self.held().rests {
            return true;
        }
        let Some((alone, sent)) = self.in_flight.take(self.bytes, self.class).await else { return false };
        self.in_flight.state.send_if_modified(|state| {
            state.resting -= self.bytes;
            false
        });
        *self.held() = Held { rests: false, alone, sent };
        true
    }
}

impl InFlight {
    /// At most so many bytes are out or rest at a time.
    pub fn new(bound: u64) -> Arc<InFlight> {
        let (rate, small, closed) = (Rate::default(), None, false);
        let state = State { out: 0, of: [0; 3], bound, resting: 0, rate, small, closed };
        Arc::new(InFlight { turns: Default::default(), state: watch::Sender::new(state) })
    }

    /// From now on at most so many. What is out stays out, and what rests goes on resting.
    pub fn set_bound(&self, bound: u64) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.bound, bound) != bound);
    }

    /// Somebody commits a small epoch, and waits for all that is out before it.
    pub fn small_epoch(&self) {
        self.state.send_if_modified(|state| {
            state.small = Some(Instant::now());
            false
        });
    }

    /// Waits until so many more bytes may be out; `None` once it is closed.
    pub async fn permit(self: &Arc<Self>, bytes: u64, class: Class) -> Option<Permit> {
        let _turn = self.turns[class as usize].lock().await;
        let (alone, sent) = self.take(bytes, class).await?;
        let held = std::sync::Mutex::new(Held { rests: false, alone, sent });
        Some(Permit { in_flight: self.clone(), bytes, class, held })
    }

    /// Waits until so many bytes are out.
    async fn take(&self, bytes: u64, class: Class) -> Option<(bool, Sent)> {
        let mut changes = self.state.subscribe();
        loop {
            changes.borrow_and_update();
            let mut taken = None;
            let mut closed = false;
            self.state.send_if_modified(|state| {
                closed = state.closed;
                let now = Instant::now();
                if !closed && state.fits(bytes, class, now) {
                    taken = Some((*state.of(Class::Large) == 0, state.rate.sent(now)));
                    state.out += bytes;
                    *state.of(class) += bytes;
                }
                false
            });
            match taken {
                _ if closed => return None,
                Some(taken) => return Some(taken),
                // Room comes with an answer or another bound, which both tell.
                None => changes.changed().await.ok()?,
            }
        }
    }

    /// Waits until nothing is out, and nothing rests. Whoever comes later waits behind this.
    pub async fn drained(&self) {
        let [small, large, bare] = &self.turns;
        let _turns = (small.lock().await, large.lock().await, bare.lock().await);
        drop(self.state.subscribe().wait_for(|state| state.out == 0 && state.resting == 0).await);
    }

    /// Nobody waits any more.
    pub fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let rests = self.held().rests;
        self.in_flight.state.send_modify(|state| match rests {
            true => state.resting -= self.bytes,
            false => state.back(self.bytes, self.class),
        });
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

    /// So many bytes may be out.
    fn with_out(bytes: u64) -> Arc<InFlight> {
        InFlight::new(bound_for(bytes))
    }

    fn bound_for(out: u64) -> u64 {
        out * FOR_RESTING / (FOR_RESTING - 1)
    }

    fn at_once(in_flight: &Arc<InFlight>, bytes: u64) -> Option<Permit> {
        now(pin!(in_flight.permit(bytes, Class::Small))).flatten()
    }

    fn large_at_once(in_flight: &Arc<InFlight>, bytes: u64) -> Option<Permit> {
        now(pin!(in_flight.permit(bytes, Class::Large))).flatten()
    }

    #[test]
    fn the_bound_holds_and_one_record_always_goes() {
        let in_flight = with_out(10);
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
        let in_flight = with_out(10);
        let ten = at_once(&in_flight, 10).unwrap();
        let mut waiting = pin!(in_flight.permit(5, Class::Small));
        assert!(now(waiting.as_mut()).is_none());
        in_flight.set_bound(bound_for(15));
        let five = now(waiting.as_mut()).flatten().expect("there is room now");
        in_flight.set_bound(1);
        drop(five);
        assert!(at_once(&in_flight, 1).is_none(), "ten are still out");
        drop(ten);
        assert!(at_once(&in_flight, 4).is_some(), "one always goes");
    }

    #[test]
    fn first_come_first_served() {
        let in_flight = with_out(10);
        let ten = at_once(&in_flight, 10).unwrap();
        let (mut large, mut small) =
            (pin!(in_flight.permit(10, Class::Small)), pin!(in_flight.permit(1, Class::Small)));
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
    fn small_records_pass_large_ones_that_wait_for_the_link() {
        let in_flight = with_out(48 << 20);
        let chunk = large_at_once(&in_flight, 1 << 20).unwrap();
        let mut waiting = pin!(in_flight.permit(1 << 20, Class::Large));
        assert!(now(waiting.as_mut()).is_none(), "nothing was answered yet: one chunk is enough");
        let small: Vec<_> = (0..100).map(|_| at_once(&in_flight, 1 << 10).expect("it is small")).collect();
        chunk.answered();
        drop(chunk);
        assert!(now(waiting.as_mut()).flatten().is_some());
        // It came back at once, so the next time there is room for many.
        let many: Vec<_> = (0..40).map(|_| large_at_once(&in_flight, 1 << 20)).collect();
        assert!(many.iter().all(Option::is_some));
        drop(small);
    }

    #[test]
    fn little_is_out_while_small_epochs_are_committed() {
        let in_flight = with_out(48 << 20);
        let page = 100 << 10;
        let first = large_at_once(&in_flight, page).unwrap();
        std::thread::sleep(Duration::from_millis(2)); // so long its answer takes
        first.answered();
        drop(first);
        let out = |in_flight: &Arc<InFlight>| -> usize {
            let out: Vec<_> = (0..100).map_while(|_| large_at_once(in_flight, page)).collect();
            out.len()
        };
        assert_eq!(out(&in_flight), 100, "a second's worth is more than that");
        in_flight.small_epoch();
        let beside = out(&in_flight);
        assert!((2..=20).contains(&beside), "{beside} pages, of at least 2 ms each");
    }

    #[test]
    fn draining_waits_for_the_last_and_takes_nothing_in() {
        let in_flight = with_out(10);
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
    fn large_ones_leave_room_for_small_ones_and_do_not_hold_them_up() {
        let in_flight = with_out(80);
        let large = now(pin!(in_flight.permit(70, Class::Large))).flatten().unwrap();
        let mut waiting = pin!(in_flight.permit(10, Class::Large));
        assert!(now(waiting.as_mut()).is_none(), "a part of the room is not for large ones");
        let small = at_once(&in_flight, 10).expect("it does not wait behind the large one");
        assert!(at_once(&in_flight, 1).is_none());
        drop(large);
        let second = now(waiting.as_mut()).flatten().unwrap();
        drop(second);
        let huge = now(pin!(in_flight.permit(500, Class::Large))).flatten().expect("one goes, however large");
        assert!(now(pin!(in_flight.permit(1, Class::Large))).is_none());
        drop((huge, small));
        assert!(now(pin!(in_flight.drained())).is_some());
    }

    #[test]
    fn what_makes_room_passes_those_that_wait_for_some() {
        let in_flight = with_out(10);
        let bare = |bytes| now(pin!(in_flight.permit(bytes, Class::Bare))).flatten();
        // They ask for room, and hold all that may be out meanwhile.
        let asking = at_once(&in_flight, 10).unwrap();
        let mut waiting = pin!(in_flight.permit(1, Class::Small));
        assert!(now(waiting.as_mut()).is_none());
        let (abort, removal) = (bare(500).expect("an abort"), bare(2000).expect("a removal"));
        assert!(bare(BARE_BYTES).is_none(), "not without a bound");
        drop((abort, removal));
        assert!(bare(2 * BARE_BYTES).is_some(), "one always goes");
        assert!(now(waiting.as_mut()).is_none());
        drop(asking);
        assert!(now(waiting.as_mut()).flatten().is_some());
    }

    #[test]
    fn what_waits_for_room_leaves_its_bytes_to_others_and_takes_them_again() {
        let in_flight = with_out(80);
        let asking = at_once(&in_flight, 10).unwrap();
        let other = at_once(&in_flight, 70).unwrap();
        let mut waiting = pin!(in_flight.permit(1, Class::Small));
        assert!(now(waiting.as_mut()).is_none());
        asking.rest();
        let passed = now(waiting.as_mut()).flatten().expect("it waits for nobody's disk");
        asking.rest();
        let more = at_once(&in_flight, 9).unwrap();
        assert_eq!(more.bytes + passed.bytes + other.bytes, 80);
        {
            let mut again = pin!(asking.go_on());
            assert!(now(again.as_mut()).is_none(), "others are out");
            let mut later = pin!(in_flight.permit(10, Class::Small));
            assert!(now(later.as_mut()).is_none());
            drop(more);
            drop(passed);
            assert_eq!(now(again.as_mut()), Some(true), "it came before those that wait");
            assert!(now(later.as_mut()).is_none());
        }
        assert_eq!(now(pin!(asking.go_on())), Some(true), "it is out");
        drop((asking, other));
        assert!(now(pin!(in_flight.drained())).is_some());
    }

    #[test]
    fn no_more_rest_than_may_and_all_are_waited_for() {
        let in_flight = with_out(80);
        let first = at_once(&in_flight, 8).unwrap();
        first.rest();
        let second = at_once(&in_flight, 8).unwrap();
        second.rest();
        assert!(at_once(&in_flight, 73).is_none(), "the second keeps its bytes");
        drop(second);
        assert!(now(pin!(in_flight.drained())).is_none(), "the first is not answered");
        let out = at_once(&in_flight, 80).unwrap();
        in_flight.close();
        assert_eq!(now(pin!(first.go_on())), Some(false));
        drop((first, out));
        assert!(now(pin!(in_flight.drained())).is_some());
    }

    /// All of them are in memory.
    #[test]
    fn what_rests_and_what_is_out_have_one_bound() {
        for bound in [80, 81, 87, 400] {
            let in_flight = InFlight::new(bound);
            let mut all = Vec::new();
            // Whoever may rest leaves its place to the next.
            while let Some(permit) = at_once(&in_flight, 5) {
                permit.rest();
                all.push(permit);
            }
            let rest = all.iter().filter(|permit| permit.held().rests).count() as u64;
            let bytes: u64 = all.iter().map(|permit| permit.bytes).sum();
            assert!(bytes <= bound && bytes + 10 > bound, "{bytes} of {bound}");
            assert!(rest > 0 && rest * 5 <= bound / FOR_RESTING, "{rest} rest of {bound}");
        }
    }

    #[test]
    fn closing_ends_waiting() {
        let in_flight = with_out(1);
        let one = at_once(&in_flight, 1).unwrap();
        let mut waiting = pin!(in_flight.permit(1, Class::Small));
        assert!(now(waiting.as_mut()).is_none());
        in_flight.close();
        assert!(matches!(now(waiting.as_mut()), Some(None)));
        drop(one);
        assert!(matches!(now(pin!(in_flight.permit(1, Class::Small))), Some(None)), "it is closed");
    }
}

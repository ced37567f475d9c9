//! What keeps things where they are while somebody needs them.
//!
//! A transfer goes on for as long as its content takes to come: over a thin link, a day. Meanwhile epochs come and go, and
//! what came after the pin was taken is none of the transfer's business. So a pin *knows* something: the contents and
//! attempts of its ledger, or more than these. What no pin knows is given back as if there were none.
//!
//! A pin holds the log, too, behind its ledger, so that the other side goes on from there. That is a kindness with an
//! end: whoever keeps the log lets go of it when it costs too much, and the other side then gets another snapshot, of which
//! it has most.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;

use crate::ledger::Ledger;
use crate::record::LogId;

/// What is pinned, by number.
#[derive(Debug, Default)]
pub struct Pins {
    next: AtomicU64,
    /// Held by `reclaim` while it unlinks a few, and while a pin is made.
    held: Mutex<BTreeMap<u64, Hold>>,
    /// Numbers of pins that live no more and may still be among these: where a pin is dropped, nobody waits for a disk.
    dropped: Mutex<Vec<u64>>,
}

/// What a pin holds.
#[derive(Debug)]
struct Hold {
    /// Where the log may not be purged past; `None` holds all of it.
    log: Option<LogId>,
    known: Known,
}

/// Contents and attempts that a transfer may ask for.
#[derive(Debug, Default)]
pub struct Known {
    /// First bytes of digests: two that begin alike are both held. Sorted in a pin.
    contents: Vec<u64>,
    attempts: BTreeSet<u64>,
}

/// So many contents or entries of a plan are looked at while a ledger is held.
const PART: u32 = 4096;

impl Known {
    /// What a ledger refers to. `ledger` gives it for a moment, many times; in between it may move on, by records alone.
    /// What they let go of meanwhile may be left out, and what they bring.
    pub fn of<L: Deref<Target = Ledger>>(ledger: impl Fn() -> L) -> Known {
        let open: Vec<u64> = ledger().attempts().map(|info| info.id).collect();
        let mut known = Known::default();
        // Small files of an open attempt are looked for on the shelves once it is sealed. So attempts come first: the
        // files of one that is sealed in the middle of this are among the contents when they are looked at.
        for id in &open {
            known.take_parts(|from| {
                let ledger = ledger();
                let packed = ledger.packed_in(*id, from..from.saturating_add(PART));
                (packed.map(|digest| first(&digest)).collect(), ledger.entries_here(*id))
            });
        }
        known.take_parts(|from| {
            let ledger = ledger();
            let held = ledger.contents_in(from..from.saturating_add(PART));
            (held.map(|digest| first(&digest)).collect(), ledger.content_slots())
        });
        known.attempts.extend(open);
        known
    }

    /// Until there are no more places: `part` tells what is in those from one on, and how many there are.
    fn take_parts(&mut self, part: impl Fn(u32) -> (Vec<u64>, u32)) {
        let mut from = 0;
        loop {
            let (mut contents, places) = part(from);
            self.contents.append(&mut contents);
            from = from.saturating_add(PART);
            if from >= places {
                return;
            }
        }
    }

    /// These, too.
    pub fn add(
        &mut self,
        contents: impl IntoIterator<Item = Digest>,
        attempts: impl IntoIterator<Item = u64>,
    ) {
        self.contents.extend(contents.into_iter().map(|digest| first(&digest)));
        self.attempts.extend(attempts);
    }

    fn sort(&mut self) {
        self.contents.sort_unstable();
        self.contents.dedup();
        self.contents.shrink_to_fit();
    }
}

fn first(digest: &Digest) -> u64 {
    let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
    u64::from_be_bytes(*first)
}

/// While it lives, nothing that it knows is unlinked here.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<Pins>,
    number: u64,
}

impl Pin {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.dropped().push(self.number);
    }
}

/// All pins, while none is taken. One that is dropped meanwhile counts on.
pub struct Held<'a>(MutexGuard<'a, BTreeMap<u64, Hold>>);

impl Held<'_> {
    /// Whether there is no pin.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a pin knows this content.
    pub fn knows(&self, digest: &Digest) -> bool {
        self.0.values().any(|hold| hold.known.contents.binary_search(&first(digest)).is_ok())
    }

    /// Whether a pin knows this attempt.
    pub fn knows_attempt(&self, attempt: u64) -> bool {
        self.0.values().any(|hold| hold.known.attempts.contains(&attempt))
    }
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Hold>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for number in std::mem::take(&mut *self.dropped()) {
            held.remove(&number);
        }
        held
    }

    fn dropped(&self) -> MutexGuard<'_, Vec<u64>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pins; none is taken while the answer lives.
    pub fn held(&self) -> Held<'_> {
        Held(self.lock())
    }

    pub(super) fn lives(&self, number: u64) -> bool {
        self.lock().contains_key(&number)
    }

    /// A pin: of the log from a position on, and of what is known, both asked for while nothing is unlinked. Blocks for
    /// as long as a few unlinks take, and the question.
    pub fn take(self: &Arc<Self>, look: impl FnOnce() -> (Option<LogId>, Known)) -> Pin {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut held = self.lock();
        let (log, mut known) = look();
        known.sort();
        held.insert(number, Hold { log, known });
        Pin { pins: self.clone(), number }
    }

    /// Up to where the log may be purged, at most up to `limit`; `None` when nothing of it may go.
    pub fn lower(&self, limit: LogId) -> Option<LogId> {
        let mut limit = limit;
        for hold in self.lock().values() {
            let log = hold.log?;
            if log.index < limit.index {
                limit = log;
            }
        }
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_looked_at_once() {
        for places in [0, 1, PART - 1, PART, PART + 1, 3 * PART + 7] {
            let mut known = Known::default();
            known.take_parts(|from| ((from..places.min(from + PART)).map(u64::from).collect(), places));
            assert!(known.contents.into_iter().eq((0..places).map(u64::from)), "{places} places");
        }
    }

    #[test]
    fn a_pin_is_dropped_while_something_is_unlinked_and_holds_nothing_afterwards() {
        let pins = Arc::new(Pins::default());
        let pin = pins.take(|| (None, Known { contents: vec![3, 1], attempts: BTreeSet::from([7]) }));
        let held = pins.held();
        drop(pin);
        assert!(held.knows_attempt(7), "nothing changes under who looks");
        drop(held);
        let limit = LogId { term: 1, node: 1, index: 9 };
        assert_eq!(pins.lower(limit), Some(limit));
        assert!(pins.held().is_empty());
    }
}

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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;

use crate::ledger::Ledger;
use crate::record::LogId;

/// What is pinned, by number.
#[derive(Debug, Default)]
pub struct Pins {
    next: AtomicU64,
    /// Held by `reclaim` while it unlinks a few.
    held: Mutex<BTreeMap<u64, Hold>>,
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
    /// First bytes of digests, sorted: two that begin alike are both held.
    contents: Vec<u64>,
    attempts: BTreeSet<u64>,
}

impl Known {
    /// What `ledger` refers to, and what else is given.
    pub fn of(
        ledger: &Ledger,
        contents: impl IntoIterator<Item = Digest>,
        attempts: impl IntoIterator<Item = u64>,
    ) -> Known {
        let open: Vec<u64> = ledger.attempts().map(|info| info.id).collect();
        // Small files of an open attempt are looked for on the shelves once it is sealed.
        let packed = open.iter().flat_map(|id| ledger.packed_files(*id)).map(|file| file.digest);
        let held = ledger.contents().map(|(digest, _)| digest);
        let mut contents: Vec<u64> =
            held.chain(packed).chain(contents).map(|digest| first(&digest)).collect();
        contents.sort_unstable();
        contents.dedup();
        contents.shrink_to_fit();
        Known { contents, attempts: open.into_iter().chain(attempts).collect() }
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
        self.pins.lock().remove(&self.number);
    }
}

/// All pins, while none is taken.
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
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pins; none is taken or let go while the answer lives.
    pub fn held(&self) -> Held<'_> {
        Held(self.lock())
    }

    pub(super) fn lives(&self, number: u64) -> bool {
        self.lock().contains_key(&number)
    }

    /// A pin: of the log from a position on, and of what is known, both asked for while nothing is unlinked.
    pub fn take(self: &Arc<Self>, look: impl FnOnce() -> (Option<LogId>, Known)) -> Pin {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut held = self.lock();
        let (log, known) = look();
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

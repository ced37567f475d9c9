//! How a transfer asks stores for what lies in them: which way, whether before the peers, how gently.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::hydrating::Hydrating;
use crate::depot::{DepotError, DepotTrouble, ObjectRange, RANGE_BYTES_MAX, Stores};

/// A store from which a range does not come for so long is away. What it does not give in that time at the normal pace may
/// come at a gentle one.
const STALL: Duration = Duration::from_secs(90);
/// Bytes of ranges that are on their way at once, over all stores.
const BYTES_AT_ONCE: u64 = 128 << 20;
/// Permits are of so many bytes.
const PERMIT_BYTES: u64 = 64 << 10;

/// How much is asked of a store at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The longest range, in bytes.
    pub range_bytes: u64,
    /// Ranges at once, of each of the groups that are brought at once.
    pub ranges: usize,
}

impl Pace {
    /// One connection to a store is slow, and many make up for that.
    pub const NORMAL: Pace = Pace { range_bytes: RANGE_BYTES_MAX, ranges: 8 };
    /// For a line so slow that a normal range does not come in time.
    pub const GENTLE: Pace = Pace { range_bytes: 256 << 10, ranges: 1 };
}

/// What all transfers of a node share that ask stores.
#[derive(Debug, Clone)]
pub struct Line {
    stores: Stores,
    /// What comes from a store just now.
    pub hydrating: Hydrating,
    /// Bytes that came from stores since this process started.
    fetched: Arc<AtomicU64>,
    room: Arc<Semaphore>,
}

impl Line {
    /// To these stores.
    pub fn new(stores: Stores, hydrating: Hydrating) -> Line {
        let room = Arc::new(Semaphore::new((BYTES_AT_ONCE / PERMIT_BYTES) as usize));
        Line { stores, hydrating, fetched: Arc::default(), room }
    }

    /// Bytes that came from stores since this process started.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }
}

/// How one transfer asks stores.
#[derive(Debug, Clone)]
pub struct Way {
    pub line: Line,
    /// Before the peers.
    pub first: bool,
    /// For how long what is wanted was not to be had.
    pub since: Duration,
    pub pace: Pace,
    /// A range did not come in time.
    stalled: Arc<AtomicBool>,
    /// One came.
    answered: Arc<AtomicBool>,
    /// Stores that are asked no more by this transfer, and why: all that lies there would hear the same.
    closed: Arc<Mutex<BTreeMap<u64, DepotError>>>,
}

impl Way {
    /// Of this line.
    pub fn new(line: &Line, first: bool, since: Duration, pace: Pace) -> Way {
        let (stalled, answered, closed) = (Arc::default(), Arc::default(), Arc::default());
        Way { line: line.clone(), first, since, pace, stalled, answered, closed }
    }

    /// Whether a range did not come in time.
    pub fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Whether a range came.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Why this store is asked no more.
    pub fn closed(&self, store: u64) -> Option<DepotError> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).get(&store).cloned()
    }

    /// This store is asked no more.
    pub fn close(&self, store: u64, why: DepotError) {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).insert(store, why);
    }

    /// The bytes of a range, as many as were asked for; unverified.
    ///
    /// # Errors
    /// As the store's.
    pub async fn fetch(&self, range: ObjectRange) -> Result<Bytes, DepotError> {
        let permits = range.len.div_ceil(PERMIT_BYTES) as u32;
        let _room = self.line.room.acquire_many(permits).await;
        match tokio::time::timeout(STALL, self.line.stores.0.fetch(range)).await {
            Err(_) => {
                self.stalled.store(true, Ordering::Relaxed);
                Err(DepotError::new(DepotTrouble::Away, format!("no answer for {STALL:?}")))
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(data)) if data.len() as u64 == range.len => {
                self.answered.store(true, Ordering::Relaxed);
                self.line.fetched.fetch_add(range.len, Ordering::Relaxed);
                Ok(data)
            }
            Ok(Ok(data)) => {
                let why = format!("{} bytes came where {} were asked for", data.len(), range.len);
                Err(DepotError::new(DepotTrouble::Damaged, why))
            }
        }
    }
}

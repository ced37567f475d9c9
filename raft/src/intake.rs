//! What is let in, and how much of it: proposals here, entries from a leader, content on a disk that is nearly full.
//!
//! | file | what it holds |
//! |---|---|
//! | `in_flight` | bytes that are out and not answered |
//! | `space` | content refused for want of space, here and by followers |
//! | `foreground` | commits go first |

mod foreground;
mod in_flight;
mod space;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use nativelog::record::LogRecord;
use nativelog::store::LogStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{PROPOSAL_BYTES, ReplicaConfig, RoomProbe};
use crate::error::ProposeError;

pub(crate) use foreground::Foreground;
pub(crate) use in_flight::{InFlight, Permit};
pub use space::VoterSpace;
pub(crate) use space::{Heard, Refusal};

/// What a record takes beyond its bytes.
const RECORD_OVERHEAD: u64 = 256;

/// What one replica lets in.
pub(crate) struct Intake {
    node: u64,
    log: LogStore,
    /// Bytes of unanswered proposals.
    proposals: Arc<InFlight>,
    proposal_bytes: u64,
    /// Bytes of unanswered entries from append streams.
    appends: Arc<Semaphore>,
    append_bytes: usize,
    /// What is refused at the ingress at present, for want of space.
    refusal: Refusal,
    /// Why content is not proposed here at present.
    no_content: RwLock<Option<String>>,
    /// What the other voters told of their space.
    told: RwLock<BTreeMap<u64, VoterSpace>>,
    /// Followers that refused content.
    heard: Arc<Heard>,
    /// Whether this node has room just now.
    room: RoomProbe,
    /// Sees when this node has a hand in commits.
    foreground: Arc<Foreground>,
}

impl Intake {
    /// Takes in what fits `config`.
    pub fn new(config: &ReplicaConfig, log: LogStore) -> Arc<Intake> {
        let proposal_bytes = config.proposal_bytes() as u64;
        Arc::new(Intake {
            node: config.node,
            log,
            proposals: InFlight::new(proposal_bytes),
            proposal_bytes,
            appends: Arc::new(Semaphore::new(config.append_bytes())),
            append_bytes: config.append_bytes(),
            refusal: Refusal::default(),
            no_content: RwLock::default(),
            told: RwLock::default(),
            heard: Arc::default(),
            room: config.room.clone(),
            foreground: Arc::default(),
        })
    }

    /// Sees when this node has a hand in commits.
    pub fn foreground(&self) -> &Arc<Foreground> {
        &self.foreground
    }

    /// Is told which followers refuse content.
    pub fn heard(&self) -> &Arc<Heard> {
        &self.heard
    }

    /// Whether this node has room just now.
    pub fn room(&self) -> &RoomProbe {
        &self.room
    }

    /// Waits for room for `record`, which is to be proposed.
    ///
    /// # Errors
    /// It is too large; this node stops.
    pub async fn permit(&self, record: &LogRecord) -> Result<Permit, ProposeError> {
        let bytes = record.bytes().saturating_add(RECORD_OVERHEAD);
        if bytes > PROPOSAL_BYTES as u64 {
            return Err(ProposeError::unavailable(format!("a record of {bytes} bytes is too large")));
        }
        let permit = self.proposals.permit(bytes).await;
        permit.ok_or_else(|| ProposeError::unavailable("this node is shutting down"))
    }

    /// Waits for room for entries of so many bytes from a leader; `None` once this node stops.
    pub async fn append_permit(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.append_bytes as u64)).expect("32 MiB fits");
        self.appends.clone().acquire_many_owned(bytes).await.ok()
    }

    /// Why entries with content are not taken from a leader now. While there is a reason, space is short: what is
    /// garbage is given back at once, and nothing is fetched.
    pub fn takes_no_content(&self) -> Option<String> {
        self.refusal.why().or_else(|| self.stalled()).or_else(|| (self.room.0)())
    }

    /// Why content is not proposed here now: this node is short of space, or so many of the voters are that no
    /// majority would take it.
    pub fn proposes_no_content(&self, voters: impl FnOnce() -> Vec<u64>) -> Option<String> {
        let own = self.no_content.read().unwrap_or_else(PoisonError::into_inner).clone();
        own.or_else(|| self.stalled()).or_else(|| {
            let refused = self.heard.lately();
            let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
            if refused.is_empty() && told.values().all(|told| told.short.is_none()) {
                return None;
            }
            space::too_few_take_content(&voters(), &refused, &told)
        })
    }

    /// Whether content from a leader is let in: there is room, or it is the bounded part that a node which is short
    /// takes all the same. `last` is the index of the last of these records.
    pub fn admit_content(&self, records: usize, payload: u64, last: u64) -> Result<(), String> {
        match self.takes_no_content() {
            Some(_) if self.stalled().is_none() && self.refusal.lets_in(records, payload, last) => Ok(()),
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// The log knows of a full disk before anybody has looked.
    fn stalled(&self) -> Option<String> {
        let stalled = self.log.stalled();
        let why = stalled.borrow();
        why.as_ref().map(|why| format!("node {} is short of space: {why}", self.node))
    }

    /// See [`Replica::refuse_appends`](crate::Replica::refuse_appends).
    pub fn refuse_appends(&self, why: Option<String>) {
        self.refusal.set(why, self.append_bytes as u64);
    }

    /// See [`Replica::refuse_content`](crate::Replica::refuse_content).
    pub fn refuse_content(&self, why: Option<String>) {
        *self.no_content.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// See [`Replica::heed`](crate::Replica::heed).
    pub fn heed(&self, told: BTreeMap<u64, VoterSpace>) {
        let least = told.values().map(|voter| voter.in_flight_bytes).min();
        let own = self.proposal_bytes;
        self.proposals.set_bound(least.map_or(own, |least| own.min(least)));
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Waits until every proposal is answered.
    pub async fn drained(&self) {
        self.proposals.drained().await;
    }

    /// Nothing is let in any more, and nobody waits.
    pub fn close(&self) {
        self.proposals.close();
        self.appends.close();
    }
}

//! What is let in, and how much of it: proposals here, entries from a leader, content on a disk that is nearly full.
//!
//! | file | what it holds |
//! |---|---|
//! | `kept` | what a disk that is short keeps for what is on its way |
//! | `in_flight` | bytes that are out and not answered, or not flushed here |
//! | `rate` | how many of large records may be out, by what was answered lately |
//! | `lag` | large content goes slower while the voters are behind |
//! | `space` | content refused for want of space, here and by followers |
//! | `refusals` | what followers refused |
//! | `foreground` | commits go first |

mod foreground;
mod in_flight;
mod kept;
mod lag;
mod rate;
mod refusals;
mod space;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nativelog::machine::Machine;
use nativelog::record::{Kind, LogRecord};
use nativelog::store::LogStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::begins::RoomJudge;
use crate::config::{PROPOSAL_BYTES, ReplicaConfig, RoomProbe};
use crate::error::ProposeError;

pub(crate) use foreground::Foreground;
pub(crate) use in_flight::Permit;
#[cfg(test)]
pub(crate) use in_flight::{Class, InFlight};
pub(crate) use kept::Kept;
pub use space::VoterSpace;

use in_flight::RECORD_OVERHEAD;
#[cfg(not(test))]
use in_flight::{Class, InFlight};
use lag::Lags;
use refusals::Refusals;
use space::Refusal;

/// A record that brings content or a plan, in so many bytes, is large: it waits for the disks of a majority, and leaves
/// room for others.
const LARGE_BYTES: u64 = 64 << 10;

fn is_large(record: &LogRecord) -> bool {
    record.brings_content() && record.bytes() >= LARGE_BYTES
}

fn class(record: &LogRecord) -> Class {
    match record.brings_content() {
        false => Class::Bare,
        true if is_large(record) => Class::Large,
        true => Class::Small,
    }
}

/// What a leader hears from its followers about what they can take.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    refusals: Refusals,
    lags: Lags,
}

impl Heard {
    /// This peer refused content for want of space.
    pub fn is_short(&self, peer: u64, why: &str) {
        self.refusals.is_short(peer, why);
    }

    /// Peers that refused content lately, and why.
    pub fn short_lately(&self) -> BTreeMap<u64, String> {
        self.refusals.lately()
    }

    /// Peers that have refused content all the time since so long ago.
    pub fn short_for_long(&self, time: Duration) -> Vec<u64> {
        self.refusals.for_long(time)
    }

    /// This peer says that this entry is not what it should be, and why: it will never take it.
    pub fn refuses(&self, peer: u64, index: u64, why: &str) {
        self.refusals.refuses(peer, index, why);
    }

    /// The entry that so many of `voters` refused lately that no majority can have it, and why.
    pub fn refused_by_majority(&self, voters: &[u64]) -> Option<(u64, String)> {
        self.refusals.by_majority(voters)
    }

    /// The same, once this node has looked at its own copy and found no fault in it: then somebody else is to lead. One
    /// whose own copy is wrong must not: it would go on as if nothing had happened to its memory.
    pub fn refused_without_fault(&self, voters: &[u64]) -> Option<(u64, String)> {
        self.refusals.by_majority(voters).filter(|(index, _)| self.refusals.is_cleared(*index))
    }

    /// This node has looked at its own copy of this entry and found no fault in it. True when it had before.
    pub fn clear(&self, index: u64) -> bool {
        let before = self.refusals.is_cleared(index);
        self.refusals.clear(index);
        before
    }

    /// Returns when an entry was refused since the last time.
    pub async fn refusal(&self) {
        self.refusals.news().await;
    }

    /// This peer has applied so many bytes that it has not carried out yet.
    pub fn is_behind(&self, peer: u64, bytes: u64) {
        self.lags.heard(peer, bytes);
    }
}

/// What one replica lets in.
pub(crate) struct Intake {
    node: u64,
    log: LogStore,
    machine: Arc<Machine>,
    /// Bytes of proposals that are unanswered or not flushed.
    proposals: Arc<InFlight>,
    proposal_bytes: u64,
    /// Bytes of entries from append streams that are not flushed.
    appends: Arc<Semaphore>,
    append_bytes: usize,
    /// What is refused at the ingress at present, for want of space.
    refusal: Refusal,
    /// Why content is not proposed here at present.
    no_content: RwLock<Option<String>>,
    /// What the other voters told of their space.
    told: RwLock<BTreeMap<u64, VoterSpace>>,
    /// What the followers of this leader say.
    heard: Arc<Heard>,
    /// Whether this node has room just now.
    room: RoomProbe,
    /// Whether what begins has room.
    judge: RoomJudge,
    /// Sees when this node has a hand in commits.
    foreground: Arc<Foreground>,
}

impl Intake {
    /// Takes in what fits `config`.
    pub fn new(config: &ReplicaConfig, log: LogStore, machine: Arc<Machine>) -> Arc<Intake> {
        let proposal_bytes = config.proposal_bytes() as u64;
        Arc::new(Intake {
            node: config.node,
            log,
            machine,
            proposals: InFlight::new(proposal_bytes),
            proposal_bytes,
            appends: Arc::new(Semaphore::new(config.append_bytes())),
            append_bytes: config.append_bytes(),
            refusal: Refusal::default(),
            no_content: RwLock::default(),
            told: RwLock::default(),
            heard: Arc::default(),
            room: config.room.clone(),
            judge: config.judge.clone(),
            foreground: Arc::default(),
        })
    }

    /// Sees when this node has a hand in commits.
    pub fn foreground(&self) -> &Arc<Foreground> {
        &self.foreground
    }

    /// Is told what followers say.
    pub fn heard(&self) -> &Arc<Heard> {
        &self.heard
    }

    /// Bytes that may be on their way here, and that a disk which is short keeps room for.
    pub fn append_bytes(&self) -> u64 {
        self.append_bytes as u64
    }

    /// What was taken of them since this disk was short.
    pub fn kept(&self) -> &Arc<Kept> {
        self.refusal.kept()
    }

    /// Whether this node has room just now.
    pub fn room(&self) -> &RoomProbe {
        &self.room
    }

    /// Whether what begins has room.
    pub fn judge(&self) -> &RoomJudge {
        &self.judge
    }

    /// Waits for room for `record`, which is to be proposed.
    ///
    /// # Errors
    /// It is too large; this node stops.
    pub async fn permit(&self, record: &LogRecord) -> Result<Arc<Permit>, ProposeError> {
        let bytes = record.bytes().saturating_add(RECORD_OVERHEAD);
        if bytes > PROPOSAL_BYTES as u64 {
            return Err(ProposeError::unavailable(format!("a record of {bytes} bytes is too large")));
        }
        if matches!(record.header.kind, Some(Kind::Whole(_))) && !is_large(record) {
            self.proposals.small_epoch();
        }
        let permit = self.proposals.permit(bytes, class(record)).await;
        permit.map(Arc::new).ok_or_else(|| ProposeError::unavailable("this node is shutting down"))
    }

    /// Until when a record that this leader is to propose is held back: a majority of `voters` has much to carry out
    /// still, and the record brings more.
    pub fn held_until(&self, record: &LogRecord, voters: impl FnOnce() -> Vec<u64>) -> Option<Instant> {
        if !is_large(record) {
            return None;
        }
        let behind = self.heard.lags.of_best_majority(&voters(), self.node, self.machine.behind());
        self.heard.lags.turn(behind, record.bytes()).map(Instant::from_std)
    }

    /// How many bytes this node has applied and not carried out yet.
    pub fn behind(&self) -> u64 {
        self.machine.behind()
    }

    /// Returns when the entry at `index`, which is committed, is flushed here, or a snapshot has replaced it.
    pub async fn flushed(&self, index: u64) {
        let mut flushed = self.log.flushed();
        // The log is gone when the sender is: nothing holds its entries any more.
        let _ = flushed.wait_for(|flushed| *flushed > index).await;
    }

    /// Returns when all that the log was given so far is flushed or truncated, or the log has stopped.
    pub async fn settled(&self) {
        let (done, settled) = oneshot::channel();
        self.log.append(Vec::new(), Box::new(move |result| drop(done.send(result))));
        let _ = settled.await;
    }

    /// Waits for room for entries of so many bytes from a leader; `None` once this node stops.
    pub async fn append_permit(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.append_bytes as u64)).expect("32 MiB fits");
        self.appends.clone().acquire_many_owned(bytes).await.ok()
    }

    /// Why entries with content are not taken from a leader now. While there is a reason, space is short: what is
    /// garbage is given back at once, and nothing is fetched.
    pub fn takes_no_content(&self) -> Option<String> {
        self.refusal.why().or_else(|| self.stalled()).or_else(|| (self.room.0)(0))
    }

    /// Why content is not proposed here now: this node is short of space, or so many of the voters are that no
    /// majority would take it.
    pub fn proposes_no_content(&self, voters: impl FnOnce() -> Vec<u64>) -> Option<String> {
        let own = self.no_content.read().unwrap_or_else(PoisonError::into_inner).clone();
        own.or_else(|| self.stalled()).or_else(|| {
            let refused = self.heard.refusals.lately();
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

    /// Why the log waits for room, while it does: it knows of a full disk before anybody has looked.
    pub fn stalled(&self) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;
    use checkpoint::store::layout::Layout;
    use checkpoint::{Digest, RealDisk, Store};
    use nativelog::compose;
    use nativelog::store::{Identity, Options};

    const MIB: u64 = 1 << 20;

    #[test]
    fn only_large_content_waits_for_voters_that_are_behind() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk);
        let store = Arc::new(Store::open(disk.clone(), dir.path()).unwrap());
        let owner = Identity { node: 1, incarnation: [1; 16] };
        let (log, _) = LogStore::open(disk, &Layout::new(dir.path()), owner, Options::default()).unwrap();
        let machine = Machine::start(store, log.clone(), &dir.path().join("catalog")).unwrap();
        let config = ReplicaConfig::new(1, [1; 16], "c", vec![]);
        let intake = Intake::new(&config, log.clone(), machine);
        let held = |record: &LogRecord| intake.held_until(record, || vec![1, 2, 3]);
        let chunk =
            |bytes: u64| LogRecord::new(Kind::Chunk(Default::default()), vec![0; bytes as usize].into());

        intake.heard().is_behind(2, 100 * MIB);
        intake.heard().is_behind(3, 0);
        assert_eq!(held(&chunk(MIB)), None, "a majority keeps up");
        intake.heard().is_behind(3, 120 * MIB);
        let now = Instant::now();
        let turn = held(&chunk(MIB)).expect("the best majority is 100 MiB behind");
        assert!(turn - now >= Duration::from_millis(150), "{:?}", turn - now);
        let job = "job".parse().unwrap();
        for passes in [
            chunk(LARGE_BYTES / 2),
            compose::tick(1),
            compose::expire(&job, vec![1], true, "test", vec![1]),
            compose::abort(7, "x".repeat(1000)),
            compose::seal(7, Digest::NONE),
            LogRecord::new(Kind::Genesis(Default::default()), Bytes::from(vec![0; 0])),
        ] {
            assert_eq!(held(&passes), None, "{passes}");
        }
        log.shutdown();
    }
}

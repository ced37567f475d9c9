//! Objects that nobody needs any more, deleted by whoever leads.
//!
//! ```text
//!  a record released them ─▶ the grace period, by this leader's clock, since it knew that record
//!    ─▶ the marker shows the last batch ─▶ DeleteBatch, in the log ─▶ the marker shows this batch ─▶ it leads still
//!    ─▶ deletes ─▶ Deleted, in the log
//! ```
//!
//! A name that was released never comes back, so whatever is deleted twice, late, or by a leader that is none any more was
//! to be deleted. What the marker is for: a copy of all folders of a cluster is another cluster with the same name and uuid,
//! and would delete what this one needs. Of two that delete, the second one finds a batch in the marker that its log does
//! not know, and stops.
//!
//! The grace period is for those who still read: a replica that lags, a restore. No verdict knows it. A leader counts from
//! when it saw the record, so that a change of leaders makes it longer, never shorter.
//!
//! **Never.** A store that refuses is not asked in a loop. Nobody waits for a store here but this room.
//!
//! | file | what it holds |
//! |---|---|
//! | `door` | one batch, from the marker to the deletes: here goes whatever is deleted, also what somebody asks for by hand |

mod door;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nativelog::compose;
use nativelog::ledger::{ObjectKey, StoreInfo};

use crate::depot::{DepotError, DepotTrouble};
use crate::leader::Leadership;
use crate::propose::Proposer;

pub use door::{DELETES_AT_ONCE, Deletes, NotDeleted};

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// Rows that are looked at while the ledger is held.
const SLICE: usize = 4096;
/// Pause after a store did not do it; doubles up to [`AWAY_MAX`].
const AWAY: Duration = Duration::from_secs(5);
const AWAY_MAX: Duration = Duration::from_secs(600);
/// Pause after a store refused for good, or is not ours.
const REFUSED: Duration = Duration::from_secs(3600);

/// Deletes released objects while this node leads, until it stops.
pub(crate) async fn run(deletes: Arc<Deletes>) {
    let proposer = deletes.proposer();
    let mut leaders = proposer.leading.watch();
    let mut led: Option<(Arc<Leadership>, Seen)> = None;
    let look = LOOK.min((proposer.config.release_grace / 2).max(proposer.config.tick));
    loop {
        let now = leaders.borrow_and_update().clone();
        led = match (now, led) {
            (Some(now), Some((before, seen))) if Arc::ptr_eq(&now, &before) => Some((before, seen)),
            (Some(now), _) => Some((now, Seen::default())),
            (None, _) => None,
        };
        if let Some((leadership, seen)) = led.as_mut().filter(|(leadership, _)| leadership.is_ready()) {
            let leadership = leadership.clone();
            tokio::select! {
                () = release(&deletes, &leadership, seen) => {}
                () = leadership.ended() => continue,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(look) => {}
            changed = leaders.changed() => if changed.is_err() { return },
        }
    }
}

/// What one leadership has seen.
#[derive(Debug, Default)]
struct Seen {
    /// When how much of the log was applied, rising.
    applied: VecDeque<(Instant, u64)>,
    /// Stores that are left alone, until when, and how long that pause was.
    paused: BTreeMap<u64, (Instant, Duration)>,
}

impl Seen {
    /// So much is applied now. Answers with what had been when the grace period ago.
    fn look(&mut self, now: Instant, applied: u64, grace: Duration) -> Option<u64> {
        // Few are enough: a period is at most an eighth longer than it has to be.
        if self.applied.back().is_none_or(|(at, _)| now.duration_since(*at) >= grace / 8) {
            self.applied.push_back((now, applied));
        }
        let is_old = |at: &Instant| now.duration_since(*at) >= grace;
        while self.applied.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.applied.pop_front();
        }
        self.applied.front().filter(|(at, _)| is_old(at)).map(|(_, applied)| *applied)
    }

    fn is_paused(&self, store: u64) -> bool {
        self.paused.get(&store).is_some_and(|(until, _)| Instant::now() < *until)
    }

    fn done(&mut self, store: &StoreInfo, done: Result<(), NotDeleted>) {
        let name = &store.name;
        let pause = match &done {
            Ok(()) => {
                self.paused.remove(&store.id);
                return;
            }
            Err(NotDeleted::Log(why)) => {
                tracing::debug!(store = name, why, "released objects are not deleted yet");
                AWAY
            }
            Err(NotDeleted::Store(DepotError {
                trouble: DepotTrouble::Denied | DepotTrouble::NotOurs,
                why,
            })) => {
                tracing::error!(
                    store = name,
                    why,
                    "released objects cannot be deleted; it is tried again in an hour, and by the next leader"
                );
                REFUSED
            }
            Err(NotDeleted::Store(error)) => {
                let before = self.paused.get(&store.id).map(|(_, pause)| *pause);
                let pause = before.map_or(AWAY, |pause| (pause * 2).min(AWAY_MAX));
                tracing::warn!(store = name, %error, ?pause, "released objects cannot be deleted yet");
                pause
            }
        };
        self.paused.insert(store.id, (Instant::now() + pause, pause));
    }
}

/// One batch in every store that has something to be deleted.
async fn release(deletes: &Deletes, leadership: &Arc<Leadership>, seen: &mut Seen) {
    let proposer = deletes.proposer();
    let applied = proposer.machine.ledger().applied().map_or(0, |at| at.index);
    let Some(ripe) = seen.look(Instant::now(), applied, proposer.config.release_grace) else { return };
    let mut due = due(proposer, ripe);
    due.retain(|(store, _)| !seen.is_paused(store.id));
    let batches = due.into_iter().map(|(store, objects)| async move {
        let done = batch(deletes, leadership, &store, objects).await;
        (store, done)
    });
    for (store, done) in join_all(batches).await {
        seen.done(&store, done);
    }
}

/// Objects that records up to this index released, by store: a batch of each at most.
fn due(proposer: &Proposer, ripe: u64) -> Vec<(StoreInfo, Vec<ObjectKey>)> {
    let mut by_store: BTreeMap<u64, Vec<ObjectKey>> = BTreeMap::new();
    let mut last: Option<ObjectKey> = None;
    loop {
        let ledger = proposer.machine.ledger();
        let slice: Vec<_> = ledger.released(last.as_ref()).take(SLICE).collect();
        drop(ledger);
        let Some(end) = slice.last() else { break };
        last = Some(end.key);
        for object in slice.iter().filter(|object| object.index <= ripe) {
            let of_store = by_store.entry(object.key.store).or_default();
            if of_store.len() < DELETES_AT_ONCE {
                of_store.push(object.key);
            }
        }
    }
    let ledger = proposer.machine.ledger();
    by_store.into_iter().filter_map(|(store, objects)| Some((ledger.store(store)?, objects))).collect()
}

/// One batch, and what is gone into the log.
async fn batch(
    deletes: &Deletes,
    leadership: &Arc<Leadership>,
    store: &StoreInfo,
    objects: Vec<ObjectKey>,
) -> Result<(), NotDeleted> {
    let mut failed = None;
    let answers = deletes.batch(leadership, store.id, objects).await?;
    let gone = answers.into_iter().filter_map(|(object, answer)| match answer {
        Ok(()) => Some((object.digest, object.attempt, object.nonce)),
        Err(error) => {
            // One that is refused for good weighs more than one that is just not answered.
            if failed.is_none() || error.trouble == DepotTrouble::Denied {
                failed = Some(error);
            }
            None
        }
    });
    let gone: Vec<_> = gone.collect();
    if !gone.is_empty() {
        tracing::info!(store = store.name, objects = gone.len(), "objects that nobody needs are deleted");
        deletes.propose(leadership, &compose::deleted(store.id, gone)).await?;
    }
    failed.map_or(Ok(()), |error| Err(NotDeleted::Store(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_a_grace_period_ago_is_ripe_and_nothing_later() {
        let (mut seen, start, grace) = (Seen::default(), Instant::now(), Duration::from_secs(80));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seen.look(at(0), 7, grace), None, "a new leader begins to count");
        for second in 1..80 {
            assert_eq!(seen.look(at(second), 7 + second, grace), None, "{second}");
        }
        assert_eq!(seen.look(at(80), 87, grace), Some(7));
        // Not more than was applied then, and not much less.
        for second in 81..400 {
            let ripe = seen.look(at(second), 7 + second, grace).unwrap();
            let then = 7 + second - 80;
            assert!(ripe <= then && ripe + 10 >= then, "{second}: {ripe} of {then}");
        }
        assert!(seen.applied.len() <= 10, "{}", seen.applied.len());
    }

    #[test]
    fn who_refuses_for_good_is_left_alone_and_who_is_away_is_asked_more_and_more_seldom() {
        let store = StoreInfo { id: 3, name: "west".into(), uuid: [0; 16], batch: 1, before: None };
        let mut seen = Seen::default();
        let mut pause = |done: Result<(), NotDeleted>| {
            seen.done(&store, done);
            seen.paused.get(&3).map(|(_, pause)| pause.as_secs())
        };
        let error = |trouble| Err(NotDeleted::Store(DepotError::new(trouble, "no")));
        assert_eq!(pause(error(DepotTrouble::Away)), Some(5));
        assert_eq!(pause(error(DepotTrouble::Away)), Some(10));
        assert_eq!(pause(Ok(())), None);
        assert_eq!(pause(error(DepotTrouble::Denied)), Some(3600));
        assert!(seen.is_paused(3) && !seen.is_paused(4));
    }
}

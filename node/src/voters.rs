//! Free space of all voters, as they tell it. What begins needs room on a majority of them that includes the leader; a
//! verdict never depends on it.
//!
//! | file | what it holds |
//! |---|---|
//! | `majority` | whether a majority has room, and the words where it has not |

mod majority;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Stub, pb};
use raft::{Replica, VoterSpace};

use crate::pressure;
use crate::space::Space;

pub use majority::{Voter, judge, successor};

/// What a voter told longer ago is not counted: it is not live.
const FRESH: Duration = Duration::from_secs(10);
/// How long a voter may take to tell.
const PATIENCE: Duration = Duration::from_secs(1);

/// Another voter, and how it is asked: not at all before it has told where clients reach it.
pub type Other = (u64, Option<Stub>);

/// What the other voters told, and when.
#[derive(Debug, Default)]
pub struct Spaces {
    told: Mutex<BTreeMap<u64, Told>>,
    rounds: Rounds,
}

/// Rounds of asking, one at a time. Whoever wants one that begins after this moment shares it with all that wait.
#[derive(Debug, Default)]
struct Rounds {
    begun: AtomicU64,
    /// The last one that came to its end.
    done: tokio::sync::Mutex<u64>,
}

impl Rounds {
    async fn share(&self, round: impl Future<Output = ()>) {
        let before = self.begun.load(Ordering::Acquire);
        let mut done = self.done.lock().await;
        if *done > before {
            return;
        }
        let this = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        round.await;
        *done = this;
    }
}

/// What one voter told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    when: Instant,
    space: Space,
    /// Why it takes no content.
    short: Option<String>,
    /// What had been brought to all by then.
    held: u64,
}

impl Told {
    /// Whether it counts.
    fn is_fresh(&self) -> bool {
        self.when.elapsed() < FRESH
    }

    fn for_replica(&self) -> VoterSpace {
        let in_flight_bytes = pressure::in_flight_bytes(&self.space);
        VoterSpace { live: self.is_fresh(), short: self.short.clone(), in_flight_bytes }
    }
}

/// A voter that has told nothing yet.
const SILENT: VoterSpace = VoterSpace { live: false, short: None, in_flight_bytes: u64::MAX };

impl Spaces {
    /// Asks the `others`, and tells the replica; one that does not answer keeps what it told before, until that
    /// is old. Whoever asks meanwhile shares the next round.
    pub async fn refresh(&self, replica: &Replica, others: impl FnOnce() -> Vec<Other>) {
        self.rounds.share(self.ask_all(replica, others)).await;
    }

    async fn ask_all(&self, replica: &Replica, others: impl FnOnce() -> Vec<Other>) {
        // Before they are asked: what is committed meanwhile counts once too often rather than never.
        let held = replica.machine().ledger().brought_bytes();
        let others = others();
        let ids: Vec<u64> = others.iter().map(|(id, _)| *id).collect();
        let answers = others.into_iter().filter_map(|(id, stub)| {
            let mut stub = stub?;
            Some(async move {
                let asked = stub.status(pb::StatusRequest { all: false, light: true });
                let reply = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?.into_inner();
                let status = reply.nodes.into_iter().find(|status| status.id == id)?;
                // One that could not tell: what it told before counts, until that is old.
                let short = Some(status.short_of_space.clone()).filter(|why| !why.is_empty());
                Some((id, Told { when: Instant::now(), space: Space::told(&status)?, short, held }))
            })
        });
        let answers = futures::future::join_all(answers).await;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.extend(answers.into_iter().flatten());
        let spaces = ids.into_iter().map(|id| (id, told.get(&id).map_or(SILENT, Told::for_replica)));
        replica.heed(spaces.collect());
    }

    /// The live voter with most room above its reserve, if any has room at all.
    pub fn roomiest(&self) -> Option<u64> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter()
            .filter(|(_, told)| told.is_fresh() && told.space.has_room_for(0))
            .max_by_key(|(_, told)| told.space.free - told.space.reserve)
            .map(|(id, _)| *id)
    }

    /// What is known of these voters, as they told it lately.
    pub fn of(&self, voters: impl Iterator<Item = u64>) -> Vec<Voter> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = voters.map(|node| {
            let told = told.get(&node).filter(|told| told.is_fresh());
            Voter {
                node,
                leads: false,
                space: told.map(|told| told.space),
                held: told.map_or(0, |told| told.held),
                short: told.and_then(|told| told.short.clone()),
            }
        });
        known.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64, total: u64, reserve: u64) -> Space {
        Space { free, total, reserve, ..Space::default() }
    }

    #[test]
    fn only_what_was_told_lately_counts() {
        let spaces = Spaces::default();
        let full = space(1, 1000, 50);
        let old = Instant::now().checked_sub(FRESH * 2).unwrap();
        let mut told = spaces.told.lock().unwrap();
        told.insert(2, Told { when: old, space: full, short: None, held: 7 });
        told.insert(3, Told { when: Instant::now(), space: full, short: None, held: 7 });
        drop(told);
        let known: Vec<_> = spaces.of([2, 3, 4].into_iter()).iter().map(|voter| voter.space).collect();
        assert_eq!(known, [None, Some(full), None]);
    }

    #[tokio::test]
    async fn whoever_asks_while_others_are_asked_shares_the_next_round() {
        let (rounds, asked) = (Rounds::default(), AtomicU64::new(0));
        let round = || {
            rounds.share(async {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            })
        };
        // The first round may have begun before the others wanted one.
        futures::join!(round(), round(), round(), round());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        round().await;
        assert_eq!(asked.load(Ordering::Relaxed), 3, "an old answer is none");
    }

    #[test]
    fn the_roomiest_is_live_and_above_its_reserve() {
        let spaces = Spaces::default();
        let tell = |id, when, free| {
            let told = Told { when, space: space(free, 1000, 50), short: None, held: 0 };
            spaces.told.lock().unwrap().insert(id, told)
        };
        let now = Instant::now();
        tell(1, now.checked_sub(FRESH * 2).unwrap(), 1000);
        tell(2, now, 49);
        assert_eq!(spaces.roomiest(), None);
        tell(3, now, 60);
        tell(4, now, 70);
        assert_eq!(spaces.roomiest(), Some(4));
    }
}

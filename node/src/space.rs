//! Free space: here, and on the other voters as they tell it. What begins needs room on a majority of the voters that
//! includes the leader; a verdict never depends on it.
//!
//! | file | what it holds |
//! |---|---|
//! | `majority` | whether a majority has room, and the words where it has not |
//! | `gate` | the leader's replica asks there |

mod gate;
mod majority;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::pb;
use raft::VoterSpace;

use crate::config::Reserve;
use crate::node::Node;
use crate::pressure;

pub use gate::Gate;
use majority::Voter;

/// What a voter told longer ago is not counted: it is not live.
const FRESH: Duration = Duration::from_secs(10);
/// How long a voter may take to tell.
const PATIENCE: Duration = Duration::from_secs(1);
/// One in so many inodes stays free, where they are counted.
const INODES_RESERVED: u64 = 50;

/// Free space of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes that are free for this user.
    pub free: u64,
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes that stay free.
    pub reserve: u64,
    /// There are bytes, but hardly any inodes.
    pub inodes_short: bool,
    /// Bytes that no epoch refers to any more: they come back by themselves.
    pub garbage: u64,
    /// Bytes that a catch-up still has to bring.
    pub lacking: u64,
}

impl Space {
    /// Space of the file system that holds `path`.
    pub fn of(path: &Path, reserve: Reserve) -> std::io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total,
            reserve: reserve.bytes(total),
            // Some file systems make inodes as they go and count none.
            inodes_short: stat.f_files > 0 && stat.f_favail < stat.f_files / INODES_RESERVED,
            garbage: 0,
            lacking: 0,
        })
    }

    /// Whether `needed` more bytes leave the reserve alone.
    pub fn has_room_for(&self, needed: u64) -> bool {
        !self.inodes_short && self.free >= self.reserve.saturating_add(needed)
    }

    /// Whether they will, once what is garbage was given back.
    pub fn will_have_room_for(&self, needed: u64) -> bool {
        let later = Space {
            free: self.free.saturating_add(self.garbage),
            inodes_short: self.inodes_short && self.garbage == 0,
            ..*self
        };
        later.has_room_for(needed)
    }

    /// As another node tells it; `None` when it could not tell.
    pub fn told(status: &pb::NodeStatus) -> Option<Space> {
        (status.disk_total > 0).then_some(Space {
            free: status.disk_free,
            total: status.disk_total,
            reserve: status.disk_reserve,
            inodes_short: status.disk_inodes_short,
            garbage: status.garbage_bytes,
            lacking: status.lacking_bytes,
        })
    }

    /// With what a catch-up still brings, and `more`.
    fn with(self, more: u64) -> Space {
        Space { free: self.free.saturating_sub(self.lacking).saturating_sub(more), ..self }
    }
}

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
    /// Asks all other voters, and tells the replica; one that does not answer keeps what it told before, until that
    /// is old. Whoever asks meanwhile shares the next round.
    pub async fn refresh(&self, node: &Node) {
        self.rounds.share(self.ask_all(node)).await;
    }

    async fn ask_all(&self, node: &Node) {
        let others: Vec<u64> = node.voters().into_iter().filter(|id| *id != node.config.id).collect();
        // Before they are asked: what is committed meanwhile counts once too often rather than never.
        let held = node.replica.machine().ledger().brought_bytes();
        let answers = others.iter().filter_map(|id| {
            let id = *id;
            let (_, mut stub) = node.peer(id)?;
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
        let spaces = others.into_iter().map(|id| (id, told.get(&id).map_or(SILENT, Told::for_replica)));
        node.replica.heed(spaces.collect());
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
    fn of(&self, voters: impl Iterator<Item = u64>) -> Vec<Voter> {
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

impl Node {
    /// Free space here; reads memory and asks the file system.
    pub fn space(&self) -> std::io::Result<Space> {
        let space = Space::of(&self.config.data_dir, self.config.reserve)?;
        let lacking = self.replica.transfer().borrow().lacking_bytes;
        Ok(Space { garbage: self.replica.machine().garbage().all_bytes(), lacking, ..space })
    }

    /// How many voters are short of space, as far as they told it lately; this node too.
    pub fn full_voters(&self) -> usize {
        self.voters_space().iter().filter(|voter| voter.short.is_some()).count()
    }

    /// What is known of all voters while this node leads.
    fn voters_space(&self) -> Vec<Voter> {
        let own = self.config.id;
        let mut voters = self.spaces.of(self.voters().into_iter().filter(|id| *id != own));
        let held = self.replica.machine().ledger().brought_bytes();
        let (space, short) = (self.space().ok(), self.short.borrow().clone());
        voters.push(Voter { node: own, leads: true, space, held, short });
        voters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64, total: u64, reserve: u64) -> Space {
        Space { free, total, reserve, ..Space::default() }
    }

    #[test]
    fn the_reserve_is_never_spent() {
        let space = space(100, 1000, 50);
        assert!(space.has_room_for(50));
        assert!(!space.has_room_for(51));
        assert!(!space.has_room_for(u64::MAX));
        assert!(!Space { inodes_short: true, ..space }.has_room_for(1));
    }

    #[test]
    fn garbage_is_room_to_come_never_room() {
        let space = Space { garbage: 30, ..space(60, 1000, 50) };
        assert!(!space.has_room_for(20));
        assert!(space.will_have_room_for(40));
        assert!(!space.will_have_room_for(41));
        assert!(Space { inodes_short: true, ..space }.will_have_room_for(40));
        assert!(!Space { inodes_short: true, garbage: 0, ..space }.will_have_room_for(1));
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

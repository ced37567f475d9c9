//! What a leader sees of its own disk, and of what reaches the others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Nothing went through for so long, in election timeouts.
const STUCK: u32 = 2;

/// Since when an entry has been waiting for this node's disk.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Option<(u64, Instant)>);

impl Waiting {
    /// There are `upto` entries and `flushed` of them are on the disk: how long the oldest of the others has been
    /// waiting, as far as it was seen.
    pub fn look(&mut self, upto: u64, flushed: u64, now: Instant) -> Duration {
        if self.0.is_some_and(|(entry, _)| flushed >= entry) {
            self.0 = None;
        }
        if upto > flushed {
            self.0.get_or_insert((flushed + 1, now));
        }
        self.0.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since))
    }
}

/// How far things are that a leader is waiting for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    /// Entries in this node's log.
    pub last: u64,
    /// Entries that are committed.
    pub committed: u64,
    /// Entries that are flushed here.
    pub flushed: u64,
    /// Of each other voter: entries that it is known to have, and bytes that its kernel acknowledged.
    pub others: BTreeMap<u64, (u64, u64)>,
}

/// Sees whether anything moves. A disk or link counts as moving while there is nothing for it to do.
#[derive(Debug)]
pub(crate) struct Watch {
    before: Marks,
    /// When this node's disk last moved.
    disk: Instant,
    /// When each of the others last did.
    others: BTreeMap<u64, Instant>,
    /// The oldest entry that is committed and not flushed here.
    behind: Waiting,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(now: Instant) -> Watch {
        Watch { before: Marks::default(), disk: now, others: BTreeMap::new(), behind: Waiting::default() }
    }

    /// Looks at the marks of now. How long the oldest committed entry has been waiting for this node's disk, and
    /// why nothing has gone through for two election timeouts, if that is so.
    pub fn look(&mut self, marks: Marks, election: Duration, now: Instant) -> (Duration, Option<String>) {
        if marks.flushed >= marks.last || marks.flushed > self.before.flushed {
            self.disk = now;
        }
        for (node, (has, carried)) in &marks.others {
            let (had, carried_before) = self.before.others.get(node).copied().unwrap_or_default();
            let moved = *has >= marks.last || *has > had || *carried > carried_before;
            let at = self.others.entry(*node).or_insert(now);
            if moved {
                *at = now;
            }
        }
        let behind = self.behind.look(marks.committed, marks.flushed, now);
        let limit = election * STUCK;
        let still = |at: &Instant| now.saturating_duration_since(*at) >= limit;
        let waits = marks.committed < marks.last;
        // This node itself is one of the majority.
        let moving = 1 + marks.others.keys().filter(|node| !still(&self.others[node])).count();
        let voters = marks.others.len() + 1;
        let stuck = if waits && moving <= voters / 2 {
            let who: Vec<_> = marks.others.keys().filter(|node| still(&self.others[node])).collect();
            let who: Vec<_> = who.into_iter().map(|node| format!("node {node}")).collect();
            Some(format!(
                "no byte of an entry has reached {} for {} s, although they answer: their links carry small packets only",
                who.join(" and "),
                limit.as_secs()
            ))
        } else if waits && still(&self.disk) {
            Some(format!("its own disk has written nothing for {} s", limit.as_secs()))
        } else {
            None
        };
        self.before = marks;
        (behind, stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_secs(4);

    fn seconds(time: u64) -> Duration {
        Duration::from_secs(time)
    }

    fn marks(last: u64, committed: u64, flushed: u64, others: [(u64, u64); 2]) -> Marks {
        Marks { last, committed, flushed, others: BTreeMap::from([(2, others[0]), (3, others[1])]) }
    }

    #[test]
    fn a_thin_link_moves_and_a_dead_one_does_not() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        for second in 0..60 {
            let bytes = second * 1000;
            let seen = marks(9, 5, 9, [(5, bytes), (5, 7)]);
            assert_eq!(watch.look(seen, ELECTION, begin + seconds(second)).1, None, "one of them moves");
        }
        let dead = marks(9, 5, 9, [(5, 59_000), (5, 7)]);
        assert_eq!(watch.look(dead.clone(), ELECTION, begin + seconds(66)).1, None);
        let (_, stuck) = watch.look(dead, ELECTION, begin + seconds(67));
        assert!(stuck.unwrap().contains("reached node 2 and node 3 for 8 s"));
        let idle = marks(9, 9, 9, [(9, 59_000), (5, 7)]);
        assert_eq!(watch.look(idle, ELECTION, begin + seconds(99)).1, None, "nothing waits");
    }

    #[test]
    fn a_disk_that_hangs_is_named() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let at = |second| marks(9, 5, 5, [(5, second), (5, second)]);
        assert_eq!(watch.look(at(0), ELECTION, begin).1, None);
        assert_eq!(watch.look(at(7), ELECTION, begin + seconds(7)).1, None);
        let (_, stuck) = watch.look(at(8), ELECTION, begin + seconds(8));
        assert_eq!(stuck.as_deref(), Some("its own disk has written nothing for 8 s"));
    }

    #[test]
    fn what_is_committed_and_not_flushed_counts_from_when_it_was() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let others = [(9, 0), (9, 0)];
        assert_eq!(watch.look(marks(9, 5, 5, others), ELECTION, begin).0, Duration::ZERO);
        assert_eq!(watch.look(marks(9, 7, 5, others), ELECTION, begin + seconds(1)).0, Duration::ZERO);
        assert_eq!(watch.look(marks(9, 9, 5, others), ELECTION, begin + seconds(4)).0, seconds(3));
        assert_eq!(watch.look(marks(9, 9, 6, others), ELECTION, begin + seconds(5)).0, Duration::ZERO);
        assert_eq!(watch.look(marks(9, 9, 9, others), ELECTION, begin + seconds(6)).0, Duration::ZERO);
    }
}

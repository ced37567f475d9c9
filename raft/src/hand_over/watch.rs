//! What a leader sees of its own disk, and of what reaches the others.
//!
//! **Never.** A voter that does not answer is not stuck, it is gone: whether a majority is left is told elsewhere
//! (`quorum`). One whose disk hangs is not stuck either: it has the bytes; nor is one that has no room and says so. Nor is anybody
//! while this process stood still.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::policy::{BEHIND, Voter};

/// Nothing went through for so long, in election timeouts.
const STUCK: u32 = 2;
/// Looks further apart than so many heartbeats mean that this process stood still.
const AWAY: u32 = 2;
/// A voter that lacks what the log held so long ago is no successor: the rest must be there, and flushed, before the time
/// for an election is over.
const NEAR: Duration = Duration::from_secs(1);

/// The time that this process saw pass. After a pause of it (a stopped container, a host that was frozen) what came
/// meanwhile still lies there: nobody has been waiting in that time, as far as can be known.
#[derive(Debug)]
pub(crate) struct Awake {
    heartbeat: Duration,
    looked: Instant,
    time: Instant,
}

impl Awake {
    /// For who looks every `heartbeat`.
    pub fn new(heartbeat: Duration, now: Instant) -> Awake {
        Awake { heartbeat, looked: now, time: now }
    }

    /// A look. The time of it, to be compared with times of other looks only; and whether this process was away before
    /// it: then a heartbeat counts as having passed.
    pub fn look(&mut self, now: Instant) -> (Instant, bool) {
        let gap = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        let away = gap > self.heartbeat * AWAY;
        self.time += if away { self.heartbeat } else { gap };
        (self.time, away)
    }
}

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

/// How far another voter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Other {
    /// It has answered something lately.
    pub answers: bool,
    /// Entries that it is known to have.
    pub has: u64,
    /// Bytes that its kernel acknowledged.
    pub carried: u64,
    /// How long its oldest entry has been waiting for its disk, if it ever told.
    pub lag: Option<Duration>,
    /// It refused content lately, for want of room.
    pub no_room: bool,
}

impl Other {
    /// What it lacks waits for its disk.
    fn waits_for_its_disk(&self) -> bool {
        self.lag.is_some_and(|lag| lag >= BEHIND / 2)
    }

    /// What it lacks waits for nothing that lies between.
    fn is_reached(&self) -> bool {
        self.waits_for_its_disk() || self.no_room
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
    /// Why this node's log waits for room, while it does.
    pub no_room: Option<String>,
    /// Each other voter.
    pub others: BTreeMap<u64, Other>,
}

/// What a leader sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sight {
    /// How long the oldest committed entry has been waiting for this node's disk.
    pub behind: Duration,
    /// Why nothing has gone through for two election timeouts, if that is so.
    pub stuck: Option<String>,
    /// Who could lead at once: voters that answer, and have what this log held a second ago.
    pub successors: BTreeMap<u64, Voter>,
}

/// Sees whether anything moves. A disk or link counts as moving while there is nothing for it to do.
#[derive(Debug)]
pub(crate) struct Watch {
    before: Marks,
    /// When this node's disk last moved.
    disk: Instant,
    /// When each of the others last did, or was last excused.
    others: BTreeMap<u64, Instant>,
    /// The oldest entry that is committed and not flushed here.
    behind: Waiting,
    /// How many entries the log held at each look; of those longer than [`NEAR`] ago only the last.
    held: VecDeque<(Instant, u64)>,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(now: Instant) -> Watch {
        Watch {
            before: Marks::default(),
            disk: now,
            others: BTreeMap::new(),
            behind: Waiting::default(),
            held: VecDeque::new(),
        }
    }

    /// Looks at the marks of now.
    pub fn look(&mut self, marks: Marks, election: Duration, now: Instant) -> Sight {
        if marks.flushed >= marks.last || marks.flushed > self.before.flushed {
            self.disk = now;
        }
        for (node, other) in &marks.others {
            let before = self.before.others.get(node).copied().unwrap_or_default();
            let moved = other.has >= marks.last || other.has > before.has || other.carried > before.carried;
            let at = self.others.entry(*node).or_insert(now);
            if moved || !other.answers || other.is_reached() {
                *at = now;
            }
        }
        let behind = self.behind.look(marks.committed, marks.flushed, now);
        let stuck = self.stuck(&marks, election * STUCK, now);
        let held = self.held(marks.last, now);
        let near = marks.others.iter().filter(|(_, other)| other.answers && other.has >= held);
        let voter = |other: &Other| Some(Voter { lag: other.lag?, has: other.has });
        let successors = near.filter_map(|(node, other)| Some((*node, voter(other)?))).collect();
        self.before = marks;
        Sight { behind, stuck, successors }
    }

    fn stuck(&self, marks: &Marks, limit: Duration, now: Instant) -> Option<String> {
        if marks.committed >= marks.last {
            return None;
        }
        let still = |at: &Instant| now.saturating_duration_since(*at) >= limit;
        let majority = marks.others.len().div_ceil(2) + 1;
        let answer: Vec<_> = marks.others.iter().filter(|(_, other)| other.answers).collect();
        let stuck: Vec<_> = answer.iter().filter(|(node, _)| still(&self.others[node])).collect();
        // This node itself is one of the majority.
        if 1 + answer.len() >= majority && 1 + answer.len() - stuck.len() < majority {
            let who: Vec<_> = stuck.into_iter().map(|(node, _)| format!("node {node}")).collect();
            return Some(format!(
                "no byte of an entry has reached {} for {} s, although they answer: their links carry small packets only",
                who.join(" and "),
                limit.as_secs()
            ));
        }
        // Where the others' disks hang or are full as well, nobody would be better off.
        let better = answer.iter().any(|(_, other)| !other.is_reached());
        (still(&self.disk) && better).then(|| {
            let why = format!("its own disk has written nothing for {} s", limit.as_secs());
            marks.no_room.as_ref().map_or(why.clone(), |no_room| format!("{why}: {no_room}"))
        })
    }

    /// How many entries the log held [`NEAR`] ago; at first, when it was looked at first.
    fn held(&mut self, last: u64, now: Instant) -> u64 {
        self.held.push_back((now, last));
        while self.held.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= NEAR) {
            self.held.pop_front();
        }
        self.held.front().map_or(last, |(_, held)| *held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_secs(4);

    fn seconds(time: u64) -> Duration {
        Duration::from_secs(time)
    }

    /// One that answers, and whose disk is well.
    fn other(has: u64, carried: u64) -> Other {
        Other { answers: true, has, carried, lag: Some(Duration::ZERO), no_room: false }
    }

    fn marks(last: u64, committed: u64, flushed: u64, others: [Other; 2]) -> Marks {
        let others = BTreeMap::from([(2, others[0]), (3, others[1])]);
        Marks { last, committed, flushed, others, ..Marks::default() }
    }

    #[test]
    fn a_thin_link_moves_and_a_dead_one_does_not() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        for second in 0..60 {
            let seen = marks(9, 5, 9, [other(5, second * 1000), other(5, 7)]);
            let sight = watch.look(seen, ELECTION, begin + seconds(second));
            assert_eq!(sight.stuck, None, "one of them moves");
        }
        let dead = marks(9, 5, 9, [other(5, 59_000), other(5, 7)]);
        assert_eq!(watch.look(dead.clone(), ELECTION, begin + seconds(66)).stuck, None);
        let stuck = watch.look(dead, ELECTION, begin + seconds(67)).stuck;
        assert!(stuck.unwrap().contains("reached node 2 and node 3 for 8 s"));
        let idle = marks(9, 9, 9, [other(9, 59_000), other(5, 7)]);
        assert_eq!(watch.look(idle, ELECTION, begin + seconds(99)).stuck, None, "nothing waits");
    }

    #[test]
    fn who_does_not_answer_is_not_stuck_and_begins_anew_when_it_does() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let mut look = |second, answers: [bool; 2]| {
            let [two, three] = answers.map(|answers| Other { answers, ..other(5, 7) });
            watch.look(marks(9, 5, 9, [two, three]), ELECTION, begin + seconds(second)).stuck
        };
        // A switch is gone for a minute, and is back.
        for second in 0..60 {
            assert_eq!(look(second, [false, false]), None, "{second}");
        }
        assert_eq!(look(60, [true, true]), None, "they answer again, and the entries are on their way");
        assert_eq!(look(66, [true, true]), None);
        assert!(look(67, [true, true]).is_some());
        // The third is dead, and the link to the second carries small packets only.
        assert!(look(68, [true, false]).unwrap().contains("reached node 2 for 8 s"));
        assert_eq!(look(69, [false, false]), None, "nobody is left who could lead");
    }

    #[test]
    fn who_waits_for_its_own_disk_has_the_bytes() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let dead = Other { answers: false, ..other(5, 7) };
        for second in 0..30 {
            let sick = Other { lag: Some(seconds(second)), ..other(5, 7) };
            let sight = watch.look(marks(9, 5, 9, [sick, dead]), ELECTION, begin + seconds(second));
            assert_eq!(sight.stuck, None, "{second}");
        }
        // It has written, and the next bytes do not reach it.
        let well = marks(12, 9, 12, [other(9, 7), dead]);
        for second in 30..38 {
            assert_eq!(watch.look(well.clone(), ELECTION, begin + seconds(second)).stuck, None);
        }
        assert!(watch.look(well, ELECTION, begin + seconds(38)).stuck.is_some());
    }

    #[test]
    fn who_says_that_it_has_no_room_has_answered() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let dead = Other { answers: false, ..other(5, 7) };
        let full = Other { no_room: true, ..other(5, 7) };
        // It refuses what is sent again and again: nothing is acknowledged, and next to nothing carried.
        for second in 0..60 {
            let sight = watch.look(marks(9, 5, 9, [full, dead]), ELECTION, begin + seconds(second));
            assert_eq!(sight.stuck, None, "{second}");
        }
        // It has room again, and now its link carries nothing.
        for second in 60..67 {
            let sight = watch.look(marks(9, 5, 9, [other(5, 7), dead]), ELECTION, begin + seconds(second));
            assert_eq!(sight.stuck, None, "{second}");
        }
        let stuck = watch.look(marks(9, 5, 9, [other(5, 7), dead]), ELECTION, begin + seconds(67)).stuck;
        assert!(stuck.unwrap().contains("reached node 2 for 8 s"));
    }

    #[test]
    fn a_full_disk_of_its_own_is_called_so_and_left_to_who_has_room() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let at = |second, no_room| {
            let others = [Other { no_room, ..other(5, second) }; 2];
            Marks { no_room: Some("cannot write: no space".into()), ..marks(9, 5, 5, others) }
        };
        assert_eq!(watch.look(at(0, false), ELECTION, begin).stuck, None);
        assert_eq!(watch.look(at(8, true), ELECTION, begin + seconds(8)).stuck, None, "all are full");
        let stuck = watch.look(at(9, false), ELECTION, begin + seconds(9)).stuck;
        let why = "its own disk has written nothing for 8 s: cannot write: no space";
        assert_eq!(stuck.as_deref(), Some(why));
    }

    #[test]
    fn a_disk_that_hangs_is_named_where_another_one_is_better() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let at = |second| marks(9, 5, 5, [other(5, second), other(5, second)]);
        assert_eq!(watch.look(at(0), ELECTION, begin).stuck, None);
        assert_eq!(watch.look(at(7), ELECTION, begin + seconds(7)).stuck, None);
        let all_hang = |second| {
            let sick = Other { lag: Some(seconds(second)), ..other(5, second) };
            marks(9, 5, 5, [sick, sick])
        };
        assert_eq!(watch.look(all_hang(8), ELECTION, begin + seconds(8)).stuck, None, "nobody is better off");
        let stuck = watch.look(at(9), ELECTION, begin + seconds(9)).stuck;
        assert_eq!(stuck.as_deref(), Some("its own disk has written nothing for 8 s"));
    }

    #[test]
    fn what_is_committed_and_not_flushed_counts_from_when_it_was() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let mut behind = |committed, flushed, second| {
            let marks = marks(9, committed, flushed, [other(9, 0), other(9, 0)]);
            watch.look(marks, ELECTION, begin + seconds(second)).behind
        };
        assert_eq!(behind(5, 5, 0), Duration::ZERO);
        assert_eq!(behind(7, 5, 1), Duration::ZERO);
        assert_eq!(behind(9, 5, 4), seconds(3));
        assert_eq!(behind(9, 6, 5), Duration::ZERO);
        assert_eq!(behind(9, 9, 6), Duration::ZERO);
    }

    #[test]
    fn a_pause_of_this_process_is_no_time_in_which_somebody_waited() {
        let (begin, heartbeat) = (Instant::now(), Duration::from_millis(500));
        let mut awake = Awake::new(heartbeat, begin);
        let mut watch = Watch::new(begin);
        let mut waiting = Waiting::default();
        let still = marks(9, 5, 5, [other(5, 7), other(5, 7)]);
        for step in 0..4 {
            let (now, away) = awake.look(begin + heartbeat * step);
            assert!(!away);
            waiting.look(9, 5, now);
            assert_eq!(watch.look(still.clone(), ELECTION, now).stuck, None);
        }
        // Frozen for an hour: the writer and the links had no more time than this.
        let (now, away) = awake.look(begin + seconds(3600));
        assert!(away);
        assert_eq!(waiting.look(9, 5, now), seconds(2));
        let sight = watch.look(still.clone(), ELECTION, now);
        assert_eq!((sight.stuck, sight.behind), (None, Duration::ZERO));
        // What really stands still is found all the same.
        let found = (1..20).find(|step| {
            let (now, away) = awake.look(begin + seconds(3600) + heartbeat * *step);
            assert!(!away);
            watch.look(still.clone(), ELECTION, now).stuck.is_some()
        });
        assert_eq!(found, Some(12), "eight seconds, of which two were seen before the pause");
    }

    #[test]
    fn who_lacks_much_of_the_log_is_no_successor() {
        let begin = Instant::now();
        let half = |step: u32| begin + Duration::from_millis(500) * step;
        let mut watch = Watch::new(begin);
        let mut look = |step, last, others| {
            let sight = watch.look(marks(last, 9, 9, others), ELECTION, half(step));
            sight.successors.into_keys().collect::<Vec<_>>()
        };
        // Elected just now: one has nearly nothing, the other all.
        assert_eq!(look(0, 5000, [other(10, 0), other(5000, 0)]), [3]);
        assert_eq!(look(1, 5000, [other(300, 0), other(5000, 0)]), [3]);
        // What came within the last second may still be on its way.
        assert_eq!(look(2, 5400, [other(600, 0), other(5000, 0)]), [3]);
        assert_eq!(look(3, 5800, [other(5000, 0), other(5400, 0)]), [2, 3]);
        assert_eq!(look(4, 5900, [other(5000, 0), other(5400, 0)]), [3]);
        let (silent, new) =
            (Other { answers: false, ..other(5900, 0) }, Other { lag: None, ..other(5900, 0) });
        let nobody: [u64; 0] = [];
        assert_eq!(
            look(5, 5900, [silent, new]),
            nobody,
            "one does not answer, the other has not told of its disk"
        );
    }
}

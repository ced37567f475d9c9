//! What a leader does that should not lead.
//!
//! ```text
//!  its disk lags the commit ─▶ a voter is better by the same measure, and has the log ─▶ hand over to it
//!  not ready for too long   ─┘                └─ none ─▶ stay, and say so
//!  nobody can have its entries (a majority refuses one, nothing goes through, its disk writes nothing)
//!      ─▶ step down: no heartbeat, no candidacy for two election timeouts; whoever can leads meanwhile
//! ```
//!
//! **Guarantees.** Each node lets go at most once in four election timeouts, then in eight, and so on: when everybody is
//! as badly off, leadership does not go round for long. After a calm time it begins with four again. The limit is of the
//! node, not of the cluster: of three nodes each may let go once before all of them wait.
//!
//! **Never.** It is handed to nobody who lacks what the log held a second ago: consensus refuses all writes until the term
//! ends, and whoever lacks the log cannot end it. Nothing here is about safety: openraft's votes are. A link that carries
//! anything is not stuck, however thin.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A leader whose disk is so much behind what is committed lets another one lead.
pub(crate) const BEHIND: Duration = Duration::from_secs(2);
/// Pause after the first hand-over, in election timeouts.
const PAUSE: u32 = 4;
/// The longest pause, in election timeouts.
const PAUSE_MAX: u32 = 64;

/// A voter that could lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Voter {
    /// How long its oldest entry has been waiting for its disk.
    pub lag: Duration,
    /// Entries that it has.
    pub has: u64,
}

/// How a leader sees itself and the voters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Proposals may be judged.
    pub ready: bool,
    /// The oldest entry that is committed and not flushed here has been waiting for so long.
    pub behind: Duration,
    /// Voters that could lead at once: they answer, and have the log but for what came within the last second.
    pub successors: BTreeMap<u64, Voter>,
    /// Why nobody can have an entry of this leader's, if a majority said so.
    pub refused: Option<String>,
    /// Why nothing goes through.
    pub stuck: Option<String>,
}

/// What a leader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It leads on.
    Stay,
    /// It leads on although it should not, for this reason.
    StayAlone(String),
    /// It hands over.
    HandOver { to: u64, why: String },
    /// It steps down.
    Resign { why: String },
}

/// Decides, and remembers when it last did.
#[derive(Debug)]
pub(crate) struct Policy {
    election: Duration,
    /// When this leadership began.
    began: Instant,
    last: Option<Instant>,
    pause: u32,
    /// Somebody wants this node to step down, for this reason.
    asked: Option<String>,
}

impl Policy {
    /// For a node whose election timeout is at most `election`.
    pub fn new(election: Duration, now: Instant) -> Policy {
        Policy { election, began: now, last: None, pause: PAUSE, asked: None }
    }

    /// A leadership of this node begins.
    pub fn begins(&mut self, now: Instant) {
        self.began = now;
    }

    /// It shall step down, as soon as it may.
    pub fn ask(&mut self, why: String) {
        self.asked = Some(why);
    }

    /// What to do now.
    pub fn step(&mut self, seen: &Seen, now: Instant) -> Step {
        let why = self.asked.as_ref().or(seen.refused.as_ref()).or(seen.stuck.as_ref());
        if let Some(why) = why.cloned() {
            if !self.may(now) {
                return Step::StayAlone(why);
            }
            self.asked = None;
            return self.done(now, Step::Resign { why });
        }
        let late = !seen.ready && now.saturating_duration_since(self.began) > self.election;
        let why = if seen.behind > BEHIND {
            format!("its disk is {} s behind what is committed", seen.behind.as_secs())
        } else if late {
            format!("it is not ready {} s after it was elected", (now - self.began).as_secs())
        } else {
            return Step::Stay;
        };
        // By the same measure: whoever has entries waiting for its disk for as long is no better.
        let better = seen.successors.iter().filter(|(_, voter)| voter.lag < BEHIND / 2);
        match better.max_by_key(|(node, voter)| (voter.has, Reverse(voter.lag), Reverse(**node))) {
            Some((to, _)) if self.may(now) => self.done(now, Step::HandOver { to: *to, why }),
            Some(_) => Step::StayAlone(format!("{why}; it has handed over a short while ago")),
            None => Step::StayAlone(format!("{why}; no voter that has the log is better off")),
        }
    }

    fn may(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.election * self.pause)
    }

    fn done(&mut self, now: Instant, step: Step) -> Step {
        let calm = self.last.is_none_or(|last| {
            now.saturating_duration_since(last) >= self.election * self.pause.saturating_mul(4)
        });
        self.pause = if calm { PAUSE } else { (self.pause * 2).min(PAUSE_MAX) };
        self.last = Some(now);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_secs(4);

    fn seconds(time: u64) -> Duration {
        Duration::from_secs(time)
    }

    /// A disk that is `own` seconds behind, and the others' by so much.
    fn behind(own: u64, others: [u64; 2]) -> Seen {
        let [two, three] = others.map(|lag| Voter { lag: seconds(lag), has: 9 });
        let successors = BTreeMap::from([(2, two), (3, three)]);
        Seen { ready: true, behind: seconds(own), successors, ..Seen::default() }
    }

    #[test]
    fn it_hands_over_to_who_is_better_and_to_nobody_else() {
        let now = Instant::now();
        let mut policy = Policy::new(ELECTION, now);
        assert_eq!(policy.step(&behind(2, [0, 0]), now), Step::Stay, "not yet");
        let Step::StayAlone(why) = policy.step(&behind(3, [5, 1]), now) else { panic!() };
        assert_eq!(why, "its disk is 3 s behind what is committed; no voter that has the log is better off");
        let Step::HandOver { to: 3, .. } = policy.step(&behind(3, [5, 0]), now) else { panic!() };
    }

    #[test]
    fn leadership_does_not_go_round() {
        let begin = Instant::now();
        let mut policy = Policy::new(ELECTION, begin);
        let mut when = Vec::new();
        for second in 0..600 {
            let step = policy.step(&behind(3, [0, 9]), begin + seconds(second));
            if matches!(step, Step::HandOver { .. }) {
                when.push(second);
            }
        }
        assert_eq!(when, [0, 16, 48, 112, 240, 496]);
        let calm = begin + seconds(5000);
        assert!(matches!(policy.step(&behind(3, [0, 0]), calm), Step::HandOver { .. }));
        assert!(matches!(policy.step(&behind(3, [0, 0]), calm + seconds(15)), Step::StayAlone(_)));
        assert!(matches!(policy.step(&behind(3, [0, 0]), calm + seconds(16)), Step::HandOver { .. }));
    }

    #[test]
    fn who_is_not_ready_in_time_hands_over() {
        let begin = Instant::now();
        let mut policy = Policy::new(ELECTION, begin);
        let unready = Seen { ready: false, ..behind(0, [0, 0]) };
        assert_eq!(policy.step(&unready, begin + seconds(4)), Step::Stay);
        assert!(matches!(policy.step(&unready, begin + seconds(5)), Step::HandOver { to: 2, .. }));
        policy.begins(begin + seconds(60));
        assert_eq!(policy.step(&unready, begin + seconds(62)), Step::Stay, "another leadership");
    }

    #[test]
    fn it_steps_down_where_nobody_can_have_its_entry() {
        let now = Instant::now();
        let mut policy = Policy::new(ELECTION, now);
        let refused = Seen { refused: Some("refused".into()), ..behind(0, [0, 0]) };
        assert_eq!(policy.step(&refused, now), Step::Resign { why: "refused".into() });
        assert_eq!(policy.step(&refused, now + seconds(9)), Step::StayAlone("refused".into()));
    }

    #[test]
    fn it_hands_over_to_who_has_most_of_the_log() {
        let now = Instant::now();
        let to = |two: u64, three: u64| {
            let mut seen = behind(3, [0, 0]);
            seen.successors = BTreeMap::from([2, 3].map(|node| {
                (node, Voter { lag: Duration::from_millis(node), has: if node == 2 { two } else { three } })
            }));
            Policy::new(ELECTION, now).step(&seen, now)
        };
        assert!(matches!(to(8, 9), Step::HandOver { to: 3, .. }));
        assert!(matches!(to(9, 8), Step::HandOver { to: 2, .. }));
        assert!(matches!(to(9, 9), Step::HandOver { to: 2, .. }), "its disk is faster");
        let nobody = Seen { successors: BTreeMap::new(), ..behind(3, [0, 0]) };
        assert!(matches!(Policy::new(ELECTION, now).step(&nobody, now), Step::StayAlone(_)));
    }

    #[test]
    fn who_is_asked_to_step_down_does_as_soon_as_it_may() {
        let now = Instant::now();
        let mut policy = Policy::new(ELECTION, now);
        assert!(matches!(policy.step(&behind(3, [0, 0]), now), Step::HandOver { .. }));
        policy.ask("asked".into());
        assert_eq!(policy.step(&behind(0, [0, 0]), now + seconds(9)), Step::StayAlone("asked".into()));
        assert_eq!(policy.step(&behind(0, [0, 0]), now + seconds(15)), Step::StayAlone("asked".into()));
        assert_eq!(policy.step(&behind(0, [0, 0]), now + seconds(16)), Step::Resign { why: "asked".into() });
        assert_eq!(policy.step(&behind(0, [0, 0]), now + seconds(60)), Step::Stay, "once");
    }
}

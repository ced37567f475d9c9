//! Where the replica of a leader asks whether there is room for what begins.
//!
//! A leader whose own disk is the one without room hands over to a voter with whom the same record has some, at most once
//! in [`HAND_OVER_PAUSE`]: the new leader judges it anew, by the same measure, so that it does not come back for that record.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::Ask;
use nativelog::machine::Garbage;
use raft::{Rooms, Sight};

use crate::node::Node;
use crate::voters::{Voter, judge, successor};

/// A node lets go for want of room once in so long: leadership does not go round between those who begin.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(30);

/// Answers for a node once there is one: its replica is started before.
#[derive(Default)]
pub struct Gate {
    node: OnceLock<Weak<Node>>,
    unmet: Unmet,
}

/// What had no room, and when leadership was handed over for the like.
#[derive(Default)]
struct Unmet {
    /// When it was judged last.
    ask: Arc<Mutex<Option<Ask>>>,
    handed_over: Mutex<Option<Instant>>,
}

impl Unmet {
    /// Judges by what is known of these voters, and remembers what has no room.
    fn judge_by(&self, voters: Vec<Voter>) -> Sight {
        let unmet = self.ask.clone();
        Box::new(move |ledger, ask| {
            let judged = judge(&voters, ledger, ask);
            if judged.is_err() {
                *unmet.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask);
            }
            judged
        })
    }

    /// To whom a leader hands over now, these being the voters: to one who has room for what had none.
    fn successor(&self, voters: &[Voter], now: Instant) -> Option<u64> {
        let unmet = self.ask.lock().unwrap_or_else(PoisonError::into_inner).take();
        let to = successor(voters, unmet?)?;
        let mut last = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.saturating_duration_since(last) < HAND_OVER_PAUSE) {
            return None;
        }
        *last = Some(now);
        Some(to)
    }
}

impl Gate {
    /// From now on this node answers.
    pub fn opens_for(&self, node: &Arc<Node>) {
        self.node.get_or_init(|| Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }

    /// After the voters were asked anew: what they told before is not reason enough.
    async fn hand_over(&self, node: &Node) {
        if !node.replica.is_leader() {
            return;
        }
        let Some(to) = self.unmet.successor(&node.voters_space(), Instant::now()) else { return };
        tracing::warn!(to, "leadership is handed over: this node alone has no room for what begins");
        if let Err(error) = node.replica.transfer_leader(to).await {
            tracing::warn!(%error, "leadership cannot be handed over");
        }
    }
}

impl Rooms for Gate {
    fn look(&self) -> Sight {
        // Before there is a node, and when it has gone, nobody is listened to.
        let Some(node) = self.node() else { return Box::new(|_, _| Ok(())) };
        self.unmet.judge_by(node.voters_space())
    }

    fn ask_anew(&self) -> BoxFuture<'_, ()> {
        async {
            let Some(node) = self.node() else { return };
            if node.replica.machine().garbage() != Garbage::default() {
                node.reclaim();
            }
            node.ask_voters().await;
            self.hand_over(&node).await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use nativelog::ledger::Ledger;

    use super::*;
    use crate::space::Space;

    /// A cluster of three, of which 1 leads, with so many bytes free; 50 stay reserved.
    fn voters(free: [u64; 3]) -> Vec<Voter> {
        let voter = |(node, free)| {
            let space = Space { free, total: 1000, reserve: 50, ..Space::default() };
            Voter { node, leads: node == 1, space: Some(space), held: 0, short: None }
        };
        (1..).zip(free).map(voter).collect()
    }

    /// Whether there is room for so many bytes.
    fn asks(unmet: &Unmet, free: [u64; 3], needed: u64) -> bool {
        let ask = Ask { needed, spoken_for: 0, held: 0 };
        unmet.judge_by(voters(free))(&Ledger::default(), ask).is_ok()
    }

    #[test]
    fn a_leader_hands_over_for_what_had_no_room_and_to_who_has_some() {
        let (unmet, now) = (Unmet::default(), Instant::now());
        let full = [100, 200, 250];
        assert_eq!(unmet.successor(&voters(full), now), None, "nobody has asked");
        assert!(asks(&unmet, full, 50));
        assert_eq!(unmet.successor(&voters(full), now), None, "there was room");
        assert!(!asks(&unmet, full, 160));
        assert_eq!(unmet.successor(&voters(full), now), None, "with 3 alone no majority has any");
        assert!(!asks(&unmet, full, 100));
        assert_eq!(unmet.successor(&voters(full), now), Some(3));
        // By the same measure the new leader has room: it does not come back.
        let next: Vec<Voter> =
            voters(full).into_iter().map(|voter| Voter { leads: voter.node == 3, ..voter }).collect();
        let ask = Ask { needed: 100, spoken_for: 0, held: 0 };
        assert!(Unmet::default().judge_by(next)(&Ledger::default(), ask).is_ok());
    }

    #[test]
    fn what_the_voters_tell_when_they_are_asked_anew_counts() {
        let (unmet, now) = (Unmet::default(), Instant::now());
        assert!(!asks(&unmet, [100, 200, 250], 100));
        assert_eq!(unmet.successor(&voters([100, 200, 100]), now), None, "3 was filled meanwhile");
        assert_eq!(unmet.successor(&voters([100, 200, 250]), now), None, "it is judged again first");
        assert!(!asks(&unmet, [100, 200, 250], 100));
        assert_eq!(unmet.successor(&voters([300, 200, 250]), now), None, "this node has room again");
    }

    #[test]
    fn leadership_does_not_go_round_between_those_who_begin() {
        let (unmet, now) = (Unmet::default(), Instant::now());
        let full = [100, 200, 250];
        let after = |time: Duration| {
            assert!(!asks(&unmet, full, 100));
            unmet.successor(&voters(full), now + time)
        };
        assert_eq!(after(Duration::ZERO), Some(3));
        assert_eq!(after(HAND_OVER_PAUSE - Duration::from_millis(1)), None);
        assert_eq!(after(HAND_OVER_PAUSE), Some(3));
        assert_eq!(after(HAND_OVER_PAUSE), None);
    }
}

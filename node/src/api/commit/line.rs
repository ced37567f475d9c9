//! The line in which commits by path wait.
//!
//! **Rule.** A directory is read only for a caller who is still there. It is his to write to again as soon as his program has
//! ended: a commit that went on without him would seal what nobody has asked for, half of one state and half of the next.
//! So whoever waits leaves the line when the answers have nobody to go to, and each scan is begun with one more look. Once
//! it has begun a caller who goes away gets his commit all the same: the scan compares what it read, at the end of it.

use client::{Certainty, Code, Failure};

use crate::commit::origin::Replies;
use crate::turns::{AllTurns, Busy, Turn};

/// What a commit by path holds while it is at work: both stand for its plan.
#[derive(Debug)]
pub(super) struct Room {
    _large: Option<Turn>,
    _source: Turn,
}

/// One who waits, and for whom.
pub(super) struct Line<'a> {
    pub turns: &'a AllTurns,
    /// This node.
    pub id: u64,
    /// The commit, as people read it.
    pub what: &'a str,
    pub replies: &'a Replies,
}

impl Line<'_> {
    /// Room for a small plan.
    pub async fn small(&self) -> Result<Room, Failure> {
        Ok(Room { _large: None, _source: self.turn(self.turns.sources.take()).await? })
    }

    /// Room for a plan of so many entries. Nothing may be in hand: who waits for the room of a large plan would keep
    /// small ones, which need none, from their turns.
    pub async fn large(&self, entries: u64) -> Result<Room, Failure> {
        let large = Some(self.turn(self.turns.large_plans.take_many(entries)).await?);
        Ok(Room { _large: large, _source: self.turn(self.turns.sources.take()).await? })
    }

    async fn turn(&self, turn: impl Future<Output = Result<Turn, Busy>>) -> Result<Turn, Failure> {
        tokio::select! {
            biased;
            () = self.replies.gone() => Err(self.left()),
            turn = turn => turn.map_err(|busy| self.too_many(busy)),
        }
    }

    /// Just before the directory is read.
    pub fn is_wanted(&self) -> Result<(), Failure> {
        if self.replies.are_taken() { Ok(()) } else { Err(self.left()) }
    }

    fn left(&self) -> Failure {
        Failure::new(Code::Interrupted, "the client has gone, the epoch was NOT committed")
            .what(self.what)
            .why("it left before its directory was read")
            .fix("repeat the command")
            .committed(Certainty::No)
    }

    /// Nothing of it has begun.
    fn too_many(&self, busy: Busy) -> Failure {
        let failure = self.turns.sources.refused(self.id, busy).what(self.what).committed(Certainty::No);
        let sentence = format!("{}, the epoch was NOT committed", failure.sentence);
        failure.sentence(sentence)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::limits::{LARGE_PLANS, SOURCES};

    fn line<'a>(turns: &'a AllTurns, replies: &'a Replies) -> Line<'a> {
        Line { turns, id: 1, what: "commit job", replies }
    }

    #[tokio::test]
    async fn who_has_gone_gets_no_turn_and_nothing_is_read_for_him() {
        let turns = AllTurns::default();
        let (send, answers) = mpsc::channel(1);
        let replies = Replies(send);
        let line = line(&turns, &replies);
        let mut all = Vec::new();
        for _ in 0..SOURCES.at_once {
            all.push(line.small().await.unwrap());
        }
        let mut waits = Box::pin(line.small());
        assert!(waits.as_mut().now_or_never().is_none());
        line.is_wanted().unwrap();
        drop(answers);
        // A turn is free, too: he does not get it.
        all.pop();
        let left = waits.await.unwrap_err();
        assert_eq!((left.code, left.committed), (Code::Interrupted, Certainty::No));
        assert_eq!(line.is_wanted().unwrap_err().code, Code::Interrupted);
        assert_eq!(line.large(1).await.unwrap_err().code, Code::Interrupted);
        assert!(turns.sources.take().now_or_never().is_some_and(|turn| turn.is_ok()), "it is another's");
    }

    #[tokio::test]
    async fn who_waits_for_a_large_plan_keeps_no_small_one_waiting() {
        let turns = AllTurns::default();
        let (send, _answers) = mpsc::channel(1);
        let replies = Replies(send);
        let line = line(&turns, &replies);
        let all = turns.large_plans.take_many(LARGE_PLANS.at_once as u64).await.unwrap();
        let mut waiting: Vec<_> = (0..SOURCES.at_once + 1).map(|_| Box::pin(line.large(1))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert!(line.small().now_or_never().is_some_and(|room| room.is_ok()));
        drop(all);
        assert!(waiting.remove(0).now_or_never().is_some_and(|room| room.is_ok()));
    }
}

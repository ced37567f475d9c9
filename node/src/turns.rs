//! Turns: how many calls of a kind are worked on at once, over all callers.
//!
//! A call takes its turn before it reads or allocates anything, so that one that waits holds nothing but its request. The
//! waiting are served in the order in which they came; too many of them, and those that wait for too long, are told that
//! the node is busy (`RESOURCE_EXHAUSTED`) and what to do.
//!
//! **Order.** A call that has a turn waits for no other turn of this node, but for that of a source with the room of a large
//! plan in hand, never the other way round. With the turn of a restore that is passed on it waits for one of another node,
//! which passes nothing on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::{Code, Failure};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{self, Bound};
use crate::units;

/// The turns of one kind of calls.
#[derive(Debug)]
pub struct Turns {
    bound: Bound,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Leave to go on. It ends when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Turn(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

/// Why there is no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// As many wait as may.
    Full,
    /// It has waited for long.
    Late,
}

/// Counts a caller that waits, also when he goes away while he does.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// So many as `bound` says.
    pub fn new(bound: Bound) -> Turns {
        Turns { bound, free: Arc::new(Semaphore::new(bound.at_once)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a turn. May be dropped: then nobody waits any more.
    ///
    /// # Errors
    /// There is none.
    pub async fn take(&self) -> Result<Turn, Busy> {
        self.take_many(1).await
    }

    /// Waits for so many at once; for all there are when these are fewer.
    ///
    /// # Errors
    /// As [`Turns::take`].
    pub async fn take_many(&self, count: u64) -> Result<Turn, Busy> {
        let count = u32::try_from(count.min(self.bound.at_once as u64)).expect("bounds are far below 2^32");
        // Those who wait go first: a turn that ends is theirs before it is free.
        if let Ok(turn) = self.free.clone().try_acquire_many_owned(count) {
            return Ok(Turn(turn));
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.bound.waiting {
            return Err(Busy::Full);
        }
        match tokio::time::timeout(self.bound.patience, self.free.clone().acquire_many_owned(count)).await {
            Ok(turn) => Ok(Turn(turn.expect("nobody closes it"))),
            Err(_) => Err(Busy::Late),
        }
    }

    /// The same without waiting: whether one who comes now may wait.
    ///
    /// # Errors
    /// As many wait as may.
    pub fn may_wait(&self) -> Result<(), Busy> {
        let full =
            self.free.available_permits() == 0 && self.waiting.load(Ordering::Relaxed) >= self.bound.waiting;
        if full { Err(Busy::Full) } else { Ok(()) }
    }

    /// The failure for a caller who got none, from this node.
    pub fn refused(&self, node: u64, busy: Busy) -> Failure {
        let Bound { what, at_once, waiting, patience } = self.bound;
        let why = match busy {
            Busy::Full => format!("{at_once} are under way and {waiting} wait, more may not"),
            Busy::Late => format!("no turn for {}", units::seconds_of(patience)),
        };
        Failure::new(Code::Busy, format!("the node is busy with {what}"))
            .why(format!("node {node}: {why}"))
            .fix("repeat the command a little later, or name other nodes with --endpoints")
    }
}

/// The turns of all kinds that one node has.
#[derive(Debug)]
pub struct AllTurns {
    /// Manifests that are sent.
    pub manifests: Turns,
    /// Contents that are sent.
    pub contents: Turns,
    /// Restores that another node answers.
    pub passed_on: Turns,
    /// Lists of entries.
    pub entries: Turns,
    /// Epochs that are verified.
    pub verifies: Turns,
    /// Commits by path.
    pub sources: Turns,
    /// Entries of the plans of commits by path that have many.
    pub large_plans: Turns,
}

impl Default for AllTurns {
    fn default() -> Self {
        AllTurns {
            manifests: Turns::new(limits::MANIFESTS),
            contents: Turns::new(limits::CONTENTS),
            passed_on: Turns::new(limits::PASSED_ON),
            entries: Turns::new(limits::ENTRIES),
            verifies: Turns::new(limits::VERIFIES),
            sources: Turns::new(limits::SOURCES),
            large_plans: Turns::new(limits::LARGE_PLANS),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    const BOUND: Bound = Bound { what: "tests", at_once: 2, waiting: 3, patience: Duration::from_secs(60) };

    #[tokio::test]
    async fn so_many_go_on_so_many_wait_and_the_others_are_told() {
        let turns = Turns::new(BOUND);
        let first = turns.take().await.unwrap();
        let second = turns.take().await.unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(turns.take())).collect();
        for one in &mut waiting {
            assert!(one.now_or_never_pinned().is_none());
        }
        assert_eq!(turns.take().await.unwrap_err(), Busy::Full);
        assert_eq!(turns.may_wait(), Err(Busy::Full));
        let refused = turns.refused(7, Busy::Full);
        assert_eq!(refused.code, Code::Busy);
        assert_eq!(refused.to_status().code(), tonic::Code::ResourceExhausted);
        assert!(refused.is_transient(), "the client goes on to another node");
        assert_eq!(refused.sentence, "the node is busy with tests");
        assert_eq!(refused.why, "node 7: 2 are under way and 3 wait, more may not");
        assert!(refused.fix.contains("a little later"), "{refused:?}");
        // The first of those that wait gets the turn that ends; one that goes away makes room for another.
        drop(first);
        let third = waiting.remove(0).await.unwrap();
        waiting.pop();
        let mut later = Box::pin(turns.take());
        assert!(later.now_or_never_pinned().is_none());
        drop((second, third));
        let _fourth = waiting.remove(0).await.unwrap();
        let _fifth = later.await.unwrap();
        assert_eq!(turns.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let turns = Turns::new(Bound { at_once: 1, patience: Duration::from_millis(10), ..BOUND });
        let _turn = turns.take().await.unwrap();
        assert_eq!(turns.take().await.unwrap_err(), Busy::Late);
        let turns = Turns::new(BOUND);
        assert_eq!(turns.refused(7, Busy::Late).why, "node 7: no turn for 60 s");
    }

    /// One poll of a future that is kept.
    trait Poll {
        type Output;
        fn now_or_never_pinned(&mut self) -> Option<Self::Output>;
    }

    impl<F: Future> Poll for std::pin::Pin<Box<F>> {
        type Output = F::Output;
        fn now_or_never_pinned(&mut self) -> Option<F::Output> {
            self.as_mut().now_or_never()
        }
    }
}

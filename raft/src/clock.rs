//! Log time: while anything depends on it, the leader writes Ticks with the milliseconds of its *monotonic* clock
//! since its previous one. Wall clocks decide nothing. The ledger says what depends on it: every second for
//! attempts that are open and pins that end, once a minute for what is only kept for a day, else never.
//!
//! A tick that was held up counts for a few intervals at most: what held it up may have held up the writers, too, and
//! silence that nobody could have broken is none. A new leader starts counting when it begins to lead: the time between
//! two leaders is not counted, and what may be in the log is not written again, so log time never runs faster than real time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nativelog::compose;
use nativelog::ledger::{TICK_MS_MAX, TimeNeed};

use crate::error::ProposeError;
use crate::propose::Proposer;

/// Writes log time while this node leads.
pub(crate) async fn run(proposer: Arc<Proposer>) {
    let mut leaders = proposer.leading.watch();
    let mut counter = Counter::new(proposer.config.tick);
    loop {
        let leadership = leaders.borrow_and_update().clone();
        match leadership {
            None => counter = Counter::new(proposer.config.tick),
            Some(leadership) => {
                let need = proposer.machine.ledger().time_need();
                let read = Instant::now();
                if let Some(elapsed_ms) = counter.due(leadership.lead().term, need, read) {
                    let outcome = proposer.propose_tied(&leadership, &compose::tick(elapsed_ms)).await;
                    if let Err(why) = &outcome {
                        tracing::debug!(%why, "a tick did not get through");
                    }
                    counter.answered(read, outcome.map(drop));
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(proposer.config.tick) => {}
            changed = leaders.changed() => if changed.is_err() { return },
        }
    }
}

/// A tick that is needed closely counts for so many intervals at most.
const INTERVALS_MAX: u32 = 5;

/// What a leader has counted of its time.
#[derive(Debug)]
struct Counter {
    /// Most that a tick counts for while time is needed closely.
    most: Duration,
    /// Term, since when, and what it was needed for when it was looked at last.
    counted: Option<(u64, Instant, TimeNeed)>,
}

impl Counter {
    /// Of ticks at this interval.
    fn new(interval: Duration) -> Counter {
        Counter { most: interval * INTERVALS_MAX, counted: None }
    }

    /// Milliseconds that are to be written now.
    fn due(&mut self, term: u64, need: TimeNeed, now: Instant) -> Option<u64> {
        let before = self.counted.filter(|(of, ..)| *of == term);
        let since = match (need, before) {
            (TimeNeed::Nothing, _) => {
                self.counted = None;
                return None;
            }
            // What has come to need the time closely was not there for the minute that nobody has written yet.
            (_, None) | (TimeNeed::Seconds, Some((.., TimeNeed::Minutes))) => {
                self.counted = Some((term, now, need));
                return None;
            }
            (_, Some((_, since, _))) => since,
        };
        self.counted = Some((term, since, need));
        let mut elapsed = now.saturating_duration_since(since);
        match need {
            TimeNeed::Minutes if elapsed < Duration::from_millis(TICK_MS_MAX) => return None,
            TimeNeed::Seconds => elapsed = elapsed.min(self.most),
            TimeNeed::Minutes | TimeNeed::Nothing => {}
        }
        Some(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).min(TICK_MS_MAX))
    }

    /// What was due at `read` was proposed. Unless it surely is not in the log, it counts as written.
    fn answered(&mut self, read: Instant, outcome: Result<(), ProposeError>) {
        if matches!(outcome, Err(ProposeError::Unavailable { .. })) {
            return;
        }
        if let Some((_, since, _)) = &mut self.counted {
            *since = read;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_as_closely_as_it_is_needed() {
        let (start, mut counter) = (Instant::now(), Counter::new(Duration::from_secs(1)));
        let at = |seconds| start + Duration::from_secs(seconds);
        // Nothing needs it, then attempts do.
        assert_eq!(counter.due(1, TimeNeed::Nothing, at(0)), None);
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(100)), None, "counting begins");
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(102)), Some(2000));
        counter.answered(at(102), Ok(()));
        // A tick that got lost is made up for.
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(104)), Some(2000));
        counter.answered(at(104), Err(ProposeError::unavailable("its lease had run out")));
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(106)), Some(4000));
        counter.answered(at(106), Ok(()));
        // Only outcomes are left: one tick a minute, of a minute.
        assert_eq!(counter.due(1, TimeNeed::Minutes, at(108)), None);
        assert_eq!(counter.due(1, TimeNeed::Minutes, at(165)), None);
        assert_eq!(counter.due(1, TimeNeed::Minutes, at(167)), Some(60_000));
        counter.answered(at(167), Ok(()));
        // An attempt that has just begun is not made older by the minute before it.
        assert_eq!(counter.due(1, TimeNeed::Minutes, at(200)), None);
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(202)), None);
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(204)), Some(2000));
        // Another term counts its own time.
        assert_eq!(counter.due(2, TimeNeed::Seconds, at(300)), None);
        assert_eq!(counter.due(2, TimeNeed::Seconds, at(301)), Some(1000));
    }

    #[test]
    fn time_that_may_be_in_the_log_is_not_written_twice() {
        let (start, mut counter) = (Instant::now(), Counter::new(Duration::from_secs(6)));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(0)), None);
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(30)), Some(30_000));
        // The links were cut, and the same leader goes on: the tick may be committed yet.
        counter.answered(at(30), Err(ProposeError::unknown("no quorum")));
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(32)), Some(2000));
        counter.answered(at(32), Err(ProposeError::fault("the disk is gone")));
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(33)), Some(1000));
    }

    #[test]
    fn a_writer_is_not_silent_for_as_long_as_a_tick_was_held_up() {
        let (start, mut counter) = (Instant::now(), Counter::new(Duration::from_secs(1)));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(0)), None);
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(40)), Some(5000), "no log went anywhere for so long");
        counter.answered(at(40), Ok(()));
        assert_eq!(counter.due(1, TimeNeed::Seconds, at(41)), Some(1000), "the rest is not made up for");
        counter.answered(at(41), Ok(()));
        // What is kept for a day has no writer.
        assert_eq!(counter.due(1, TimeNeed::Minutes, at(200)), Some(60_000));
    }
}

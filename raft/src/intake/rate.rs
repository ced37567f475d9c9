//! How many bytes of large records may be on their way: about a second's worth of what was answered lately.
//!
//! What is proposed enters the log in order, and a small record waits behind all that is proposed before it. Bounded in
//! bytes alone, that is a minute on a thin link; bounded by what came through lately, it is a second or two on any. Each
//! answer is a sample: what was answered altogether while its record was on its way, over the time that took. A link or
//! disk that does more than it is given shows in the next sample, so a burst soon has all it can use.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So much time's worth may be out.
const WORTH: Duration = Duration::from_secs(1);
/// A sample counts for so long.
const LATELY: Duration = Duration::from_secs(5);
/// At least so much may be out, in bytes: a chunk of the usual size.
const LEAST: u64 = (1 << 20) + (64 << 10);

/// What was answered lately.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    answered: u64,
    /// When, and bytes a second. Only those that no later one outdoes: they fall.
    samples: VecDeque<(Instant, u64)>,
}

/// A record on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    at: Instant,
    answered: u64,
}

impl Rate {
    /// A record leaves now.
    pub fn sent(&self, at: Instant) -> Sent {
        Sent { at, answered: self.answered }
    }

    /// A record of `bytes` was answered.
    pub fn answered(&mut self, sent: Sent, bytes: u64, at: Instant) {
        self.answered = self.answered.saturating_add(bytes);
        let took = at.saturating_duration_since(sent.at).max(Duration::from_millis(1));
        let meanwhile = u128::from(self.answered - sent.answered);
        let rate = u64::try_from(meanwhile * 1000 / took.as_millis()).unwrap_or(u64::MAX);
        while self.samples.back().is_some_and(|(_, lower)| *lower <= rate) {
            self.samples.pop_back();
        }
        self.samples.push_back((at, rate));
    }

    /// Bytes that may be out.
    pub fn bound(&mut self, at: Instant) -> u64 {
        while self.samples.front().is_some_and(|(when, _)| at.saturating_duration_since(*when) >= LATELY) {
            self.samples.pop_front();
        }
        let rate = self.samples.front().map_or(0, |(_, rate)| *rate);
        rate.saturating_mul(WORTH.as_secs()).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Sends chunks as fast as the bound allows over a link of `rate` bytes a second with this delay, for `time`.
    /// Answers with the bytes that came through and the most that were out.
    fn run(rate: &mut Rate, begin: Instant, link: u64, delay: Duration, time: Duration) -> (u64, u64) {
        let mut out: VecDeque<(Instant, Sent)> = VecDeque::new();
        let (mut now, mut free, mut through, mut most) = (begin, begin, 0, 0);
        while now < begin + time {
            while out.is_empty() || (out.len() as u64 + 1) * MIB <= rate.bound(now) {
                free = free.max(now) + Duration::from_millis(MIB * 1000 / link);
                out.push_back((free + delay, rate.sent(now)));
            }
            most = most.max(out.len() as u64 * MIB);
            let (at, sent) = out.pop_front().unwrap();
            now = now.max(at);
            rate.answered(sent, MIB, now);
            through += MIB;
        }
        (through, most)
    }

    #[test]
    fn a_thin_link_has_a_chunk_on_its_way_and_is_full_all_the_same() {
        let second = Duration::from_secs(1);
        let (through, most) =
            run(&mut Rate::default(), Instant::now(), 600_000, Duration::from_millis(20), second * 60);
        assert_eq!(most, MIB);
        assert!(through >= 60 * 550_000, "{through}");
    }

    #[test]
    fn a_fast_link_is_used_within_a_moment() {
        let ms = Duration::from_millis;
        let (through, most) = run(&mut Rate::default(), Instant::now(), 200 * MIB, ms(5), ms(1000));
        assert!(through >= 190 * MIB, "{through}");
        assert!(most <= 210 * MIB, "{most}");
    }

    #[test]
    fn a_link_that_becomes_thin_is_believed_in_seconds() {
        let mut rate = Rate::default();
        let begin = Instant::now();
        run(&mut rate, begin, 100 * MIB, Duration::from_millis(5), Duration::from_secs(1));
        assert!(rate.bound(begin + Duration::from_secs(1)) > 50 * MIB);
        assert_eq!(rate.bound(begin + Duration::from_secs(10)), LEAST);
    }
}

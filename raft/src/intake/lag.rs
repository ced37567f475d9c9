//! How far the voters are behind: what they have applied and not carried out yet. While so many are that no majority
//! keeps up, large content goes slower, the slower the more they are behind; it never stops.
//!
//! Apply does not wait for the disk. So somebody has to, or what is committed runs away from what is on the disks:
//! whoever brings much, where it comes in.
//!
//! **Never.** Small records, and those that end, expire or seal something, wait for nobody's disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many bytes may be behind before anything goes slower.
const BEHIND: u64 = 64 << 20;
/// Large content of a leader, in bytes a second, when a majority is that much behind. A quarter when twice as much,
/// and so on.
const PACE: u64 = 16 << 20;
/// No record is held longer: whoever sent it waits for an answer.
const HELD_MAX: Duration = Duration::from_secs(4);
/// What was told longer ago does not count.
const FRESH: Duration = Duration::from_secs(5);

/// What the other voters told.
#[derive(Debug, Default)]
pub(crate) struct Lags {
    told: Mutex<BTreeMap<u64, (Instant, u64)>>,
    /// When the next large record goes.
    next: Mutex<Option<Instant>>,
}

impl Lags {
    /// This peer has so many bytes to carry out still.
    pub fn heard(&self, peer: u64, behind: u64) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, (Instant::now(), behind));
    }

    /// How far behind the last of the best majority is: `me`, which is `own` bytes behind, and whoever told lately.
    /// 0 when these are no majority: nothing is committed then anyway.
    pub fn of_best_majority(&self, voters: &[u64], me: u64, own: u64) -> u64 {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lags: Vec<u64> = voters
            .iter()
            .filter_map(|voter| match told.get(voter) {
                _ if *voter == me => Some(own),
                Some((at, behind)) if at.elapsed() < FRESH => Some(*behind),
                _ => None,
            })
            .collect();
        lags.sort_unstable();
        lags.get(voters.len() / 2).copied().unwrap_or(0)
    }

    /// When a large record of so many bytes goes, while a majority is so far behind; `None`: at once.
    pub fn turn(&self, behind: u64, bytes: u64) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if behind <= BEHIND {
            *next = None;
            return None;
        }
        let now = Instant::now();
        let begin = next.filter(|at| *at > now).unwrap_or(now);
        let at = (begin + pause(behind, bytes)).min(now + HELD_MAX);
        *next = Some(at);
        Some(at)
    }
}

fn pause(behind: u64, bytes: u64) -> Duration {
    let times = behind as f64 / BEHIND as f64;
    // What a peer says may be any number, which no time can be.
    let seconds = bytes as f64 / PACE as f64 * times * times;
    Duration::from_secs_f64(seconds.min(HELD_MAX.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_majority_counts_and_the_silent_do_not() {
        let lags = Lags::default();
        let voters = [1, 2, 3];
        assert_eq!(lags.of_best_majority(&voters, 1, 7), 0, "one of three is no majority");
        lags.heard(2, 100);
        assert_eq!(lags.of_best_majority(&voters, 1, 7), 100);
        assert_eq!(lags.of_best_majority(&voters, 1, 700), 700);
        lags.heard(3, 5);
        assert_eq!(lags.of_best_majority(&voters, 1, 700), 100);
        assert_eq!(lags.of_best_majority(&voters, 1, 7), 7);
        assert_eq!(lags.of_best_majority(&[1], 1, 7), 7);
    }

    #[test]
    fn large_content_goes_slower_the_more_is_behind_and_never_stops() {
        let lags = Lags::default();
        assert_eq!(lags.turn(BEHIND, 4 << 20), None);
        let now = Instant::now();
        let first = lags.turn(BEHIND + 1, PACE).unwrap() - now;
        assert!(first >= Duration::from_millis(999) && first < Duration::from_millis(1500), "{first:?}");
        let second = lags.turn(BEHIND + 1, PACE).unwrap() - now;
        assert!(second >= Duration::from_millis(1999), "it goes behind the first: {second:?}");
        assert!(pause(2 * BEHIND, PACE / 4) == pause(BEHIND, PACE));
        for _ in 0..10 {
            let now = Instant::now();
            assert!(lags.turn(100 * BEHIND, 4 << 20).unwrap() - now <= HELD_MAX + Duration::from_millis(100));
        }
        assert_eq!(pause(u64::MAX, u64::MAX), HELD_MAX, "whatever a peer says");
        assert_eq!(lags.turn(0, 4 << 20), None, "they have caught up");
    }
}

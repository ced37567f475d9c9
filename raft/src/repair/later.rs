//! When what could not be mended is tried again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// First pause after something could not be mended; doubles up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
/// A good copy that is put back is found within half a minute: this, the look that comes then, and the question. A
/// question in vain is cheap as often as that: no copy is read again that was rotten a moment ago, and each transfer asks
/// in several rounds for the first thing only that nobody has.
const AGAIN_MAX: Duration = Duration::from_secs(20);
/// What a user has to make way for is read whole each time.
const STUCK_MAX: Duration = Duration::from_secs(300);

/// What could not be mended, and when it is tried again.
pub(super) struct Later<K> {
    due: HashMap<K, (Instant, Duration)>,
}

impl<K> Default for Later<K> {
    fn default() -> Self {
        Later { due: HashMap::new() }
    }
}

impl<K: std::hash::Hash + Eq + Clone> Later<K> {
    /// Whether it may be tried now.
    pub fn is_due(&self, key: &K) -> bool {
        self.due.get(key).is_none_or(|(at, _)| Instant::now() >= *at)
    }

    /// It failed: the pause before the next try doubles.
    pub fn failed(&mut self, key: &K) {
        self.put_off(key, AGAIN_MAX);
    }

    /// It failed for something that a user has to remove.
    pub fn is_stuck(&mut self, key: &K) {
        self.put_off(key, STUCK_MAX);
    }

    /// It failed: the pause before the next try doubles, up to `most`.
    pub fn put_off(&mut self, key: &K, most: Duration) {
        let pause = self.due.get(key).map_or(AGAIN, |(_, pause)| (*pause * 2).min(most));
        self.due.insert(key.clone(), (Instant::now() + pause, pause));
    }

    /// Forgets all others.
    pub fn keep_only(&mut self, mut those: impl FnMut(&K) -> bool) {
        self.due.retain(|key, _| those(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_within_half_a_minute() {
        let mut later = Later::default();
        assert!(later.is_due(&1));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            later.failed(&1);
            assert!(!later.is_due(&1) && later.is_due(&2));
            pauses.push(later.due[&1].1.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 20, 20]);
        later.keep_only(|key| *key != 1);
        assert!(later.is_due(&1));
        later.failed(&1);
        assert_eq!(later.due[&1].1, AGAIN, "it begins anew");
    }
}

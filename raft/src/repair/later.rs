//! When what could not be mended is tried again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// First pause after something could not be mended; doubles up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

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
        let pause = self.due.get(key).map_or(AGAIN, |(_, pause)| (*pause * 2).min(AGAIN_MAX));
        self.due.insert(key.clone(), (Instant::now() + pause, pause));
    }

    /// Forgets all others.
    pub fn keep_only(&mut self, mut those: impl FnMut(&K) -> bool) {
        self.due.retain(|key, _| those(key));
    }
}

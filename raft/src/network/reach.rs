//! Who of the others answers, and what they told last.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::proto::PulseReply;

/// When each of the others last answered anything. One that never did counts from the start of this node.
#[derive(Debug)]
pub struct Reach {
    since: Instant,
    others: RwLock<BTreeMap<u64, Other>>,
}

#[derive(Debug, Clone)]
struct Other {
    answered: Instant,
    pulse: Option<PulseReply>,
}

impl Default for Reach {
    fn default() -> Self {
        Reach { since: Instant::now(), others: RwLock::default() }
    }
}

impl Reach {
    /// `node` has answered something.
    pub fn answered(&self, node: u64) {
        self.update(node, None);
    }

    /// `node` has told how it is.
    pub fn told(&self, node: u64, pulse: PulseReply) {
        self.update(node, Some(pulse));
    }

    fn update(&self, node: u64, pulse: Option<PulseReply>) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let other = others.entry(node).or_insert_with(|| Other { answered: now, pulse: None });
        other.answered = now;
        if pulse.is_some() {
            other.pulse = pulse;
        }
    }

    /// How long ago `node` last answered.
    pub fn silence(&self, node: u64) -> Duration {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(&node).map_or(self.since, |other| other.answered).elapsed()
    }

    /// What `node` told last, if it ever did.
    pub fn pulse(&self, node: u64) -> Option<PulseReply> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(&node)?.pulse.clone()
    }
}

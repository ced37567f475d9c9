//! Who of the others answers, and what they told last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::proto::PulseReply;

/// When each of the others last answered anything. One that never did counts from the start of this node.
#[derive(Debug)]
pub struct Reach {
    since: Instant,
    others: RwLock<BTreeMap<u64, Other>>,
    /// What this node tells them of the rules that it needs.
    wanted: AtomicU32,
}

#[derive(Debug, Clone)]
struct Other {
    answered: Instant,
    /// What it told last, and when.
    pulse: Option<(Instant, PulseReply)>,
}

impl Default for Reach {
    fn default() -> Self {
        Reach { since: Instant::now(), others: RwLock::default(), wanted: AtomicU32::new(0) }
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
        if let Some(pulse) = pulse {
            other.pulse = Some((now, pulse));
        }
    }

    /// A command that came to this node needs rules of this version.
    pub fn want_rules(&self, version: u32) {
        self.wanted.fetch_max(version, Ordering::Relaxed);
    }

    /// The highest version that was needed since this node started; 0 when nobody needed any.
    pub fn wanted_rules(&self) -> u32 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// How long ago `node` last answered.
    pub fn silence(&self, node: u64) -> Duration {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(&node).map_or(self.since, |other| other.answered).elapsed()
    }

    /// What `node` told last, if it ever did.
    pub fn pulse(&self, node: u64) -> Option<PulseReply> {
        self.pulse_after(node, None)
    }

    /// What `node` told last, if that was after this moment.
    pub fn pulse_after(&self, node: u64, since: Option<Instant>) -> Option<PulseReply> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let (at, pulse) = others.get(&node)?.pulse.as_ref()?;
        since.is_none_or(|since| *at > since).then(|| pulse.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_before_is_not_taken_for_what_is_told_now() {
        let (reach, begun) = (Reach::default(), Instant::now());
        assert_eq!(reach.pulse(2), None);
        reach.told(2, PulseReply { rules_known: 4, ..PulseReply::default() });
        let known = |since| reach.pulse_after(2, since).map(|pulse| pulse.rules_known);
        let mut later = Instant::now();
        while later <= begun {
            later = Instant::now();
        }
        assert_eq!((known(None), known(Some(later))), (Some(4), None));
        reach.answered(2);
        assert_eq!(known(Some(later)), None, "an answer of another kind says nothing of it");
        while Instant::now() <= later {}
        reach.told(2, PulseReply::default());
        assert_eq!(known(Some(later)), Some(0));
    }
}

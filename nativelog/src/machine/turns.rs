//! Whose turn it is to put an attempt's tree together. Knows no machine.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The attempts whose trees are being put together.
#[derive(Default)]
pub(super) struct Gatherings {
    running: Mutex<BTreeSet<u64>>,
    ended: Condvar,
}

/// An attempt that nobody else puts together until this is dropped.
pub(super) struct Turn {
    of: Arc<Gatherings>,
    attempt: u64,
}

impl Gatherings {
    /// Waits until nobody else is at this attempt.
    pub fn turn(self: &Arc<Gatherings>, attempt: u64) -> Turn {
        let running = self.running();
        let mut running = self
            .ended
            .wait_while(running, |running| running.contains(&attempt))
            .unwrap_or_else(PoisonError::into_inner);
        running.insert(attempt);
        Turn { of: self.clone(), attempt }
    }

    /// A turn, when nobody is at any attempt.
    pub fn alone(self: &Arc<Gatherings>, attempt: u64) -> Option<Turn> {
        let mut running = self.running();
        if !running.is_empty() {
            return None;
        }
        running.insert(attempt);
        Some(Turn { of: self.clone(), attempt })
    }

    fn running(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    pub fn attempt(&self) -> u64 {
        self.attempt
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.running().remove(&self.attempt);
        self.of.ended.notify_all();
    }
}

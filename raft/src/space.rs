//! Content that is refused for want of space: by this node, and by the followers of this leader.
//!
//! ```text
//!  follower is short ─▶ refuses content ─▶ the leader hears it, and when too few are left that take any, proposes none
//!      └─ a moment later: lets in what stands in the leader's log already, up to a bound ─▶ the records behind it,
//!         which make room, come through
//! ```
//!
//! Records come in their order: one that expires epochs cannot pass content that was proposed before it. So a node
//! that is short keeps room for what is on its way ([`crate::ReplicaConfig::in_flight_bytes`]), and gives it when the
//! leader has had the time to stop.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A leader has heard of a refusal after this long, and proposes no content any more.
const HEARD: Duration = Duration::from_secs(1);
/// What is let in came to the leader before it heard: it is here this long after the refusal.
const BEFORE_HEARD: Duration = Duration::from_secs(10);
/// A follower that refused content so long ago may have room again.
pub(crate) const LATELY: Duration = Duration::from_secs(5);
/// What a record takes beside its payload, bytes.
const RECORD_BYTES: u64 = 1024;

/// Why this node takes no content, while it is short.
#[derive(Debug)]
struct Short {
    why: String,
    refused: Option<Instant>,
    /// Bytes of content that are let in all the same.
    spare: u64,
}

/// What this node refuses at present.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    short: RwLock<Option<Short>>,
}

impl Refusal {
    /// Refuses content for this reason, or no more. `spare` bytes of it are let in while one shortage lasts.
    pub fn set(&self, why: Option<String>, spare: u64) {
        let mut short = self.short.write().unwrap_or_else(PoisonError::into_inner);
        *short = match (why, short.take()) {
            (None, _) => None,
            (Some(why), Some(before)) => Some(Short { why, ..before }),
            (Some(why), None) => Some(Short { why, refused: None, spare }),
        };
    }

    /// Why content is refused.
    pub fn why(&self) -> Option<String> {
        let short = self.short.read().unwrap_or_else(PoisonError::into_inner);
        short.as_ref().map(|short| short.why.clone())
    }

    /// Whether records with so many bytes of payload are let in although this node is short: not before the leader
    /// has heard a refusal.
    pub fn lets_in(&self, records: usize, payload: u64) -> bool {
        let mut short = self.short.write().unwrap_or_else(PoisonError::into_inner);
        let Some(short) = short.as_mut() else { return false };
        let since = short.refused.map(|refused| refused.elapsed()).filter(|since| *since < BEFORE_HEARD);
        let Some(since) = since else {
            short.refused = Some(Instant::now());
            return false;
        };
        if since < HEARD {
            return false;
        }
        let bytes = payload.saturating_add(records as u64 * RECORD_BYTES);
        let left = short.spare.checked_sub(bytes);
        short.spare = left.unwrap_or(short.spare);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_part_is_let_in_a_moment_later_and_no_more() {
        let refusal = Refusal::default();
        assert!(!refusal.lets_in(1, 10), "it is not short: nobody asks");
        refusal.set(Some("full".into()), 10 * RECORD_BYTES);
        assert!(!refusal.lets_in(1, 10), "the leader has not heard yet");
        assert!(!refusal.lets_in(1, 10), "nor now");
        std::thread::sleep(HEARD);
        assert!(refusal.lets_in(2, 5 * RECORD_BYTES));
        refusal.set(Some("fuller".into()), 10 * RECORD_BYTES);
        assert!(!refusal.lets_in(2, 5 * RECORD_BYTES), "the same shortage, the same bound");
        assert!(refusal.lets_in(1, 2 * RECORD_BYTES));
        assert_eq!(refusal.why().as_deref(), Some("fuller"));
        refusal.set(None, 0);
        assert_eq!(refusal.why(), None);
    }
}

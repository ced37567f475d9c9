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
//! leader has had the time to stop. A leader has no more on its way than the voter with the least room keeps free
//! ([`VoterSpace`]), and stops while too few say that they have room, not only when they refuse: who was let in with
//! the last of it refuses nothing for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::in_flight::RECORD_OVERHEAD;
use super::kept::Kept;

/// A leader has heard of a refusal after this long, and proposes no content any more.
const HEARD: Duration = Duration::from_secs(1);
/// What is let in came to the leader before it heard: it is here this long after the refusal.
const BEFORE_HEARD: Duration = Duration::from_secs(10);

/// What another voter told of its space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoterSpace {
    /// Whether it told lately.
    pub live: bool,
    /// Why it takes no content, or soon will take none.
    pub short: Option<String>,
    /// Its [`crate::ReplicaConfig::in_flight_bytes`].
    pub in_flight_bytes: u64,
}

/// Why a leader among `voters` proposes no content: `refused` it lately, or told that they are short, so many that
/// with those that are silent no majority is left.
pub(crate) fn too_few_take_content(
    voters: &[u64],
    refused: &BTreeMap<u64, String>,
    told: &BTreeMap<u64, VoterSpace>,
) -> Option<String> {
    let why = |voter: &u64| {
        let says = told.get(voter).filter(|told| told.live).and_then(|told| told.short.as_ref());
        refused.get(voter).or(says)
    };
    let silent = |voter: &u64| told.get(voter).is_some_and(|told| !told.live);
    let willing = voters.iter().filter(|voter| why(voter).is_none() && !silent(voter)).count();
    let (first, why) = voters.iter().find_map(|voter| Some((voter, why(voter)?)))?;
    (willing <= voters.len() / 2).then(|| format!("too few nodes take content; node {first}: {why}"))
}

/// Why this node takes no content, while it is short.
#[derive(Debug)]
struct Short {
    why: String,
    refused: Option<Instant>,
    /// Bytes of content that are let in all the same.
    spare: u64,
    /// Some was, up to this index of the log. The first request always is: it is what a leader may have out, however
    /// large. What comes once more costs nothing.
    let_in: bool,
    up_to: u64,
}

/// What this node refuses at present.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    short: RwLock<Option<Short>>,
    kept: Arc<Kept>,
}

impl Refusal {
    /// What is let in all the same is taken from this.
    pub fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// Refuses content for this reason, or no more. `spare` bytes of it are let in while one shortage lasts.
    pub fn set(&self, why: Option<String>, spare: u64) {
        let mut short = self.short.write().unwrap_or_else(PoisonError::into_inner);
        *short = match (why, short.take()) {
            (None, _) => {
                self.kept.is_whole_again();
                None
            }
            (Some(why), Some(before)) => Some(Short { why, ..before }),
            (Some(why), None) => Some(Short { why, refused: None, spare, let_in: false, up_to: 0 }),
        };
    }

    /// Why content is refused.
    pub fn why(&self) -> Option<String> {
        let short = self.short.read().unwrap_or_else(PoisonError::into_inner);
        short.as_ref().map(|short| short.why.clone())
    }

    /// Whether records up to index `last` with so many bytes of payload are let in although this node is short: not
    /// before the leader has heard a refusal.
    pub fn lets_in(&self, records: usize, payload: u64, last: u64) -> bool {
        let mut short = self.short.write().unwrap_or_else(PoisonError::into_inner);
        let Some(short) = short.as_mut() else { return false };
        if short.let_in && last <= short.up_to {
            return true;
        }
        let since = short.refused.map(|refused| refused.elapsed()).filter(|since| *since < BEFORE_HEARD);
        let Some(since) = since else {
            short.refused = Some(Instant::now());
            return false;
        };
        if since < HEARD {
            return false;
        }
        // As the leader counts what it has out.
        let bytes = payload.saturating_add(records as u64 * RECORD_OVERHEAD);
        let fits = !short.let_in || self.kept.fits(bytes, short.spare);
        if fits {
            self.kept.take(bytes);
            (short.let_in, short.up_to) = (true, last);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_part_is_let_in_a_moment_later_and_no_more() {
        let refusal = Refusal::default();
        assert!(!refusal.lets_in(1, 10, 1), "it is not short: nobody asks");
        refusal.set(Some("full".into()), 10 * RECORD_OVERHEAD);
        assert!(!refusal.lets_in(1, 10, 1), "the leader has not heard yet");
        assert!(!refusal.lets_in(1, 10, 1), "nor now");
        std::thread::sleep(HEARD);
        assert!(refusal.lets_in(2, 5 * RECORD_OVERHEAD, 2));
        refusal.set(Some("fuller".into()), 10 * RECORD_OVERHEAD);
        assert!(!refusal.lets_in(2, 5 * RECORD_OVERHEAD, 4), "the same shortage, the same bound");
        assert!(refusal.lets_in(1, 2 * RECORD_OVERHEAD, 3));
        assert_eq!(refusal.why().as_deref(), Some("fuller"));
        refusal.set(None, 0);
        assert_eq!(refusal.why(), None);
    }

    #[test]
    fn what_came_with_a_snapshot_is_of_the_same_allowance() {
        let refusal = Refusal::default();
        refusal.set(Some("full".into()), 10 * RECORD_OVERHEAD);
        assert!(!refusal.lets_in(1, 0, 1));
        std::thread::sleep(HEARD);
        assert!(refusal.lets_in(1, 0, 1));
        refusal.kept().take(8 * RECORD_OVERHEAD);
        assert!(
            !refusal.kept().fits(2 * RECORD_OVERHEAD, 10 * RECORD_OVERHEAD),
            "one request took the ninth"
        );
        assert!(!refusal.lets_in(1, RECORD_OVERHEAD, 2));
        assert!(refusal.lets_in(1, 0, 2));
        refusal.set(None, 0);
        assert!(refusal.kept().fits(10 * RECORD_OVERHEAD, 10 * RECORD_OVERHEAD), "there is room again");
    }

    #[test]
    fn the_first_request_is_let_in_however_large() {
        let refusal = Refusal::default();
        refusal.set(Some("full".into()), 10);
        assert!(!refusal.lets_in(1, 1000, 7));
        std::thread::sleep(HEARD);
        assert!(refusal.lets_in(1, 1000, 7));
        assert!(!refusal.lets_in(1, 1, 8));
        assert!(refusal.lets_in(1, 1000, 7), "it comes once more");
    }

    #[test]
    fn a_leader_counts_who_refused_who_is_short_and_who_is_silent() {
        let voters = [1, 2, 3];
        let refused = BTreeMap::from([(2, "full".to_owned())]);
        let space = |live, short: Option<&str>| VoterSpace {
            live,
            short: short.map(str::to_owned),
            in_flight_bytes: 0,
        };
        let stops = |refused: &BTreeMap<u64, String>, told: &[(u64, VoterSpace)]| {
            too_few_take_content(&voters, refused, &told.iter().cloned().collect())
        };
        let none = BTreeMap::new();
        assert_eq!(stops(&none, &[]), None);
        assert_eq!(stops(&refused, &[]), None, "two are a majority");
        assert_eq!(
            stops(&none, &[(2, space(false, None)), (3, space(false, None))]),
            None,
            "nobody is short"
        );
        assert_eq!(stops(&refused, &[(2, space(true, None)), (3, space(true, None))]), None);
        let why = "too few nodes take content; node 2: full";
        assert_eq!(stops(&refused, &[(3, space(true, Some("fuller")))]).as_deref(), Some(why));
        assert_eq!(stops(&refused, &[(3, space(false, None))]).as_deref(), Some(why));
        let both = [(2, space(true, Some("full"))), (3, space(true, Some("full")))];
        assert_eq!(stops(&none, &both).as_deref(), Some(why));
        let long_ago = [(2, space(false, Some("full"))), (3, space(true, None))];
        assert_eq!(stops(&none, &long_ago), None);
    }
}

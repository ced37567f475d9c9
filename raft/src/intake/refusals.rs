//! What followers of this leader refused lately: content, for want of space; and entries that are not what they should
//! be, which no follower takes however often they come.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A follower that refused something so long ago may take it now.
const LATELY: Duration = Duration::from_secs(5);

/// A peer that refused content for want of space.
#[derive(Debug)]
struct Short {
    /// Without a pause, as far as is known.
    since: Instant,
    last: Instant,
    why: String,
}

/// Who refused what, when, and in which words.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    short: Mutex<BTreeMap<u64, Short>>,
    entries: Mutex<BTreeMap<u64, (Instant, u64, String)>>,
    /// The entry of a majority's refusal that this node has looked at and has no fault in.
    cleared: Mutex<Option<u64>>,
    news: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refusals {
    /// This peer refused content for want of space.
    pub fn is_short(&self, peer: u64, why: &str) {
        let now = Instant::now();
        let mut short = lock(&self.short);
        let before = short.get(&peer).filter(|before| before.last.elapsed() < LATELY);
        let since = before.map_or(now, |before| before.since);
        short.insert(peer, Short { since, last: now, why: why.to_owned() });
    }

    /// Peers that have refused content all the time since so long ago.
    pub fn for_long(&self, time: Duration) -> Vec<u64> {
        let short = lock(&self.short);
        let long =
            short.iter().filter(|(_, short)| short.last.elapsed() < LATELY && short.since.elapsed() >= time);
        long.map(|(peer, _)| *peer).collect()
    }

    /// Peers that refused content lately, and why.
    pub fn lately(&self) -> BTreeMap<u64, String> {
        let mut short = lock(&self.short);
        short.retain(|_, short| short.last.elapsed() < LATELY);
        short.iter().map(|(peer, short)| (*peer, short.why.clone())).collect()
    }

    /// This peer refused this entry for what it is.
    pub fn refuses(&self, peer: u64, index: u64, why: &str) {
        lock(&self.entries).insert(peer, (Instant::now(), index, why.to_owned()));
        self.news.notify_one();
    }

    /// Returns when an entry was refused since the last time.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// The entry that so many of `voters` refused lately that the others are no majority, and why the first of them
    /// did.
    pub fn by_majority(&self, voters: &[u64]) -> Option<(u64, String)> {
        let refused = self.of_majority(voters);
        let mut cleared = lock(&self.cleared);
        // Another entry may have its index by the next time.
        *cleared = cleared.filter(|index| refused.as_ref().is_some_and(|(refused, _)| refused == index));
        refused
    }

    /// This node has looked at its own copy of this entry: it is what was proposed, as far as can be told.
    pub fn clear(&self, index: u64) {
        *lock(&self.cleared) = Some(index);
    }

    /// Whether this node has [cleared](Self::clear) this entry, which a majority still refuses.
    pub fn is_cleared(&self, index: u64) -> bool {
        *lock(&self.cleared) == Some(index)
    }

    fn of_majority(&self, voters: &[u64]) -> Option<(u64, String)> {
        let mut entries = lock(&self.entries);
        entries.retain(|_, (at, _, _)| at.elapsed() < LATELY);
        let refused: Vec<_> = voters.iter().filter_map(|voter| entries.get(voter)).collect();
        refused.iter().find_map(|(_, index, why)| {
            let by = refused.iter().filter(|(_, other, _)| other == index).count();
            (voters.len() - by <= voters.len() / 2).then(|| (*index, why.clone()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_refused_when_no_majority_is_left_that_could_have_it() {
        let refusals = Refusals::default();
        let voters = [1, 2, 3];
        assert_eq!(refusals.by_majority(&voters), None);
        refusals.refuses(2, 7, "bad");
        refusals.refuses(9, 7, "no voter");
        assert_eq!(refusals.by_majority(&voters), None, "two are left");
        refusals.refuses(3, 8, "bad");
        assert_eq!(refusals.by_majority(&voters), None, "it is another entry");
        refusals.refuses(3, 7, "bad");
        assert_eq!(refusals.by_majority(&voters), Some((7, "bad".into())));
        assert_eq!(refusals.by_majority(&[1, 2, 3, 4, 5]), None);
        assert_eq!(refusals.by_majority(&[1, 2]), Some((7, "bad".into())));
    }

    #[test]
    fn a_peer_is_short_for_as_long_as_it_refuses_without_a_pause() {
        let refusals = Refusals::default();
        let ago = |time: Duration| Instant::now().checked_sub(time).unwrap();
        refusals.is_short(2, "full");
        assert_eq!(refusals.for_long(Duration::from_secs(3)), Vec::<u64>::new());
        let long = Short { since: ago(LATELY), last: ago(LATELY / 2), why: String::new() };
        lock(&refusals.short).insert(2, long);
        refusals.is_short(2, "still full");
        assert_eq!(refusals.for_long(Duration::from_secs(3)), [2]);
        assert_eq!(refusals.lately()[&2], "still full");
        let paused = Short { since: ago(LATELY * 3), last: ago(LATELY * 2), why: String::new() };
        lock(&refusals.short).insert(2, paused);
        assert_eq!(refusals.for_long(Duration::from_secs(3)), Vec::<u64>::new());
        refusals.is_short(2, "full again");
        assert_eq!(refusals.for_long(Duration::from_secs(3)), Vec::<u64>::new());
    }

    #[test]
    fn an_entry_that_was_looked_at_here_is_cleared_for_as_long_as_it_is_refused() {
        let refusals = Refusals::default();
        refusals.refuses(2, 7, "bad");
        refusals.refuses(3, 7, "bad");
        assert_eq!(refusals.by_majority(&[1, 2, 3]), Some((7, "bad".into())));
        assert!(!refusals.is_cleared(7));
        refusals.clear(7);
        refusals.by_majority(&[1, 2, 3]);
        assert!(refusals.is_cleared(7) && !refusals.is_cleared(8));
        refusals.refuses(2, 8, "bad");
        assert_eq!(refusals.by_majority(&[1, 2, 3]), None);
        assert!(!refusals.is_cleared(7));
    }
}

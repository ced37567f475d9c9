//! What followers of this leader refused lately: content, for want of space; and entries that are not what they should
//! be, which no follower takes however often they come.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A follower that refused something so long ago may take it now.
const LATELY: Duration = Duration::from_secs(5);

/// Who refused what, when, and in which words.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    short: Mutex<BTreeMap<u64, (Instant, String)>>,
    entries: Mutex<BTreeMap<u64, (Instant, u64, String)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refusals {
    /// This peer refused content for want of space.
    pub fn is_short(&self, peer: u64, why: &str) {
        lock(&self.short).insert(peer, (Instant::now(), why.to_owned()));
    }

    /// Peers that refused content lately, and why.
    pub fn lately(&self) -> BTreeMap<u64, String> {
        let mut short = lock(&self.short);
        short.retain(|_, (at, _)| at.elapsed() < LATELY);
        short.iter().map(|(peer, (_, why))| (*peer, why.clone())).collect()
    }

    /// This peer refused this entry for what it is.
    pub fn refuses(&self, peer: u64, index: u64, why: &str) {
        lock(&self.entries).insert(peer, (Instant::now(), index, why.to_owned()));
    }

    /// The entry that so many of `voters` refused lately that the others are no majority, and why the first of them
    /// did.
    pub fn by_majority(&self, voters: &[u64]) -> Option<(u64, String)> {
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
}

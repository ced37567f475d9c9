//! Content that this node is fetching from a store just now: a peer that asks for it waits for that, so that one of them
//! reads the store, not all. Of what its store did not give the last time nobody waits for another try: the peers look
//! there themselves, and say what they see.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::Digest;

/// Who has got nothing for so long keeps nobody else from asking the store.
const SILENT: Duration = Duration::from_secs(20);
/// Contents are remembered that were asked for in vain, 32 bytes each.
const VAIN_MAX: usize = 64 << 10;

/// Content on its way from stores.
#[derive(Debug, Clone, Default)]
pub struct Hydrating(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// When something came last of each, or of what comes with it.
    coming: HashMap<Digest, Instant>,
    /// What is gone from its store, or damaged there, as this node has seen it.
    vain: HashSet<Digest>,
}

impl Hydrating {
    fn all(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it comes: something came of it, or of what comes with it, a moment ago.
    pub fn comes(&self, digest: &Digest) -> bool {
        let all = self.all();
        !all.vain.contains(digest) && all.coming.get(digest).is_some_and(|at| at.elapsed() < SILENT)
    }

    /// No store that has it gave it as it was written.
    pub fn is_vain(&self, digest: Digest) {
        let mut all = self.all();
        if all.vain.len() >= VAIN_MAX {
            all.vain.clear();
        }
        all.vain.insert(digest);
    }

    /// It came.
    pub fn came(&self, digest: &Digest) {
        self.all().vain.remove(digest);
    }

    /// These are asked for, until what this returns is dropped.
    pub fn begin(&self, contents: impl Iterator<Item = Digest>) -> Coming {
        let contents: Vec<Digest> = contents.collect();
        let coming = Coming { all: self.clone(), contents };
        coming.comes();
        coming
    }
}

/// Some that are asked for together.
#[derive(Debug)]
pub struct Coming {
    all: Hydrating,
    contents: Vec<Digest>,
}

impl Coming {
    /// Something came.
    pub fn comes(&self) {
        let now = Instant::now();
        let mut all = self.all.all();
        all.coming.extend(self.contents.iter().map(|digest| (*digest, now)));
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut all = self.all.all();
        for digest in &self.contents {
            all.coming.remove(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_comes_until_nobody_fetches_it_or_nothing_came_for_long() {
        let (one, other) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
        let hydrating = Hydrating::default();
        let coming = hydrating.begin([one].into_iter());
        assert!(hydrating.comes(&one) && !hydrating.comes(&other));
        let long_ago = Instant::now().checked_sub(SILENT).unwrap();
        hydrating.all().coming.insert(one, long_ago);
        assert!(!hydrating.comes(&one), "it is stuck");
        coming.comes();
        assert!(hydrating.comes(&one));
        drop(coming);
        assert!(!hydrating.comes(&one));
    }

    #[test]
    fn nobody_waits_for_what_a_store_did_not_give() {
        let one = Digest::from_bytes([1; 32]);
        let hydrating = Hydrating::default();
        let _coming = hydrating.begin([one].into_iter());
        assert!(hydrating.comes(&one));
        hydrating.is_vain(one);
        assert!(!hydrating.comes(&one), "this try may be in vain, too");
        hydrating.came(&one);
        assert!(hydrating.comes(&one));
    }
}

//! Content that this node is fetching from a store just now: a peer that asks for it waits for that, so that one of them
//! reads the store, not all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::Digest;

/// Who has got nothing for so long keeps nobody else from asking the store.
const SILENT: Duration = Duration::from_secs(20);

/// Content on its way from stores.
#[derive(Debug, Clone, Default)]
pub struct Hydrating(Arc<Mutex<HashMap<Digest, Instant>>>);

impl Hydrating {
    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it comes: something came of it, or of what comes with it, a moment ago.
    pub fn comes(&self, digest: &Digest) -> bool {
        self.all().get(digest).is_some_and(|at| at.elapsed() < SILENT)
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
        all.extend(self.contents.iter().map(|digest| (*digest, now)));
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut all = self.all.all();
        for digest in &self.contents {
            all.remove(digest);
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
        hydrating.all().insert(one, long_ago);
        assert!(!hydrating.comes(&one), "it is stuck");
        coming.comes();
        assert!(hydrating.comes(&one));
        drop(coming);
        assert!(!hydrating.comes(&one));
    }
}

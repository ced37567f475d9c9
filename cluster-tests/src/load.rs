//! Commits that go on in the background, while the foreground kills, fills and measures.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::commits::Commits;
use crate::oracle::Answer;
use crate::seed::Rng;

/// How many epochs of a load stay.
const KEEP: usize = 3;

/// One thread that commits one epoch after another and removes the older ones.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    thread: JoinHandle<Commits>,
}

impl Load {
    /// Goes on with `commits`; `make` makes each source.
    pub fn start(mut commits: Commits, mut rng: Rng, make: fn(&Path, &mut Rng)) -> Load {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), committed.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let pending = commits.begin_made(&mut rng, make);
                if matches!(commits.end(pending), Answer::Committed { .. }) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                commits.remove_below(KEEP, &mut rng);
            }
            commits
        });
        Load { stop, committed, thread }
    }

    /// Commits that were acknowledged so far.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Ends it after the commit that is running, and gives back what it knows.
    ///
    /// # Panics
    /// When it panicked.
    pub fn stop(self) -> Commits {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(commits) => commits,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

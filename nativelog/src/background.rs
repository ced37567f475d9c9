//! Threads that leave the processors to commits: long work that nobody's small commit should wait behind.
//!
//! A thread that wakes and finds a long-running one on its core waits for as long as that one's slice: milliseconds, for
//! each of the dozen threads that a commit goes through. One of less weight gives way at once.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::setpriority_process;
use tokio::sync::oneshot;

/// What is in no hurry at all: a thread that wants the same core gets nine times as much of it.
pub const UPKEEP: i32 = 10;
/// What somebody waits for, but no small commit: three times as much.
pub const BULK: i32 = 5;

/// Commits go first: this thread gets what they leave of the processors, and a part where they want all.
pub fn give_way(niceness: i32) {
    if let Err(error) = setpriority_process(None, niceness) {
        tracing::debug!(%error, "a thread in the background has the priority of all others");
    }
}

/// Does long work on a thread of its own, which gives way; where the system gives none, on one of the runtime's. `None`:
/// the work panicked. It goes on when nobody waits for it any more.
pub async fn run<T: Send + 'static>(
    name: &str,
    niceness: i32,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    let job = Arc::new(Mutex::new(Some(move || drop(done.send(work())))));
    let taken = job.clone();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        give_way(niceness);
        let job = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        job.into_iter().for_each(|job| job());
    });
    if let Err(error) = thread {
        tracing::debug!(%error, "no thread of its own for work in the background");
        let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
        tokio::task::spawn_blocking(move || job.into_iter().for_each(|job| job()));
    }
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_with_less_weight_and_a_panic_is_no_answer() {
        let found = run("work", UPKEEP, || rustix::process::getpriority_process(None).unwrap()).await;
        assert_eq!(found, Some(UPKEEP));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), 0, "this thread has its own");
        assert_eq!(run("panics", BULK, || -> u8 { panic!("planted") }).await, None);
    }
}

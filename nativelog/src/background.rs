//! Threads that leave the processors to commits: long work that nobody's small commit should wait behind.
//!
//! A thread that wakes and finds a long-running one on its core waits for as long as that one's slice: milliseconds, for
//! each of the dozen threads that a commit goes through. One of less weight and with a longer slice gives way at once.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(target_os = "linux")]
use std::time::Duration;

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
    if let Err(error) = long_slice(niceness) {
        tracing::debug!(%error, "a thread in the background has the slice of all others");
    }
}

/// Who wakes with a shorter slice than the one that runs takes its core at once, rather than at the end of that slice.
/// From Linux 6.12 on; before, the kernel takes no notice.
#[cfg(target_os = "linux")]
const SLICE: Duration = Duration::from_millis(20);

/// Gives this thread [`SLICE`], with the policy of all others and this niceness.
#[cfg(target_os = "linux")]
fn long_slice(niceness: i32) -> io::Result<()> {
    /// `struct sched_attr` of sched_setattr(2), in its first version.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: libc::SCHED_OTHER as u32,
        nice: niceness,
        runtime: SLICE.as_nanos() as u64,
        ..Attributes::default()
    };
    #[expect(
        unsafe_code,
        reason = "this call has no safe wrapper; the kernel reads `size` bytes of what outlives it"
    )]
    let failed = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Elsewhere a thread's weight has to do.
#[cfg(not(target_os = "linux"))]
fn long_slice(_niceness: i32) -> io::Result<()> {
    Ok(())
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

//! Threads of their own for stores: a stalled store, or the hashing of what goes there, takes none from the consensus.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::limits::REQUESTS_MAX;

/// A runtime for store I/O and hashing. Dropped, it ends what runs there; that is as a kill is, and is survived so.
#[derive(Debug)]
pub struct StoreRuntime(Option<Runtime>);

impl StoreRuntime {
    /// With so many threads for requests, and so many that may read, hash and sync at once: more than a folder that
    /// hangs keeps, at least.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(threads: usize, blocking_threads: usize) -> io::Result<StoreRuntime> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .max_blocking_threads(blocking_threads.max(2 * REQUESTS_MAX))
            .thread_name("store")
            .enable_all()
            .build()?;
        Ok(StoreRuntime(Some(runtime)))
    }

    /// Runs `work` there.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.as_ref().expect("there until dropped").spawn(work)
    }
}

impl Drop for StoreRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Without waiting: whoever drops it may be on a thread that must not.
            runtime.shutdown_background();
        }
    }
}

/// Runs `work` as a task of its own: it goes on while nobody looks at it, and ends when it is dropped.
pub(crate) async fn apart<F>(work: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    struct Ending<T>(JoinHandle<T>);

    impl<T> Drop for Ending<T> {
        fn drop(&mut self) {
            self.0.abort();
        }
    }

    let mut task = Ending(tokio::spawn(work));
    match (&mut task.0).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs what may block where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(io::Error::other("this process is ending")),
        },
    }
}

//! Work on other threads that ends with who waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

/// Dropped, the work ends: what it has asked of a store by then, the store may do.
#[derive(Debug)]
pub struct Running<T>(JoinHandle<T>);

impl<T> Running<T> {
    /// Waits for this.
    pub fn new(work: JoinHandle<T>) -> Running<T> {
        Running(work)
    }
}

impl<T> Future for Running<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.0).poll(context) {
            Poll::Ready(Ok(done)) => Poll::Ready(done),
            Poll::Ready(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Its threads end, and so does this process.
                Err(_) => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends() {
        let (done, ended) = oneshot::channel::<()>();
        let running = Running::new(tokio::spawn(async move {
            let _held = done;
            std::future::pending::<()>().await;
        }));
        tokio::task::yield_now().await;
        drop(running);
        assert!(ended.await.is_err(), "what it held was dropped with it");
        assert_eq!(Running::new(tokio::spawn(async { 7 })).await, 7);
    }
}

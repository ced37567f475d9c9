//! One transfer to this node at a time, and how it is told to end.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Becomes true when a transfer has to end.
pub(crate) type Stop = watch::Receiver<bool>;

/// Returns when the transfer has to end.
pub(crate) async fn stopped(stop: &Stop) {
    // A sender that is gone has nobody left who waits for the transfer.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}

/// True when the transfer has to end.
pub(crate) fn is_stopped(stop: &Stop) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

/// Whose turn it is to receive.
#[derive(Default)]
pub struct Turn {
    held: tokio::sync::Mutex<()>,
    /// Ends who receives at present.
    current: Mutex<Option<watch::Sender<bool>>>,
}

impl Turn {
    /// Ends who is at work now and waits until it has let go. `mine` is set when somebody else wants the turn.
    pub async fn take(&self, mine: watch::Sender<bool>) -> tokio::sync::MutexGuard<'_, ()> {
        let before = self.current.lock().unwrap_or_else(PoisonError::into_inner).replace(mine);
        if let Some(before) = before {
            before.send_replace(true);
        }
        self.held.lock().await
    }

    /// Waits until nobody else is at work, and ends nobody. A snapshot that comes ends who holds this.
    pub async fn wait(&self, mine: watch::Sender<bool>) -> tokio::sync::MutexGuard<'_, ()> {
        let guard = self.held.lock().await;
        self.current.lock().unwrap_or_else(PoisonError::into_inner).replace(mine);
        guard
    }
}

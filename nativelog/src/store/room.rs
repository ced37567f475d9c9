//! What the writer does when the disk has no room, or the process no file to open: it waits and tries the same again.
//!
//! **Guarantees.** A write, a creation, an opening or a rename that fails for want of space, of file handles or of
//! memory is repeated, at the same place with the same bytes, until it works or the store stops; whoever asks
//! [`Room::stalled`] is told meanwhile.
//!
//! **Never** wraps an fsync: one that failed, for whatever reason, may have lost what it was to keep.

use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use checkpoint::disk::lacks_room;
use tokio::sync::watch;

/// How long the writer waits before it tries again.
const RETRY: Duration = Duration::from_millis(200);

/// Patience with a full disk.
pub struct Room {
    stalled: watch::Sender<Option<String>>,
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Room {
    /// Waits until there is room.
    pub fn patient() -> Self {
        Room { stalled: watch::Sender::new(None), stopped: Mutex::new(false), wake: Condvar::new() }
    }

    /// Tries once: for a store that is being opened, where nobody could be told yet.
    pub fn impatient() -> Self {
        let room = Room::patient();
        room.stop();
        room
    }

    /// Why the writer waits, while it does.
    pub fn stalled(&self) -> watch::Receiver<Option<String>> {
        self.stalled.subscribe()
    }

    /// No more patience: the store stops.
    pub fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Does `attempt`, again and again while there is no room for it. It must be repeatable.
    pub fn wait_for<T>(
        &self,
        what: &'static str,
        path: &Path,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut waited = false;
        loop {
            let error = match attempt() {
                Err(error) if lacks_room(&error) => error,
                other => {
                    if waited {
                        tracing::info!("there is room again: the log goes on");
                        self.stalled.send_replace(None);
                    }
                    return other;
                }
            };
            let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            if *stopped {
                return Err(error);
            }
            if !waited {
                waited = true;
                let why = format!("cannot {what} {}: {error}", path.display());
                tracing::warn!(why, "the log waits for room; nothing is acknowledged meanwhile");
                self.stalled.send_replace(Some(why));
            }
            let again = self.wake.wait_timeout_while(stopped, RETRY, |stopped| !*stopped);
            drop(again.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

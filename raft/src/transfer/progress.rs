//! How far a transfer to this replica is, for whoever looks.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use tokio::sync::watch;

/// What a replica is fetching at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing.
    #[default]
    Idle,
    /// The content of a snapshot that the leader sent.
    Snapshot,
    /// Content that is missing or damaged here.
    Repair,
}

/// How far a transfer to this replica is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// What is going on.
    pub stage: Stage,
    /// Log index of the snapshot that is being received.
    pub position: Option<u64>,
    /// Epochs that are still to be published here.
    pub epochs_lacking: u64,
    /// Bytes that are known to be lacking still, without the holes of large contents.
    pub lacking_bytes: u64,
    /// Bytes of content that came in this transfer.
    pub fetched_bytes: u64,
    /// Bytes of content that came since this process started.
    pub fetched_bytes_total: u64,
    /// Contents that did not verify when they had come, and were thrown away, since this process started.
    pub came_wrong_total: u64,
    /// Snapshots that were installed since this process started.
    pub installed_total: u64,
}

/// Keeps a [`Transfer`] current.
#[derive(Debug, Default)]
pub struct Progress {
    now: watch::Sender<Transfer>,
    /// Zeros to come that do not count as lacking. Changed under the lock of `now`.
    holes: AtomicU64,
}

impl Progress {
    /// What it is, as it changes.
    pub fn watch(&self) -> watch::Receiver<Transfer> {
        self.now.subscribe()
    }

    pub(crate) fn begin(&self, stage: Stage, position: Option<u64>) {
        self.now.send_modify(|now| {
            self.holes.store(0, Relaxed);
            *now = Transfer {
                stage,
                position,
                fetched_bytes_total: now.fetched_bytes_total,
                came_wrong_total: now.came_wrong_total,
                installed_total: now.installed_total,
                ..Transfer::default()
            };
        });
    }

    pub(crate) fn epochs(&self, lacking: usize) {
        self.now.send_modify(|now| now.epochs_lacking = lacking as u64);
    }

    pub(crate) fn lacks(&self, bytes: u64) {
        self.now.send_modify(|now| now.lacking_bytes += bytes);
    }

    /// As [`Progress::lacks`]; so many zeros beside them are to be spared, and lack nowhere.
    pub(crate) fn lacks_as_stored(&self, stored: u64, holes: u64) {
        self.now.send_modify(|now| {
            now.lacking_bytes += stored;
            self.holes.fetch_add(holes, Relaxed);
        });
    }

    pub(crate) fn fetched(&self, bytes: u64) {
        self.now.send_modify(|now| {
            now.fetched_bytes += bytes;
            now.fetched_bytes_total += bytes;
            now.lacking_bytes = now.lacking_bytes.saturating_sub(bytes);
        });
    }

    /// So many zero bytes are there, and did not come: they were told by their number.
    pub(crate) fn spared(&self, bytes: u64) {
        self.now.send_modify(|now| {
            let holes = self.holes.load(Relaxed).min(bytes);
            self.holes.fetch_sub(holes, Relaxed);
            now.lacking_bytes = now.lacking_bytes.saturating_sub(bytes - holes);
        });
    }

    /// Something that had come is thrown away and lacking again.
    pub(crate) fn came_wrong(&self, bytes: u64) {
        self.now.send_modify(|now| {
            now.came_wrong_total += 1;
            now.lacking_bytes += bytes;
        });
    }

    pub(crate) fn end(&self, installed: bool) {
        self.now.send_modify(|now| {
            self.holes.store(0, Relaxed);
            now.stage = Stage::Idle;
            now.position = None;
            now.epochs_lacking = 0;
            now.lacking_bytes = 0;
            now.installed_total += u64::from(installed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_never_lacking_and_take_nothing_off_what_is() {
        let progress = Progress::default();
        let lacking = || progress.watch().borrow().lacking_bytes;
        progress.begin(Stage::Repair, None);
        progress.lacks_as_stored(128 << 10, 100 << 30);
        assert_eq!(lacking(), 128 << 10);
        progress.spared(60 << 30);
        progress.fetched(64 << 10);
        assert_eq!(lacking(), 64 << 10, "what is a hole had not been lacking");
        // Zeros that were written out there count as data, and do not come as such.
        progress.spared((40 << 30) + (64 << 10));
        assert_eq!(lacking(), 0);
        progress.lacks(10 << 20);
        progress.spared(4 << 20);
        assert_eq!(lacking(), 6 << 20, "of others nobody had told");
        progress.lacks_as_stored(1, 5 << 20);
        progress.end(false);
        progress.begin(Stage::Repair, None);
        progress.lacks(10);
        progress.spared(4);
        assert_eq!(lacking(), 6, "a transfer that broke off leaves none to the next");
    }
}

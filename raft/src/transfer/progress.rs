//! How far a transfer to this replica is, for whoever looks.

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
    /// Bytes that are known to be lacking still.
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
}

impl Progress {
    /// What it is, as it changes.
    pub fn watch(&self) -> watch::Receiver<Transfer> {
        self.now.subscribe()
    }

    pub(crate) fn begin(&self, stage: Stage, position: Option<u64>) {
        self.now.send_modify(|now| {
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

    pub(crate) fn fetched(&self, bytes: u64) {
        self.now.send_modify(|now| {
            now.fetched_bytes += bytes;
            now.fetched_bytes_total += bytes;
            now.lacking_bytes = now.lacking_bytes.saturating_sub(bytes);
        });
    }

    /// So many zero bytes are there, and did not come: they were told by their number.
    pub(crate) fn spared(&self, bytes: u64) {
        self.now.send_modify(|now| now.lacking_bytes = now.lacking_bytes.saturating_sub(bytes));
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
            now.stage = Stage::Idle;
            now.position = None;
            now.epochs_lacking = 0;
            now.lacking_bytes = 0;
            now.installed_total += u64::from(installed);
        });
    }
}

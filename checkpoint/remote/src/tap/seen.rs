//! What the tap saw of one call.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use object_store::client::HttpErrorKind;
use tokio::time::Instant;

/// A key of a batch that was not deleted, and the store's code for why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeleteFailure {
    pub key: String,
    pub code: String,
}

/// What the tap saw of one call.
#[derive(Debug)]
pub(crate) struct Seen(Mutex<Facts>);

/// The facts of a call; of the last request of it, should there be several.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Status of the answer; none when there was none.
    pub status: Option<u16>,
    /// `<Code>` of an error.
    pub code: Option<String>,
    /// `<Message>` of an error.
    pub message: Option<String>,
    pub retry_after: Option<Duration>,
    /// CRC-64/NVME of the whole object, as the store reports it.
    pub crc64: Option<u64>,
    /// CRC-32C of the whole object, as the store reports it.
    pub crc32c: Option<u32>,
    /// Keys of a batch that were not deleted.
    pub not_deleted: Vec<DeleteFailure>,
    /// Why there was no answer.
    pub broken: Option<HttpErrorKind>,
    /// Nothing but credentials was asked for, in vain: the status of that answer, if there was one.
    pub credentials: Option<Option<u16>>,
    /// When anything last moved.
    pub moved: Instant,
}

impl Seen {
    pub(super) fn new() -> Arc<Seen> {
        Arc::new(Seen(Mutex::new(Facts {
            status: None,
            code: None,
            message: None,
            retry_after: None,
            crc64: None,
            crc32c: None,
            not_deleted: Vec::new(),
            broken: None,
            credentials: None,
            moved: Instant::now(),
        })))
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().expect("no thread panics while it writes a fact")
    }

    pub(crate) fn read(&self) -> Facts {
        self.facts().clone()
    }

    pub(super) fn moved(&self) {
        self.facts().moved = Instant::now();
    }

    /// When anything last moved, and whether the answer has begun.
    pub(crate) fn pulse(&self) -> (Instant, bool) {
        let facts = self.facts();
        (facts.moved, facts.status.is_some())
    }
}

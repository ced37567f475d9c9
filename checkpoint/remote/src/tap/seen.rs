//! What the tap saw of one call.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Keys of a batch that were, where the answer is to name each.
    pub deleted: Option<BTreeSet<String>>,
    /// The answers to the keys of a batch, by number, where each has its own.
    pub statuses: BTreeMap<usize, u16>,
    /// A page of a listing says that there are more, and not how to ask for them.
    pub breaks_off: bool,
    /// Why there was no answer.
    pub broken: Option<HttpErrorKind>,
    /// Nothing but credentials was asked for, in vain: the status of that answer, if there was one.
    pub credentials: Option<Option<u16>>,
    /// When anything last moved.
    pub moved: Instant,
    /// What came of the answer's body so far.
    pub answer: Option<Answering>,
}

/// An answer on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answering {
    pub begun: Instant,
    /// Bytes of its body so far.
    pub bytes: u64,
    /// It says little for long by design: a store that puts parts together sends blanks until it is done.
    pub at_leisure: bool,
}

/// How a call is getting on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// When anything last moved.
    pub moved: Instant,
    pub answer: Option<Answering>,
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
            deleted: None,
            statuses: BTreeMap::new(),
            breaks_off: false,
            broken: None,
            credentials: None,
            moved: Instant::now(),
            answer: None,
        })))
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().expect("no thread panics while it writes a fact")
    }

    pub(crate) fn read(&self) -> Facts {
        self.facts().clone()
    }

    /// Bytes of an answer came, or something happened that is not sent.
    pub(super) fn moved(&self, bytes: u64) {
        let mut facts = self.facts();
        facts.moved = Instant::now();
        if let Some(answer) = &mut facts.answer {
            answer.bytes += bytes;
        }
    }

    /// How it is getting on.
    pub(crate) fn pulse(&self) -> Pulse {
        let facts = self.facts();
        Pulse { moved: facts.moved, answer: facts.answer }
    }
}

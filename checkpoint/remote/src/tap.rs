//! The tap: a layer around the HTTP transport that sees what the crate above it does not tell. Status codes, error
//! codes, `Retry-After`, the checksums that a store reports, when bytes last moved, and how many requests of each verb
//! were sent. It changes nothing that goes through it.
//!
//! What it sees of one call it writes into the [`Seen`] of the task that makes the call ([`watch`]); the crate makes
//! its requests in the task that asks, one for each call since its own retries are switched off.

mod answer;
mod verb;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use tokio::time::Instant;

pub(crate) use answer::DeleteFailure;
pub use verb::Verb;

tokio::task_local! {
    static CALL: Arc<Seen>;
}

/// Requests sent, by verb, and bytes of bodies.
#[derive(Debug, Default)]
pub struct Counts {
    requests: [AtomicU64; Verb::ALL.len()],
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Counts {
    /// Requests of one verb.
    pub fn requests(&self, verb: Verb) -> u64 {
        self.requests[verb as usize].load(Ordering::Relaxed)
    }

    /// Requests that change the store.
    pub fn writes(&self) -> u64 {
        Verb::ALL.into_iter().filter(|verb| verb.writes()).map(|verb| self.requests(verb)).sum()
    }

    /// Bytes of request bodies.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of response bodies.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
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
    fn new() -> Arc<Seen> {
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

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().expect("no thread panics while it writes a fact")
    }

    pub(crate) fn read(&self) -> Facts {
        self.facts().clone()
    }

    fn moved(&self) {
        self.facts().moved = Instant::now();
    }

    /// When anything last moved, and whether the answer has begun.
    pub(crate) fn pulse(&self) -> (Instant, bool) {
        let facts = self.facts();
        (facts.moved, facts.status.is_some())
    }
}

/// Runs one call; what the tap sees of it is in the second.
pub(crate) fn watch<F: Future>(call: F) -> (impl Future<Output = F::Output>, Arc<Seen>) {
    let seen = Seen::new();
    (CALL.scope(Arc::clone(&seen), call), seen)
}

/// Whether the answer of the call that this is part of was none of success.
pub(crate) fn has_failed() -> bool {
    CALL.try_with(|seen| seen.facts().status.is_some_and(|status| status >= 300)).unwrap_or(false)
}

/// Puts the tap around the clients of another connector.
#[derive(Debug)]
pub(crate) struct TapConnector {
    pub inner: Arc<dyn HttpConnector>,
    pub counts: Arc<Counts>,
    pub home: Home,
}

/// How requests to the store are told from those for credentials, which go through the same transport: a *not found*
/// of the latter must never be taken for one of an object.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub bucket: String,
    /// The host of the endpoint, where one is configured.
    pub host: Option<String>,
}

impl Home {
    fn is_home_of(&self, uri: &http::Uri) -> bool {
        let host = uri.host().unwrap_or_default();
        let below = uri.path().strip_prefix('/').and_then(|path| path.strip_prefix(self.bucket.as_str()));
        self.host.as_deref() == Some(host)
            || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            || host.strip_prefix(self.bucket.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }
}

impl HttpConnector for TapConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.inner.connect(options)?;
        Ok(HttpClient::new(Tap { client, counts: Arc::clone(&self.counts), home: self.home.clone() }))
    }
}

#[derive(Debug)]
struct Tap {
    client: HttpClient,
    counts: Arc<Counts>,
    home: Home,
}

#[async_trait]
impl HttpService for Tap {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let verb = match self.home.is_home_of(request.uri()) {
            true => Verb::of(request.method(), request.uri()),
            false => Verb::Other,
        };
        self.counts.requests[verb as usize].fetch_add(1, Ordering::Relaxed);
        self.counts.sent_bytes.fetch_add(request.body().content_length() as u64, Ordering::Relaxed);
        // A call that nobody watches is only counted.
        let seen = CALL.try_with(Arc::clone).ok();
        let result = self.client.execute(request).await;
        if verb == Verb::Other {
            if let Some(seen) = seen {
                let status = result.as_ref().ok().map(|answer| answer.status());
                let failed = !status.is_some_and(|status| status.is_success());
                seen.facts().credentials = failed.then_some(status.map(|status| status.as_u16()));
            }
            return result;
        }
        match result {
            Ok(answer) => answer::note(verb, answer, seen, Arc::clone(&self.counts)).await,
            Err(error) => {
                if let Some(seen) = seen {
                    let mut facts = seen.facts();
                    facts.status = None;
                    facts.credentials = None;
                    facts.broken = Some(error.kind());
                }
                Err(error)
            }
        }
    }
}

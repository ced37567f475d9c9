//! The tap: a layer around the HTTP transport that sees what the crate above it does not tell. Status codes, error
//! codes, `Retry-After`, the checksums that a store reports, when bytes last moved, and how many requests of each verb
//! were sent. It changes nothing that goes through it, but where a check asks for that ([`spoiling`]).
//!
//! What it sees of one call it writes into the [`Seen`] of the task that makes the call ([`watch`]); the crate makes
//! its requests in the task that asks, one for each call since its own retries are switched off.

mod answer;
mod body;
mod counts;
mod seen;
mod verb;

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};

pub(crate) use body::{flipped, whole};
pub use counts::Counts;
pub(crate) use seen::{Answering, Facts, Seen};
pub use verb::Verb;

tokio::task_local! {
    static CALL: Arc<Seen>;
    static SPOIL: ();
}

/// Runs one call; what the tap sees of it is in the second.
pub(crate) fn watch<F: Future>(call: F) -> (impl Future<Output = F::Output>, Arc<Seen>) {
    let seen = Seen::new();
    (CALL.scope(Arc::clone(&seen), call), seen)
}

/// Runs one call, and changes a bit of what it writes on the way: to see whether a store finds out.
pub(crate) fn spoiling<F: Future>(call: F) -> impl Future<Output = F::Output> {
    SPOIL.scope((), call)
}

/// Notes that the call that this is part of is getting on: what a folder does is not sent, and the tap sees nothing of it.
pub(crate) fn moved() {
    let _ = CALL.try_with(|seen| seen.moved(0));
}

/// Whether the call that this is part of had no answer of success: another, or none. Not of a folder, which is sent
/// nothing.
pub(crate) fn has_failed() -> bool {
    let failed = |facts: &Facts| {
        facts.broken.is_some()
            || facts.credentials.is_some()
            || facts.status.is_some_and(|status| status >= 300)
    };
    CALL.try_with(|seen| failed(&seen.facts())).unwrap_or(false)
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

/// A request without an answer so far. Dropped as that, nobody waits for it any longer.
struct Open<'a> {
    counts: &'a Counts,
    verb: Verb,
    is_open: bool,
}

impl Open<'_> {
    /// An answer is counted by what it is.
    fn ended(mut self, is_answered: bool) {
        self.is_open = !is_answered;
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.counts.ended(self.verb, false);
        }
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
        self.counts.sent(verb, request.body().content_length() as u64);
        let spoil = matches!(verb, Verb::Put | Verb::Part) && SPOIL.try_with(|()| ()).is_ok();
        let request = if spoil {
            let (parts, body) = request.into_parts();
            http::Request::from_parts(parts, flipped(whole(body).await?).into())
        } else {
            request
        };
        // A call that nobody watches is only counted.
        let seen = CALL.try_with(Arc::clone).ok();
        let open = Open { counts: &self.counts, verb, is_open: true };
        let result = self.client.execute(request).await;
        open.ended(result.is_ok());
        if verb == Verb::Other {
            if let Ok(answer) = &result {
                self.counts.ended(verb, answer.status().is_success());
            }
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
                    facts.answer = None;
                    facts.credentials = None;
                    facts.broken = Some(error.kind());
                }
                Err(error)
            }
        }
    }
}

//! Faults of a transport, by a script: which request, before the store sees it or after, and what happens.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};

use crate::tap::{Verb, flipped, whole};

/// What happens to a request, or to its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut.
    Cut,
    /// Nothing comes, for ever.
    Stall,
    /// This answer comes instead; with `Retry-After` in seconds.
    Answer(u16, &'static str, Option<u64>),
    /// A bit of the body is another: of the request's before, of the answer's after.
    Flip,
    /// The answer's body ends after so many bytes, cut.
    CutBody(usize),
    /// The answer's body comes byte by byte, each after so long.
    Drip(Duration),
}

/// Whether the store has done it by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The store never sees the request (of a flip: it sees another).
    Before,
    /// The store has done what was asked.
    After,
}

/// One line of the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Of which requests; none: of all.
    pub verb: Option<Verb>,
    /// So many of them pass first.
    pub skip: u64,
    /// So many are hit then.
    pub times: u64,
    /// Before or after the store.
    pub when: When,
    /// What happens.
    pub fault: Fault,
}

/// The script. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    hits: u64,
    requests: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the script cut the connection")]
struct CutByScript;

impl Faults {
    /// No faults.
    pub fn new() -> Faults {
        Faults::default()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no test panics inside the script")
    }

    /// Adds a line.
    pub fn add(&self, rule: Rule) {
        self.script().rules.push(rule);
    }

    /// The next request of this verb.
    pub fn next(&self, verb: Verb, when: When, fault: Fault) {
        self.add(Rule { verb: Some(verb), skip: 0, times: 1, when, fault });
    }

    /// No lines any more.
    pub fn clear(&self) {
        self.script().rules.clear();
    }

    /// How often a fault hit: a test without any is none.
    pub fn hits(&self) -> u64 {
        self.script().hits
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.script().requests
    }

    // Every line counts the requests that it is about; the first that hits does.
    fn hit(&self, verb: Verb) -> Option<(When, Fault)> {
        let mut script = self.script();
        script.requests += 1;
        let mut hit = None;
        for rule in &mut script.rules {
            if rule.verb.is_some_and(|wanted| wanted != verb) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 && hit.is_none() {
                rule.times -= 1;
                hit = Some((rule.when, rule.fault.clone()));
            }
        }
        script.hits += u64::from(hit.is_some());
        hit
    }

    /// Sends a request to `store`, through the script.
    pub(super) async fn call(
        &self,
        request: HttpRequest,
        store: impl FnOnce(http::Request<Bytes>) -> HttpResponse,
    ) -> Result<HttpResponse, HttpError> {
        let verb = Verb::of(request.method(), request.uri());
        let hit = self.hit(verb);
        let (parts, body) = request.into_parts();
        let mut body = whole(body).await?;
        let before = match &hit {
            Some((When::Before, fault)) => Some(fault.clone()),
            _ => None,
        };
        match before {
            None => {}
            Some(Fault::Flip) => body = flipped(body),
            Some(fault) => return happen(fault, None).await,
        }
        // As on a network, other requests come in between.
        tokio::task::yield_now().await;
        let answer = store(http::Request::from_parts(parts, body));
        match hit {
            Some((When::After, fault)) => happen(fault, Some(answer)).await,
            _ => Ok(answer),
        }
    }
}

async fn happen(fault: Fault, answer: Option<HttpResponse>) -> Result<HttpResponse, HttpError> {
    match fault {
        Fault::Cut => Err(cut()),
        Fault::Stall => loop {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        },
        Fault::Answer(status, code, retry_after) => {
            let text = format!("<Error><Code>{code}</Code><Message>as the script says</Message></Error>");
            let mut response = http::Response::builder().status(status);
            if let Some(seconds) = retry_after {
                response = response.header("retry-after", seconds);
            }
            Ok(response.body(text.into()).expect("a response of plain parts"))
        }
        Fault::Flip => {
            let (parts, body) = answer.expect("an answer to flip a bit of").into_parts();
            Ok(HttpResponse::from_parts(parts, flipped(body.bytes().await?).into()))
        }
        Fault::CutBody(bytes) => {
            let (parts, body) = answer.expect("an answer to cut").into_parts();
            let data = body.bytes().await?;
            let body = Short { data: Some(data.slice(..bytes.min(data.len()))), cut: false };
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
        }
        Fault::Drip(each) => {
            let (parts, body) = answer.expect("an answer to let drip").into_parts();
            let next = Box::pin(tokio::time::sleep(each));
            let body = Dripping { data: body.bytes().await?, each, next };
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
        }
    }
}

fn cut() -> HttpError {
    HttpError::new(HttpErrorKind::Interrupted, CutByScript)
}

// A body that comes slowly.
struct Dripping {
    data: Bytes,
    each: Duration,
    next: Pin<Box<tokio::time::Sleep>>,
}

impl Body for Dripping {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, HttpError>>> {
        if self.data.is_empty() {
            return std::task::Poll::Ready(None);
        }
        std::task::ready!(self.next.as_mut().poll(cx));
        let until = tokio::time::Instant::now() + self.each;
        self.next.as_mut().reset(until);
        let one = self.data.split_to(1);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(one))))
    }
}

// A body that breaks off.
struct Short {
    data: Option<Bytes>,
    cut: bool,
}

impl Body for Short {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, HttpError>>> {
        let next = match self.data.take() {
            Some(data) => Some(Ok(http_body::Frame::data(data))),
            None if !self.cut => {
                self.cut = true;
                Some(Err(cut()))
            }
            None => None,
        };
        std::task::Poll::Ready(next)
    }
}

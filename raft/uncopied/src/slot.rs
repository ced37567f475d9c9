//! The way of a body around tonic's codec: in an extension of the request.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::Request;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

/// A body that somebody takes out once. (Extensions must be `Clone` and `Sync`, a body is neither.)
#[derive(Clone)]
pub(crate) struct Slot(Arc<Mutex<Option<Body>>>);

impl Slot {
    pub fn of(body: Body) -> Slot {
        Slot(Arc::new(Mutex::new(Some(body))))
    }

    pub fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Around a caller's channel: what [`request`](crate::request) has put in the slot becomes the body.
#[derive(Debug, Clone)]
pub struct Outlet<S>(pub S);

impl<S: Service<Request<Body>>> Service<Request<Body>> for Outlet<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        if let Some(body) = request.extensions_mut().remove::<Slot>().and_then(|slot| slot.take()) {
            *request.body_mut() = body;
        }
        self.0.call(request)
    }
}

/// Around a callee's service: the bodies of calls to `paths` go to the slot, where
/// [`Incoming::take`](crate::Incoming::take) finds them.
#[derive(Debug, Clone)]
pub struct Inlet<S> {
    service: S,
    paths: &'static [&'static str],
}

impl<S> Inlet<S> {
    /// A path is `/package.Service/Method`.
    pub fn new(service: S, paths: &'static [&'static str]) -> Inlet<S> {
        Inlet { service, paths }
    }
}

impl<S: NamedService> NamedService for Inlet<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Inlet<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        if self.paths.contains(&request.uri().path()) {
            let body = std::mem::replace(request.body_mut(), Body::empty());
            request.extensions_mut().insert(Slot::of(body));
        }
        self.service.call(request)
    }
}

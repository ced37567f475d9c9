//! Each call asks for its place before anything of it is read.

use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::{ConnectInfo, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response as HttpResponse};
use client::Failure;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::bodies::{Answer, Asked};
use super::connection::Guest;
use super::kind::Kind;
use super::port::{Call, Guests};

/// Around the services of the port for clients.
#[derive(Clone)]
pub struct Admission<S> {
    service: S,
    guests: Arc<Guests>,
}

impl<S> Admission<S> {
    /// Nobody calls `service` past these guests.
    pub fn new(service: S, guests: Arc<Guests>) -> Admission<S> {
        Admission { service, guests }
    }
}

/// An extension of every request that was let in.
#[derive(Clone)]
struct Held(Arc<Call>);

/// The place of a call, for a task that goes on when its answer is no more waited for.
pub fn held<T>(request: &tonic::Request<T>) -> Option<Arc<Call>> {
    request.extensions().get::<Held>().map(|held| held.0.clone())
}

impl<S> Service<http::Request<Body>> for Admission<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let guest = request.extensions().get::<Guest>().map(|guest| guest.id);
        let call = match self.guests.admit(Kind::of(request.uri().path()), guest) {
            Ok(call) => call,
            Err(failure) => return Box::pin(ready(Ok(turned_away(&failure).into_http()))),
        };
        let mut request = request.map(|body| Body::new(Asked::new(body, call.clone())));
        request.extensions_mut().insert(Held(call.clone()));
        let answering = self.service.call(request);
        Box::pin(async move {
            let made_room = poll_fn(|context| match call.turn.answer_end.has_come(context.waker()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            });
            let answered = tokio::select! {
                answered = answering => answered?,
                // A call that only waits has begun nothing.
                () = made_room => turned_away(&call.made_room()).into_http(),
            };
            Ok(answered.map(|body| Body::new(Answer::new(body, call))))
        })
    }
}

/// The failure under the code by which every gRPC client knows that nothing was begun.
fn turned_away(failure: &Failure) -> Status {
    let status = failure.to_status();
    Status::with_details(
        tonic::Code::ResourceExhausted,
        status.message().to_owned(),
        status.details().to_vec().into(),
    )
}

/// The same before the pages of the port for HTTP.
pub async fn of_http(
    State(guests): State<Arc<Guests>>,
    ConnectInfo(guest): ConnectInfo<Guest>,
    request: HttpRequest,
    next: Next,
) -> HttpResponse {
    match guests.admit(Kind::Page, Some(guest.id)) {
        Ok(call) => next.run(request).await.map(|body| axum::body::Body::new(Answer::new(body, call))),
        Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")).into_response(),
    }
}

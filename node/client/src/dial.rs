//! Connections to endpoints. One that does not come about in time is told apart from one that broke: nothing was
//! sent on it.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use crate::failure::{Code, Failure};

/// Time to connect to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects, within the time there is. A timeout of the channel's own would look like a call that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Dialer;

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let connecting = TcpStream::connect((host, uri.port_u16().unwrap_or(80)));
            let late = || {
                io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_TIMEOUT:?}"))
            };
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| late())??;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// Whether the node has seen nothing of the call: it failed before a byte of it was sent, or the node turned it away at
/// its door, in its own words. A stream or connection that HTTP/2 resets (ENHANCE_YOUR_CALM) has the same code, without any,
/// and may have been heard to its end.
pub fn never_heard(status: &tonic::Status) -> bool {
    let busy = |failure: Failure| matches!(failure.code, Code::Unavailable | Code::Busy);
    let turned_away = status.code() == tonic::Code::ResourceExhausted;
    turned_away && Failure::told(status).is_some_and(busy)
        || is_caused(status, |error| error.is::<tonic::ConnectError>())
}

/// Whether the machine answered that nobody listens there.
pub fn was_refused(status: &tonic::Status) -> bool {
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_caused(status, |error| error.downcast_ref::<io::Error>().is_some_and(refused))
}

fn is_caused(status: &tonic::Status, by: impl Fn(&(dyn Error + 'static)) -> bool) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        if by(error) {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_turned_away_was_not_heard_and_one_without_space_was() {
        let under = |failure: Failure| {
            let status = failure.to_status();
            let details = status.details().to_vec().into();
            tonic::Status::with_details(tonic::Code::ResourceExhausted, "busy", details)
        };
        assert!(never_heard(&under(Failure::new(Code::Unavailable, "busy"))));
        assert!(!never_heard(&under(Failure::new(Code::NoSpace, "no space"))));
        assert!(!never_heard(&under(Failure::new(Code::NoQuorum, "no quorum"))));
        assert!(!never_heard(&Failure::new(Code::Unavailable, "it stops").to_status()));
        // As the transport says that the other side reset the stream.
        assert!(!never_heard(&tonic::Status::resource_exhausted("")));
        assert!(!never_heard(&tonic::Status::with_details(
            tonic::Code::ResourceExhausted,
            "",
            vec![1].into()
        )));
    }
}

//! From messages to a body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use futures::Stream;
use futures::stream::{self, Fuse, FusedStream, StreamExt};
use http_body::Frame;
use prost::Message;
use tonic::Request;
use tonic::body::Body;

use crate::PREFIX_BYTES;
use crate::rope::Rope;
use crate::slot::Slot;

/// Messages that are ready go out together up to so many bytes.
const TOGETHER_BYTES: usize = 32 << 10;

/// What a generated method of a client takes as its messages; the real ones are in the request's slot.
pub type Messages<M> = stream::Empty<M>;

/// A request with a stream of `messages`, for a client whose channel is in an [`Outlet`](crate::Outlet). Without one,
/// the call is a stream without messages.
///
/// A message may have up to 4 GiB; the callee bounds it further.
pub fn request<S>(messages: S) -> Request<Messages<S::Item>>
where
    S: Stream<Item: Message> + Send + Unpin + 'static,
{
    let mut request = Request::new(stream::empty());
    request.extensions_mut().insert(Slot::of(body(messages)));
    request
}

/// The body that carries `messages`.
pub fn body<S>(messages: S) -> Body
where
    S: Stream<Item: Message> + Send + Unpin + 'static,
{
    Body::new(Outgoing { messages: messages.fuse(), rope: Rope::default() })
}

struct Outgoing<S> {
    messages: Fuse<S>,
    rope: Rope,
}

impl<S: Stream<Item: Message> + Unpin> http_body::Body for Outgoing<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        while this.rope.len() < TOGETHER_BYTES {
            match this.messages.poll_next_unpin(context) {
                Poll::Ready(Some(message)) => put(&message, &mut this.rope),
                // What is there goes first.
                Poll::Ready(None) | Poll::Pending if this.rope.len() > 0 => break,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        let piece = this.rope.pop().expect("there is something in it");
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.messages.is_terminated() && self.rope.len() == 0
    }
}

/// Writes the prefix and the message.
fn put(message: &impl Message, rope: &mut Rope) {
    let len = message.encoded_len();
    rope.put_slice(&prefix(u32::try_from(len).expect("no message of ours has 4 GiB")));
    message.encode(rope).expect("a rope takes whatever comes");
}

fn prefix(len: u32) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = len.to_be_bytes();
    [0, a, b, c, d]
}

//! From messages to a body.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use futures::Stream;
use futures::stream::{self, Fuse, FusedStream, StreamExt};
use http_body::Frame;
use prost::Message;
use tonic::body::Body;
use tonic::{Request, Status};

use crate::rope::Rope;
use crate::slot::Slot;

/// Messages that are ready are collected up to so many bytes.
const TOGETHER_BYTES: usize = 32 << 10;

/// What a generated method of a client takes as its messages; the real ones are in the request's slot.
pub type Messages<M> = stream::Empty<M>;

/// A request with a stream of `messages`, for a client whose channel is in an [`Outlet`](crate::Outlet). Without one,
/// the call is a stream without messages.
///
/// A message of more than `len_max` bytes ends the call with `OutOfRange` before it is sent.
pub fn request<S>(messages: S, len_max: usize) -> Request<Messages<S::Item>>
where
    S: Stream<Item: Message> + Send + Unpin + 'static,
{
    let mut request = Request::new(stream::empty());
    request.extensions_mut().insert(Slot::of(body(messages, len_max)));
    request
}

/// The body that carries `messages`, each of at most `len_max` bytes.
pub fn body<S>(messages: S, len_max: usize) -> Body
where
    S: Stream<Item: Message> + Send + Unpin + 'static,
{
    Body::new(Outgoing { messages: messages.fuse(), rope: Rope::default(), len_max })
}

struct Outgoing<S> {
    messages: Fuse<S>,
    rope: Rope,
    len_max: usize,
}

impl<S: Stream<Item: Message> + Unpin> http_body::Body for Outgoing<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while this.rope.len() < TOGETHER_BYTES {
            match this.messages.poll_next_unpin(context) {
                Poll::Ready(Some(message)) => {
                    if let Err(status) = put(&message, this.len_max, &mut this.rope) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
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
fn put(message: &impl Message, len_max: usize, rope: &mut Rope) -> Result<(), Status> {
    let len = message.encoded_len();
    let prefix = u32::try_from(len).ok().filter(|_| len <= len_max);
    let prefix =
        prefix.ok_or_else(|| Status::out_of_range(format!("a message of {len} bytes; {len_max} may be")))?;
    rope.put_u8(0);
    rope.put_u32(prefix);
    message.encode(rope).expect("a rope takes whatever comes");
    Ok(())
}

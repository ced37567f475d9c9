//! Messages into a body and out of it again, in whatever pieces it comes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use http_body::{Body as _, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Status};
use uncopied::{Incoming, decode};

#[derive(Clone, PartialEq, Message)]
struct Inner {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Outer {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(message, repeated, tag = "2")]
    inner: Vec<Inner>,
    #[prost(string, tag = "3")]
    word: String,
}

fn outer(number: u64, sizes: &[usize]) -> Outer {
    let inner = sizes.iter().map(|size| Inner { payload: Bytes::from(vec![number as u8; *size]) });
    Outer { number, inner: inner.collect(), word: "end".into() }
}

async fn frames(mut body: Body) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.expect("a body of messages never fails");
        frames.push(frame.into_data().expect("it has no trailers"));
    }
    assert!(body.is_end_stream());
    frames
}

/// As gRPC writes them.
fn written(messages: &[Outer]) -> Vec<u8> {
    let mut all = Vec::new();
    for message in messages {
        let bytes = message.encode_to_vec();
        all.push(0);
        all.extend((bytes.len() as u32).to_be_bytes());
        all.extend(bytes);
    }
    all
}

/// A body of these pieces.
struct Pieces(VecDeque<Result<Bytes, Status>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|piece| piece.map(Frame::data)))
    }
}

/// The largest message here.
const LEN_MAX: usize = 2 << 20;

fn body(messages: impl Stream<Item = Outer> + Send + Unpin + 'static) -> Body {
    uncopied::body(messages, LEN_MAX)
}

fn incoming(pieces: impl IntoIterator<Item = Vec<u8>>, end: Option<Status>) -> Incoming<Outer> {
    let pieces = pieces.into_iter().map(|piece| Ok(piece.into())).chain(end.map(Err));
    Incoming::new(Body::new(Pieces(pieces.collect())), LEN_MAX, decode)
}

async fn all(mut incoming: Incoming<Outer>) -> Result<Vec<Outer>, Status> {
    let mut messages = Vec::new();
    while let Some(message) = incoming.message().await? {
        messages.push(message);
    }
    Ok(messages)
}

#[tokio::test]
async fn a_payload_is_the_same_memory_before_and_after() {
    let message = outer(7, &[3, 1 << 20, 5, 16 << 10]);
    let frames = frames(body(stream::iter([message.clone()]))).await;
    assert_eq!(frames.concat(), written(std::slice::from_ref(&message)));
    let payload = message.inner[1].payload.clone();
    assert!(frames.iter().any(|frame| frame.as_ptr() == payload.as_ptr() && frame.len() == payload.len()));

    let pieces = frames.into_iter().map(Ok).collect();
    let mut incoming: Incoming<Outer> = Incoming::new(Body::new(Pieces(pieces)), LEN_MAX, decode);
    let arrived = incoming.message().await.unwrap().unwrap();
    assert_eq!(arrived, message);
    assert_eq!(arrived.inner[1].payload.as_ptr(), payload.as_ptr(), "not a copy");
    assert_eq!(incoming.message().await.unwrap(), None);
}

#[tokio::test]
async fn small_messages_that_are_ready_leave_together_and_nothing_waits() {
    let messages: Vec<Outer> = (0..100).map(|number| outer(number, &[10, 20])).collect();
    let sent = frames(body(stream::iter(messages.clone()))).await;
    assert_eq!(sent.len(), 1);
    assert_eq!(sent.concat(), written(&messages));
    // What is there does not wait for what is not.
    let mut waiting = body(stream::iter(messages[..2].to_vec()).chain(stream::pending()));
    let mut next = std::future::poll_fn(|context| Pin::new(&mut waiting).poll_frame(context));
    let first = tokio::time::timeout(std::time::Duration::from_secs(5), &mut next).await;
    assert_eq!(first.unwrap().unwrap().unwrap().into_data().unwrap(), written(&messages[..2]));
    assert!(futures::poll!(next).is_pending());
    assert!(frames(body(stream::iter(Vec::<Outer>::new()))).await.is_empty());
}

#[tokio::test]
async fn messages_come_out_of_any_pieces() {
    let messages = [outer(1, &[17_000, 2]), outer(2, &[]), outer(300, &[70, 4096])];
    let bytes = written(&messages);
    for cut in 0..bytes.len() {
        let (front, back) = bytes.split_at(cut);
        assert_eq!(all(incoming([front.to_vec(), back.to_vec()], None)).await.unwrap(), messages, "{cut}");
    }
    assert_eq!(all(incoming(bytes.iter().map(|byte| vec![*byte]), None)).await.unwrap(), messages);
}

#[tokio::test]
async fn what_is_no_message_is_refused_and_what_was_before_it_is_not_lost() {
    let good = outer(1, &[40]);
    let bytes = written(std::slice::from_ref(&good));
    for cut in 1..bytes.len() {
        let error = all(incoming([bytes[..cut].to_vec()], None)).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal, "cut at {cut}: {error}");
    }
    let after_good = |bad: &[u8]| incoming([[&bytes[..], bad].concat()], None);
    for (bad, code) in [
        (&[1, 0, 0, 0, 0][..], Code::Internal),
        (&[0, 0, 32, 0, 1], Code::OutOfRange),
        (&[0, 255, 255, 255, 255], Code::OutOfRange),
        (&[0, 0, 0, 0, 3, 255, 255, 255], Code::Internal),
        (&[0, 0, 0, 0, 2, 0x12, 100], Code::Internal),
    ] {
        let mut incoming = after_good(bad);
        assert_eq!(incoming.message().await.unwrap().as_ref(), Some(&good));
        assert_eq!(incoming.message().await.unwrap_err().code(), code, "{bad:?}");
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_ends_the_stream_and_a_lost_connection_is_an_error() {
    let message = written(&[outer(1, &[40])]);
    let gave_up = incoming([message.clone()], Some(Status::cancelled("no more")));
    assert_eq!(all(gave_up).await.unwrap().len(), 1);
    let lost = incoming([message], Some(Status::unavailable("gone")));
    assert_eq!(all(lost).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn what_is_too_large_is_not_sent() {
    let messages = [outer(1, &[10]), outer(2, &[LEN_MAX])];
    let mut body = body(stream::iter(messages));
    let mut next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
    let error = (&mut next).await.expect("an answer").expect_err("the second is too large");
    assert_eq!(error.code(), Code::OutOfRange);
}

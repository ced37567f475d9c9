//! The two halves of a call, watched: what the client sends, and whether it takes the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};

use super::house::SILENCE;
use super::port::Call;

/// What has come on a call before it was told to end is taken for so long. Not longer: its place is another's.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a client sends. Time counts against it only while something of it is waited for.
pub struct Asked {
    body: Body,
    call: Arc<Call>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Since when it is known here that the call ends.
    ends: Option<Instant>,
}

impl Asked {
    pub fn new(body: Body, call: Arc<Call>) -> Asked {
        Asked { body, call, alarm: None, ends: None }
    }

    /// Ready when the client has been waited for, since `asked`, for too long.
    fn poll_silence(&mut self, context: &mut Context<'_>, asked: Instant) -> Poll<()> {
        let until = tokio::time::Instant::from_std(asked + SILENCE);
        // One alarm serves many waits: when it rings for an older one, it is set again.
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while alarm.as_mut().poll(context).is_ready() {
            if tokio::time::Instant::now() >= until {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let now = Instant::now();
        let ends = self.call.turn.end.has_come(context.waker());
        let last_words = !ends || self.ends.get_or_insert(now).elapsed() < LAST_WORDS;
        // What lies there already was not waited for: this node was slow to take it.
        if last_words && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.call.turn.hear(now);
            return Poll::Ready(frame);
        }
        if ends {
            let why = "too little came on this call, and others needed its place";
            return Poll::Ready(Some(Err(Status::resource_exhausted(why))));
        }
        let asked = self.call.turn.ask(now);
        match self.poll_silence(context, asked) {
            Poll::Ready(()) => {
                let why = format!("nothing came on this call for {} s", SILENCE.as_secs());
                Poll::Ready(Some(Err(Status::deadline_exceeded(why))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The end of an answer that only waits, for another's sake.
fn made_room() -> HeaderMap {
    let exhausted = HeaderValue::from(tonic::Code::ResourceExhausted as i32);
    let why = HeaderValue::from_static("others needed the place of this call");
    [("grpc-status", exhausted), ("grpc-message", why)]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), value))
        .collect()
}

/// An answer, which holds the place of its call.
pub struct Answer<B> {
    body: B,
    call: Arc<Call>,
    over: bool,
}

impl<B> Answer<B> {
    pub fn new(body: B, call: Arc<Call>) -> Answer<B> {
        Answer { body, call, over: false }
    }
}

impl<B: HttpBody + Unpin> HttpBody for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.call.turn.answer_end.has_come(context.waker()) {
            self.over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(made_room()))));
        }
        // It is asked for more only when there is room for it on the way to the client.
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let on_its_way = matches!(polled, Poll::Ready(Some(Ok(_))));
        self.call.turn.tell(on_its_way.then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::guests::{Guests, Kind};

    type Polled<B> = Poll<Option<Result<Frame<<B as HttpBody>::Data>, <B as HttpBody>::Error>>>;

    fn polled<B: HttpBody + Unpin>(body: &mut B) -> Polled<B> {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_has_come_is_taken_before_the_end_and_for_a_moment_alone() {
        let call = Guests::new("test", 9, Arc::default()).admit(Kind::Commit, None).unwrap();
        let asked = |call: &Arc<Call>| Asked::new(Body::new(String::from("the seal")), call.clone());
        let (mut first, mut second) = (asked(&call), asked(&call));
        call.turn.end.say();
        assert!(matches!(polled(&mut first), Poll::Ready(Some(Ok(_)))));
        second.ends = Instant::now().checked_sub(LAST_WORDS);
        let Poll::Ready(Some(Err(status))) = polled(&mut second) else { panic!("its place is another's") };
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn an_answer_that_only_waits_ends_when_it_has_to() {
        let call = Guests::new("test", 9, Arc::default()).admit(Kind::Wait, None).unwrap();
        let mut answer = Answer::new(String::from("still waiting"), call.clone());
        call.turn.answer_end.say();
        let Poll::Ready(Some(Ok(frame))) = polled(&mut answer) else { panic!("it goes on") };
        assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "8");
        assert!(matches!(polled(&mut answer), Poll::Ready(None)) && answer.is_end_stream());
    }
}

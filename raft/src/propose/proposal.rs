//! A record on its way, and a pipeline of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nativelog::ledger::{Reason, Rejected, Verdict};
use nativelog::record::{LogId, LogRecord};
use tokio::sync::{mpsc, oneshot};

use crate::error::ProposeError;
use crate::intake::{Intake, Permit};

/// What became of a record: its position (the default one when it never entered the log) and the verdict.
pub type Outcome = Result<(LogId, Verdict), ProposeError>;

/// Proposals that one stream keeps between its caller and the leader; bytes are bounded elsewhere.
pub(super) const QUEUE: usize = 64;

/// A record with what is needed to answer for it.
pub(crate) struct Proposal {
    pub record: LogRecord,
    /// Held until the answer, and until the record is flushed here.
    pub permit: Arc<Permit>,
    pub answer: Answer,
}

/// Where the outcome goes.
pub(crate) type Answer = Box<dyn FnOnce(Outcome) + Send>;

/// Tells the permit of a record that it was carried. What was judged at once was not: a rejection, or a piece that the
/// log has already.
pub(super) fn tell(permit: &Permit, outcome: &Outcome) {
    if matches!(outcome, Ok((at, _)) if *at != LogId::default()) {
        permit.answered();
    }
}

impl Proposal {
    pub(crate) fn answer(self, outcome: Outcome) {
        tell(&self.permit, &outcome);
        (self.answer)(outcome);
    }
}

/// The verdict on a record whose shape is wrong.
pub(crate) fn malformed(why: impl std::fmt::Display) -> Verdict {
    Verdict::Rejected(Rejected {
        reason: Reason::Malformed,
        detail: why.to_string(),
        current: 0,
        root: None,
        position: None,
    })
}

/// A pipeline of records to one leader in one term. Records enter the log in the order in which
/// they were sent, except that rejected and unavailable ones do not enter. When the leadership
/// ends, the stream ends: everything unanswered resolves to [`ProposeError::Unknown`], and later
/// sends are [`ProposeError::Unavailable`].
pub struct ProposalStream {
    pub(super) intake: Arc<Intake>,
    pub(super) sender: mpsc::Sender<Proposal>,
    pub(super) leader: u64,
}

impl ProposalStream {
    /// The node that this stream leads to.
    pub fn leader(&self) -> u64 {
        self.leader
    }

    /// True when the stream has ended.
    pub fn is_over(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends `record` as soon as there is room for its bytes. The answer comes through what this
    /// returns, which may be dropped.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when the stream has ended: this record is surely not in the log.
    pub async fn send(&self, record: LogRecord) -> Result<Pending, ProposeError> {
        let over = || ProposeError::unavailable("the leader has changed");
        let permit = tokio::select! {
            permit = self.intake.permit(&record) => permit?,
            () = self.sender.closed() => return Err(over()),
        };
        let (answer, outcome) = oneshot::channel();
        let answer: Answer = Box::new(move |outcome| drop(answer.send(outcome)));
        self.sender.send(Proposal { record, permit, answer }).await.map_err(|_| over())?;
        Ok(Pending(outcome))
    }
}

/// The outcome of one record of a stream, when it is there.
pub struct Pending(oneshot::Receiver<Outcome>);

impl Future for Pending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = Pin::new(&mut self.0).poll(context);
        outcome.map(|outcome| outcome.unwrap_or_else(|_| Err(ProposeError::unknown("the stream ended"))))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::intake::{Class, InFlight};

    #[tokio::test]
    async fn what_never_entered_the_log_says_nothing_of_the_link() {
        const CHUNK: u64 = 1 << 20;
        let in_flight = InFlight::new(48 << 20);
        let answer = async |outcome| {
            let permit = Arc::new(in_flight.permit(CHUNK, Class::Large).await.unwrap());
            let record = nativelog::compose::tick(1);
            Proposal { record, permit, answer: Box::new(|_| {}) }.answer(outcome);
        };
        let room_for_two = async || {
            let _one = in_flight.permit(CHUNK, Class::Large).await.unwrap();
            in_flight.permit(CHUNK, Class::Large).now_or_never().is_some()
        };
        for _ in 0..10 {
            answer(Ok((LogId::default(), malformed("fenced")))).await;
            answer(Err(ProposeError::unavailable("not now"))).await;
        }
        assert!(!room_for_two().await, "nothing was carried yet");
        answer(Ok((LogId { term: 1, node: 1, index: 7 }, malformed("an attempt that has ended")))).await;
        assert!(room_for_two().await, "it was carried at once, whatever became of it");
    }
}

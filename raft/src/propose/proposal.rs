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

impl Proposal {
    pub(crate) fn answer(self, outcome: Outcome) {
        if outcome.is_ok() {
            self.permit.answered();
        }
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

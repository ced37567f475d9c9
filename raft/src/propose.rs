//! Proposals: records on their way to the leader, wherever it is.
//!
//! Every record is tied to one leadership (`with_leader`): the log never takes it in another term
//! than the one whose ledger judged it. Bytes in flight are bounded by permits, held from `send` until the
//! answer and, where the leader is, until the record is flushed: it may be committed without this node's disk. Three kinds of no are three different things here as everywhere: a rejection
//! is an `Ok` with the ledger's verdict, *unavailable* is surely not in the log, *unknown* may be.

mod forward;
mod local;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::{Reason, Rejected, Verdict};
use nativelog::machine::Machine;
use nativelog::record::{LogId, LogRecord};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::ReplicaConfig;
use crate::consensus::Consensus;
use crate::error::ProposeError;
use crate::intake::{Intake, Permit};
use crate::leader::{Leader, Leadership, Leading};
use crate::life::Life;
use crate::network::peers::Peers;
use crate::quorum::Quorum;
use crate::transfer::Records;

pub(crate) use forward::{decode_request, encode_reply, propose_to};

/// What became of a record: its position (the default one when it never entered the log) and the verdict.
pub type Outcome = Result<(LogId, Verdict), ProposeError>;

/// Proposals that one stream keeps between its caller and the leader; bytes are bounded elsewhere.
const QUEUE: usize = 64;
/// Pause before a record that is surely not in the log is proposed again.
const AGAIN: Duration = Duration::from_millis(30);

/// Brings records to the leader, wherever it is; judges them when it is here.
pub(crate) struct Proposer {
    pub config: Arc<ReplicaConfig>,
    pub leading: Arc<Leading>,
    pub intake: Arc<Intake>,
    pub consensus: Consensus,
    pub machine: Arc<Machine>,
    pub peers: Arc<Peers>,
    pub life: Arc<Life>,
}

impl Proposer {
    /// Knows whether this node is cut off.
    pub fn quorum(&self) -> &Arc<Quorum> {
        &self.leading.quorum
    }
}

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

impl Proposer {
    /// See [`Replica::propose`](crate::Replica::propose).
    pub async fn propose(self: &Arc<Self>, record: LogRecord) -> Outcome {
        let permit = self.intake.permit(&record).await?;
        let until = Instant::now() + self.config.leader_patience;
        loop {
            let outcome = match self.leading.find(until).await? {
                Leader::Here(leadership) => {
                    local::propose_once(self, &leadership, &record, &permit, until).await
                }
                Leader::There(leader) => forward::propose_once(self, leader, &record).await,
            };
            if outcome.is_ok() {
                permit.answered();
            }
            match outcome {
                Err(ProposeError::Unavailable { .. }) if Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Proposes a record once in this leadership: this crate's own (identity, log time) before the leadership is
    /// ready, and those from elsewhere, whose senders try again themselves.
    pub async fn propose_tied(self: &Arc<Self>, leadership: &Arc<Leadership>, record: &LogRecord) -> Outcome {
        let permit = self.intake.permit(record).await?;
        let outcome = local::propose_once(self, leadership, record, &permit, Instant::now()).await;
        if outcome.is_ok() {
            permit.answered();
        }
        outcome
    }

    /// See [`Replica::stream`](crate::Replica::stream).
    pub async fn stream(self: &Arc<Self>) -> Result<ProposalStream, ProposeError> {
        let until = Instant::now() + self.config.leader_patience;
        loop {
            let opened = match self.leading.find(until).await? {
                Leader::Here(leadership) => Ok(self.open_here(leadership)),
                Leader::There(leader) => forward::open(self, leader).await,
            };
            match opened {
                Err(ProposeError::Unavailable { .. }) if Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await;
                }
                opened => return opened,
            }
        }
    }

    fn open_here(self: &Arc<Self>, leadership: Arc<Leadership>) -> ProposalStream {
        let (sender, proposals) = mpsc::channel(QUEUE);
        tokio::spawn(local::run(self.clone(), leadership, proposals));
        ProposalStream { intake: self.intake.clone(), sender, leader: self.config.node }
    }

    /// Runs a stream of proposals in this leadership until it is closed or the leadership ends.
    pub async fn run(self: Arc<Self>, leadership: Arc<Leadership>, proposals: mpsc::Receiver<Proposal>) {
        local::run(self, leadership, proposals).await;
    }
}

impl Records for Arc<Proposer> {
    fn propose(&self, record: LogRecord) -> BoxFuture<'_, Result<Verdict, String>> {
        async move {
            let answered = Proposer::propose(self, record).await;
            answered.map(|(_, verdict)| verdict).map_err(|error| error.to_string())
        }
        .boxed()
    }
}

/// A pipeline of records to one leader in one term. Records enter the log in the order in which
/// they were sent, except that rejected and unavailable ones do not enter. When the leadership
/// ends, the stream ends: everything unanswered resolves to [`ProposeError::Unknown`], and later
/// sends are [`ProposeError::Unavailable`].
pub struct ProposalStream {
    intake: Arc<Intake>,
    sender: mpsc::Sender<Proposal>,
    leader: u64,
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

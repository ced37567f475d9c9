//! Proposals: records on their way to the leader, wherever it is.
//!
//! Every record is tied to one leadership (`with_leader`): the log never takes it in another term
//! than the one whose ledger judged it. Bytes in flight are bounded by permits, held from `send`
//! until the answer. Three kinds of no are three different things here as everywhere: a rejection
//! is an `Ok` with the ledger's verdict, *unavailable* is surely not in the log, *unknown* may be.

mod forward;
mod in_flight;
mod local;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nativelog::ledger::{Reason, Rejected, Verdict};
use nativelog::record::{LogId, LogRecord};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::PROPOSAL_BYTES;
use crate::error::ProposeError;
use crate::leader::Leadership;
use crate::replica::{Inner, Replica};

pub(crate) use forward::{decode_request, encode_reply};
pub(crate) use in_flight::{InFlight, Permit};
pub(crate) use local::{propose_tied, run};

/// What became of a record: its position (the default one when it never entered the log) and the verdict.
pub type Outcome = Result<(LogId, Verdict), ProposeError>;

/// Proposals that one stream keeps between its caller and the leader; bytes are bounded elsewhere.
const QUEUE: usize = 64;
/// What a record takes beyond its bytes.
pub(crate) const RECORD_OVERHEAD: u64 = 256;

/// A record with what is needed to answer for it.
pub(crate) struct Proposal {
    pub record: LogRecord,
    #[expect(dead_code, reason = "held until the answer")]
    pub permit: Permit,
    pub answer: Answer,
}

/// Where the outcome goes.
pub(crate) type Answer = Box<dyn FnOnce(Outcome) + Send>;

impl Proposal {
    pub(crate) fn answer(self, outcome: Outcome) {
        (self.answer)(outcome);
    }
}

/// Waits for room for `record`.
pub(crate) async fn permit(inner: &Inner, record: &LogRecord) -> Result<Permit, ProposeError> {
    let bytes = record.bytes().saturating_add(RECORD_OVERHEAD);
    if bytes > PROPOSAL_BYTES as u64 {
        return Err(ProposeError::unavailable(format!("a record of {bytes} bytes is too large")));
    }
    let permit = inner.in_flight.permit(bytes).await;
    permit.ok_or_else(|| ProposeError::unavailable("this node is shutting down"))
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

/// Who leads.
pub(crate) enum Leader {
    /// This node, ready.
    Here(Arc<Leadership>),
    /// Another one.
    There(u64),
}

/// Finds a leader before `until`.
pub(crate) async fn find_leader(inner: &Inner, until: Instant) -> Result<Leader, ProposeError> {
    loop {
        inner.running()?;
        let here = inner.leadership.borrow().clone();
        if let Some(leadership) = here {
            if leadership.wait_ready(until.saturating_duration_since(Instant::now())).await {
                return Ok(Leader::Here(leadership));
            }
        } else {
            let leader = inner.raft.server_metrics().borrow_watched().current_leader;
            if let Some(leader) = leader.filter(|leader| *leader != inner.config.node) {
                return Ok(Leader::There(leader));
            }
        }
        if Instant::now() >= until {
            return Err(ProposeError::unavailable("no leader: fewer than a majority of the nodes answer"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Replica {
    /// Proposes one record to the leader and waits for the verdict.
    ///
    /// While a leader is sought, and as long as the record is surely not in the log, it tries again
    /// for [`ReplicaConfig::leader_patience`](crate::ReplicaConfig::leader_patience).
    ///
    /// # Errors
    /// [`ProposeError`]; a rejection is no error.
    pub async fn propose(&self, record: LogRecord) -> Outcome {
        let inner = &self.inner;
        let _permit = permit(inner, &record).await?;
        let until = Instant::now() + inner.config.leader_patience;
        loop {
            let outcome = match find_leader(inner, until).await? {
                Leader::Here(leadership) => local::propose_once(inner, &leadership, &record, until).await,
                Leader::There(leader) => forward::propose_once(inner, leader, &record).await,
            };
            match outcome {
                Err(ProposeError::Unavailable { .. }) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Opens a pipelined stream of proposals to the present leader, tied to its term.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when there is no leader for a while; faults.
    pub async fn stream(&self) -> Result<ProposalStream, ProposeError> {
        let inner = &self.inner;
        let until = Instant::now() + inner.config.leader_patience;
        loop {
            let opened = match find_leader(inner, until).await? {
                Leader::Here(leadership) => Ok(open_here(inner, leadership)),
                Leader::There(leader) => forward::open(inner, leader).await,
            };
            match opened {
                Err(ProposeError::Unavailable { .. }) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                opened => return opened,
            }
        }
    }
}

fn open_here(inner: &Arc<Inner>, leadership: Arc<Leadership>) -> ProposalStream {
    let (intake, proposals) = mpsc::channel(QUEUE);
    let leader = inner.config.node;
    tokio::spawn(run(inner.clone(), leadership, proposals));
    ProposalStream { inner: inner.clone(), intake, leader }
}

/// A pipeline of records to one leader in one term. Records enter the log in the order in which
/// they were sent, except that rejected and unavailable ones do not enter. When the leadership
/// ends, the stream ends: everything unanswered resolves to [`ProposeError::Unknown`], and later
/// sends are [`ProposeError::Unavailable`].
pub struct ProposalStream {
    inner: Arc<Inner>,
    intake: mpsc::Sender<Proposal>,
    leader: u64,
}

impl ProposalStream {
    /// The node that this stream leads to.
    pub fn leader(&self) -> u64 {
        self.leader
    }

    /// True when the stream has ended.
    pub fn is_over(&self) -> bool {
        self.intake.is_closed()
    }

    /// Sends `record` as soon as there is room for its bytes. The answer comes through what this
    /// returns, which may be dropped.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when the stream has ended: this record is surely not in the log.
    pub async fn send(&self, record: LogRecord) -> Result<Pending, ProposeError> {
        let over = || ProposeError::unavailable("the leader has changed");
        let permit = tokio::select! {
            permit = permit(&self.inner, &record) => permit?,
            () = self.intake.closed() => return Err(over()),
        };
        let (answer, outcome) = oneshot::channel();
        let answer: Answer = Box::new(move |outcome| drop(answer.send(outcome)));
        self.intake.send(Proposal { record, permit, answer }).await.map_err(|_| over())?;
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

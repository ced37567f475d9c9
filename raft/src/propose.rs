//! Proposals: records on their way to the leader, wherever it is.
//!
//! Every record is tied to one leadership (`with_leader`): the log never takes it in another term
//! than the one whose ledger judged it. Bytes in flight are bounded by permits, held from `send` until the
//! answer and, where the leader is, until the record is flushed: it may be committed without this node's disk. Three kinds of no are three different things here as everywhere: a rejection
//! is an `Ok` with the ledger's verdict, *unavailable* is surely not in the log, *unknown* may be.
//!
//! | file | what it holds |
//! |---|---|
//! | `proposal` | a record on its way, and a pipeline of them |
//! | `proposer` | what it takes to bring them to the leader |
//! | `local` | judged and written, when the leader is here |
//! | `forward` | sent to it, when it is elsewhere |

mod forward;
mod local;
mod proposal;
mod proposer;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::Verdict;
use nativelog::record::LogRecord;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::begins::may_ask;
use crate::error::ProposeError;
use crate::leader::{Leader, Leadership};
use crate::transfer::Records;
use proposal::{QUEUE, tell};

pub(crate) use forward::{decode_request, encode_reply, propose_to};
pub(crate) use proposal::{Answer, Proposal, malformed};
pub use proposal::{Outcome, Pending, ProposalStream};
pub(crate) use proposer::Proposer;

/// Pause before a record that is surely not in the log is proposed again.
const AGAIN: Duration = Duration::from_millis(30);

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
                Leader::There(leader) => {
                    // The leader, where it may wait for room, counts it too.
                    if may_ask(&record) {
                        permit.rest();
                    }
                    forward::propose_once(self, leader, &record).await
                }
            };
            tell(&permit, &outcome);
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
        tell(&permit, &outcome);
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

//! The consensus: the only room that names [`openraft::Raft`]. Everybody else speaks to it in words of ours: votes
//! and positions of `nativelog`, records, and the messages of `proto/raft.proto`.
//!
//! Its direct neighbours are the traits that openraft wants implemented: `log_store`, `state_machine` with
//! `snapshot`, and `network`; `types` binds openraft's types.

mod settings;
mod view;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use nativelog::ledger::Verdict;
use nativelog::machine::Machine;
use nativelog::record::{LogId, LogRecord};
use nativelog::snapshot::Capture;
use nativelog::store::{LogStore, Vote};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, RaftError};
use openraft::impls::ProgressResponder;
use openraft::{BasicNode, ReadPolicy};
use tonic::Status;

use crate::agreement::Agreement;
use crate::config::ReplicaConfig;
use crate::error::{ProposeError, StartError};
use crate::identity::Known;
use crate::life::Life;
use crate::log_store::RaftLog;
use crate::network::Factory;
use crate::network::convert::{self, Append};
use crate::proto;
use crate::snapshot::{SnapshotData, snap};
use crate::state_machine::{StateMachine, encode};
use crate::types::{Command, TypeConfig, log_id, raft_id, raft_vote, vote};

pub(crate) use settings::settings;
pub(crate) use view::{Changes, View};

type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The running consensus. Clones share it.
#[derive(Clone)]
pub(crate) struct Consensus {
    raft: Raft,
}

/// What became of a record that the consensus was given.
pub(crate) enum Written {
    /// It is committed and applied, with this verdict.
    Decided(LogId, Verdict),
    /// It did not enter the log now; the same leader in the same term may take it a moment later: its lease had run
    /// out while it was busy.
    Later(ProposeError),
    /// It surely is not in the log.
    Refused(ProposeError),
    /// It may be in the log, now or later.
    Unknown(ProposeError),
}

/// The consensus has ended on this node.
fn stopped(fatal: &Fatal<TypeConfig>) -> ProposeError {
    match fatal {
        Fatal::Stopped => ProposeError::unavailable("this node is shutting down"),
        other => ProposeError::fault(other.to_string()),
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn bad(why: String) -> Status {
    Status::invalid_argument(why)
}

/// Its life on this node.
impl Consensus {
    /// Starts it over a log and a machine.
    ///
    /// # Errors
    /// Settings that do not fit together; a log, ledger or membership that cannot be read.
    pub async fn start(
        config: &ReplicaConfig,
        clients: Factory,
        log: &LogStore,
        machine: &Arc<Machine>,
        known: &Arc<Known>,
        agreement: &Arc<Agreement>,
        life: &Arc<Life>,
    ) -> Result<Consensus, StartError> {
        let settings = Arc::new(settings(config).map_err(StartError::Config)?);
        let failed = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
        let state_machine = StateMachine::new(machine.clone(), known.clone()).map_err(|e| failed(&e))?;
        let state_machine = state_machine.agreeing(agreement.clone()).living(life.clone());
        let log = RaftLog::new(log.clone()).agreeing(agreement.clone());
        let raft = Raft::new(config.node, settings, clients, log, state_machine).await;
        Ok(Consensus { raft: raft.map_err(|e| failed(&e))? })
    }

    /// Begins a new cluster of `members`.
    ///
    /// # Errors
    /// This node is part of one already, in words.
    pub async fn initialize(&self, members: &[(u64, String)]) -> Result<(), String> {
        let members: BTreeMap<_, _> =
            members.iter().map(|(node, address)| (*node, BasicNode::new(address))).collect();
        self.raft.initialize(members).await.map_err(|why| why.to_string())
    }

    /// Returns when it has ended, with the reason when that was a fault.
    pub async fn ended(&self) -> Option<String> {
        let mut metrics = self.raft.metrics();
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            match state {
                Ok(()) => {}
                Err(Fatal::Stopped) => return None,
                Err(why) => return Some(why.to_string()),
            }
            if metrics.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Ends it.
    pub async fn shutdown(&self) {
        if let Err(why) = self.raft.shutdown().await {
            tracing::warn!(%why, "the consensus did not end cleanly");
        }
    }
}

/// What it sees.
impl Consensus {
    /// How things stand now.
    pub fn view(&self) -> View {
        View::of(&self.raft.metrics().borrow_watched())
    }

    /// The leader that this node knows; itself included.
    pub fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// The vote that binds this node.
    pub fn vote(&self) -> Vote {
        vote(&self.raft.server_metrics().borrow_watched().vote)
    }

    /// Term and number of whom this node has voted for, or follows.
    pub fn binding(&self) -> (u64, u64) {
        let vote = self.vote();
        (vote.term, vote.node)
    }

    /// Votes, leaders and memberships, as they change.
    pub fn changes(&self) -> Changes {
        Changes::of(self.raft.server_metrics())
    }

    /// Ok once this node, which leads, has confirmed that it does and has applied all that was committed then.
    ///
    /// # Errors
    /// It cannot confirm it now, in words.
    pub async fn confirmed(&self) -> Result<(), String> {
        let confirmed = self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
        confirmed.map(drop).map_err(|why| why.to_string())
    }

    /// The position that a linearizable read must see, asked at the leader.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] when this node cannot confirm that it leads; faults.
    pub async fn read_index(&self) -> Result<LogId, ProposeError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((at, _applied)) => Ok(log_id(at.log_id())),
            Err(RaftError::Fatal(fatal)) => Err(stopped(&fatal)),
            Err(RaftError::APIError(error)) => Err(ProposeError::unavailable(error.to_string())),
        }
    }
}

/// What it is asked to do.
impl Consensus {
    /// Hands over a record for the leadership `lead` and no other. Returns once it is queued, with its outcome to come.
    ///
    /// # Errors
    /// The consensus has ended: the record is surely not in the log.
    pub async fn write(
        &self,
        lead: Vote,
        record: LogRecord,
    ) -> Result<impl Future<Output = Written> + Send + 'static, ProposeError> {
        let (responder, answer) = ProgressResponder::complete_only();
        let lead = raft_vote(lead).leader_id;
        let write = self.raft.write(Command(record)).with_leader(lead).responder(responder);
        write.await.map_err(|fatal| stopped(&fatal))?;
        Ok(async move {
            match answer.await {
                Ok(Ok(response)) => Written::Decided(log_id(&response.log_id), response.data.0),
                Ok(Err(error)) => not_written(error),
                Err(_) => Written::Unknown(ProposeError::unknown("the consensus ended before it answered")),
            }
        })
    }

    /// The ledger of now, with the membership at its position; `None` when nothing is applied.
    ///
    /// # Errors
    /// The consensus has ended.
    pub async fn capture(&self) -> Result<Option<Capture>, ProposeError> {
        let frozen = self.raft.with_state_machine(|state_machine| {
            let frozen = state_machine.freeze();
            Box::pin(async move { frozen })
        });
        let Some(frozen) = frozen.await.map_err(|fatal| stopped(&fatal))? else { return Ok(None) };
        match encode(frozen).await {
            Some(capture) => Ok(Some(capture)),
            None => Err(ProposeError::unavailable("a snapshot could not be encoded")),
        }
    }

    /// Lets it know of the newest durable snapshot, which is of `position` or above.
    ///
    /// # Errors
    /// It has ended, or is too busy to hear of it for `time`.
    pub async fn announce(&self, position: LogId, time: Duration) -> Result<(), String> {
        self.raft.trigger().snapshot().await.map_err(|fatal| fatal.to_string())?;
        let wanted = Some(raft_id(position));
        let told = self.raft.wait(Some(time));
        let told = told.metrics(|now| now.snapshot >= wanted, "openraft knows of the snapshot").await;
        told.map(drop).map_err(|_| "the consensus is busy: it has not heard of the snapshot yet".to_owned())
    }

    /// Asks it to purge the log up to `index`, inclusively. Entries that are being sent stay until they have left.
    ///
    /// # Errors
    /// The consensus has ended.
    pub async fn purge(&self, index: u64) -> Result<(), String> {
        self.raft.trigger().purge_log(index).await.map_err(|fatal| fatal.to_string())
    }

    /// Installs a snapshot whose content is all here, sent by the leader of `vote`. Answers with the vote that binds
    /// this node then: another one means that nothing was installed.
    ///
    /// # Errors
    /// A membership that does not decode; the consensus has ended.
    pub async fn install(&self, from: Vote, capture: Capture) -> Result<Vote, Status> {
        let meta = capture.meta.clone();
        let snapshot = snap(&meta, SnapshotData::new(capture)).map_err(|e| bad(e.to_string()))?;
        let installed = self.raft.install_full_snapshot(raft_vote(from), snapshot).await;
        let reply = installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        Ok(vote(&reply.vote))
    }

    /// Asks this node, which must lead, to hand leadership over to `to`. Returns once asked.
    ///
    /// # Errors
    /// The consensus has ended.
    pub async fn hand_over(&self, to: u64) -> Result<(), ProposeError> {
        self.raft.trigger().transfer_leader(to).await.map_err(|fatal| stopped(&fatal))
    }
}

/// What a leader that steps down does.
impl Consensus {
    /// While true, it sends no heartbeats and does not stand for election.
    pub fn hush(&self, hushed: bool) {
        self.raft.runtime_config().heartbeat(!hushed);
        self.raft.runtime_config().elect(!hushed);
    }
}

/// What peers say to it.
impl Consensus {
    /// A peer asks for a vote.
    ///
    /// # Errors
    /// A request that is none; the consensus has ended.
    pub async fn heed_vote(&self, request: &proto::VoteRequest) -> Result<proto::VoteReply, Status> {
        let request = convert::take_vote_request(request).map_err(bad)?;
        self.raft.vote(request).await.map(|reply| convert::put_voted(&reply)).map_err(failed)
    }

    /// A peer asks whether it would be voted for.
    ///
    /// # Errors
    /// As for [`Consensus::heed_vote`].
    pub async fn heed_pre_vote(&self, request: &proto::VoteRequest) -> Result<proto::VoteReply, Status> {
        let request = convert::take_vote_request(request).map_err(bad)?;
        self.raft.pre_vote(request).await.map(|reply| convert::put_voted(&reply)).map_err(failed)
    }

    /// A leader is there.
    ///
    /// # Errors
    /// A request that is none or has entries; the consensus has ended.
    pub async fn heed_heartbeat(&self, request: proto::AppendRequest) -> Result<proto::AppendReply, Status> {
        let Append(request) = convert::take_append(request).map_err(|unread| bad(unread.why))?;
        if !request.entries.is_empty() {
            return Err(bad("a heartbeat with entries".into()));
        }
        let previous = request.prev_log_id;
        let reply = self.raft.append_entries(request).await.map_err(failed)?;
        Ok(convert::put_appended(&reply.into_stream_result(previous, previous)))
    }

    /// The leader hands over to somebody, to this node maybe.
    ///
    /// # Errors
    /// A request that is none; the consensus has ended.
    pub async fn heed_transfer(
        &self,
        request: &proto::TransferRequest,
    ) -> Result<proto::TransferReply, Status> {
        let request = convert::take_transfer(request).map_err(bad)?;
        let reply = self.raft.handle_transfer_leader(request).await;
        reply.map(|reply| convert::put_transferred(&reply)).map_err(failed)
    }

    /// Entries from a leader, answered in order when they are flushed. Nothing comes after an answer that is not a match.
    pub fn append<S>(&self, requests: S) -> impl Stream<Item = Result<proto::AppendReply, Status>> + Send
    where
        S: Stream<Item = Append> + Send + 'static,
    {
        let answers = self.raft.stream_append(requests.map(|Append(request)| request));
        answers.map(|answer| answer.map(|result| convert::put_appended(&result)).map_err(failed))
    }
}

/// openraft's answer to a write that did not go through.
fn not_written(error: ClientWriteError<TypeConfig>) -> Written {
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            let why = ProposeError::unavailable(format!("not the leader ({:?})", forward.reason));
            match forward.reason {
                ForwardReason::LeaseExpired => Written::Later(why),
                _ => Written::Refused(why),
            }
        }
        ClientWriteError::LogEntryDiscarded(_) => {
            Written::Unknown(ProposeError::unknown("leadership changed while the record was on its way"))
        }
        other => Written::Refused(ProposeError::unavailable(other.to_string())),
    }
}

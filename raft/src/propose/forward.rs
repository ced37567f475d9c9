//! Proposals to a leader elsewhere, over the forward connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use nativelog::ledger::Verdict;
use nativelog::record::{LogRecord, proto as record_proto};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::proposal::{Outcome, Proposal, ProposalStream, QUEUE};
use super::proposer::Proposer;
use crate::config::MESSAGE_BYTES_MAX;
use crate::error::ProposeError;
use crate::identity::Check;
use crate::network::convert::{put_record, take_record};
use crate::network::peers::{Lane, Peers, never_sent};
use crate::positions::{from_position, position};
use crate::proto;

fn encode_request(seq: u64, record: &LogRecord) -> proto::ProposeRequest {
    let proto::Record { header, payload } = put_record(record);
    proto::ProposeRequest { seq, header, payload }
}

/// The record of a request from another node.
pub(crate) fn decode_request(request: proto::ProposeRequest) -> Result<LogRecord, String> {
    take_record(&request.header, request.payload)
}

/// The answer to a request of another node.
pub(crate) fn encode_reply(seq: u64, outcome: Outcome) -> proto::ProposeReply {
    use proto::FailureClass as Class;
    use proto::propose_reply::Outcome as Out;
    let failed = |class: Class, why: String| Out::Failed(proto::Failed { class: class.into(), why });
    let outcome = match outcome {
        Ok((id, verdict)) => Out::Decided(proto::Decided {
            position: (id != Default::default()).then(|| position(id)),
            verdict: verdict.to_proto().encode_to_vec().into(),
        }),
        Err(ProposeError::Unavailable { why }) => failed(Class::Unavailable, why),
        Err(ProposeError::Unknown { why }) => failed(Class::Unknown, why),
        Err(ProposeError::Fault { why }) => failed(Class::Fault, why),
    };
    proto::ProposeReply { seq, outcome: Some(outcome) }
}

fn decode_reply(reply: proto::ProposeReply) -> Outcome {
    use proto::FailureClass as Class;
    use proto::propose_reply::Outcome as Out;
    let unreadable =
        |why: String| ProposeError::unknown(format!("the leader's answer cannot be read: {why}"));
    match reply.outcome {
        None => Err(unreadable("it is empty".into())),
        Some(Out::Decided(decided)) => {
            let verdict =
                record_proto::Verdict::decode(decided.verdict).map_err(|e| unreadable(e.to_string()))?;
            let verdict = Verdict::from_proto(&verdict).map_err(|e| unreadable(e.to_string()))?;
            Ok((decided.position.as_ref().map(from_position).unwrap_or_default(), verdict))
        }
        Some(Out::Failed(failed)) => Err(match failed.class() {
            Class::Unavailable => ProposeError::unavailable(failed.why),
            // The leader stops, this node does not: whether the record is in the log is open.
            Class::Unknown | Class::Fault | Class::Unspecified => ProposeError::unknown(failed.why),
        }),
    }
}

/// A call that brought no answer.
fn lost(leader: u64, status: &Status) -> ProposeError {
    let why = format!("node {leader}, the leader: {}", status.message());
    // `FailedPrecondition` and `InvalidArgument` come from a node that took nothing.
    let refused = matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument);
    if never_sent(status) || refused { ProposeError::unavailable(why) } else { ProposeError::unknown(why) }
}

/// Proposes one record to `leader`.
pub(super) async fn propose_once(proposer: &Proposer, leader: u64, record: &LogRecord) -> Outcome {
    // As long as the leader does not answer nothing is sent, so that nothing becomes unknown.
    proposer.quorum().way_to(leader).await?;
    let patience = proposer.config.answer_stall + proposer.config.leader_patience;
    let answered = tokio::select! {
        answered = tokio::time::timeout(patience, propose_to(&proposer.peers, leader, record)) => answered,
        why = proposer.quorum().lost() => return Err(ProposeError::unknown(why)),
        () = proposer.quorum().deposed(leader) => {
            return Err(ProposeError::unknown(format!("node {leader} leads no more")));
        }
    };
    match answered {
        Err(_) => Err(ProposeError::unknown(format!("node {leader}, the leader, does not answer"))),
        Ok(outcome) => outcome,
    }
}

/// Proposes one record to `leader`, and waits as long as it takes.
pub(crate) async fn propose_to(peers: &Peers, leader: u64, record: &LogRecord) -> Outcome {
    let client = peers.member(leader, Lane::Forward, Check::Full);
    let mut client = client.map_err(|status| ProposeError::unavailable(status.message()))?;
    match client.propose(encode_request(0, record)).await {
        Err(status) => Err(lost(leader, &status)),
        Ok(reply) => decode_reply(reply.into_inner()),
    }
}

/// What was sent and not answered; `None` once the stream has ended.
struct Open(Mutex<Option<HashMap<u64, Proposal>>>);

impl Open {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, Proposal>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False, and the proposal answered, when the stream has ended.
    fn insert(&self, seq: u64, proposal: Proposal) -> bool {
        if let Some(open) = self.lock().as_mut() {
            open.insert(seq, proposal);
            return true;
        }
        proposal.answer(Err(ProposeError::unavailable("the stream to the leader has ended")));
        false
    }

    fn remove(&self, seq: u64) -> Option<Proposal> {
        self.lock().as_mut()?.remove(&seq)
    }

    fn is_empty(&self) -> bool {
        self.lock().as_ref().is_none_or(HashMap::is_empty)
    }

    fn end(&self, why: &str) {
        let open = self.lock().take();
        for (_, proposal) in open.into_iter().flatten() {
            proposal.answer(Err(ProposeError::unknown(why)));
        }
    }
}

/// Opens a stream to `leader`.
pub(super) async fn open(proposer: &Arc<Proposer>, leader: u64) -> Result<ProposalStream, ProposeError> {
    let unavailable =
        |status: Status| ProposeError::unavailable(format!("node {leader}: {}", status.message()));
    proposer.quorum().way_to(leader).await?;
    let mut client = proposer.peers.member(leader, Lane::Forward, Check::Full).map_err(unavailable)?;
    let (sender, proposals) = mpsc::channel(QUEUE);
    let (over, ended) = watch::channel(false);
    let open = Arc::new(Open(Mutex::new(Some(HashMap::new()))));
    let opening = client.propose_stream(uncopied::request(
        Box::pin(requests(proposals, open.clone(), ended)),
        MESSAGE_BYTES_MAX,
    ));
    let patience = proposer.config.connect_timeout + proposer.config.leader_patience;
    // The caller has no handle yet, so that nothing was sent: no failure here leaves an outcome open.
    let replies = tokio::select! {
        replies = tokio::time::timeout(patience, opening) => replies,
        why = proposer.quorum().lost() => return Err(ProposeError::unavailable(why)),
        () = proposer.quorum().deposed(leader) => {
            return Err(ProposeError::unavailable(format!("node {leader} leads no more")));
        }
    };
    let replies = replies
        .map_err(|_| unavailable(Status::deadline_exceeded("it takes no proposals")))?
        .map_err(unavailable)?
        .into_inner();
    let listener = proposer.clone();
    tokio::spawn(async move {
        let why = listen(&listener, leader, replies, &open).await;
        over.send_replace(true);
        open.end(&why);
    });
    Ok(ProposalStream { intake: proposer.intake.clone(), sender, leader })
}

/// Proposals as requests, taken as fast as the connection has room.
fn requests(
    mut intake: mpsc::Receiver<Proposal>,
    open: Arc<Open>,
    mut ended: watch::Receiver<bool>,
) -> impl Stream<Item = proto::ProposeRequest> + Send + 'static {
    async_stream::stream! {
        let mut seq = 0;
        loop {
            let proposal = tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => break,
                proposal = intake.recv() => proposal,
            };
            let Some(proposal) = proposal else { break };
            seq += 1;
            let request = encode_request(seq, &proposal.record);
            if !open.insert(seq, proposal) {
                break;
            }
            yield request;
        }
    }
}

/// Hands out answers until the stream ends, and says why it ended.
async fn listen(
    proposer: &Proposer,
    leader: u64,
    mut replies: tonic::Streaming<proto::ProposeReply>,
    open: &Open,
) -> String {
    // The leader gives up first, so that its answers arrive.
    let stall = proposer.config.answer_stall + proposer.config.heartbeat;
    let mut changes = proposer.consensus.changes();
    let lost = proposer.quorum().lost();
    tokio::pin!(lost);
    loop {
        let outstanding = !open.is_empty();
        tokio::select! {
            biased;
            reply = replies.message() => match reply {
                Ok(Some(reply)) => {
                    if let Some(proposal) = open.remove(reply.seq) {
                        proposal.answer(decode_reply(reply));
                    }
                }
                Ok(None) => return format!("node {leader} leads no more"),
                Err(status) => return format!("node {leader}, the leader: {}", status.message()),
            },
            changed = changes.changed() => {
                if !changed || changes.leader().is_some_and(|now| now != leader) {
                    return "the leader has changed".into();
                }
            }
            why = &mut lost => return why,
            () = tokio::time::sleep(stall), if outstanding => {
                return format!("node {leader}, the leader, does not answer");
            }
        }
    }
}

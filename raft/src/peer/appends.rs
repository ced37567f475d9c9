//! Entries from a leader: decoded, checked and given room before the consensus sees them.
//!
//! **Never.** What does not pass is an RPC error to the leader, never an entry of this log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use nativelog::shape::check_shape;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use uncopied::Incoming;

use super::owned::Owned;
use crate::agreement::Agreement;
use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::network::REFUSED_ENTRY;
use crate::network::convert::{self, Append};
use crate::own_vote;
use crate::propose::Proposer;
use crate::proto::{self, append_reply::Outcome};
use crate::terms;

/// Requests between the connection and the consensus; their bytes are bounded by permits.
const AHEAD: usize = 4;

/// What the reading half of an append stream shares with the answering half.
#[derive(Default)]
struct Ingress {
    /// Room that unanswered requests hold, oldest first.
    held: VecDeque<OwnedSemaphorePermit>,
    /// Why the reading half stopped, if not because the leader did.
    refusal: Option<Status>,
}

type Shared = Arc<Mutex<Ingress>>;

/// Room that was not given back when a stream ended: its entries may still wait for the log's writer.
struct Leftover {
    shared: Shared,
    intake: Arc<Intake>,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner).held);
        // Without a runtime nothing runs any more that could fill it.
        let Ok(runtime) = Handle::try_current() else { return };
        if held.is_empty() {
            return;
        }
        let intake = self.intake.clone();
        runtime.spawn(async move {
            intake.settled().await;
            drop(held);
        });
    }
}

/// A leader is there; it hears how far this node is behind.
///
/// # Errors
/// A request that is none or has entries; the consensus has ended.
pub async fn heartbeat(
    proposer: &Proposer,
    request: proto::AppendRequest,
) -> Result<proto::AppendReply, Status> {
    let reply = proposer.consensus.heed_heartbeat(request).await?;
    Ok(proto::AppendReply { behind: proposer.intake.behind(), ..reply })
}

/// Feeds an append stream to the consensus and answers in order. Ends after the first answer that is
/// not a match, and with the refusal when a request does not pass the ingress.
pub fn replies(
    proposer: &Proposer,
    agreement: Arc<Agreement>,
    from: u64,
    requests: Incoming<proto::AppendRequest>,
) -> impl Stream<Item = Result<proto::AppendReply, Status>> + Send + use<> {
    let (consensus, intake, node) =
        (proposer.consensus.clone(), proposer.intake.clone(), proposer.config.node);
    let shared = Shared::default();
    let leftover = Leftover { shared: shared.clone(), intake: intake.clone() };
    let (entries, taken) = mpsc::channel(AHEAD);
    let door = Door { consensus: consensus.clone(), intake: intake.clone(), agreement, node, from };
    let reader = Owned(tokio::spawn(read(door, requests, entries, shared.clone())));
    async_stream::stream! {
        let _reader = (reader, leftover);
        let mut answers = std::pin::pin!(consensus.append(ReceiverStream::new(taken)));
        while let Some(answer) = answers.next().await {
            shared.lock().unwrap_or_else(PoisonError::into_inner).held.pop_front();
            let matched = matches!(&answer, Ok(reply) if matches!(reply.outcome, Some(Outcome::Matched(_))));
            yield answer.map(|reply| proto::AppendReply { behind: intake.behind(), ..reply });
            if !matched {
                return;
            }
        }
        let refusal = shared.lock().unwrap_or_else(PoisonError::into_inner).refusal.take();
        if let Some(refusal) = refusal {
            yield Err(refusal);
        }
    }
}

/// What a request must pass, and whose it is.
struct Door {
    consensus: Consensus,
    intake: Arc<Intake>,
    agreement: Arc<Agreement>,
    node: u64,
    from: u64,
}

async fn read(
    door: Door,
    mut requests: Incoming<proto::AppendRequest>,
    entries: mpsc::Sender<Append>,
    shared: Shared,
) {
    let refusal = loop {
        match requests.message().await {
            Ok(None) => break None,
            Err(status) => break Some(status),
            Ok(Some(request)) => match ingress(&door, request).await {
                Err(status) => {
                    let (node, from, why) = (door.node, door.from, status.message());
                    // A node that is short of space says so itself, once; the leader comes again all the time.
                    if status.code() == Code::ResourceExhausted {
                        tracing::debug!(node, from, why, "entries wait for space");
                    } else {
                        tracing::error!(node, from, why, "entries are refused");
                    }
                    break Some(status);
                }
                Ok((request, permit)) => {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).held.push_back(permit);
                    if entries.send(request).await.is_err() {
                        break None;
                    }
                }
            },
        }
    };
    // Set before `entries` is dropped, which is what ends the answers.
    shared.lock().unwrap_or_else(PoisonError::into_inner).refusal = refusal;
}

/// Says which entry it is that nobody here can take: its leader must not wait for it for ever.
fn refused_entry(index: u64, why: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(REFUSED_ENTRY, index.into());
    Status::with_metadata(Code::InvalidArgument, format!("entry {index}: {why}"), metadata)
}

/// Decodes and checks one request and makes room for its bytes.
async fn ingress(
    door: &Door,
    request: proto::AppendRequest,
) -> Result<(Append, OwnedSemaphorePermit), Status> {
    let intake = &door.intake;
    // First: what is far ahead must not look like the history of a cluster, which would stop this node.
    terms::in_reach(door.agreement.term(), terms::of_append(&request)).map_err(Status::invalid_argument)?;
    own_vote::is_of(door.from, request.vote.as_ref())?;
    door.agreement.heed(door.from, || door.consensus.binding(), &request)?;
    let request = convert::take_append(request).map_err(|unread| match unread.entry {
        Some(index) => refused_entry(index, &unread.why),
        None => Status::invalid_argument(unread.why),
    })?;
    let mut bytes = 0;
    let mut takes_space = false;
    for (index, record) in request.records() {
        check_shape(&record.header, Some(&record.payload))
            .map_err(|why| refused_entry(index, &why.to_string()))?;
        bytes += record.bytes();
        takes_space |= record.brings_content();
    }
    if request.entries() > 0 {
        intake.foreground().touch();
    }
    let permit = intake.append_permit(bytes).await;
    let permit = permit.ok_or_else(|| Status::unavailable("this node is shutting down"))?;
    // After the wait: what is taken in on a full disk is at most what the permits allow.
    if takes_space {
        let admitted = intake.admit_content(request.entries(), bytes, request.last_index());
        admitted.map_err(Status::resource_exhausted)?;
    }
    Ok((request, permit))
}

//! Entries from a leader: decoded, checked and given room before the consensus sees them.
//!
//! **Never.** What does not pass is an RPC error to the leader, never an entry of this log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use nativelog::shape::check_shape;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use uncopied::Incoming;

use super::Owned;
use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::network::convert::{self, Append};
use crate::proto::{self, append_reply::Outcome};

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

/// Feeds an append stream to the consensus and answers in order. Ends after the first answer that is
/// not a match, and with the refusal when a request does not pass the ingress.
pub fn replies(
    consensus: Consensus,
    intake: Arc<Intake>,
    (node, from): (u64, u64),
    requests: Incoming<proto::AppendRequest>,
) -> impl Stream<Item = Result<proto::AppendReply, Status>> + Send {
    let shared = Shared::default();
    let (entries, taken) = mpsc::channel(AHEAD);
    let reader = Owned(tokio::spawn(read(intake, (node, from), requests, entries, shared.clone())));
    async_stream::stream! {
        let _reader = reader;
        let mut answers = std::pin::pin!(consensus.append(ReceiverStream::new(taken)));
        while let Some(answer) = answers.next().await {
            shared.lock().unwrap_or_else(PoisonError::into_inner).held.pop_front();
            let matched = matches!(&answer, Ok(reply) if matches!(reply.outcome, Some(Outcome::Matched(_))));
            yield answer;
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

async fn read(
    intake: Arc<Intake>,
    (node, from): (u64, u64),
    mut requests: Incoming<proto::AppendRequest>,
    entries: mpsc::Sender<Append>,
    shared: Shared,
) {
    let refusal = loop {
        match requests.message().await {
            Ok(None) => break None,
            Err(status) => break Some(status),
            Ok(Some(request)) => match ingress(&intake, request).await {
                Err(status) => {
                    let why = status.message();
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

/// Decodes and checks one request and makes room for its bytes.
async fn ingress(
    intake: &Intake,
    request: proto::AppendRequest,
) -> Result<(Append, OwnedSemaphorePermit), Status> {
    let request = convert::take_append(request).map_err(Status::invalid_argument)?;
    let mut bytes = 0;
    let mut takes_space = false;
    for (index, record) in request.records() {
        check_shape(&record.header, Some(&record.payload))
            .map_err(|why| Status::invalid_argument(format!("entry {index}: {why}")))?;
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

//! The receiving side of every peer call.
//!
//! Every call is first checked by [`Known::admit`](crate::identity::Known::admit). Entries are
//! checked before openraft sees them: shape, limits, payload length and digests. What does not pass
//! is an RPC error to the leader, never an entry of this log.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use nativelog::record::{Kind, LogRecord};
use nativelog::shape::check_shape;
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use uncopied::{Incoming, Inlet};

use super::convert;
use crate::config::MESSAGE_BYTES_MAX;
use crate::error::ProposeError;
use crate::identity::Check;
use crate::leader::Leadership;
use crate::propose::{self, Answer, Proposal};
use crate::proto::{self, peer_server};
use crate::replica::Inner;
use crate::transfer::{install, serve::Parts};
use crate::types::{Command, TypeConfig};
use crate::{read, rejoin, status};

type Reply<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Requests between the connection and openraft; their bytes are bounded by permits.
const AHEAD: usize = 4;

/// Calls whose requests carry payloads.
const WITH_PAYLOADS: &[&str] = &["/epochlog.raft.Peer/StreamAppend", "/epochlog.raft.Peer/ProposeStream"];

/// What peers may call.
pub struct PeerService {
    inner: Arc<Inner>,
}

/// The service of one replica.
pub(crate) fn service(inner: Arc<Inner>) -> Inlet<peer_server::PeerServer<PeerService>> {
    let service = peer_server::PeerServer::new(PeerService { inner })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Inlet::new(service, WITH_PAYLOADS)
}

impl PeerService {
    fn admit<T>(&self, request: &Request<T>, check: Check) -> Result<u64, Status> {
        self.inner.known.admit(request.metadata(), check)
    }

    /// A node that stops takes no part in anything new.
    fn not_closing(&self) -> Result<(), Status> {
        match self.inner.is_closing() {
            true => Err(Status::unavailable("this node is shutting down")),
            false => Ok(()),
        }
    }

    /// The leadership that proposals from elsewhere go to.
    async fn leadership(&self) -> Result<Arc<Leadership>, ProposeError> {
        self.inner.running()?;
        let leadership = self.inner.leadership.borrow().clone();
        let leadership = leadership.ok_or_else(|| ProposeError::unavailable("this node does not lead"))?;
        if leadership.wait_ready(self.inner.config.election_timeout.1).await {
            return Ok(leadership);
        }
        Err(ProposeError::unavailable("this leader is not ready"))
    }
}

fn bad(why: String) -> Status {
    Status::invalid_argument(why)
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    async fn hello(&self, request: Request<proto::HelloRequest>) -> Reply<proto::HelloReply> {
        self.admit(&request, Check::Introduction)?;
        self.not_closing()?;
        Ok(Response::new(self.inner.hello()))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Reply<proto::VoteReply> {
        self.admit(&request, Check::Full)?;
        let request = convert::take_vote_request(request.get_ref()).map_err(bad)?;
        let reply = self.inner.raft.vote(request).await.map_err(failed)?;
        Ok(Response::new(convert::put_voted(&reply)))
    }

    async fn pre_vote(&self, request: Request<proto::VoteRequest>) -> Reply<proto::VoteReply> {
        self.admit(&request, Check::Full)?;
        let request = convert::take_vote_request(request.get_ref()).map_err(bad)?;
        let reply = self.inner.raft.pre_vote(request).await.map_err(failed)?;
        Ok(Response::new(convert::put_voted(&reply)))
    }

    async fn heartbeat(&self, request: Request<proto::AppendRequest>) -> Reply<proto::AppendReply> {
        self.admit(&request, Check::Full)?;
        let request = convert::take_append(request.into_inner()).map_err(bad)?;
        if !request.entries.is_empty() {
            return Err(bad("a heartbeat with entries".into()));
        }
        let previous = request.prev_log_id;
        let reply = self.inner.raft.append_entries(request).await.map_err(failed)?;
        Ok(Response::new(convert::put_appended(&reply.into_stream_result(previous, previous))))
    }

    async fn transfer_leader(&self, request: Request<proto::TransferRequest>) -> Reply<proto::TransferReply> {
        self.admit(&request, Check::Full)?;
        self.not_closing()?;
        let request = convert::take_transfer(request.get_ref()).map_err(bad)?;
        let reply = self.inner.raft.handle_transfer_leader(request).await.map_err(failed)?;
        Ok(Response::new(convert::put_transferred(&reply)))
    }

    type StreamAppendStream = Replies<proto::AppendReply>;

    async fn stream_append(
        &self,
        mut request: Request<Streaming<proto::AppendRequest>>,
    ) -> Reply<Self::StreamAppendStream> {
        let from = self.admit(&request, Check::Full)?;
        let requests = Incoming::take(&mut request, MESSAGE_BYTES_MAX, uncopied::decode)?;
        let replies = append_replies(self.inner.clone(), from, requests);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn propose(&self, request: Request<proto::ProposeRequest>) -> Reply<proto::ProposeReply> {
        self.admit(&request, Check::Full)?;
        let request = request.into_inner();
        let seq = request.seq;
        let record = propose::decode_request(request).map_err(bad)?;
        let outcome = async {
            let leadership = self.leadership().await?;
            let _permit = propose::permit(&self.inner, &record).await?;
            propose::propose_tied(&self.inner, &leadership, &record).await
        };
        Ok(Response::new(propose::encode_reply(seq, outcome.await)))
    }

    type ProposeStreamStream = Replies<proto::ProposeReply>;

    async fn propose_stream(
        &self,
        mut request: Request<Streaming<proto::ProposeRequest>>,
    ) -> Reply<Self::ProposeStreamStream> {
        self.admit(&request, Check::Full)?;
        let requests = Incoming::take(&mut request, MESSAGE_BYTES_MAX, uncopied::decode)?;
        let leadership = self.leadership().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let replies = propose_replies(self.inner.clone(), leadership, requests);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn read_index(&self, request: Request<proto::ReadIndexRequest>) -> Reply<proto::ReadIndexReply> {
        self.admit(&request, Check::Full)?;
        let at =
            read::read_index(&self.inner).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(proto::ReadIndexReply { position: Some(convert::position(at)) }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotPart>>,
    ) -> Reply<proto::SnapshotReply> {
        let from = self.admit(&request, Check::Full)?;
        self.not_closing()?;
        let reply = install::serve(self.inner.clone(), from, request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    type FetchManifestStream = Parts;

    async fn fetch_manifest(&self, request: Request<proto::ManifestRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.inner.content.manifest(request.into_inner()).await?))
    }

    type FetchBlobsStream = Parts;

    async fn fetch_blobs(&self, request: Request<proto::BlobsRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.inner.content.blobs(request.into_inner()).await?))
    }

    type FetchRangesStream = Parts;

    async fn fetch_ranges(&self, request: Request<proto::RangesRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.inner.content.ranges(request.into_inner()).await?))
    }

    type FetchPackedStream = Parts;

    async fn fetch_packed(&self, request: Request<proto::PackedRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.inner.content.packed(request.into_inner()).await?))
    }

    type FetchPayloadStream = Parts;

    async fn fetch_payload(&self, request: Request<proto::PayloadRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.inner.content.payload(request.into_inner()).await?))
    }

    type RejoinStream = Replies<proto::RejoinPart>;

    async fn rejoin(&self, request: Request<proto::RejoinRequest>) -> Reply<Self::RejoinStream> {
        let from = self.admit(&request, Check::Full)?;
        self.not_closing()?;
        let parts = rejoin::serve::parts(self.inner.clone(), from, request.get_ref().vote_term);
        Ok(Response::new(Box::pin(parts)))
    }

    async fn status(&self, request: Request<proto::StatusRequest>) -> Reply<proto::StatusReply> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(status::to_proto(self.inner.status())))
    }
}

/// A task that ends with its owner.
struct Owned(tokio::task::JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the reading half of an append stream shares with the answering half.
#[derive(Default)]
struct Ingress {
    /// Room that unanswered requests hold, oldest first.
    held: VecDeque<OwnedSemaphorePermit>,
    /// Why the reading half stopped, if not because the leader did.
    refusal: Option<Status>,
}

/// Feeds an append stream to openraft and answers in order. Ends after the first answer that is
/// not a match, and with the refusal when a request does not pass the ingress.
fn append_replies(
    inner: Arc<Inner>,
    from: u64,
    requests: Incoming<proto::AppendRequest>,
) -> impl Stream<Item = Result<proto::AppendReply, Status>> + Send {
    let shared = Arc::new(Mutex::new(Ingress::default()));
    let (entries, taken) = mpsc::channel(AHEAD);
    let raft = inner.raft.clone();
    let reader = Owned(tokio::spawn(read_appends(inner, from, requests, entries, shared.clone())));
    async_stream::stream! {
        let _reader = reader;
        let mut answers = std::pin::pin!(raft.stream_append(ReceiverStream::new(taken)));
        while let Some(answer) = answers.next().await {
            shared.lock().unwrap_or_else(PoisonError::into_inner).held.pop_front();
            match answer {
                Ok(result) => {
                    yield Ok(convert::put_appended(&result));
                    if result.is_err() {
                        return;
                    }
                }
                Err(fatal) => {
                    yield Err(failed(fatal));
                    return;
                }
            }
        }
        let refusal = shared.lock().unwrap_or_else(PoisonError::into_inner).refusal.take();
        if let Some(refusal) = refusal {
            yield Err(refusal);
        }
    }
}

async fn read_appends(
    inner: Arc<Inner>,
    from: u64,
    mut requests: Incoming<proto::AppendRequest>,
    entries: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    shared: Arc<Mutex<Ingress>>,
) {
    let refusal = loop {
        match requests.message().await {
            Ok(None) => break None,
            Err(status) => break Some(status),
            Ok(Some(request)) => match ingress(&inner, request).await {
                Err(status) => {
                    let (node, why) = (inner.config.node, status.message());
                    // A node that is short of space says so itself, once; the leader comes again all the time.
                    if status.code() == tonic::Code::ResourceExhausted {
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
    inner: &Inner,
    request: proto::AppendRequest,
) -> Result<(AppendEntriesRequest<TypeConfig>, OwnedSemaphorePermit), Status> {
    let request = convert::take_append(request).map_err(bad)?;
    let mut bytes = 0u64;
    let mut takes_space = false;
    for entry in &request.entries {
        if let EntryPayload::Normal(Command(record)) = &entry.payload {
            check_shape(&record.header, Some(&record.payload))
                .map_err(|why| bad(format!("entry {}: {why}", entry.log_id.index)))?;
            bytes += record.bytes();
            takes_space |= brings_content(record);
        }
    }
    if !request.entries.is_empty() {
        inner.foreground.touch();
    }
    let payload = bytes;
    let bytes = u32::try_from(bytes.min(inner.config.append_bytes() as u64)).expect("32 MiB fits");
    let permit = inner.append_permits.clone().acquire_many_owned(bytes).await;
    let permit = permit.map_err(|_| Status::unavailable("this node is shutting down"))?;
    // After the wait: what is taken in on a full disk is at most what the permits allow.
    if takes_space {
        let last = request.entries.last().map_or(0, |entry| entry.log_id.index);
        inner.admit_content(request.entries.len(), payload, last).map_err(Status::resource_exhausted)?;
    }
    Ok((request, permit))
}

/// True for records that bring content or begin something. The others free space, end something, or are what a
/// leader needs to lead: they pass on a disk that is nearly full, and the reserve holds them.
pub(crate) fn brings_content(record: &LogRecord) -> bool {
    use Kind::{Begin, Chunk, Link, Pack, Part, Reuse, Whole, Zero};
    let kind = record.header.kind.as_ref();
    record.header.payload_bytes > 0
        || matches!(
            kind,
            Some(Begin(_) | Part(_) | Chunk(_) | Pack(_) | Zero(_) | Reuse(_) | Link(_) | Whole(_))
        )
}

/// Feeds proposals from elsewhere to this leadership. Ends with it.
fn propose_replies(
    inner: Arc<Inner>,
    leadership: Arc<Leadership>,
    mut requests: Incoming<proto::ProposeRequest>,
) -> impl Stream<Item = Result<proto::ProposeReply, Status>> + Send {
    let (intake, proposals) = mpsc::channel(1);
    let (answers, answered) = mpsc::unbounded_channel();
    tokio::spawn(propose::run(inner.clone(), leadership, proposals));
    let reader = Owned(tokio::spawn(async move {
        loop {
            // The replies end when this ends, so it must not wait for a request that never comes.
            let request = tokio::select! {
                request = requests.message() => request,
                () = intake.closed() => break,
            };
            let Ok(Some(request)) = request else { break };
            let seq = request.seq;
            let answers = answers.clone();
            let record = match propose::decode_request(request) {
                Ok(record) => record,
                Err(why) => {
                    let outcome = Ok((Default::default(), propose::malformed(why)));
                    drop(answers.send(Ok(propose::encode_reply(seq, outcome))));
                    continue;
                }
            };
            let permit = tokio::select! {
                permit = propose::permit(&inner, &record) => permit,
                () = intake.closed() => break,
            };
            let permit = match permit {
                Ok(permit) => permit,
                Err(error) => {
                    drop(answers.send(Ok(propose::encode_reply(seq, Err(error)))));
                    continue;
                }
            };
            let answer: Answer =
                Box::new(move |outcome| drop(answers.send(Ok(propose::encode_reply(seq, outcome)))));
            if intake.send(Proposal { record, permit, answer }).await.is_err() {
                break;
            }
        }
    }));
    async_stream::stream! {
        let _reader = reader;
        let mut answered = UnboundedReceiverStream::new(answered);
        while let Some(answer) = answered.next().await {
            yield answer;
        }
    }
}

//! The receiving side of every peer call.
//!
//! Every call is first checked by [`Known::admit`](crate::identity::Known::admit), then answered by the room whose
//! business it is. A call that did not come through the door for peers, over a connection that was proved, is refused
//! before anything of it is looked at; so is one that names a term out of reach (`terms`), or brings the vote of another node
//! than proved its connection (`own_vote`).

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};
use uncopied::{Incoming, Inlet};

use super::{appends, proposals};
use crate::agreement::Agreement;
use crate::config::MESSAGE_BYTES_MAX;
use crate::error::ProposeError;
use crate::hand_over::HandOver;
use crate::identity::Check;
use crate::leader::Leadership;
use crate::membership::Members;
use crate::network::door::Caller;
use crate::own_vote;
use crate::positions::position;
use crate::propose::{self, Proposer};
use crate::proto::{self, peer_server};
use crate::rejoin;
use crate::status::{self, Reporter};
use crate::terms;
use crate::transfer::serve::{Parts, Service};
use crate::transfer::{Transfers, install};

type Reply<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Calls whose requests carry payloads.
const WITH_PAYLOADS: &[&str] = &["/epochlog.raft.Peer/StreamAppend", "/epochlog.raft.Peer/ProposeStream"];

/// The rooms that answer.
pub(crate) struct Rooms {
    pub proposer: Arc<Proposer>,
    pub members: Arc<Members>,
    pub transfers: Arc<Transfers>,
    pub content: Arc<Service>,
    pub reporter: Arc<Reporter>,
    pub hand_over: Arc<HandOver>,
    pub agreement: Arc<Agreement>,
}

/// What peers may call.
pub struct PeerService {
    rooms: Arc<Rooms>,
}

/// The service of one replica.
pub(crate) fn service(rooms: Arc<Rooms>) -> Inlet<peer_server::PeerServer<PeerService>> {
    let service = peer_server::PeerServer::new(PeerService { rooms })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Inlet::new(service, WITH_PAYLOADS)
}

impl PeerService {
    fn admit<T>(&self, request: &Request<T>, check: Check) -> Result<u64, Status> {
        let Some(Caller(proved)) = request.extensions().get::<Caller>().copied() else {
            return Err(Status::unauthenticated("this call is for peers, over a connection that was proved"));
        };
        self.rooms.members.known.admit(proved, request.metadata(), check)
    }

    /// Refuses terms that are too far ahead of this node's.
    fn in_reach(&self, named: impl IntoIterator<Item = u64>) -> Result<(), Status> {
        terms::in_reach(self.rooms.agreement.term(), named).map_err(bad)
    }

    /// Refuses what a candidate must not say.
    fn is_candidate(&self, from: u64, request: &proto::VoteRequest) -> Result<(), Status> {
        terms::of_a_candidate(self.rooms.agreement.term(), request).map_err(bad)?;
        own_vote::is_of(from, request.vote.as_ref())
    }

    fn proposer(&self) -> &Arc<Proposer> {
        &self.rooms.proposer
    }

    /// A node that stops takes no part in anything new.
    fn not_closing(&self) -> Result<(), Status> {
        match self.proposer().life.is_closing() {
            true => Err(Status::unavailable("this node is shutting down")),
            false => Ok(()),
        }
    }

    /// The leadership that proposals from elsewhere go to.
    async fn leadership(&self) -> Result<Arc<Leadership>, ProposeError> {
        let proposer = self.proposer();
        proposer.leading.ready(proposer.config.election_timeout.1).await
    }
}

fn bad(why: String) -> Status {
    Status::invalid_argument(why)
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    async fn hello(&self, request: Request<proto::HelloRequest>) -> Reply<proto::HelloReply> {
        self.admit(&request, Check::Introduction)?;
        self.not_closing()?;
        Ok(Response::new(self.rooms.members.hello()))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Reply<proto::VoteReply> {
        let from = self.admit(&request, Check::Full)?;
        self.is_candidate(from, request.get_ref())?;
        self.rooms.agreement.holds().map_err(Status::data_loss)?;
        Ok(Response::new(self.proposer().consensus.heed_vote(request.get_ref()).await?))
    }

    async fn pre_vote(&self, request: Request<proto::VoteRequest>) -> Reply<proto::VoteReply> {
        let from = self.admit(&request, Check::Full)?;
        self.is_candidate(from, request.get_ref())?;
        Ok(Response::new(self.proposer().consensus.heed_pre_vote(request.get_ref()).await?))
    }

    async fn heartbeat(&self, request: Request<proto::AppendRequest>) -> Reply<proto::AppendReply> {
        let from = self.admit(&request, Check::Full)?;
        let (proposer, request) = (self.proposer(), request.into_inner());
        self.in_reach(terms::of_append(&request))?;
        own_vote::is_of(from, request.vote.as_ref())?;
        self.rooms.agreement.heed(from, || proposer.consensus.binding(), &request)?;
        Ok(Response::new(appends::heartbeat(proposer, request).await?))
    }

    async fn transfer_leader(&self, request: Request<proto::TransferRequest>) -> Reply<proto::TransferReply> {
        let from = self.admit(&request, Check::Full)?;
        self.not_closing()?;
        let request = request.get_ref();
        let (vote, last) = (request.from_leader.as_ref(), request.last.as_ref());
        self.in_reach(terms::of_vote(vote).into_iter().chain(terms::of_position(last)))?;
        own_vote::is_of(from, vote)?;
        Ok(Response::new(self.proposer().consensus.heed_transfer(request).await?))
    }

    type StreamAppendStream = Replies<proto::AppendReply>;

    async fn stream_append(
        &self,
        mut request: Request<Streaming<proto::AppendRequest>>,
    ) -> Reply<Self::StreamAppendStream> {
        let from = self.admit(&request, Check::Full)?;
        let requests = Incoming::take(&mut request, MESSAGE_BYTES_MAX, uncopied::decode)?;
        let replies = appends::replies(self.proposer(), self.rooms.agreement.clone(), from, requests);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn propose(&self, request: Request<proto::ProposeRequest>) -> Reply<proto::ProposeReply> {
        self.admit(&request, Check::Full)?;
        let request = request.into_inner();
        let seq = request.seq;
        let record = propose::decode_request(request).map_err(bad)?;
        let outcome = async {
            let leadership = self.leadership().await?;
            self.proposer().propose_tied(&leadership, &record).await
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
        let replies = proposals::replies(self.proposer().clone(), leadership, requests);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn read_index(&self, request: Request<proto::ReadIndexRequest>) -> Reply<proto::ReadIndexReply> {
        self.admit(&request, Check::Full)?;
        let at = self.proposer().consensus.read_index().await;
        let at = at.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(proto::ReadIndexReply { position: Some(position(at)) }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotPart>>,
    ) -> Reply<proto::SnapshotReply> {
        let from = self.admit(&request, Check::Full)?;
        self.not_closing()?;
        let reply = install::serve(self.rooms.transfers.clone(), from, request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    type FetchManifestStream = Parts;

    async fn fetch_manifest(&self, request: Request<proto::ManifestRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.content.manifest(request.into_inner()).await?))
    }

    type FetchBlobsStream = Parts;

    async fn fetch_blobs(&self, request: Request<proto::BlobsRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.content.blobs(request.into_inner()).await?))
    }

    async fn stored_bytes(&self, request: Request<proto::StoredRequest>) -> Reply<proto::StoredReply> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.content.stored(request.into_inner()).await?))
    }

    type FetchRangesStream = Parts;

    async fn fetch_ranges(&self, request: Request<proto::RangesRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.content.ranges(request.into_inner()).await?))
    }

    type FetchPackedStream = Parts;

    async fn fetch_packed(&self, request: Request<proto::PackedRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.content.packed(request.into_inner()).await?))
    }

    type FetchPagesStream = Parts;

    async fn fetch_pages(&self, request: Request<proto::PagesRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.content.pages(request.into_inner()).await?))
    }

    type FetchPayloadStream = Parts;

    async fn fetch_payload(&self, request: Request<proto::PayloadRequest>) -> Reply<Parts> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.content.payload(request.into_inner()).await?))
    }

    type RejoinStream = Replies<proto::RejoinPart>;

    async fn rejoin(&self, request: Request<proto::RejoinRequest>) -> Reply<Self::RejoinStream> {
        let from = self.admit(&request, Check::Full)?;
        self.not_closing()?;
        self.in_reach([request.get_ref().vote_term])?;
        let parts = rejoin::serve::parts(self.rooms.members.clone(), from, request.get_ref().vote_term);
        Ok(Response::new(Box::pin(parts)))
    }

    async fn pulse(&self, request: Request<proto::PulseRequest>) -> Reply<proto::PulseReply> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(self.rooms.hand_over.pulse()))
    }

    async fn status(&self, request: Request<proto::StatusRequest>) -> Reply<proto::StatusReply> {
        self.admit(&request, Check::Full)?;
        Ok(Response::new(status::to_proto(self.rooms.reporter.status())))
    }
}

//! For tests of whoever is a client: nodes that serve what a test makes up, and say of every other call that they have
//! never heard of it. No product code belongs here.

use std::pin::Pin;

use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::pb;
use crate::pb::epochlog_server::{Epochlog, EpochlogServer};

/// The answers of a call that has several.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

type Answer<T> = Result<Response<T>, Status>;

fn unheard_of<T>() -> Result<T, Status> {
    Err(Status::unimplemented(""))
}

/// What a test makes up.
pub trait Served: Send + Sync + 'static {
    /// Answers a Commit.
    fn commit(
        &self,
        _requests: Streaming<pb::CommitRequest>,
    ) -> impl Future<Output = Result<Answers<pb::CommitReply>, Status>> + Send {
        std::future::ready(unheard_of())
    }

    /// Answers a Fetch.
    fn fetch(&self, _request: pb::FetchRequest) -> Result<Answers<pb::FetchReply>, Status> {
        unheard_of()
    }

    /// Answers how far the log is.
    fn reached(&self) -> Result<pb::ReachedReply, Status> {
        unheard_of()
    }

    /// Answers a List.
    fn list(&self) -> Result<pb::ListReply, Status> {
        unheard_of()
    }

    /// Answers a Show.
    fn show(&self, _request: pb::ShowRequest) -> Result<pb::ShowReply, Status> {
        unheard_of()
    }

    /// Answers an Expire.
    fn expire(&self) -> Result<pb::ExpireReply, Status> {
        unheard_of()
    }
}

/// Serves that at `listener`, as long as the runtime lives.
pub fn serve(served: impl Served, listener: TcpListener) {
    let server = tonic::transport::Server::builder().add_service(EpochlogServer::new(Node(served)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
}

struct Node<S>(S);

#[tonic::async_trait]
impl<S: Served> Epochlog for Node<S> {
    type CommitStream = Answers<pb::CommitReply>;
    type FetchStream = Answers<pb::FetchReply>;
    type VerifyStream = Answers<pb::VerifyReply>;
    type GcStream = Answers<pb::GcReply>;
    type VerifyObjectsStream = Answers<pb::VerifyObjectsReply>;

    async fn commit(&self, request: Request<Streaming<pb::CommitRequest>>) -> Answer<Self::CommitStream> {
        self.0.commit(request.into_inner()).await.map(Response::new)
    }
    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Answer<Self::FetchStream> {
        self.0.fetch(request.into_inner()).map(Response::new)
    }
    async fn reached(&self, _: Request<pb::ReachedRequest>) -> Answer<pb::ReachedReply> {
        self.0.reached().map(Response::new)
    }
    async fn open_writer(&self, _: Request<pb::OpenWriterRequest>) -> Answer<pb::OpenWriterReply> {
        unheard_of()
    }
    async fn list(&self, _: Request<pb::ListRequest>) -> Answer<pb::ListReply> {
        self.0.list().map(Response::new)
    }
    async fn show(&self, request: Request<pb::ShowRequest>) -> Answer<pb::ShowReply> {
        self.0.show(request.into_inner()).map(Response::new)
    }
    async fn expire(&self, _: Request<pb::ExpireRequest>) -> Answer<pb::ExpireReply> {
        self.0.expire().map(Response::new)
    }
    async fn attempts(&self, _: Request<pb::AttemptsRequest>) -> Answer<pb::AttemptsReply> {
        unheard_of()
    }
    async fn abort(&self, _: Request<pb::AbortRequest>) -> Answer<pb::AbortReply> {
        unheard_of()
    }
    async fn remove_job(&self, _: Request<pb::RemoveJobRequest>) -> Answer<pb::RemoveJobReply> {
        unheard_of()
    }
    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusReply> {
        unheard_of()
    }
    async fn verify(&self, _: Request<pb::VerifyRequest>) -> Answer<Self::VerifyStream> {
        unheard_of()
    }
    async fn gc(&self, _: Request<pb::GcRequest>) -> Answer<Self::GcStream> {
        unheard_of()
    }
    async fn verify_objects(
        &self,
        _: Request<pb::VerifyObjectsRequest>,
    ) -> Answer<Self::VerifyObjectsStream> {
        unheard_of()
    }
    async fn published_on(&self, _: Request<pb::PublishedOnRequest>) -> Answer<pb::PublishedOnReply> {
        unheard_of()
    }
}

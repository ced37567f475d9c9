//! The public gRPC API. Each call parses what comes in, asks the node, and answers; a failure is a
//! `Failure`, which travels in the status. No answer holds a path, an incarnation or the uuid of the cluster.

mod attempts;
mod call;
mod commit;
mod fetch;
mod objects;
mod published;
mod read;
mod status;
mod verify;
mod write;

use std::sync::Arc;

use client::{Failure, pb};
use pb::epochlog_server::Epochlog;
use tonic::{Request, Response, Status, Streaming};
use uncopied::Incoming;

use self::call::Answers;
use crate::guests;
use crate::node::Node;

/// The API of one node.
pub struct Api {
    node: Arc<Node>,
}

impl Api {
    /// The API of `node`.
    pub fn new(node: Arc<Node>) -> Api {
        Api { node }
    }

    fn answer<T>(&self, answer: Result<T, Failure>) -> Result<Response<T>, Status> {
        answer.map(Response::new).map_err(|failure| self.node.outward_failure(failure).to_status())
    }
}

#[tonic::async_trait]
impl Epochlog for Api {
    type CommitStream = Answers<pb::CommitReply>;
    type FetchStream = Answers<pb::FetchReply>;
    type VerifyStream = Answers<pb::VerifyReply>;
    type GcStream = Answers<pb::GcReply>;
    type VerifyObjectsStream = Answers<pb::VerifyObjectsReply>;

    async fn commit(
        &self,
        mut request: Request<Streaming<pb::CommitRequest>>,
    ) -> Result<Response<Self::CommitStream>, Status> {
        let requests = Incoming::take(&mut request, client::REQUEST_BYTES_MAX, client::codec::decode)?;
        let place = guests::held(&request);
        Ok(Response::new(commit::run(self.node.clone(), requests, place)))
    }

    async fn open_writer(
        &self,
        request: Request<pb::OpenWriterRequest>,
    ) -> Result<Response<pb::OpenWriterReply>, Status> {
        self.answer(write::open_writer(&self.node, request.into_inner()).await)
    }

    async fn reached(
        &self,
        request: Request<pb::ReachedRequest>,
    ) -> Result<Response<pb::ReachedReply>, Status> {
        self.answer(read::reached(&self.node, request.into_inner()).await)
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListReply>, Status> {
        self.answer(read::list(&self.node, request.into_inner()).await)
    }

    async fn show(&self, request: Request<pb::ShowRequest>) -> Result<Response<pb::ShowReply>, Status> {
        self.answer(read::show(&self.node, request.into_inner()).await)
    }

    async fn expire(&self, request: Request<pb::ExpireRequest>) -> Result<Response<pb::ExpireReply>, Status> {
        self.answer(write::expire(&self.node, request.into_inner()).await)
    }

    async fn attempts(
        &self,
        request: Request<pb::AttemptsRequest>,
    ) -> Result<Response<pb::AttemptsReply>, Status> {
        self.answer(attempts::list(&self.node, request.into_inner()).await)
    }

    async fn abort(&self, request: Request<pb::AbortRequest>) -> Result<Response<pb::AbortReply>, Status> {
        self.answer(attempts::abort(&self.node, request.into_inner()).await)
    }

    async fn remove_job(
        &self,
        request: Request<pb::RemoveJobRequest>,
    ) -> Result<Response<pb::RemoveJobReply>, Status> {
        self.answer(write::remove_job(&self.node, request.into_inner()).await)
    }

    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let place = guests::held(&request);
        Ok(Response::new(fetch::run(self.node.clone(), request.into_inner(), place)))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        Ok(Response::new(status::status(&self.node, request.into_inner()).await))
    }

    async fn verify(
        &self,
        request: Request<pb::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let place = guests::held(&request);
        verify::run(self.node.clone(), request.into_inner(), place)
            .await
            .map(Response::new)
            .map_err(|failure| self.node.outward_failure(failure).to_status())
    }

    async fn gc(&self, request: Request<pb::GcRequest>) -> Result<Response<Self::GcStream>, Status> {
        let place = guests::held(&request);
        Ok(Response::new(objects::gc(self.node.clone(), request.into_inner(), place)))
    }

    async fn verify_objects(
        &self,
        request: Request<pb::VerifyObjectsRequest>,
    ) -> Result<Response<Self::VerifyObjectsStream>, Status> {
        let place = guests::held(&request);
        Ok(Response::new(objects::verify(self.node.clone(), request.into_inner(), place)))
    }

    async fn published_on(
        &self,
        request: Request<pb::PublishedOnRequest>,
    ) -> Result<Response<pb::PublishedOnReply>, Status> {
        self.answer(published::published_on(&self.node, request.into_inner()).await)
    }
}

//! What lies in an object store: calls that answer for long, word by word.

use std::time::Duration;

use tonic::{Status, Streaming};

use crate::connect::Client;
use crate::failure::{Code, Failure};
use crate::pb;

/// What a node may have more than its caller's timeout: it says every second that it goes on.
const MORE: Duration = Duration::from_secs(5);

impl Client {
    /// Says what lies in a store by what the log says of it, and with `act` deletes its garbage; `each` sees every answer as it
    /// comes. May be repeated.
    pub async fn gc(
        &self,
        request: pb::GcRequest,
        each: &mut dyn FnMut(pb::gc_reply::Kind),
    ) -> Result<(), Failure> {
        let what = format!("gc --objects {}", request.store);
        let stream = self.anywhere(&what, |mut stub| {
            let request = request.clone();
            async move { stub.gc(request).await }
        });
        let mut stream = stream.await?;
        while let Some(reply) = self.next(&what, &mut stream).await? {
            match reply.kind {
                Some(pb::gc_reply::Kind::Working(_)) | None => {}
                Some(kind) => each(kind),
            }
        }
        Ok(())
    }

    /// Compares a store with the log; `each` sees every answer as it comes. May be repeated.
    pub async fn verify_objects(
        &self,
        request: pb::VerifyObjectsRequest,
        each: &mut dyn FnMut(pb::verify_objects_reply::Kind),
    ) -> Result<(), Failure> {
        let what = format!("verify --objects {}", request.store);
        let stream = self.anywhere(&what, |mut stub| {
            let request = request.clone();
            async move { stub.verify_objects(request).await }
        });
        let mut stream = stream.await?;
        while let Some(reply) = self.next(&what, &mut stream).await? {
            match reply.kind {
                Some(pb::verify_objects_reply::Kind::Working(_)) | None => {}
                Some(kind) => each(kind),
            }
        }
        Ok(())
    }

    async fn next<T>(&self, what: &str, stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
        let told = tokio::time::timeout(self.options.timeout + MORE, stream.message()).await;
        let broken_off = |status: Status| {
            let failure = Failure::from_status(&status);
            if failure.what.is_empty() { failure.what(what) } else { failure }
        };
        told.map_err(|_| {
            Failure::new(Code::Unavailable, "the node said nothing any more")
                .what(what)
                .why("no answer in time")
                .fix("see `epochlog status`, then repeat the command: what is done is not done twice")
        })?
        .map_err(broken_off)
    }
}

//! Getting an epoch back: its manifest from any node, then its content, file by file, each chunk
//! checked as it comes.

mod blocking;
mod content;
#[cfg(test)]
mod tests;

pub use blocking::ReplicaContent;
pub use content::EpochContent;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use checkpoint::manifest::{Manifest, ManifestError, TreeCollector};
use tonic::Streaming;

use crate::connect::{Client, share, telling, unavailable};
use crate::failure::{Code, Failure};
use crate::pb::fetch_reply::Kind;
use crate::{neighbour, pb};

/// Rounds over all endpoints before content is given up.
const ROUNDS_MAX: u32 = 3;
/// Pause before they are asked once more.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// An epoch's manifest, and where it came from.
#[derive(Debug)]
pub struct Fetched {
    /// What the node says about it.
    pub head: pb::Head,
    /// The manifest; its root is the one in the head.
    pub manifest: Manifest,
    /// The endpoint that told it.
    pub endpoint: String,
}

impl Fetched {
    /// The published files of the node that told the manifest, when it runs on this machine, is the same user's, and
    /// has them. Asks it.
    pub fn local_files(&self) -> Option<PathBuf> {
        let head = &self.head;
        neighbour::find(&self.endpoint, &head.job, head.epoch, &head.root).ok()
    }
}

impl Client {
    /// The manifest of an epoch. With `stale`, from the node's own knowledge, without the leader.
    pub async fn manifest(&self, job: &str, which: pb::Which, stale: bool) -> Result<Fetched, Failure> {
        let request =
            pb::FetchRequest { job: job.to_owned(), which: Some(which), stale, ..Default::default() };
        let mut reasons = BTreeMap::new();
        let (mut last, mut told): (Option<Failure>, Option<Failure>) = (None, None);
        let deadline = Instant::now() + self.options.timeout;
        let mut hung = BTreeMap::<String, u32>::new();
        for round in 1.. {
            let mut no_quorum = true;
            told = None;
            let endpoints = self.endpoints();
            for endpoint in &endpoints {
                let left = deadline.saturating_duration_since(Instant::now());
                let first = share(left, endpoints.len(), hung.get(endpoint).copied().unwrap_or(0));
                match self.manifest_at(endpoint, request.clone(), first).await {
                    Ok(fetched) => {
                        self.prefer(endpoint);
                        return Ok(fetched);
                    }
                    Err(failure) if failure.is_transient() || failure.code == Code::Corrupt => {
                        if failure.code == Code::Timeout {
                            *hung.entry(endpoint.clone()).or_default() += 1;
                        }
                        no_quorum &= failure.code == Code::NoQuorum;
                        reasons.insert(endpoint.clone(), failure.why.clone());
                        told = Some(telling(told, failure.clone()));
                        last = Some(failure);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            // A copy that is damaged everywhere does not get better by waiting.
            let damaged = last.as_ref().is_none_or(|last| last.code == Code::Corrupt);
            // Nodes that have no quorum know it for a while already when they say so.
            if Instant::now() + ROUND_PAUSE >= deadline || no_quorum || damaged && round >= ROUNDS_MAX {
                break;
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        Err(unavailable(&format!("restore {job}"), &reasons, told))
    }

    /// The first answer may take `first`; each after it the timeout.
    async fn manifest_at(
        &self,
        endpoint: &str,
        request: pb::FetchRequest,
        first: Duration,
    ) -> Result<Fetched, Failure> {
        let patience = self.options.timeout;
        let mut stream = self.open_fetch(endpoint, request, first).await?;
        let head = match next(&mut stream, first, patience).await? {
            Some(Kind::Head(head)) => head,
            _ => {
                return Err(Failure::new(Code::Internal, "the node answered out of order").why("no head"));
            }
        };
        let corrupt = |why: String| Failure::new(Code::Corrupt, "the manifest is damaged").why(why);
        let wrong = |error: ManifestError| corrupt(error.to_string());
        // Read as it comes: its bytes are never in memory beside its entries.
        let mut collector = TreeCollector::default();
        while let Some(kind) = next(&mut stream, patience, patience).await? {
            if let Kind::Manifest(more) = kind {
                collector.push(&more).map_err(wrong)?;
            }
        }
        let (manifest, root) = collector.finish().map_err(wrong)?;
        if head.root[..] != root.as_bytes()[..] {
            return Err(corrupt("it has another root than the epoch".into()));
        }
        Ok(Fetched { head, manifest, endpoint: endpoint.to_owned() })
    }

    async fn open_fetch(
        &self,
        endpoint: &str,
        request: pb::FetchRequest,
        patience: Duration,
    ) -> Result<Streaming<pb::FetchReply>, Failure> {
        let mut stub = self.stub(endpoint)?;
        let answer = tokio::time::timeout(patience, stub.fetch(request)).await.map_err(|_| no_answer())?;
        Ok(answer?.into_inner())
    }
}

fn no_answer() -> Failure {
    Failure::new(Code::Timeout, "no answer").why("no answer in time")
}

/// The next message that brings something. It may take `first`, or for ever while the node says at least once
/// every `patience` that it works on it.
async fn next(
    stream: &mut Streaming<pb::FetchReply>,
    first: Duration,
    patience: Duration,
) -> Result<Option<Kind>, Failure> {
    let mut wait = first;
    loop {
        let message = tokio::time::timeout(wait, stream.message()).await.map_err(|_| no_answer())?;
        wait = patience;
        match message? {
            Some(pb::FetchReply { kind: Some(Kind::Working(_)) }) => {}
            Some(pb::FetchReply { kind: Some(Kind::Failed(failed)) }) => {
                return Err(Failure::from_pb(failed));
            }
            Some(pb::FetchReply { kind: Some(kind) }) => return Ok(Some(kind)),
            Some(pb::FetchReply { kind: None }) => {
                return Err(
                    Failure::new(Code::Internal, "the node answered out of order").why("an empty message")
                );
            }
            None => return Ok(None),
        }
    }
}

//! Who has published which epoch: on this node, on which of all, and whether all have.

use std::time::{Duration, Instant};

use checkpoint::{Digest, JobName};
use client::{Code, Failure, pb};
use pb::published_on_request::Wanted;

use super::call::job_name;
use crate::limits::WANTED_MAX;
use crate::node::Node;

/// How long another node may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(2);
/// Epochs that are looked up before others get this thread.
const AT_ONCE: usize = 256;
/// Pause before a node that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Which of the wanted epochs this node has published.
pub async fn published_on(
    node: &Node,
    request: pb::PublishedOnRequest,
) -> Result<pb::PublishedOnReply, Failure> {
    if request.wanted.len() > WANTED_MAX {
        return Err(Failure::new(Code::Usage, "too many epochs in one question")
            .why(format!("{} are named, at most {WANTED_MAX} may be", request.wanted.len())));
    }
    let deadline = Instant::now() + Duration::from_millis(request.wait_ms.min(3_600_000));
    let mut reply = pb::PublishedOnReply { node: node.config.id, ..pb::PublishedOnReply::default() };
    for (at, wanted) in request.wanted.iter().enumerate() {
        if at % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let job = job_name(&wanted.job)?;
        let published = if request.wait_ms == 0 {
            node.published(&job, wanted.epoch, &wanted.root)
        } else {
            node.wait_published(&job, wanted.epoch, &wanted.root, deadline).await
        };
        reply.published.push(published.is_ok());
        reply.why.push(node.outward(published.err().unwrap_or_default()));
    }
    Ok(reply)
}

/// Fills in on which nodes each epoch is published; answers which nodes did not tell.
pub async fn fill_published_on(node: &Node, epochs: &mut [pb::Epoch]) -> Vec<u64> {
    if epochs.is_empty() {
        return Vec::new();
    }
    let wanted: Vec<Wanted> = epochs
        .iter()
        .map(|epoch| Wanted { job: epoch.job.clone(), epoch: epoch.epoch, root: epoch.root.clone() })
        .collect();
    let asked = node.voters().into_iter().map(|id| {
        let request = pb::PublishedOnRequest { wanted: wanted.clone(), wait_ms: 0 };
        async move {
            if id == node.config.id {
                return (id, published_on(node, request).await.ok());
            }
            let Some((_, mut stub)) = node.peer(id).filter(|_| node.replica.silence(id).is_none()) else {
                return (id, None);
            };
            let answer = tokio::time::timeout(PATIENCE, stub.published_on(request)).await;
            (id, answer.ok().and_then(Result::ok).map(tonic::Response::into_inner))
        }
    });
    let mut silent = Vec::new();
    for (id, reply) in futures::future::join_all(asked).await {
        let Some(reply) = reply else {
            silent.push(id);
            continue;
        };
        for (epoch, published) in epochs.iter_mut().zip(reply.published) {
            if published {
                epoch.published_on.push(id);
            }
        }
    }
    silent
}

/// The nodes that have this epoch published now.
pub async fn published_now(node: &Node, job: &JobName, epoch: u64, root: Digest) -> Vec<u64> {
    let mut epochs = [pb::Epoch {
        job: job.to_string(),
        epoch,
        root: client::wire::digest(&root),
        ..pb::Epoch::default()
    }];
    fill_published_on(node, &mut epochs).await;
    std::mem::take(&mut epochs[0].published_on)
}

/// Waits until every voter has published the epoch, at most so long.
pub async fn wait_all(node: &Node, committed: &pb::Committed, patience: Duration) -> pb::Published {
    let started = Instant::now();
    let deadline = started + patience;
    let asked = node
        .voters()
        .into_iter()
        .map(|id| async move { (id, wait_one(node, id, committed, deadline).await) });
    let answers = futures::future::join_all(asked).await;
    let (published, missing): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, published)| *published);
    let waited = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    pb::Published {
        nodes: published.into_iter().map(|(id, _)| id).collect(),
        missing: missing.into_iter().map(|(id, _)| id).collect(),
        all_ms: committed.quorum_ms + waited,
    }
}

async fn wait_one(node: &Node, id: u64, committed: &pb::Committed, deadline: Instant) -> bool {
    if id == node.config.id {
        let Ok(job) = job_name(&committed.job) else { return false };
        return node.wait_published(&job, committed.epoch, &committed.root, deadline).await.is_ok();
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        if let Some((_, mut stub)) = node.peer(id) {
            let wanted =
                Wanted { job: committed.job.clone(), epoch: committed.epoch, root: committed.root.clone() };
            let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let asked = stub.published_on(pb::PublishedOnRequest { wanted: vec![wanted], wait_ms });
            if let Ok(Ok(reply)) = tokio::time::timeout(left, asked).await
                && reply.into_inner().published == [true]
            {
                return true;
            }
        }
        tokio::time::sleep(RETRY_PAUSE.min(left)).await;
    }
}

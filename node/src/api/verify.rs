//! Verify: re-reads published directories and compares them with their manifests. With `repair`, what is
//! not as sealed is fetched from other nodes and swapped in by rename.

use std::sync::Arc;

use checkpoint::JobName;
use client::{Code, Failure, pb, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Answers, job_name, read, status};
use crate::epochs;
use crate::node::Node;

type Send = mpsc::Sender<Result<pb::VerifyReply, Status>>;

/// Runs the call; one answer an epoch and node.
pub async fn run(node: Arc<Node>, request: pb::VerifyRequest) -> Result<Answers<pb::VerifyReply>, Failure> {
    let wanted = wanted(&node, &request).await?;
    let (send, answers) = mpsc::channel(16);
    tokio::spawn(async move {
        for (job, epoch) in wanted {
            let reply = outward(&node, here(&node, &job, epoch, request.repair).await);
            if send.send(Ok(reply)).await.is_err() {
                return;
            }
        }
        if request.all_nodes {
            for id in node.voters().into_iter().filter(|id| *id != node.config.id) {
                there(&node, id, &request, &send).await;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

async fn wanted(node: &Node, request: &pb::VerifyRequest) -> Result<Vec<(JobName, u64)>, Failure> {
    let machine = node.replica.machine();
    let mut of = None;
    if !request.job.is_empty() {
        let job = job_name(&request.job)?;
        let found = read::find(machine, &job, request.which).await?;
        if request.which.is_some() {
            return Ok(vec![(job, found.info.sealed.epoch)]);
        }
        of = Some(job);
    }
    Ok(epochs::elsewhere(machine, |machine| epochs::all(machine, of)).await)
}

/// The reply as strangers may see it.
fn outward(node: &Node, mut reply: pb::VerifyReply) -> pb::VerifyReply {
    for text in reply.problems.iter_mut().chain(&mut reply.mended) {
        *text = node.outward(&*text);
    }
    reply.failed = reply.failed.map(|failed| node.outward_failure(Failure::from_pb(failed)).to_pb());
    reply
}

/// Verifies an epoch here, and with `repair` mends what is not as sealed.
async fn here(node: &Node, job: &JobName, epoch: u64, repair: bool) -> pb::VerifyReply {
    let found = check(node, job, epoch).await;
    if found.ok {
        return found;
    }
    let wrong = wrong(&found);
    node.metrics.mismatches(wrong.len());
    tracing::warn!(%job, epoch, problems = wrong.len(), first = wrong.first(), "an epoch is not as sealed here");
    if !repair {
        return found;
    }
    match node.replica.repair_epoch(job, epoch).await {
        Ok(_) => {
            let mut after = check(node, job, epoch).await;
            let still = self::wrong(&after);
            after.mended = wrong.into_iter().filter(|problem| !still.contains(problem)).collect();
            tracing::info!(%job, epoch, mended = after.mended.len(), ok = after.ok, "an epoch was mended");
            after
        }
        Err(error) => {
            let mut found = found;
            found.problems.push(format!("it could not be mended: {error}"));
            found
        }
    }
}

/// What a reply says is wrong, each in one line.
fn wrong(reply: &pb::VerifyReply) -> Vec<String> {
    let failed = reply.failed.as_ref().map(|failed| failed.why.clone());
    reply.problems.iter().cloned().chain(failed).collect()
}

async fn check(node: &Node, job: &JobName, epoch: u64) -> pb::VerifyReply {
    let _reader = node.replica.machine().read_epoch(job, epoch);
    let root = node.replica.machine().ledger().sealed_as(job, epoch).map(|sealed| sealed.root);
    let (store, named) = (node.store.clone(), job.clone());
    let verified = tokio::task::spawn_blocking(move || {
        Ok((store.verify(&named, epoch)?, store.published(&named, epoch)?))
    })
    .await;
    let mut reply = pb::VerifyReply {
        node: node.config.id,
        job: job.to_string(),
        epoch,
        root: root.map(|root| wire::digest(&root)).unwrap_or_default(),
        ..pb::VerifyReply::default()
    };
    match verified.expect("verifying does not panic") {
        Ok((report, found)) => {
            reply.problems =
                report.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.why)).collect();
            if root != found {
                reply.problems.push("its manifest has another root than the epoch".into());
            }
            reply.files = report.files;
            reply.bytes = report.bytes;
            reply.ok = reply.problems.is_empty();
        }
        Err(error) => {
            let error: checkpoint::store::StoreError = error;
            let failure = Failure::new(Code::Corrupt, "it cannot be verified").why(error.to_string());
            reply.failed = Some(failure.to_pb());
        }
    }
    reply
}

/// The same on another node, passed on.
async fn there(node: &Node, id: u64, request: &pb::VerifyRequest, send: &Send) {
    let request = pb::VerifyRequest { all_nodes: false, ..request.clone() };
    let failed = |why: String| pb::VerifyReply {
        node: id,
        job: request.job.clone(),
        failed: Some(Failure::new(Code::Unavailable, "the node could not be asked").why(why).to_pb()),
        ..pb::VerifyReply::default()
    };
    // A send fails only when the caller is gone: then there is nobody to tell.
    let Some((_, mut stub)) = node.peer(id) else {
        let _ = send.send(Ok(failed(status::UNTOLD.into()))).await;
        return;
    };
    let mut stream = match stub.verify(request.clone()).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            let _ = send.send(Ok(failed(Failure::from_status(&status).why))).await;
            return;
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(reply)) => {
                if send.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                let _ = send.send(Ok(failed(Failure::from_status(&status).why))).await;
                return;
            }
        }
    }
}

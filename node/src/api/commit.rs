//! The Commit call: from Start to the right origin, and back to the answers.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::{CommitId, Digest};
use client::{Certainty, Code, Failure, pb, place, wire};
use pb::commit_reply::Kind as Reply;
use pb::commit_request::Kind as Request;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Answers;
use crate::capture;
use crate::commit::origin::{Local, Remote, Replies};
use crate::commit::{self, Order};
use crate::node::Node;

/// Answers on their way to the client.
const REPLIES_QUEUED_MAX: usize = 64;
/// Bounds of the time without progress that a client may ask for.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Label that tells people when an epoch was made; rules never look at it.
pub const TIME_LABEL: &str = "time";

/// Runs the call in a task of its own; its answers are the stream.
pub fn run(node: Arc<Node>, requests: Streaming<pb::CommitRequest>) -> Answers<pb::CommitReply> {
    let (send, answers) = mpsc::channel(REPLIES_QUEUED_MAX);
    let replies = Replies(send);
    tokio::spawn(async move {
        if let Err(failure) = answer(&node, requests, &replies).await {
            tracing::info!(
                code = failure.code.name(),
                what = failure.what,
                why = failure.why,
                "a commit failed"
            );
            replies.send(Reply::Failed(failure.to_pb())).await;
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

async fn answer(
    node: &Node,
    mut requests: Streaming<pb::CommitRequest>,
    replies: &Replies,
) -> Result<(), Failure> {
    let start = match requests.message().await {
        Ok(Some(pb::CommitRequest { kind: Some(Request::Start(start)) })) => start,
        Ok(_) => return Err(refused("commit", "the first message must be Start")),
        Err(status) => return Err(refused("commit", status.message())),
    };
    let wait_all = start.wait() == pb::Wait::All;
    let committed = match &start.source {
        Some(source) => match usable(node, source) {
            Ok(dir) => by_path(node, &start, dir, replies).await?,
            Err(why) => {
                replies.send(Reply::StreamIt(pb::StreamIt { why })).await;
                return Ok(());
            }
        },
        None => {
            let order = order(node, &start)?;
            let mut origin = Remote::new(requests, order.plan_pages, replies.clone());
            commit::commit(node, order, &mut origin, replies).await?
        }
    };
    tracing::info!(
        job = committed.job,
        epoch = committed.epoch,
        bytes = committed.bytes,
        log_bytes = committed.log_bytes,
        ms = committed.quorum_ms,
        by_path = committed.by_path,
        "committed"
    );
    replies.send(Reply::Committed(committed.clone())).await;
    if wait_all {
        let patience = Duration::from_millis(start.wait_ms).clamp(PATIENCE_MIN, PATIENCE_MAX);
        let published = super::status::wait_all(node, &committed, patience).await;
        replies.send(Reply::Published(published)).await;
    }
    Ok(())
}

/// The directory, when it lies under a source root and is the very one that the client sees.
fn usable(node: &Node, source: &pb::SourcePath) -> Result<PathBuf, String> {
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&source.dir));
    if !node.config.source_roots.iter().any(|root| path.starts_with(root)) {
        return Err(format!("{} is under none of the node's source roots", path.display()));
    }
    place::same_directory(source)
}

async fn by_path(
    node: &Node,
    start: &pb::Start,
    dir: PathBuf,
    replies: &Replies,
) -> Result<pb::Committed, Failure> {
    let what = format!("commit {}", start.job);
    let (captures, limits, immutable) =
        (node.store.layout().capture_dir(), node.config.limits, start.immutable);
    let held = tokio::task::spawn_blocking(move || capture::hold(&dir, &captures, immutable, &limits)).await;
    let held = held.expect("capturing does not panic").map_err(|error| wire::plan_failure(&what, &error))?;
    let start = pb::Start {
        declared_bytes: held.plan.bytes(),
        plan_digest: wire::digest(&held.plan.digest()),
        plan_entries: wire::id(held.plan.entries.len()),
        plan_pages: wire::id(wire::pages(&held.plan.entries).len()),
        ..start.clone()
    };
    let order = order(node, &start)?;
    let plan = Arc::new(held.plan.clone());
    let mut origin = Local::new(order.name(), held.dir.clone(), plan, replies.clone());
    let committed = commit::commit(node, order, &mut origin, replies).await?;
    // A capture may be large: its removal is nobody's wait.
    tokio::task::spawn_blocking(move || drop(held));
    Ok(pb::Committed { by_path: true, ..committed })
}

fn order(node: &Node, start: &pb::Start) -> Result<Order, Failure> {
    let what = format!("commit {}", start.job);
    let job = super::job_name(&start.job).map_err(|failure| failure.committed(Certainty::No))?;
    let commit_id =
        CommitId::from_slice(&start.commit_id).ok_or_else(|| refused(&what, "a commit id has 16 bytes"))?;
    let plan_digest =
        Digest::from_slice(&start.plan_digest).ok_or_else(|| refused(&what, "a plan digest has 32 bytes"))?;
    if u64::from(start.plan_entries) > node.config.limits.files_max
        || start.declared_bytes > node.config.limits.bytes_max
    {
        return Err(Failure::new(Code::QuotaExceeded, "over a limit, the epoch was NOT committed")
            .what(what)
            .why(format!("{} entries, {} bytes", start.plan_entries, start.declared_bytes))
            .fix("split the directory, or raise [limits] of the nodes")
            .committed(Certainty::No));
    }
    let mut labels: Vec<(String, String)> =
        start.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    if !labels.iter().any(|(key, _)| key == TIME_LABEL) {
        labels.push((TIME_LABEL.to_owned(), jiff::Timestamp::now().to_string()));
    }
    Ok(Order {
        job,
        epoch: start.epoch,
        token: start.token,
        commit_id,
        labels,
        depends_on: start.depends_on.clone(),
        take_over: start.take_over,
        if_not_exists: start.if_not_exists,
        patience: Duration::from_millis(start.wait_ms).clamp(PATIENCE_MIN, PATIENCE_MAX),
        chunk_bytes: if start.chunk_bytes == 0 { node.config.chunk_bytes } else { start.chunk_bytes },
        declared_bytes: start.declared_bytes,
        plan_digest,
        plan_entries: start.plan_entries,
        plan_pages: start.plan_pages,
    })
}

fn refused(what: &str, why: &str) -> Failure {
    Failure::new(Code::Refused, "refused, the epoch was NOT committed")
        .what(what)
        .why(why)
        .fix("use a client of this version")
        .committed(Certainty::No)
}

//! Plans of very many entries that are begun and left: what stays of them stays on every node.

use checkpoint::digest::content;
use checkpoint::plan::encode;
use checkpoint::{EntryKind, PlanEntry, RelPath};
use client::pb::commit_reply::Kind as Reply;
use client::pb::commit_request::Kind as Request;
use client::pb::epochlog_client::EpochlogClient;
use client::{pb, wire};
use tokio_stream::wrappers::ReceiverStream;

/// Begins so many commits of `entries` entries, each of another job, and goes away when the log has their plans. Refused
/// ones count as well: a node may say that it has no room for more.
///
/// # Panics
/// When the node does not answer.
pub(super) fn begun_and_left(endpoint: &str, job: &str, plans: u32, entries: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let plan = plan(entries);
    let digest = plan_digest(&plan);
    runtime.block_on(async {
        for number in 0..plans {
            left(endpoint, &format!("{job}-{number}"), &plan, &digest).await;
        }
    });
}

fn plan(entries: u32) -> Vec<PlanEntry> {
    let entry = |number: u32| {
        let root = number == 0;
        PlanEntry {
            path: match root {
                true => RelPath::root(),
                false => RelPath::parse(format!("{number:08}").as_bytes()).expect("a name"),
            },
            kind: if root { EntryKind::Directory } else { EntryKind::File },
            mode: 0o700,
            size: u64::from(!root),
            target: Vec::new(),
        }
    };
    (0..entries).map(entry).collect()
}

/// As `checkpoint/docs/format.md` says.
fn plan_digest(plan: &[PlanEntry]) -> Vec<u8> {
    let mut so_far = content(b"epochlog plan 2\n");
    for entry in plan {
        so_far = content(&[so_far.as_bytes(), &encode([entry])[..]].concat());
    }
    so_far.as_bytes().to_vec()
}

async fn left(endpoint: &str, job: &str, plan: &[PlanEntry], digest: &[u8]) {
    let stub = EpochlogClient::connect(format!("http://{endpoint}")).await;
    let mut stub = stub.expect("the node takes connections");
    let pages = wire::pages(plan);
    let start = pb::Start {
        job: job.to_owned(),
        epoch: Some(1),
        commit_id: content(job.as_bytes()).as_bytes()[..16].to_vec().into(),
        wait_ms: 60_000,
        declared_bytes: plan.len() as u64 - 1,
        plan_digest: digest.to_vec().into(),
        plan_entries: u32::try_from(plan.len()).expect("a plan has fewer"),
        plan_pages: u32::try_from(pages.len()).expect("a plan has fewer"),
        ..pb::Start::default()
    };
    let (send, requests) = tokio::sync::mpsc::channel(4);
    let mut replies =
        stub.commit(ReceiverStream::new(requests)).await.expect("the call is opened").into_inner();
    let say = async |kind| send.send(pb::CommitRequest { kind: Some(kind) }).await.is_ok();
    let said = async {
        if !say(Request::Start(start)).await {
            return;
        }
        for (page, range) in (0..).zip(pages) {
            let entries = plan[range].iter().map(wire::plan_entry).collect();
            if !say(Request::Page(pb::PlanPage { page, entries })).await {
                return;
            }
        }
        // The plan is in the log when the attempt is open: then everybody goes.
        std::future::pending::<()>().await;
    };
    let heard = async {
        loop {
            match replies.message().await {
                Ok(Some(pb::CommitReply { kind: Some(Reply::Opened(_) | Reply::Failed(_)) })) => return,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = said => {}
        () = heard => {}
    }
}

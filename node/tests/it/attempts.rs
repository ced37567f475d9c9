//! Commits that were begun and not ended: they are listed, one of them can be ended, and their writers are told the truth.

use std::path::Path;
use std::process::Output;

use checkpoint::plan::plan_digest;
use checkpoint::{EntryKind, PlanEntry, RelPath};
use client::{Client, Commit, pb};
use pb::commit_reply::Kind as Reply;
use pb::commit_request::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Node, port, source};

/// A client that has begun and stands still.
struct Writer {
    requests: mpsc::Sender<pb::CommitRequest>,
    replies: tonic::Streaming<pb::CommitReply>,
}

fn entry(path: &str, kind: EntryKind, size: u64) -> PlanEntry {
    let path = RelPath::parse(path.as_bytes()).unwrap();
    let mode = if kind == EntryKind::File { 0o644 } else { 0o755 };
    PlanEntry { path, kind, mode, size, target: Vec::new() }
}

impl Writer {
    /// Begins an epoch of one file of so many bytes.
    async fn begin(client: &Client, node: &Node, job: &str, epoch: u64, bytes: u64) -> Writer {
        let entries = [entry("", EntryKind::Directory, 0), entry("f", EntryKind::File, bytes)];
        let start = pb::Start {
            job: job.into(),
            epoch: Some(epoch),
            commit_id: vec![epoch as u8; 16].into(),
            plan_digest: plan_digest(&entries).as_bytes().to_vec().into(),
            declared_bytes: bytes,
            plan_entries: 2,
            plan_pages: 1,
            chunk_bytes: 4 << 20,
            wait_ms: 20_000,
            ..pb::Start::default()
        };
        let page = entries.iter().map(|entry| pb::PlanEntry {
            path: entry.path.as_bytes().to_vec().into(),
            kind: if entry.kind == EntryKind::File { 1 } else { 2 },
            mode: entry.mode,
            size: entry.size,
            ..pb::PlanEntry::default()
        });
        let page = pb::PlanPage { page: 0, entries: page.collect() };
        let (requests, sent) = mpsc::channel(4);
        for kind in [Kind::Start(start), Kind::Page(page)] {
            requests.send(pb::CommitRequest { kind: Some(kind) }).await.unwrap();
        }
        let mut stub = client.stub(&node.endpoint).unwrap();
        let replies = stub.commit(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Writer { requests, replies }
    }

    /// Whether it may send its pieces; else why not.
    async fn opened(&mut self) -> Result<u64, pb::Failed> {
        loop {
            match self.replies.message().await.unwrap().expect("an answer").kind {
                Some(Reply::Opened(opened)) => return Ok(opened.attempt),
                Some(Reply::Failed(failed)) => return Err(failed),
                _ => {}
            }
        }
    }
}

fn epochlog(node: &Node, args: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .args(["-e", &node.endpoint])
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The objects that a command prints.
fn objects(node: &Node, args: &[&str]) -> Vec<serde_json::Value> {
    let output = epochlog(node, &[&["-o", "jsonl"], args].concat());
    assert!(output.status.success(), "{output:?}");
    said(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_attempt_is_listed_and_ended_and_its_writer_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let none = epochlog(&node, &["ls", "--open"]);
    assert!(none.status.success() && said(&none.stderr).contains("no attempt is open"), "{none:?}");
    let mut writer = Writer::begin(&client, &node, "etl", 42, 64 << 20).await;
    let attempt = writer.opened().await.unwrap();

    let listed = objects(&node, &["ls", "--open"]);
    let open = &listed[0];
    assert_eq!(
        (&open["job"], &open["epoch"], &open["attempt"]),
        (&"etl".into(), &42.into(), &attempt.into())
    );
    assert_eq!((&open["declared_bytes"], &open["brought_bytes"]), (&(64 << 20).into(), &0.into()));
    assert_eq!(open["spoken_for_bytes"], (64 << 20) + 2 * 4096);
    assert_eq!(open["commit_id"], "2a".repeat(4), "not all of it: who has that may write");
    assert_eq!(listed[1]["attempts"], 1);
    let table = said(&epochlog(&node, &["ls", "etl", "--open"]).stdout);
    assert!(table.contains("JOB") && table.contains("64.0 MiB"), "{table}");
    assert!(said(&epochlog(&node, &["ls", "other", "--open"]).stdout).is_empty());

    // Nobody is there to be asked; nor is another number ended.
    let unasked = epochlog(&node, &["abort", "etl@42"]);
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    assert!(said(&unasked.stderr).contains("give --yes"), "{unasked:?}");
    let other = epochlog(&node, &["abort", "etl@41", "--yes"]);
    assert_eq!(other.status.code(), Some(4), "{other:?}");
    assert_eq!(objects(&node, &["ls", "--open"]).len(), 2, "it is open still");

    let ended = objects(&node, &["abort", "etl@42", "--yes", "--reason", "a test"]);
    assert_eq!((&ended[0]["aborted"], &ended[0]["attempt"]), (&true.into(), &attempt.into()));
    assert_eq!(objects(&node, &["ls", "--open"])[0]["attempts"], 0);
    // The writer goes on, and hears that it has committed nothing.
    let payload = vec![7; 4 << 20];
    let digest = checkpoint::digest::subtree(64 << 20, 0, &payload).as_bytes().to_vec();
    let chunk = pb::Chunk {
        file: 1,
        offset: 0,
        digest: digest.into(),
        payload: payload.into(),
        file_bytes: 64 << 20,
    };
    let piece = Kind::Piece(pb::Piece { kind: Some(pb::piece::Kind::Chunk(chunk)) });
    writer.requests.send(pb::CommitRequest { kind: Some(piece) }).await.unwrap();
    let failed = writer.opened().await.unwrap_err();
    assert_eq!((failed.code.as_str(), failed.committed()), ("Conflict", pb::Certainty::No), "{failed:?}");
    assert!(failed.sentence.contains("aborted"), "{failed:?}");
    // A repeat begins anew, and job rm is not kept waiting for a day.
    assert_eq!(epochlog(&node, &["job", "rm", "etl", "--yes"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_not_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let order = Commit { epoch: Some(7), ..Commit::new("job".parse().unwrap()) };
    let done = client.commit(&source(dir.path()), order, &|_| {}).await.unwrap().committed;
    let late = epochlog(&node, &["abort", "job@7", "--yes"]);
    assert_eq!(late.status.code(), Some(5), "{late:?}");
    assert!(said(&late.stderr).starts_with("error: the epoch is committed, nothing was aborted"), "{late:?}");
    // The same when its writer was faster: by the attempt's id.
    let request =
        pb::AbortRequest { job: "job".into(), epoch: 7, attempt: Some(done.attempt), ..Default::default() };
    let failure = client.abort(request).await.unwrap_err();
    assert_eq!(failure.code, client::Code::Conflict, "{failure:?}");
    assert_eq!(epochlog(&node, &["show", "job@7"]).status.code(), Some(0));
}

fn free(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_want_of_room_names_its_need_and_who_has_the_rest_and_what_to_type() {
    let dir = tempfile::tempdir().unwrap();
    // No epoch is as large as some disks.
    let there = free(dir.path());
    let usable = there.min(1 << 40);
    let reserve = format!("{} KiB", ((there - usable) >> 10).max(1 << 10));
    let node = Node::start_with(dir.path(), &port(), dir.path(), &reserve);
    let client = node.client().await;
    // Each fits alone, whatever else goes on on this disk meanwhile, and both do not.
    let (most, half) = (usable / 4 * 3, usable / 2);
    let attempt = Writer::begin(&client, &node, "etl", 1, most).await.opened().await.unwrap();
    let failed = Writer::begin(&client, &node, "train", 2, half).await.opened().await.unwrap_err();
    assert_eq!((failed.code.as_str(), failed.committed()), ("NoSpace", pb::Certainty::No), "{failed:?}");
    for words in ["are needed beside", "open attempts have spoken for (etl@1 ", "node 1 has "] {
        assert!(failed.why.contains(words), "{words:?} is not in {failed:?}");
    }
    assert!(
        failed.r#do.contains("`epochlog ls --open`") && failed.r#do.contains("`epochlog abort "),
        "{failed:?}"
    );
    let request = pb::AbortRequest { job: "etl".into(), epoch: 1, ..Default::default() };
    let unnamed = client.abort(request.clone()).await.unwrap_err();
    assert_eq!(unnamed.code, client::Code::Usage, "whichever is open is not named: {unnamed:?}");
    let request = pb::AbortRequest { attempt: Some(attempt), ..request };
    for other in [
        pb::AbortRequest { epoch: 2, ..request.clone() },
        pb::AbortRequest { job: "train".into(), ..request.clone() },
    ] {
        let failure = client.abort(other).await.unwrap_err();
        assert_eq!(failure.code, client::Code::NotFound, "{failure:?}");
        assert!(failure.why.contains("is of etl@1"), "{failure:?}");
    }
    assert_eq!(client.abort(request).await.unwrap().attempt, attempt);
    Writer::begin(&client, &node, "train", 2, half).await.opened().await.unwrap();
}

/// Attempts that one job may have open.
const OF_A_JOB: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_too_many_open_attempts_is_told_what_to_type() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let bytes = 1 << 20;
    let mut first = None;
    for epoch in 1..=OF_A_JOB {
        // Its client goes away at once; the attempt stays.
        let attempt = Writer::begin(&client, &node, "etl", epoch, bytes).await.opened().await.unwrap();
        first.get_or_insert(attempt);
    }
    let failed = Writer::begin(&client, &node, "etl", OF_A_JOB + 1, bytes).await.opened().await.unwrap_err();
    assert_eq!(
        (failed.code.as_str(), failed.committed()),
        ("QuotaExceeded", pb::Certainty::No),
        "{failed:?}"
    );
    assert!(failed.sentence.starts_with("too many open attempts"), "{failed:?}");
    assert!(failed.why.contains("64 open attempts (the longest silent: etl@"), "{failed:?}");
    for words in ["`epochlog ls --open`", "`epochlog abort JOB@EPOCH`", "silent for 5 minutes"] {
        assert!(failed.r#do.contains(words), "{words:?} is not in {failed:?}");
    }
    // Other jobs are not concerned, and with one of them ended there is room.
    Writer::begin(&client, &node, "other", 99, bytes).await.opened().await.unwrap();
    let request = pb::AbortRequest { job: "etl".into(), epoch: 1, attempt: first, ..Default::default() };
    client.abort(request).await.unwrap();
    Writer::begin(&client, &node, "etl", OF_A_JOB + 1, bytes).await.opened().await.unwrap();
}

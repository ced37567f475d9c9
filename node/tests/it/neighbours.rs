//! Commits by path: a directory is read for who has handed it over, once, and what was handed over is not kept for ever.

use std::path::Path;

use crate::support::{Node, port, source};
use checkpoint::CommitId;
use client::pb::commit_reply::Kind as Reply;
use client::pb::epochlog_client::EpochlogClient;
use client::{Client, Commit, neighbour, pb};

fn open_files(node: &Node) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).unwrap().count()
}

fn new_id() -> CommitId {
    CommitId::from_bytes(rand::random())
}

/// What a node says in the end to this commit of what goes by this ticket.
async fn answered(node: &Node, commit: CommitId, handed: &[u8]) -> Reply {
    let start = pb::Start {
        job: "job".into(),
        commit_id: commit.as_bytes().to_vec().into(),
        wait_ms: 20_000,
        handed: handed.to_vec().into(),
        ..Default::default()
    };
    let mut stub = EpochlogClient::connect(format!("http://{}", node.endpoint)).await.unwrap();
    let start = pb::CommitRequest { kind: Some(pb::commit_request::Kind::Start(start)) };
    let mut answers = stub.commit(tokio_stream::iter([start])).await.unwrap().into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await.unwrap() {
        last = answer.kind;
    }
    last.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_read_once_for_who_has_handed_it_over() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    for unknown in [&[7; 16][..], &[7; 5]] {
        let answer = answered(&node, new_id(), unknown).await;
        assert!(matches!(&answer, Reply::StreamIt(why) if why.why.contains("no directory")), "{answer:?}");
    }
    let of = new_id();
    let ticket = neighbour::hand_over(&node.endpoint, &source, of).unwrap();
    // Another commit gets nothing by it, and takes nothing away.
    let answer = answered(&node, new_id(), &ticket).await;
    assert!(matches!(&answer, Reply::StreamIt(why) if why.why.contains("for this commit")), "{answer:?}");
    let answer = answered(&node, of, &ticket).await;
    assert!(matches!(&answer, Reply::Committed(committed) if committed.by_path), "{answer:?}");
    let answer = answered(&node, of, &ticket).await;
    assert!(matches!(answer, Reply::StreamIt(_)), "{answer:?}");
    // Outside the source roots the node does not read, whoever hands it over.
    let of = new_id();
    let ticket = neighbour::hand_over(&node.endpoint, Path::new("/"), of).unwrap();
    let answer = answered(&node, of, &ticket).await;
    assert!(matches!(&answer, Reply::StreamIt(why) if why.why.contains("source roots")), "{answer:?}");
    // By another name of the node's port the client does not find its socket, and streams.
    let (host, _) = node.endpoint.split_once(':').unwrap();
    assert!(neighbour::hand_over(&format!("{host}:1"), &source, new_id()).is_err());
    let done = client.commit(&source, Commit::new("job".parse().unwrap()), &|_| {}).await.unwrap();
    assert!(done.committed.by_path);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_comes_for_does_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let before = open_files(&node);
    for _ in 0..300 {
        neighbour::hand_over(&node.endpoint, &source, new_id()).unwrap();
    }
    let after = open_files(&node);
    assert!(after <= before + 100, "{before} files were open, and then {after}");
    let done = client.commit(&source, Commit::new("job".parse().unwrap()), &|_| {}).await.unwrap();
    assert!(done.committed.by_path);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_found_on_this_machine_by_its_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client: Client = node.client().await;
    let order = Commit { wait_all: true, ..Commit::new("job".parse().unwrap()) };
    let committed = client.commit(&source, order, &|_| {}).await.unwrap().committed;
    let found = neighbour::find(&node.endpoint, "job", 1, &committed.root).unwrap();
    assert_eq!(found, std::fs::canonicalize(node.data.join("epochs/job/1/files")).unwrap());
    let root = &committed.root[..];
    for (job, epoch, root) in
        [("job", 1, &[7; 32][..]), ("job", 2, root), ("../job", 1, root), ("", 1, &root[..9])]
    {
        assert!(neighbour::find(&node.endpoint, job, epoch, root).is_err(), "{job}@{epoch}");
    }
}

//! Looks at a disk that does not answer, and how many there may be of each kind at a time. A pipe stands for the disk: who
//! opens it waits until somebody writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Node, port, source, wait_for};
use client::pb::epochlog_client::EpochlogClient;
use client::{Client, Commit, pb};
use tonic::Streaming;
use tonic::transport::Channel;

/// The calls in which such a thread waits, `open` and `openat`.
const OPEN: [&str; 2] = if cfg!(target_arch = "x86_64") { ["2", "257"] } else { ["56", "56"] };

/// A published manifest that cannot be read on.
struct Hung {
    pipe: PathBuf,
    manifest: PathBuf,
    aside: PathBuf,
}

impl Hung {
    fn of(dir: &Path, node: &Node, epoch: u64) -> Hung {
        let manifest = node.data.join(format!("epochs/job/{epoch}/manifest"));
        let (pipe, aside) = (dir.join("pipe"), dir.join("aside"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::fs::rename(&manifest, &aside).unwrap();
        std::fs::hard_link(&pipe, &manifest).unwrap();
        Hung { pipe, manifest, aside }
    }

    /// Whoever comes from now on finds it as it was.
    fn answers_again(&self) {
        std::fs::rename(&self.aside, &self.manifest).unwrap();
    }

    /// Whoever waits goes on, and has read nothing.
    fn let_go_on(&self) {
        drop(std::fs::File::options().write(true).open(&self.pipe).unwrap());
    }
}

/// So many threads of the node wait there, and not just in passing.
async fn wait_there(node: &Node, wanted: usize) {
    let mut seen = 0;
    wait_for("threads that wait for the disk", async || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
        // One that has ended meanwhile waits for nothing.
        let calls = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("syscall")).ok());
        let waiting =
            calls.filter(|call| call.split(' ').next().is_some_and(|call| OPEN.contains(&call))).count();
        seen = if waiting == wanted { seen + 1 } else { 0 };
        (seen >= 5).then_some(())
    })
    .await;
}

/// A node with so many epochs.
async fn node(dir: &Path, epochs: u64) -> (Node, Client) {
    let source = source(dir);
    let node = Node::start(dir, &port(), dir);
    let client = node.client().await;
    for _ in 0..epochs {
        let order = Commit { wait_all: true, ..Commit::new("job".parse().unwrap()) };
        client.commit(&source, order, &|_| {}).await.unwrap();
    }
    (node, client)
}

fn epochlog(node: &Node, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.args(["-e", &node.endpoint]).args(args).stdin(Stdio::null());
    tokio::task::block_in_place(|| command.output().unwrap())
}

/// The value of a metric by its name and labels; 0 before it has a first one.
fn metric(node: &Node, name: &str) -> f64 {
    let (_, body) = node.get("/metrics");
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn exactly(epoch: u64) -> Option<pb::Which> {
    Some(pb::Which { kind: Some(pb::which::Kind::Exactly(epoch)) })
}

async fn stub(node: &Node) -> EpochlogClient<Channel> {
    EpochlogClient::connect(format!("http://{}", node.endpoint)).await.unwrap()
}

async fn verify(node: &Node, epoch: u64) -> Streaming<pb::VerifyReply> {
    let request =
        pb::VerifyRequest { job: "job".into(), which: exactly(epoch), wait_ms: 60_000, ..Default::default() };
    stub(node).await.verify(request).await.unwrap().into_inner()
}

/// What was seen, to the end.
async fn outcomes(mut stream: Streaming<pb::VerifyReply>) -> Vec<pb::VerifyReply> {
    let mut all = Vec::new();
    while let Some(reply) = stream.message().await.unwrap() {
        all.extend(Some(reply).filter(|reply| !reply.working));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_read_on_was_not_looked_at_once_the_caller_has_waited_long_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _) = node(dir.path(), 1).await;
    let hung = Hung::of(dir.path(), &node, 1);
    let begun = Instant::now();
    let verified = epochlog(&node, &["verify", "job@1", "--timeout", "3s"]);
    let said = String::from_utf8(verified.stderr.clone()).unwrap();
    assert_eq!(verified.status.code(), Some(6), "{verified:?}");
    assert!(said.starts_with("error: not everything was looked at"), "{said}");
    assert!(said.contains("its disk has not answered for 3 s"), "{said}");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(15), "{took:?}");
    assert_eq!(metric(&node, "epochlog_verify_mismatches_total"), 0.0, "silence is no damage");
    hung.answers_again();
    hung.let_go_on();
    let verified = epochlog(&node, &["verify", "job@1"]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_expires_while_it_is_looked_at_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (node, client) = node(dir.path(), 2).await;
    let hung = Hung::of(dir.path(), &node, 1);
    let looked = verify(&node, 1).await;
    wait_there(&node, 1).await;
    let expire = pb::ExpireRequest { job: "job".into(), epochs: vec![1], ..Default::default() };
    client.expire(expire).await.unwrap();
    // What it reads now is no manifest.
    hung.let_go_on();
    let told = outcomes(looked).await;
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(metric(&node, "epochlog_verify_mismatches_total"), 0.0);
    // The same of one that is there is damage.
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    std::fs::rename(dir.path().join("empty"), node.data.join("epochs/job/2/manifest")).unwrap();
    let looked = outcomes(verify(&node, 2).await).await;
    assert_eq!(looked[0].outcome(), pb::Outcome::Damaged, "{looked:?}");
    assert!(metric(&node, "epochlog_verify_mismatches_total") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_are_looked_at_and_two_lists_of_entries_are_made_and_the_next_waits_with_nothing_read() {
    let dir = tempfile::tempdir().unwrap();
    let (node, client) = node(dir.path(), 1).await;
    let hung = Hung::of(dir.path(), &node, 1);
    let first = [verify(&node, 1).await, verify(&node, 1).await];
    wait_there(&node, 2).await;
    let mut third = verify(&node, 1).await;
    let told = tokio::time::timeout(Duration::from_secs(10), third.message()).await.unwrap();
    assert!(told.unwrap().unwrap().working, "it hears that it is not forgotten");

    // Lists of entries have turns of their own.
    #[expect(clippy::async_yields_async, reason = "each call goes on beside the test")]
    let list = async || {
        let request =
            pb::ShowRequest { job: "job".into(), which: exactly(1), entries: true, ..Default::default() };
        let mut stub = stub(&node).await;
        tokio::spawn(async move { stub.show(request).await.map(|shown| shown.into_inner().entries.len()) })
    };
    let lists = [list().await, list().await];
    wait_there(&node, 4).await;
    let late = list().await;
    wait_for("three calls", async || {
        (metric(&node, "epochlog_client_calls{kind=\"short\"}") >= 3.0).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    wait_there(&node, 4).await;
    assert!(!late.is_finished());
    // Who asks for neither is answered.
    client.status(false).await.unwrap();

    hung.answers_again();
    hung.let_go_on();
    for stream in first {
        assert_ne!(outcomes(stream).await[0].outcome(), pb::Outcome::Good);
    }
    for list in lists {
        list.await.unwrap().unwrap_err();
    }
    // They have read it after it was whole again.
    assert_eq!(outcomes(third).await[0].outcome(), pb::Outcome::Good);
    assert_eq!(late.await.unwrap().unwrap(), 8, "the root and what `source` makes");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_calls_on_one_connection_those_above_its_bound_wait() {
    const BOUND: usize = 128;
    let dir = tempfile::tempdir().unwrap();
    let (node, _) = node(dir.path(), 1).await;
    let stub = stub(&node).await;
    let wait = Duration::from_secs(4);
    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut stub = stub.clone();
        calls.spawn(async move {
            // There is no such epoch: it is waited for.
            let wanted =
                pb::published_on_request::Wanted { job: "job".into(), epoch: 9, ..Default::default() };
            let request = pb::PublishedOnRequest { wanted: vec![wanted], wait_ms: wait.as_millis() as u64 };
            let told = stub.published_on(request).await.unwrap().into_inner();
            assert_eq!(told.published, [false]);
            begun.elapsed()
        });
    }
    let mut most = 0.0_f64;
    while begun.elapsed() < wait / 2 {
        most = most.max(metric(&node, "epochlog_client_calls{kind=\"wait\"}"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(most, BOUND as f64);
    let took = calls.join_all().await;
    let early = took.iter().filter(|took| **took < 2 * wait).count();
    assert!(early <= BOUND, "{early} were answered in the first round");
}

//! Whoever reaches the ports for clients and HTTP, and only fills them: nobody's commit is taken away, and what is silent
//! ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Node, port, source, wait_for};
use checkpoint::Plan;
use client::pb::epochlog_client::EpochlogClient;
use client::{Client, Commit, Options, pb, wire};
use pb::commit_request::Kind as Request;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

/// Files that the node may open: what many systems begin with.
const FILES: usize = 1024;

fn node_with_few_files(dir: &Path) -> Node {
    let mut limited = Command::new("sh");
    let line = format!("ulimit -n {FILES} && exec \"$0\" \"$@\"");
    limited.args(["-c", &line, env!("CARGO_BIN_EXE_epochlog")]);
    Node::start_by(limited, dir, &port(), dir, "1 MiB")
}

/// This process may open as many files as the system lets it.
fn raise() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    assert!(
        limit.maximum.is_none_or(|most| most >= 4_000),
        "the hard limit of open files is too low: {limit:?}"
    );
}

fn silent(address: &str) -> TcpStream {
    TcpStream::connect(address).unwrap()
}

fn open_files(node: &Node) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).unwrap().count()
}

/// The value of a metric by its name and labels.
fn metric(node: &Node, name: &str) -> f64 {
    let (_, body) = node.get("/metrics");
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {body}")).parse().unwrap()
}

/// A client of its own, with connections of its own.
async fn commit(node: &Node, dir: &Path, job: &str) -> pb::Committed {
    let client = Client::new([node.endpoint.clone()], Options { timeout: Duration::from_secs(20) });
    let mut order = Commit::new(job.parse().unwrap());
    order.by_path = false;
    client.commit(dir, order, &|_| {}).await.unwrap().committed
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_take_no_commit_away() {
    raise();
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = node_with_few_files(dir.path());
    let before = node.client().await;
    let endpoint = node.endpoint.clone();
    let held = tokio::task::spawn_blocking(move || (0..3_000).map(|_| silent(&endpoint)).collect::<Vec<_>>());
    // Commits of a connection that was there before, while they come, and of one that comes after them.
    let mut order = Commit::new("before".parse().unwrap());
    order.by_path = false;
    while !held.is_finished() {
        order.commit_id = checkpoint::CommitId::from_bytes(rand::random());
        before.commit(&source, order.clone(), &|_| {}).await.unwrap();
    }
    let held = held.await.unwrap();
    assert_eq!(commit(&node, &source, "after").await.epoch, 1);
    let files = open_files(&node);
    assert!(files < FILES / 2, "{files} files are open");
    assert!(metric(&node, "epochlog_client_refusals_total{what=\"connection\"}") > 1_000.0);

    // The port for HTTP has a house of its own.
    let pages: Vec<TcpStream> = (0..300).map(|_| silent(&node.http)).collect();
    assert!(node.get("/healthz").0.starts_with("HTTP/1.1 200"));
    assert!(metric(&node, "epochlog_client_connections{port=\"http\"}") <= (FILES / 8) as f64);
    drop((held, pages));
}

/// A message that begins a commit of the directory that `plan` is of.
fn start(plan: &Plan, job: &str) -> Vec<pb::CommitRequest> {
    let start = pb::Start {
        job: job.into(),
        commit_id: rand::random::<[u8; 16]>().to_vec().into(),
        declared_bytes: plan.bytes(),
        plan_digest: wire::digest(&plan.digest()),
        plan_entries: wire::id(plan.entries.len()),
        plan_pages: 1,
        wait_ms: 60_000,
        ..Default::default()
    };
    let entries = plan.entries.iter().map(wire::plan_entry).collect();
    let page = pb::PlanPage { page: 0, entries };
    [Request::Start(start), Request::Page(page)].map(|kind| pb::CommitRequest { kind: Some(kind) }).to_vec()
}

async fn channel(node: &Node) -> Channel {
    Channel::from_shared(format!("http://{}", node.endpoint)).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_on_which_nothing_comes_take_no_commit_away() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let _ = node.client().await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let channel = channel(&node).await;
        for _ in 0..100 {
            let mut stub = EpochlogClient::new(channel.clone());
            streams.spawn(async move {
                // Again and again: a place that is lost is asked for at once.
                loop {
                    let nothing = tokio_stream::pending::<pb::CommitRequest>();
                    if let Ok(answer) = stub.commit(nothing).await {
                        let mut answers = answer.into_inner();
                        while let Ok(Some(_)) = answers.message().await {}
                    }
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            });
        }
    }
    let full = async || (metric(&node, "epochlog_client_refusals_total{what=\"call\"}") > 0.0).then_some(());
    wait_for("a full house", full).await;
    for round in 0..3 {
        let begun = Instant::now();
        assert_eq!(commit(&node, &source, &format!("job{round}")).await.epoch, 1);
        assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    }
    assert!(metric(&node, "epochlog_client_calls{kind=\"commit\"}") < 500.0, "few more than have places");
    assert!(metric(&node, "epochlog_client_refusals_total{what=\"silent\"}") >= 3.0);
    let ls =
        Command::new(env!("CARGO_BIN_EXE_epochlog")).args(["-e", &node.endpoint, "ls"]).output().unwrap();
    assert!(ls.status.success(), "{ls:?}");
}

/// What comes until the other side ends it, and when that was.
fn until_the_end(mut stream: TcpStream) -> (Vec<u8>, Duration) {
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut told = Vec::new();
    // Reset or closed: it has ended.
    let ended = stream.read_to_end(&mut told);
    let in_time = ended.map_err(|error| error.kind());
    assert!(
        !matches!(in_time, Err(std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)),
        "it stays open"
    );
    (told, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_call_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let mut slow = silent(&node.http);
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
    let quiet = [silent(&node.endpoint), silent(&node.http), slow];
    let ended = quiet.map(|stream| std::thread::spawn(|| until_the_end(stream)));
    for thread in ended {
        let (_, took) = tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        assert!(took > Duration::from_secs(8) && took < Duration::from_secs(20), "{took:?}");
    }
    assert!(metric(&node, "epochlog_client_refusals_total{what=\"idle\"}") >= 3.0);
    // Who has called before is still connected.
    assert!(metric(&node, "epochlog_client_connections{port=\"grpc\"}") >= 1.0);
    client.status(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_client_falls_silent_ends_and_another_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let _ = node.client().await;
    let plan = Plan::scan(&source, &checkpoint::Limits::default()).unwrap();
    let silent = tokio_stream::iter(start(&plan, "job")).chain(tokio_stream::pending());
    let mut stub = EpochlogClient::new(channel(&node).await);
    let begun = Instant::now();
    let mut answers = stub.commit(silent).await.unwrap().into_inner();
    let mut failed = None;
    while let Ok(Some(answer)) = answers.message().await {
        if let Some(pb::commit_reply::Kind::Failed(why)) = answer.kind {
            failed = Some(why);
        }
    }
    let failed = failed.unwrap();
    assert!(failed.why.contains("nothing came on this call"), "{failed:?}");
    assert!(begun.elapsed() > Duration::from_secs(25) && begun.elapsed() < Duration::from_secs(60));
    let left = async || (metric(&node, "epochlog_client_calls{kind=\"commit\"}") == 0.0).then_some(());
    wait_for("the end of the call", left).await;
    assert_eq!(commit(&node, &source, "job").await.job, "job");
}

/// Stands between a client and a node, and ends the connection on which a call begins when it is told to: as the node does
/// with one that was idle for long, at the moment at which its client wants something again. Nothing of that call gets through.
struct Ending {
    address: String,
    armed: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
}

impl Ending {
    async fn start(node: &Node) -> Ending {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (armed, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (node, arms, ends) = (node.endpoint.clone(), armed.clone(), ended.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = tokio::net::TcpStream::connect(&node).await.unwrap();
                let (arms, ends) = (arms.clone(), ends.clone());
                tokio::spawn(async move {
                    let (from_client, mut to_client) = client.into_split();
                    let (mut from_server, to_server) = server.into_split();
                    tokio::select! {
                        _ = up_to_a_call(from_client, to_server, &arms, &ends) => {}
                        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                    }
                });
            }
        });
        Ending { address, armed, ended }
    }

    /// The next call finds its connection ended.
    fn arm(&self) {
        assert!(!self.armed.swap(true, Ordering::SeqCst), "the last call came through");
    }

    fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

/// Passes on what a client says over HTTP/2, frame by frame, up to the call that is not to come through.
async fn up_to_a_call(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    armed: &AtomicBool,
    ended: &AtomicUsize,
) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    let mut preface = [0; 24];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        if head[3] == HEADERS && armed.swap(false, Ordering::SeqCst) {
            ended.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        from.read_exact(&mut body).await?;
        to.write_all(&head).await?;
        to.write_all(&body).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_begins_as_its_connection_is_ended_is_made_again_by_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
    let proxy = Ending::start(&node).await;
    let client = Client::new([proxy.address.clone()], Options { timeout: Duration::from_secs(20) });
    client.reached().await.unwrap();
    proxy.arm();
    client.status(false).await.unwrap();
    assert_eq!(proxy.ended(), 1);
    for epoch in [1, 2] {
        std::fs::write(source.join("none"), epoch.to_string()).unwrap();
        proxy.arm();
        // One id from the first try to the last: of two tries one epoch comes.
        let done = client.commit(&source, Commit::new("job".parse().unwrap()), &|_| {}).await.unwrap();
        assert_eq!((done.committed.epoch, proxy.ended()), (epoch, epoch as usize + 1));
    }
    proxy.arm();
    let gone = client.expire(pb::ExpireRequest { job: "job".into(), epochs: vec![1], ..Default::default() });
    assert_eq!(gone.await.unwrap().epochs, [1]);
    proxy.arm();
    let there = client.list(pb::ListRequest::default()).await.unwrap();
    assert_eq!(there.epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [2]);
    assert_eq!(proxy.ended(), 5);
}

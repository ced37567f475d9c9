//! One node, as a process: a whole round from commit to restore, and over its stop.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use client::neighbour::{self, Answer, Asked};
use client::{Client, Code, Commit, Options, pb};

use crate::support::{Node, port, source, wait_for};

fn root_of(dir: &Path) -> Vec<u8> {
    let limits = checkpoint::Limits::default();
    checkpoint::split::digest_dir(dir, &limits).unwrap().root().as_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_goes_in_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let job: checkpoint::JobName = "job".parse().unwrap();

    let mut order = Commit::new(job.clone());
    order.wait_all = true;
    let done = client.commit(&source, order.clone(), &|_| {}).await.unwrap();
    assert!(done.committed.by_path, "the node and we see the same directory");
    assert_eq!(done.committed.epoch, 1);
    assert_eq!(done.committed.root[..], root_of(&source)[..]);
    assert_eq!(done.published.unwrap().nodes, [1]);
    assert_eq!(root_of(&node.data.join("epochs/job/1/files")), root_of(&source));

    // The same commit once more: its own outcome, nothing new.
    let again = client.commit(&source, order, &|_| {}).await.unwrap();
    assert!(again.committed.already);
    assert_eq!(again.committed.epoch, 1);

    // Unchanged content over a stream: references only.
    let mut streamed = Commit::new(job.clone());
    streamed.by_path = false;
    let second = client.commit(&source, streamed, &|_| {}).await.unwrap();
    assert!(!second.committed.by_path);
    assert_eq!((second.committed.epoch, second.committed.new_bytes), (2, 0));
    assert!(second.committed.log_bytes < 10_000, "{}", second.committed.log_bytes);

    // The same number with another commit id: equal content is committed already, other content a conflict.
    let mut numbered = Commit::new(job.clone());
    numbered.epoch = Some(2);
    let known = client.commit(&source, numbered.clone(), &|_| {}).await.unwrap();
    assert!(known.committed.already);
    std::fs::write(source.join("large"), b"other").unwrap();
    numbered.commit_id = checkpoint::CommitId::from_bytes([5; 16]);
    let conflict = client.commit(&source, numbered, &|_| {}).await.unwrap_err();
    assert_eq!(conflict.code, Code::Conflict, "{conflict}");
    assert_eq!(conflict.committed, client::Certainty::No);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_survives_a_kill_and_tokens_fence() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let endpoint = port();
    let job: checkpoint::JobName = "job".parse().unwrap();
    let node = Node::start(dir.path(), &endpoint, Path::new("/"));
    let client = node.client().await;
    let token = client.open_writer("job", [1; 16], 0).await.unwrap();
    assert_eq!(client.open_writer("job", [1; 16], 0).await.unwrap(), token, "a repeat finds its own token");
    let newer = client.open_writer("job", [2; 16], 0).await.unwrap();
    assert!(newer > token);
    let mut stale = Commit::new(job.clone());
    stale.token = Some(token);
    assert_eq!(client.commit(&source, stale, &|_| {}).await.unwrap_err().code, Code::Fenced);
    let done = client.commit(&source, Commit::new(job.clone()), &|_| {}).await.unwrap();
    drop(node);

    let node = Node::start(dir.path(), &endpoint, dir.path());
    let client = node.client().await;
    let listed = client.list(pb::ListRequest { job: "job".into(), ..Default::default() }).await.unwrap();
    assert_eq!(listed.epochs.len(), 1);
    assert_eq!(listed.epochs[0].root, done.committed.root);
    let fetched = client.manifest("job", pb::Which::default(), false).await.unwrap();
    let target = dir.path().join("restored");
    let mut content = client::ReplicaContent::new(std::sync::Arc::new(client.same()), &fetched);
    content.stream_only();
    let restored = tokio::task::block_in_place(|| {
        let options = checkpoint::restore::RestoreOptions::default();
        checkpoint::restore::restore(&fetched.manifest, &target, &options, &mut content, &|_| {})
    });
    assert_eq!(restored.unwrap().fetched_bytes, 6_000_005);
    assert_eq!(root_of(&target), root_of(&source));
    let none = client.manifest("other", pb::Which::default(), false).await.unwrap_err();
    assert_eq!(none.code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_reserve_nothing_new_begins() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let endpoint = port();
    let job: checkpoint::JobName = "job".parse().unwrap();
    let order = Commit::new(job.clone());
    let node = Node::start(dir.path(), &endpoint, dir.path());
    node.client().await.commit(&source, order.clone(), &|_| {}).await.unwrap();
    drop(node);

    let node = Node::start_with(dir.path(), &endpoint, dir.path(), "1000 TiB");
    let client = node.client().await;
    let refused = client.commit(&source, Commit::new(job), &|_| {}).await.unwrap_err();
    assert_eq!(refused.code, Code::NoSpace, "{refused}");
    assert_eq!(refused.committed, client::Certainty::No);
    assert!(refused.why.contains("node 1 has"), "{}", refused.why);
    // What is committed already needs no space to say so.
    let known = client.commit(&source, order, &|_| {}).await.unwrap();
    assert!(known.committed.already);
    let short = wait_for("the node to know that it is short", async || {
        let status = client.status(true).await.unwrap();
        Some(status.nodes[0].short_of_space.clone()).filter(|why| !why.is_empty())
    })
    .await;
    assert!(short.starts_with("node 1 is short of space"), "{short}");
    let (head, ready) = node.get("/readyz");
    assert!(head.starts_with("HTTP/1.1 503") && ready.contains("WRONG log: node 1 is short"), "{ready}");

    // What makes room needs none: the epoch goes at once, and so does its content.
    let expire = pb::ExpireRequest { job: "job".into(), epochs: vec![1], ..Default::default() };
    client.expire(expire).await.unwrap();
    let directory = node.data.join("epochs/job/1");
    wait_for("the directory to go", async || (!directory.exists()).then_some(())).await;
    wait_for("the content to go", async || blobs(&node.data).is_empty().then_some(())).await;
    wait_for("the garbage to be counted off", async || {
        (client.status(true).await.unwrap().nodes[0].garbage_bytes == 0).then_some(())
    })
    .await;
}

fn blobs(data: &Path) -> Vec<std::path::PathBuf> {
    let files = |dir: &Path| -> Vec<_> {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    files(&data.join("groups/main/blobs")).iter().flat_map(|dir| files(dir)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_stream_is_refused_and_the_node_goes_on() {
    use pb::commit_request::Kind;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let start = |pages| pb::Start {
        job: "job".into(),
        commit_id: vec![9; 16].into(),
        plan_digest: vec![1; 32].into(),
        declared_bytes: 1 << 20,
        plan_entries: 2,
        plan_pages: pages,
        wait_ms: 5000,
        ..pb::Start::default()
    };
    let entry = |path: &'static [u8], kind, mode, size| pb::PlanEntry {
        path: path.into(),
        kind,
        mode,
        size,
        ..pb::PlanEntry::default()
    };
    let root = || entry(b"", 2, 0o755, 0);
    let page = |entries| Kind::Page(pb::PlanPage { page: 0, entries });
    let stories: Vec<Vec<Kind>> = vec![
        vec![page(vec![])],
        vec![Kind::Start(start(1)), page(vec![root(), entry(b"../x", 1, 0o644, 1 << 20)])],
        vec![Kind::Start(start(1)), page(vec![root(), entry(b"/x", 1, 0o644, 1 << 20)])],
        vec![Kind::Start(start(1)), page(vec![root(), entry(b"a\0b", 1, 0o644, 1 << 20)])],
        vec![Kind::Start(start(1)), page(vec![root(), root()])],
        vec![Kind::Start(start(1)), page(vec![root(), entry(b"x", 7, 0o644, 1 << 20)])],
        vec![Kind::Start(start(1)), page(vec![root(), entry(b"x", 1, 0o4755, 1 << 20)])],
        vec![Kind::Start(start(0))],
        vec![Kind::Start(start(1)), Kind::Seal(pb::Seal { root: vec![0; 32].into() })],
        vec![Kind::Start(pb::Start { job: "../../etc".into(), ..start(1) })],
        vec![Kind::Start(pb::Start { commit_id: vec![1].into(), ..start(1) })],
        vec![Kind::Start(pb::Start { plan_entries: u32::MAX, ..start(1) })],
        vec![Kind::Start(pb::Start { chunk_bytes: 12_345, ..start(1) })],
    ];
    for (number, story) in stories.into_iter().enumerate() {
        let requests: Vec<_> = story.into_iter().map(|kind| pb::CommitRequest { kind: Some(kind) }).collect();
        let mut stub = client.stub(&node.endpoint).unwrap();
        let mut replies = stub.commit(tokio_stream::iter(requests)).await.unwrap().into_inner();
        let mut last = None;
        while let Ok(Some(reply)) = replies.message().await {
            last = reply.kind;
        }
        let Some(pb::commit_reply::Kind::Failed(failed)) = last else {
            panic!("story {number} was answered {last:?}");
        };
        assert_eq!(failed.committed(), pb::Certainty::No, "story {number}: {failed:?}");
        assert!(!failed.why.is_empty(), "story {number}");
    }
    let good =
        client.commit(&source(dir.path()), Commit::new("job".parse().unwrap()), &|_| {}).await.unwrap();
    assert_eq!(good.committed.epoch, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_restores_hold_no_more_than_their_share_and_let_go_when_dropped() {
    use pb::fetch_reply::Kind;
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("large"), vec![7; 48 << 20]).unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let mut order = Commit::new("job".parse().unwrap());
    order.wait_all = true;
    client.commit(&source, order, &|_| {}).await.unwrap();
    let request = pb::FetchRequest { job: "job".into(), content: true, ..Default::default() };
    let mut stalled = Vec::new();
    for _ in 0..8 {
        // A client of its own: the window of one connection is shared.
        let stub = Client::new([node.endpoint.clone()], Options::default());
        let mut stub = stub.stub(&node.endpoint).unwrap();
        let mut stream = stub.fetch(request.clone()).await.unwrap().into_inner();
        assert!(matches!(
            stream.message().await.unwrap().unwrap().kind,
            Some(Kind::Chunk(_) | Kind::Working(_))
        ));
        stalled.push((stub, stream));
    }
    // The ninth waits for its turn, and hears that it does.
    let mut stub = client.stub(&node.endpoint).unwrap();
    let mut ninth = stub.fetch(request).await.unwrap().into_inner();
    assert!(matches!(ninth.message().await.unwrap().unwrap().kind, Some(Kind::Working(_))));
    drop(stalled);
    let mut bytes = 0;
    while let Some(reply) = ninth.message().await.unwrap() {
        match reply.kind {
            Some(Kind::Chunk(chunk)) => bytes += chunk.payload.len(),
            Some(Kind::Working(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes, 48 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_filtered_on_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    for step in ["1", "2"] {
        let mut order = Commit::new("job".parse().unwrap());
        order.labels = vec![("step".to_owned(), step.to_owned())];
        client.commit(&source, order, &|_| {}).await.unwrap();
    }
    let count = |labels: &[&str], younger_ms| {
        let labels = labels.iter().map(ToString::to_string).collect();
        let request = pb::ListRequest { labels, younger_ms, ..Default::default() };
        let client = &client;
        async move { client.list(request).await.unwrap().epochs.len() }
    };
    assert_eq!(count(&["step"], 0).await, 2);
    assert_eq!(count(&["step=2"], 3_600_000).await, 1);
    assert_eq!(count(&["step=3"], 0).await, 0);
}

/// Forwards what the client says, and the directory that it hands over, and swallows every answer; the sender cuts all
/// connections.
fn swallowing_proxy(node: &str) -> (String, tokio::sync::watch::Sender<bool>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let node = node.to_owned();
    let (socket, to) = (neighbour::listen(listener.local_addr().unwrap().port()).unwrap(), node.clone());
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let passed_on = |asked| match asked {
                Asked::Hand { ticket, commit, dir }
                    if neighbour::hand(&to, dir.as_fd(), commit, &ticket).is_ok() =>
                {
                    Answer::Kept
                }
                _ => Answer::No,
            };
            neighbour::serve(stream.unwrap(), passed_on).unwrap();
        }
    });
    tokio::spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((client, _)) = listener.accept().await {
            let (node, mut is_cut) = (node.clone(), is_cut.clone());
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(node).await.unwrap();
                let (mut from_client, _to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::select! {
                    _ = is_cut.wait_for(|cut| *cut) => {}
                    _ = async {
                        let up = tokio::io::copy(&mut from_client, &mut to_server);
                        let mut nowhere = tokio::io::sink();
                        let down = tokio::io::copy(&mut from_server, &mut nowhere);
                        tokio::join!(up, down)
                    } => {}
                }
            });
        }
    });
    (address, cut)
}

/// A commit whose first answer is swallowed; `change` changes the directory before the second try.
async fn answer_after_a_change(change: impl FnOnce(&Path), tiny: bool) -> client::Failure {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    if tiny {
        std::fs::remove_file(source.join("large")).unwrap();
        std::fs::remove_file(source.join("zeros")).unwrap();
    }
    let node = Node::start(dir.path(), &port(), dir.path());
    let direct = node.client().await;
    let (proxy, cut) = swallowing_proxy(&node.endpoint);
    let mut order = Commit::new("job".parse().unwrap());
    order.epoch = Some(5);
    // Else the question for it is the first one whose answer is swallowed.
    order.born = Some(direct.reached().await.unwrap());
    let options = Options { timeout: Duration::from_secs(20) };
    let client = Client::new([proxy, node.endpoint.clone()], options);
    let committing = {
        let source = source.clone();
        tokio::spawn(async move { client.commit(&source, order, &|_| {}).await })
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let request = pb::ListRequest { job: "job".into(), ..Default::default() };
    while direct.list(request.clone()).await.unwrap().epochs.is_empty() {
        assert!(Instant::now() < deadline, "the first try does not commit");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    change(&source);
    cut.send(true).unwrap();
    committing.await.unwrap().unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_changed_after_a_lost_answer_is_told_as_committed() {
    for tiny in [false, true] {
        let change = |source: &Path| std::fs::write(source.join("more"), b"more").unwrap();
        let failure = answer_after_a_change(change, tiny).await;
        assert_eq!(failure.committed, client::Certainty::Yes, "{failure:?}");
        assert!(failure.why.contains("sealed root"), "{failure:?}");
        assert_eq!(failure.epoch, Some(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_after_a_lost_answer_leaves_it_unknown() {
    let change = |source: &Path| {
        let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    };
    let failure = answer_after_a_change(change, false).await;
    assert_eq!(failure.committed, client::Certainty::Unknown, "{failure:?}");
    assert_eq!(failure.code, Code::Timeout);
    assert!(failure.why.contains("socket"), "{failure:?}");
    assert!(failure.fix.contains("--commit-id") && failure.fix.contains("--epoch 5"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_writer_of_a_job_fences_those_without() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let told = std::sync::Mutex::new(None);
    let mut order = Commit::new("job".parse().unwrap());
    order.by_path = false;
    let note = |event| {
        if let client::Event::Opened(opened) = event {
            *told.lock().unwrap() = opened.token;
        }
    };
    client.commit(&source, order.clone(), &note).await.unwrap();
    assert_eq!(*told.lock().unwrap(), Some(0), "a job without a writer has token 0, and says so");
    order.commit_id = checkpoint::CommitId::from_bytes([7; 16]);
    order.token = Some(0);
    client.commit(&source, order.clone(), &|_| {}).await.unwrap();
    client.open_writer("job", [1; 16], 0).await.unwrap();
    order.commit_id = checkpoint::CommitId::from_bytes([8; 16]);
    let fenced = client.commit(&source, order, &|_| {}).await.unwrap_err();
    assert_eq!((fenced.code, fenced.committed), (Code::Fenced, client::Certainty::No), "{fenced:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_open_as_many_files_as_the_system_lets_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -S -n 200 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_epochlog")]);
    let node = Node::start_by(limited, dir.path(), &port(), dir.path(), "1 MiB");
    let _ = node.client().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_ne!(fields[3], "200", "{line}");
    assert_eq!(fields[3], fields[4], "{line}");
}

//! What a node says about itself: metrics that move, health, reflection, readiness, a status that is watched.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Node, port, source, wait_for};
use client::{Client, Commit, Options, pb};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Samples by name and labels, after a look at the form: each family has its HELP and TYPE once, before its samples.
fn scrape(node: &Node) -> BTreeMap<String, f64> {
    let (head, body) = node.get("/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let (mut help, mut types, mut samples) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').unwrap();
            assert!(help.insert(name.to_owned(), text.to_owned()).is_none(), "{name} twice");
            assert!(text.len() > 10, "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            types.insert(name.to_owned(), kind.to_owned());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end));
            let family = family.filter(|family| types.get(*family).is_some_and(|kind| kind == "histogram"));
            let family = family.unwrap_or(bare);
            assert!(help.contains_key(family) && types.contains_key(family), "{family} has no HELP or TYPE");
            assert!(family.starts_with("epochlog_"), "{family}");
            assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
        }
    }
    samples
}

async fn channel(node: &Node) -> Channel {
    Channel::from_shared(format!("http://{}", node.endpoint)).unwrap().connect().await.unwrap()
}

async fn commit(node: &Node, dir: &Path, job: &str) -> pb::Committed {
    let mut order = Commit::new(job.parse().unwrap());
    order.wait_all = true;
    node.client().await.commit(dir, order, &|_| {}).await.unwrap().committed
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_move_with_what_they_measure() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let before = scrape(&node);
    let first = commit(&node, &source, "job").await;
    let after = scrape(&node);
    let of = |samples: &BTreeMap<String, f64>, name: &str| {
        let name = format!("epochlog_{name}");
        *samples.get(&name).unwrap_or_else(|| panic!("{name} is not there: {:#?}", samples.keys()))
    };
    let grew = |name: &str| of(&after, name) - of(&before, name);
    assert_eq!(grew("commits_total{result=\"committed\"}"), 1.0);
    assert_eq!(grew("commit_bytes_total{kind=\"logical\"}"), first.bytes as f64);
    assert_eq!(grew("commit_bytes_total{kind=\"log\"}"), first.log_bytes as f64);
    assert!(grew("commit_bytes_total{kind=\"disk\"}") >= 3_000_000.0);
    assert!(grew("fsync_duration_seconds_count{kind=\"file\"}") >= 2.0);
    assert!(grew("fsync_duration_seconds_sum{kind=\"file\"}") > 0.0);
    assert!(grew("raft_applied_index") >= 3.0);
    for stage in ["begin", "plan", "content", "seal", "publish", "total"] {
        assert_eq!(
            of(&after, &format!("commit_duration_seconds_count{{stage=\"{stage}\"}}")),
            1.0,
            "{stage}"
        );
    }
    for mark in ["performed", "applied", "flushed"] {
        assert!(grew(&format!("log_mark_entries{{mark=\"{mark}\"}}")) >= 3.0, "{mark}");
    }
    assert_eq!(of(&after, "raft_is_leader"), 1.0);
    assert!(of(&after, "raft_term") >= 1.0);
    assert_eq!((of(&after, "quorum"), of(&after, "voters"), of(&after, "voters_reachable")), (1.0, 1.0, 1.0));
    assert_eq!(of(&after, "epochs{job=\"job\",state=\"sealed\"}"), 1.0);
    assert_eq!(of(&after, "epochs{job=\"job\",state=\"unpublished\"}"), 0.0);
    assert_eq!(of(&after, "last_checkpoint_bytes{job=\"job\"}"), first.bytes as f64);
    assert_eq!(of(&after, "checkpoint_storage_size{job=\"job\"}"), first.bytes as f64);
    assert!(of(&after, "last_checkpoint_elapsed_ms{job=\"job\"}") >= 0.0);
    // As it stands in the ledger, whatever a clock says by now.
    let show = pb::ShowRequest { job: "job".into(), ..Default::default() };
    let sealed_ms = client.show(show).await.unwrap().epoch.unwrap().sealed_wall_ms;
    let sealed = Duration::from_millis(sealed_ms).as_secs_f64();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - sealed).abs() < 60.0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for scraped in [&after, &scrape(&node)] {
        assert_eq!(of(scraped, "epoch_latest_timestamp_seconds{job=\"job\"}"), sealed);
    }
    assert!(of(&after, "disk_free_bytes") > 0.0 && of(&after, "wal_bytes") > 0.0);
    assert_eq!(of(&after, &format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    for name in [
        "verify_mismatches_total",
        "restore_duration_seconds_count",
        "snapshot_index",
        "purged_index",
        "catch_up_bytes_total",
        "catch_up_lacking_bytes",
        "epochs_unpublished",
        "epochs_not_looked",
        "garbage_bytes",
        "log_stalled",
        "space_short",
        "voters_full",
        "attempts_open",
        "attempts_spoken_for_bytes",
        "disk_ballast_bytes",
        "jobs",
    ] {
        of(&after, name);
    }

    // A restore, a repeat, a conflict, and a file that rots.
    let mut known = Commit::new("job".parse().unwrap());
    known.epoch = Some(1);
    assert!(client.commit(&source, known.clone(), &|_| {}).await.unwrap().committed.already);
    let fetched = client.manifest("job", pb::Which::default(), false).await.unwrap();
    let mut content = client::ReplicaContent::new(std::sync::Arc::new(client.same()), &fetched);
    content.stream_only();
    let target = dir.path().join("restored");
    let restored = tokio::task::block_in_place(|| {
        let options = checkpoint::restore::RestoreOptions::default();
        checkpoint::restore::restore(&fetched.manifest, &target, &options, &mut content, &|_| {})
    });
    restored.unwrap();
    let rotten = node.data.join("epochs/job/1/files/large");
    std::fs::write(&rotten, vec![8; 3_000_000]).unwrap();
    let verify = pb::VerifyRequest { job: "job".into(), ..Default::default() };
    let mut seen = Vec::new();
    client.verify(verify, &mut |reply| seen.push(reply.outcome())).await.unwrap();
    assert_eq!(seen, [pb::Outcome::Damaged]);
    let last = wait_for("the end of the restore", async || {
        Some(scrape(&node)).filter(|samples| of(samples, "restore_duration_seconds_count") >= 1.0)
    })
    .await;
    assert_eq!(of(&last, "commits_total{result=\"already\"}"), 1.0);
    assert_eq!(of(&last, "recover_times{job=\"job\"}"), 1.0);
    assert!(of(&last, "verify_mismatches_total") >= 1.0);
    assert_eq!(of(&last, "commit_bytes_total{kind=\"logical\"}"), first.bytes as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_have_few_series() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tiny");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), b"a").unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let jobs = node::limits::JOBS_MAX + 3;
    for number in 0..jobs {
        let mut order = Commit::new(format!("job-{number:04}").parse().unwrap());
        order.by_path = false;
        client.commit(&source, order, &|_| {}).await.unwrap();
    }
    let samples = scrape(&node);
    let series =
        |name: &str| samples.keys().filter(|key| key.starts_with(&format!("epochlog_{name}{{"))).count();
    assert_eq!(series("epoch_latest_timestamp_seconds"), node::limits::JOBS_MAX + 1);
    assert_eq!(series("last_checkpoint_elapsed_ms"), node::limits::JOBS_MAX);
    assert_eq!(samples["epochlog_jobs_without_series"], 3.0);
    assert_eq!(samples["epochlog_epochs{job=\".others\",state=\"sealed\"}"], 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_find_every_service_of_the_port() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
    let mut tool = ServerReflectionClient::new(channel(&node).await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let symbol = |name: &str| ask(MessageRequest::FileContainingSymbol(name.to_owned()));
    let asked = vec![
        ask(MessageRequest::ListServices(String::new())),
        symbol("epochlog.Epochlog.Commit"),
        symbol("grpc.health.v1.Health"),
    ];
    let mut answers = tool.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = first.message_response else {
        panic!("{first:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["epochlog.Epochlog", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(names.iter().any(|name| name == service), "{service} is not in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("Peer")), "{names:?}");
    for _ in 0..2 {
        let answer: ServerReflectionResponse = answers.message().await.unwrap().unwrap();
        let Some(MessageResponse::FileDescriptorResponse(found)) = answer.message_response else {
            panic!("{answer:?}")
        };
        assert!(!found.file_descriptor_proto.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_by_service_and_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
    let mut health = HealthClient::new(channel(&node).await);
    let service = |name: &str| HealthCheckRequest { service: name.to_owned() };
    for name in ["", "epochlog.Epochlog"] {
        let answer = health.check(service(name)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
    }
    assert!(health.check(service("nobody")).await.is_err());
    let mut watched = Vec::new();
    for name in ["", "epochlog.Epochlog"] {
        let mut stream = health.watch(service(name)).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watched.push(stream);
    }
    node.terminate();
    for mut stream in watched {
        assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    }
    drop(health);
    assert_eq!(tokio::task::block_in_place(|| node.child.wait()).unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_status_is_one_object_a_round_until_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    commit(&node, &source, "job").await;
    let mut watch = Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .args(["-e", &node.endpoint, "-o", "jsonl", "status", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let round: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let node = &round["nodes"][0];
        assert_eq!(round["leader"], 1);
        let mark = |name: &str| node[name].as_u64().unwrap_or_else(|| panic!("{name}: {node}"));
        assert!(mark("snapshot") <= mark("published") && mark("published") <= mark("applied"));
        assert!(mark("applied") <= mark("flushed") && mark("published") >= 3);
        assert!(mark("wal_bytes") > 0 && mark("disk_free") > 0);
        assert_eq!((mark("unpublished"), mark("lacking_bytes")), (0, 0));
    }
    let killed = Command::new("kill").args(["-INT", &watch.id().to_string()]).status().unwrap();
    assert!(killed.success());
    // That is how it is meant to end: no failure, and no word of one.
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    for line in lines {
        let round: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(round["leader"], 1, "{round}");
    }
    let mut said = String::new();
    watch.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");

    let ready = node.get("/readyz");
    assert!(ready.0.starts_with("HTTP/1.1 200"), "{ready:?}");
    assert!(ready.1.contains("ok    log: "), "{ready:?}");
}

/// What `status` says of the only node, as JSON and as the table.
fn status_of(node: &Node) -> (serde_json::Value, String) {
    let run = |format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
        let done = command.args(["-e", &node.endpoint, "-o", format, "status"]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&run("json")).unwrap();
    (json["nodes"][0].clone(), run("table"))
}

/// A node that has stopped behind a snapshot of a job whose first epoch has expired, and whose second is there: only
/// what a snapshot says was there is looked for at a start.
async fn stopped_behind_a_snapshot(dir: &Path, source: &Path, endpoint: &str) -> Node {
    let mut node = Node::start(dir, endpoint, dir);
    std::fs::write(source.join("only"), b"of the first").unwrap();
    commit(&node, source, "job").await;
    std::fs::remove_file(source.join("only")).unwrap();
    commit(&node, source, "job").await;
    // What goes with the first makes it take a snapshot.
    let client = node.client().await;
    let expire = pb::ExpireRequest { job: "job".into(), epochs: vec![1], ..Default::default() };
    let expired = client.expire(expire).await.unwrap().position.unwrap().index;
    wait_for("a snapshot without the first", async || {
        let is_kept = scrape(&node)["epochlog_snapshot_index"] >= expired as f64;
        (is_kept && !node.data.join("epochs/job/1").exists()).then_some(())
    })
    .await;
    node.terminate();
    tokio::task::block_in_place(|| node.child.wait()).unwrap();
    node
}

/// A folder whose manifest is a pipe: who reads it waits for somebody who writes, as one may wait for a disk.
fn folder_that_is_waited_for(path: &Path) {
    std::fs::create_dir(path).unwrap();
    assert!(Command::new("mkfifo").arg(path.join("manifest")).status().unwrap().success());
}

/// Lets whoever waits there go on. He finds nothing.
fn let_go_on(path: &Path) {
    drop(std::fs::File::options().write(true).open(path.join("manifest")).unwrap());
}

/// Where the only epoch is published, as a list of epochs tells it.
async fn published_on(node: &Node) -> Vec<u64> {
    let request = pb::ListRequest { published_on: true, ..Default::default() };
    let mut listed = node.client().await.list(request).await.unwrap();
    assert!(listed.epochs.len() == 1 && listed.silent.is_empty(), "{listed:?}");
    listed.epochs.remove(0).published_on
}

/// Where the second epoch is published, and where it is not yet, as who waits for all is told after a moment.
async fn acknowledged(node: &Node, source: &Path) -> (Vec<u64>, Vec<u64>) {
    let hasty = Client::new([node.endpoint.clone()], Options { timeout: Duration::from_secs(3) });
    let again =
        Commit { epoch: Some(2), if_not_exists: true, wait_all: true, ..Commit::new("job".parse().unwrap()) };
    let published = hasty.commit(source, again, &|_| {}).await.unwrap().published.unwrap();
    (published.nodes, published.missing)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_looked_since_its_start_is_not_said_to_have_published() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let endpoint = port();
    let node = stopped_behind_a_snapshot(dir.path(), &source, &endpoint).await;
    // The second is there. The look comes by the folder of the first before it knows.
    let (place, aside) = (node.data.join("epochs/job/1"), dir.path().join("aside"));
    folder_that_is_waited_for(&place);

    drop(node);
    let node = Node::start(dir.path(), &endpoint, dir.path());
    assert_eq!(published_on(&node).await, Vec::<u64>::new());
    assert_eq!(acknowledged(&node, &source).await, (vec![], vec![1]));

    // Out of the way, lest the node waits there once more.
    std::fs::rename(&place, &aside).unwrap();
    let_go_on(&aside);
    wait_for("the look", async || (published_on(&node).await == [1u64]).then_some(())).await;
    assert_eq!(acknowledged(&node, &source).await, (vec![1], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_that_a_node_has_not_looked_for_since_its_start_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let endpoint = port();
    let node = stopped_behind_a_snapshot(dir.path(), &source, &endpoint).await;
    let (place, aside) = (node.data.join("epochs/job/2"), dir.path().join("aside"));
    std::fs::remove_dir_all(&place).unwrap();
    folder_that_is_waited_for(&aside);
    std::os::unix::fs::symlink(&aside, &place).unwrap();

    drop(node);
    let node = Node::start(dir.path(), &endpoint, dir.path());
    node.client().await;
    let (json, table) = status_of(&node);
    assert_eq!((&json["not_looked"], &json["unpublished"]), (&1.into(), &0.into()), "{json}");
    assert!(json["why"].as_str().unwrap().contains("has not looked for since it started: 1"), "{json}");
    assert!(table.contains("  ?  "), "{table}");
    assert_eq!(scrape(&node)["epochlog_epochs_not_looked"], 1.0);
    let ready = node.get("/readyz");
    assert!(ready.0.starts_with("HTTP/1.1 200"), "it serves: {ready:?}");
    assert!(ready.1.contains("epochs not looked for yet: 1"), "{ready:?}");

    std::fs::remove_file(&place).unwrap();
    let_go_on(&aside);
    wait_for("the look", async || {
        let (json, table) = status_of(&node);
        (json["not_looked"] == 0 && json["unpublished"] == 1 && !table.contains("  ?  ")).then_some(())
    })
    .await;
    assert_eq!(scrape(&node)["epochlog_epochs_not_looked"], 0.0);
}

//! A start that is safe to type: what is refused, with words that help, and what `--check` says of it beforehand.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::{Node, make_secret, port, source, wait_for};
use client::{Certainty, Code, Commit, pb};

fn epochlog(at: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EPOCHLOG_")) {
        command.env_remove(name);
    }
    command.current_dir(at).args(args).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// `serve` with ports that nobody listens on, and these flags.
fn serve(at: &Path, more: &[&str]) -> Output {
    let (grpc, peers, http) = (port(), port(), port());
    let ports = ["serve", "--listen", &grpc, "--listen-peers", &peers, "--http", &http];
    epochlog(at, &[&ports[..], more].concat())
}

/// A secret in the folder, by its path.
fn secret(at: &Path) -> String {
    let file = at.join("secret");
    make_secret(&file);
    file.to_str().unwrap().to_owned()
}

#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    let text = told(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
}

#[test]
fn a_node_that_may_open_too_few_files_does_not_start_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for check in [&[] as &[&str], &["--check"]] {
        let (grpc, http) = (port(), port());
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_epochlog"), "serve"]);
        limited.args(["--single", "--id", "1", "--data-dir", "d", "--listen", &grpc, "--http", &http]);
        let output = limited.args(check).current_dir(dir.path()).output().unwrap();
        says(&output, 1, &["may open 100 files", "ulimit -Hn"]);
    }
    assert!(!dir.path().join("d").exists());
}

#[test]
fn one_node_without_peers_is_started_only_on_purpose() {
    let dir = tempfile::tempdir().unwrap();
    for check in [&["--id", "1", "--data-dir", "d"][..], &["--id", "1", "--data-dir", "d", "--check"]] {
        says(&serve(dir.path(), check), 2, &["--peers", "--single", "no second copy"]);
    }
    assert!(!dir.path().join("d").exists());
}

#[test]
fn a_folder_with_other_things_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("project");
    std::fs::create_dir(&project).unwrap();
    std::fs::write(project.join("thesis.tex"), b"mine").unwrap();
    for check in [&[] as &[&str], &["--check"]] {
        let args = [&["--single", "--id", "1", "--data-dir", "project"][..], check].concat();
        says(&serve(dir.path(), &args), 2, &["thesis.tex", "--data-dir"]);
    }
    assert_eq!(std::fs::read_dir(&project).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_contradicts_the_log_is_refused_with_both_values() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = port();
    let mut node = Node::start(dir.path(), &endpoint, dir.path());
    node.client().await;
    let config = node.config.to_str().unwrap().to_owned();
    node.terminate();
    assert!(tokio::task::block_in_place(|| node.child.wait()).unwrap().success());

    let again = |more: &[&str]| epochlog(dir.path(), &[&["serve", "-c", &config][..], more].concat());
    for check in [&[] as &[&str], &["--check"]] {
        let other = again(&[&["--cluster", "other"][..], check].concat());
        says(&other, 2, &["\"epochlog\"", "\"other\"", "--cluster"]);
        says(&again(&[&["--id", "2"][..], check].concat()), 2, &["belongs to node 1", "node 2"]);
    }
    // Into three, which is how it is tried.
    let without = std::fs::read_to_string(&config).unwrap().replace("single = true\n", "");
    std::fs::write(dir.path().join("three.toml"), without).unwrap();
    let endpoint: std::net::SocketAddr = endpoint.parse().unwrap();
    let first = format!("1={}:{}", endpoint.ip(), endpoint.port() + 20);
    let peers = format!("{first},2=127.0.0.1:2,3=127.0.0.1:3");
    let (listen, secret) = (port(), secret(dir.path()));
    let with = ["--peers", &peers, "--listen-peers", &listen, "--secret-file", &secret];
    let logged = format!("the log of this node has {first}");
    let serve = ["serve", "-c", "three.toml"];
    let three = epochlog(dir.path(), &[&serve[..], &with].concat());
    says(&three, 2, &["contradicts its log", "2=127.0.0.1:2", &logged, "--peers"]);
    let log = || {
        let files = std::fs::read_dir(dir.path().join("data/groups/main/log")).unwrap();
        let file = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            (std::fs::read(&path).unwrap(), path)
        };
        let mut files: Vec<_> = files.map(file).collect();
        files.sort();
        files
    };
    let before = log();
    let three = epochlog(dir.path(), &[&serve[..], &with, &["--check"]].concat());
    says(&three, 2, &["would not start", "2=127.0.0.1:2", &logged, "--peers"]);
    assert!(before == log(), "it is only looked at");
    // Nothing was changed: as it was started first, it starts again; elsewhere too, for nobody calls a cluster of one.
    let node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_a_start_would_do_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let three = "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3";
    // A relative folder that is not there yet: its parent is where we are.
    let alone = ["--check", "--single", "--id", "1", "--data-dir", "d1"];
    says(&serve(dir.path(), &alone), 0, &["a start begins a NEW cluster of one node"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = secret(elsewhere.path());
    let of_three =
        ["--check", "--peers", three, "--secret-file", &secret, "--id", "2", "--data-dir", "d1/below"];
    says(&serve(dir.path(), &of_three), 0, &["node 2 of a NEW cluster", "1=127.0.0.1:1, 2=127.0.0.1:2"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    let mut node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
    let config = node.config.to_str().unwrap().to_owned();
    let running = epochlog(dir.path(), &["serve", "--check", "-c", &config]);
    says(&running, 2, &["cannot listen on", "is in use by another process"]);
    let identity = dir.path().join("data/identity");
    // It says whose log it is within a moment.
    let named = async || std::fs::read_to_string(&identity).ok().filter(|text| text.contains("\ncluster"));
    wait_for("the folder to know its cluster", named).await;
    node.terminate();
    assert!(tokio::task::block_in_place(|| node.child.wait()).unwrap().success());
    let again = epochlog(dir.path(), &["serve", "--check", "-c", &config]);
    says(
        &again,
        0,
        &["the folder of node 1 of the cluster \"epochlog\" (", "its log is whole and contradicts nothing"],
    );
    std::fs::rename(dir.path().join("data/groups"), dir.path().join("away")).unwrap();
    let lost = epochlog(dir.path(), &["serve", "--check", "-c", &config]);
    says(&lost, 2, &["its log is missing", "must not come back"]);
}

/// A node of three that has never met the others: whether it is new or was wiped, there is nothing to repair.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_not_called_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (grpc, listen, http) = (port(), port(), port());
    let (peers, secret) = (format!("1={listen},2=127.0.0.1:2,3=127.0.0.1:3"), secret(dir.path()));
    let flags = ["--id", "1", "--data-dir", "d", "--peers", &peers, "--secret-file", &secret];
    let mut node = Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .current_dir(dir.path())
        .args(["serve", "--listen", &grpc, "--listen-peers", &listen, "--http", &http])
        .args(flags)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the folder", async || dir.path().join("d/identity").exists().then_some(())).await;
    node.kill().unwrap();
    node.wait().unwrap();
    let nowhere =
        ["repair", "--id", "1", "--data-dir", "nowhere", "--peers", &peers, "--secret-file", &secret];
    says(&epochlog(dir.path(), &nowhere), 2, &["there is nothing to repair"]);
    assert!(!dir.path().join("nowhere").exists());
    let repaired = epochlog(dir.path(), &[&["repair"][..], &flags].concat());
    says(&repaired, 2, &["there is nothing to repair", "never been part of a cluster", "must not come back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_numbers_are_spent_says_so_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let order = |job: &str, epoch| Commit { epoch, ..Commit::new(job.parse().unwrap()) };
    let over = client.commit(&source, order("spent", Some((1 << 53) + 1)), &|_| {}).await.unwrap_err();
    assert_eq!((over.code, over.committed), (Code::Refused, Certainty::No), "{over:?}");
    assert!(over.why.contains("9007199254740992"), "{over:?}");
    let highest = client.commit(&source, order("spent", Some(1 << 53)), &|_| {}).await.unwrap();
    assert_eq!(highest.committed.epoch, 1 << 53);
    for epoch in [None, Some(7)] {
        std::fs::write(source.join("none"), b"not any more").unwrap();
        let next = client.commit(&source, order("spent", epoch), &|_| {}).await.unwrap_err();
        assert_eq!(next.committed, Certainty::No, "{next:?}");
        assert!(next.fix.contains("another --job"), "{next:?}");
    }
    assert_eq!(client.commit(&source, order("other", None), &|_| {}).await.unwrap().committed.epoch, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_front_page_says_where_to_look() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    node.client().await;
    let (head, body) = node.get("/");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/html"), "{head}");
    for path in ["/readyz", "/healthz", "/metrics"] {
        assert!(body.contains(&format!("href=\"{path}\"")), "{body}");
        assert!(node.get(path).0.starts_with("HTTP/1.1 200"), "{path}");
    }
    let (head, body) = node.get("/metric");
    assert!(head.starts_with("HTTP/1.1 404") && body.contains("/metrics"), "{head} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_when_a_node_serves_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut room = [0; 1000];
        let len = tokio::task::block_in_place(|| socket.recv(&mut room)).unwrap();
        String::from_utf8(room[..len].to_vec()).unwrap()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.env("NOTIFY_SOCKET", &path);
    let mut node = Node::start_by(command, dir.path(), &port(), dir.path(), "1 MiB");
    assert_eq!(hear(), "STATUS=opens its data folder");
    assert_eq!(hear(), format!("READY=1\nSTATUS=node 1 of epochlog serves at {}", node.endpoint));
    std::net::TcpStream::connect(&node.endpoint).unwrap();
    node.terminate();
    assert_eq!(hear(), "STOPPING=1\nSTATUS=hands over and stops");
    assert!(tokio::task::block_in_place(|| node.child.wait()).unwrap().success());
    let unit = include_str!("../../../scripts/epochlog.service");
    assert!(unit.lines().any(|line| line == "Type=notify"), "{unit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_more_says_it_of_itself_and_not_of_its_libraries() {
    let dir = tempfile::tempdir().unwrap();
    let (source, log) = (source(dir.path()), dir.path().join("log"));
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" -v \"$@\" 2>\"$SAID\"", env!("CARGO_BIN_EXE_epochlog")]);
    command.env("SAID", &log).env_remove("EPOCHLOG_LOG");
    let node = Node::start_by(command, dir.path(), &port(), dir.path(), "1 MiB");
    let client = node.client().await;
    // More than fits on the way to a client.
    std::fs::write(source.join("huge"), vec![7; 64 << 20]).unwrap();
    let order = Commit { wait_all: true, ..Commit::new("job".parse().unwrap()) };
    client.commit(&source, order, &|_| {}).await.unwrap();
    // Somebody goes away in the middle: seldom of interest to anybody.
    let request = pb::FetchRequest { job: "job".into(), content: true, ..Default::default() };
    let mut content = client.stub(&node.endpoint).unwrap().fetch(request).await.unwrap().into_inner();
    content.message().await.unwrap().expect("a first part");
    drop(content);
    // What the libraries would say of it comes before the node has noticed.
    let said = wait_for("its line for those who look closely", async || {
        let said = std::fs::read_to_string(&log).unwrap();
        let mut lines = said.lines().filter(|line| line.contains("\"level\":\"DEBUG\""));
        lines.any(|line| line.contains("a fetch ends")).then_some(said)
    })
    .await;
    for word in ["sled", "/registry/", "log.module_path", "h2::", "hyper::", "Some(", "Ok("] {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

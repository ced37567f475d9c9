//! `restore` as it is typed: what it refuses, what it never removes, and how it ends when it is told to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::{Limits, Manifest};
use client::testing::{self, Answers, Served};
use client::{Commit, pb};
use pb::fetch_reply::Kind;
use tonic::Status;

use crate::support::{Node, port, source, wait_for};

fn command(endpoint: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.args(["-e", endpoint]).args(args).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn force_replaces_what_a_restore_wrote_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let mut order = Commit::new("job".parse().unwrap());
    order.wait_all = true;
    node.client().await.commit(&source, order, &|_| {}).await.unwrap();
    let target = dir.path().join("no/such/target");
    let restore = |to: &Path, more: &[&str]| -> (Option<i32>, serde_json::Value) {
        let args = ["-o", "json", "restore", "job", "--to", to.to_str().unwrap()];
        let output = command(&node.endpoint, &[&args[..], more].concat()).output().unwrap();
        let last = text(&output.stdout).lines().last().unwrap_or("{}").to_owned();
        (output.status.code(), serde_json::from_str(&last).unwrap())
    };
    let (code, done) = restore(&target, &[]);
    assert_eq!((code, &done["restored"]), (Some(0), &true.into()), "{done}");
    let (code, exists) = restore(&target, &[]);
    assert_eq!((code, &exists["code"]), (Some(1), &"Refused".into()), "{exists}");
    let (code, done) = restore(&target, &["--force"]);
    assert_eq!((code, &done["removed_others"]), (Some(0), &0.into()), "{done}");
    assert!(done["replaced_entries"].as_u64().unwrap() > 3, "{done}");

    std::fs::write(target.join("precious"), b"mine").unwrap();
    let (code, refused) = restore(&target, &["--force"]);
    assert_eq!(code, Some(1), "{refused}");
    assert!(refused["why"].as_str().unwrap().contains("precious"), "{refused}");
    assert!(refused["do"].as_str().unwrap().contains("--delete-others"), "{refused}");
    assert_eq!(std::fs::read(target.join("precious")).unwrap(), b"mine");
    let (code, done) = restore(&target, &["--force", "--delete-others"]);
    assert_eq!((code, &done["removed_others"]), (Some(0), &1.into()), "{done}");
    assert!(!target.join("precious").exists());
    assert_eq!(names(&dir.path().join("no/such")), ["target"]);

    // Refused before anything is made.
    for (to, more, expected) in [
        (node.data.join("epochs/job/2"), &[][..], 1),
        (node.data.join("epochs/job/1/files"), &["--force", "--delete-others"][..], 1),
        (dir.path().join("new"), &["--only", "nomatch*"][..], 4),
        (dir.path().join("new"), &["--delete-others"][..], 2),
        (dir.path().join("node.toml/below"), &[][..], 1),
        // Nobody makes a directory there.
        (PathBuf::from("/sys/epochlog-restored"), &[][..], 8),
    ] {
        let (code, said) = restore(&to, more);
        assert_eq!(code, Some(expected), "{to:?} {more:?}: {said}");
    }
    // Shared blocks or a refusal, never names that others share.
    let linked = dir.path().join("linked");
    let (code, said) = restore(&linked, &["--link"]);
    if code == Some(0) {
        std::fs::write(linked.join("sub/small"), b"other").unwrap();
    } else {
        assert!(said["do"].as_str().unwrap().contains("--link") && !linked.exists(), "{said}");
    }
    assert_eq!(std::fs::read(node.data.join("epochs/job/1/files/sub/small")).unwrap(), b"small");
    assert!(!dir.path().join("new").exists());
}

/// A node that has the manifest of a large file, and never sends a byte of it.
struct Mute(Manifest);

impl Served for Mute {
    fn fetch(&self, request: pb::FetchRequest) -> Result<Answers<pb::FetchReply>, Status> {
        if request.content {
            return Ok(Box::pin(tokio_stream::pending()));
        }
        let head = pb::Head {
            job: "job".into(),
            epoch: 1,
            root: self.0.root().as_bytes().to_vec().into(),
            ..pb::Head::default()
        };
        let kinds = [Kind::Head(head), Kind::Manifest(self.0.encode().into())];
        let replies = kinds.map(|kind| Ok(pb::FetchReply { kind: Some(kind) }));
        Ok(Box::pin(tokio_stream::iter(replies)))
    }
}

/// Restores from such a node to a folder whose parent is missing too.
struct Stalled {
    scratch: Arc<tempfile::TempDir>,
    endpoint: String,
}

impl Stalled {
    async fn new() -> Stalled {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("source")).unwrap();
        std::fs::write(scratch.path().join("source/large"), vec![7; 1 << 20]).unwrap();
        let manifest = checkpoint::split::digest_dir(&scratch.path().join("source"), &Limits::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        testing::serve(Mute(manifest.unwrap()), listener);
        Stalled { scratch: Arc::new(scratch), endpoint }
    }

    fn parent(&self) -> PathBuf {
        self.scratch.path().join("to")
    }

    /// Starts a restore and waits until it has made something that is not among `before`.
    async fn start(&self, before: &[String]) -> Child {
        self.start_by(self.command(), before).await
    }

    fn command(&self) -> Command {
        let target = self.parent().join("target");
        let args = ["restore", "job@1", "--to", target.to_str().unwrap(), "--timeout", "60s"];
        command(&self.endpoint, &args)
    }

    async fn start_by(&self, mut command: Command, before: &[String]) -> Child {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("a temporary directory", async || {
            let there = std::fs::read_dir(self.parent()).ok()?;
            let mut names = there.map(|name| name.unwrap().file_name().into_string().unwrap());
            names.any(|name| !before.contains(&name)).then_some(())
        })
        .await;
        child
    }
}

fn signal(child: &Child, name: &str) {
    let killed = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_restore_within_a_second_and_nothing_is_left() {
    let stalled = Stalled::new().await;
    for (name, code, why) in
        [("-INT", 130, "Ctrl-C was pressed"), ("-TERM", 143, "SIGTERM came"), ("-HUP", 129, "SIGHUP came")]
    {
        // What holds under `nohup` is the next test's.
        if name == "-HUP" && !needs::heeds_hangup() {
            needs::skip(needs::Need::Hangup, "a signal ends a restore", "SIGHUP is ignored here");
            continue;
        }
        let child = stalled.start(&[]).await;
        let sent = Instant::now();
        signal(&child, name);
        let output: Output = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
        // A second, and what a loaded machine takes to start and end a process.
        assert!(sent.elapsed() < Duration::from_secs(3), "{name}: {:?}", sent.elapsed());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert!(said.starts_with("error: interrupted, nothing was restored"), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(names(stalled.scratch.path()), ["source"], "{name}: nothing is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_started_by_nohup_outlives_its_terminal() {
    let stalled = Stalled::new().await;
    let plain = stalled.command();
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    let mut child = stalled.start_by(nohup, &[]).await;
    signal(&child, "-HUP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    signal(&child, "-TERM");
    assert_eq!(tokio::task::block_in_place(|| child.wait()).unwrap().code(), Some(143));
    assert_eq!(names(stalled.scratch.path()), ["source"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_restore_leaves_is_gone_with_the_next() {
    let stalled = Stalled::new().await;
    let mut killed = stalled.start(&[]).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = names(&stalled.parent());
    assert_eq!(left.len(), 1, "{left:?}");
    let next = stalled.start(&left).await;
    assert!(!stalled.parent().join(&left[0]).exists(), "it was swept before another one was made");
    signal(&next, "-TERM");
    tokio::task::block_in_place(|| next.wait_with_output()).unwrap();
    assert_eq!(names(&stalled.parent()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_the_limit_of_the_process_is_told_by_its_cause_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let node = Node::start(dir.path(), &port(), dir.path());
    let mut order = Commit::new("job".parse().unwrap());
    order.wait_all = true;
    node.client().await.commit(&source, order, &|_| {}).await.unwrap();
    let into = dir.path().join("into");
    std::fs::create_dir(&into).unwrap();
    let plain = command(&node.endpoint, &["restore", "job", "--to", into.join("target").to_str().unwrap()]);
    let mut limited = Command::new("sh");
    // At most 100 KiB, and a signal that ends whoever does not take it.
    limited
        .args(["-c", "ulimit -f 100 && exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args());
    let output = limited.stdin(Stdio::null()).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(said.contains("too large") && said.contains("`ulimit -f`"), "{said}");
    assert_eq!(names(&into), [""; 0]);
}

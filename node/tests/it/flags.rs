//! Flags as they are typed, against one node: what each of them lets through, and what is said where nothing is found.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use client::{Code, Failure, pb};

use crate::support::{Node, port, source};

fn epochlog(node: &Node, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.args(["-e", &node.endpoint]).args(args).stdin(Stdio::null()).output().unwrap()
}

/// What it prints, when it ends well.
fn prints(node: &Node, args: &[&str]) -> String {
    let output = epochlog(node, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn objects(node: &Node, args: &[&str]) -> Vec<serde_json::Value> {
    let printed = prints(node, &[&["-o", "jsonl"], args].concat());
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn epochs(node: &Node, args: &[&str]) -> Vec<u64> {
    let listed = objects(node, args);
    listed.iter().filter(|one| one["type"] == "epoch").map(|one| one["epoch"].as_u64().unwrap()).collect()
}

async fn node(dir: &Path) -> Node {
    let node = Node::start(dir, &port(), dir);
    node.client().await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_as_asked_for_and_an_empty_one_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let none = epochlog(&node, &["ls"]);
    assert_eq!((none.status.code(), none.stdout.as_slice()), (Some(0), &b""[..]), "no bare header: {none:?}");
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("there are no epochs yet: `epochlog commit DIR --job NAME` makes one"), "{said}");

    let source = source(dir.path());
    let commit = |label: &str| {
        prints(&node, &["commit", source.to_str().unwrap(), "--job", "job", "-l", label]);
    };
    // A label of somebody's own is no time of ours.
    commit("time=2020-01-01T00:00:00Z");
    std::fs::write(source.join("more"), b"more").unwrap();
    commit("step=2");
    assert_eq!(epochs(&node, &["ls", "job"]), [2, 1]);
    assert_eq!(epochs(&node, &["ls", "job", "--limit", "1"]), [2]);
    assert_eq!(epochs(&node, &["ls", "job", "--label", "step=2"]), [2]);
    assert_eq!(epochs(&node, &["ls", "job", "--since", "1h"]), [2, 1]);
    for filter in [["--label", "step=3"], ["--since", "1ms"]] {
        let found = epochlog(&node, &[&["ls"], &filter[..]].concat());
        assert_eq!((found.status.code(), found.stdout.as_slice()), (Some(0), &b""[..]), "{found:?}");
        let said = String::from_utf8(found.stderr).unwrap();
        assert!(said.contains("no epoch is as asked for"), "{said}");
        // Who names a job hears of it also where only the exit code is looked at.
        let of_job = epochlog(&node, &[&["ls", "job"], &filter[..]].concat());
        assert_eq!((of_job.status.code(), of_job.stdout.as_slice()), (Some(4), &b""[..]), "{of_job:?}");
        let said = String::from_utf8(of_job.stderr).unwrap();
        assert!(said.starts_with("error: no epoch of job job is as asked for"), "{said}");
    }
    let metrics = node.get("/metrics").1;
    let sealed = metrics.lines().find_map(|line| {
        line.strip_prefix("epochlog_epoch_latest_timestamp_seconds{job=\"job\"} ")?.parse::<f64>().ok()
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - sealed.unwrap()).abs() < 600.0, "{sealed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_or_not_yet_is_a_success_where_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let source = source(dir.path());
    let from = source.to_str().unwrap();
    let to = dir.path().join("restored");
    let to = to.to_str().unwrap();
    let restore = ["restore", "job", "--to", to];
    assert_eq!(epochlog(&node, &restore).status.code(), Some(4));
    let not_yet = objects(&node, &[&restore[..], &["--if-exists"]].concat());
    assert_eq!(not_yet.last().unwrap()["restored"], false, "{not_yet:?}");
    assert!(!Path::new(to).exists());

    let numbered = ["commit", from, "--job", "job", "--epoch", "3"];
    let first = objects(&node, &numbered);
    std::fs::write(source.join("large"), b"other").unwrap();
    assert_eq!(epochlog(&node, &numbered).status.code(), Some(5), "another content");
    let known = objects(&node, &[&numbered[..], &["--if-not-exists"]].concat());
    let [first, known] = [&first, &known].map(|all| all.last().unwrap());
    assert_eq!((&known["already"], &known["root"]), (&true.into(), &first["root"]));

    prints(&node, &["commit", from, "--job", "job", "--epoch", "7"]);
    let nearest = objects(&node, &[&restore[..], &["--nearest", "6"]].concat());
    assert_eq!(nearest.last().unwrap()["epoch"], 3, "{nearest:?}");
    std::fs::remove_dir_all(to).unwrap();
    prints(&node, &[&restore[..], &["--only", "sub/**"]].concat());
    assert_eq!(std::fs::read(Path::new(to).join("sub/small")).unwrap(), b"small");
    assert!(!Path::new(to).join("large").exists());

    let dry = objects(&node, &["rm", "job@3", "--dry-run"]);
    assert_eq!(dry.last().unwrap()["removed"], false, "{dry:?}");
    assert_eq!(epochs(&node, &["ls", "job"]), [7, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_goes_on_with_ends_after_the_time_that_was_configured() {
    let dir = tempfile::tempdir().unwrap();
    let first = node(dir.path()).await;
    let (endpoint, http) = (first.endpoint.clone(), first.http.clone());
    let (data, config) = (first.data.clone(), first.config.clone());
    drop(first);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}[limits]\nattempt_ttl = \"3s\"\n")).unwrap();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    let child = serve.args(["serve", "--config"]).arg(&config).stderr(Stdio::null()).spawn().unwrap();
    let node = Node { child, endpoint, http, data, config };
    let client = node.client().await;

    // A commit that is killed as soon as its attempt is open.
    let source = source(dir.path());
    let file = std::fs::File::create(source.join("slow")).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(7), 256 << 20), &mut &file).unwrap();
    let mut commit = Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .args(["-e", &node.endpoint, "commit", source.to_str().unwrap(), "--job", "job", "--stream"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let open = async || client.attempts(Default::default()).await.unwrap().attempts;
    crate::support::wait_for("an attempt", async || (!open().await.is_empty()).then_some(())).await;
    commit.kill().unwrap();
    commit.wait().unwrap();
    assert_eq!(open().await.len(), 1, "its client may come back");
    crate::support::wait_for("its end", async || open().await.is_empty().then_some(())).await;
    assert_eq!(epochlog(&node, &["show", "job@1"]).status.code(), Some(4), "nothing was committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_epochs_none_goes_before_all_were_found_and_who_depends_on_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let source = source(dir.path());
    let commit = |job: &str, more: &[&str]| {
        prints(&node, &[&["commit", source.to_str().unwrap(), "--job", job], more].concat());
    };
    (0..4).for_each(|_| commit("a", &[]));
    commit("b", &["--depends-on", "a@1", "--depends-on", "a@3"]);
    commit("c", &["--depends-on", "a@1"]);
    for (args, code) in [
        (&["rm", "a@1", "a@9", "--yes"][..], 4),
        (&["rm", "a@1", "a", "--yes"], 2),
        (&["rm", "a@1", "nosuch@1", "--yes"], 4),
        // Nobody is there to be asked.
        (&["rm", "a@1", "a@2"], 2),
        (&["rm", "--yes"], 2),
    ] {
        let refused = epochlog(&node, args);
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
    }
    assert_eq!(epochs(&node, &["ls", "a"]), [4, 3, 2, 1]);

    let dry = objects(&node, &["rm", "a@1", "a@2", "--dry-run"]);
    assert_eq!(dry.len(), 1, "{dry:?}");
    assert_eq!((&dry[0]["removed"], &dry[0]["targets"][0]["removed"]), (&false.into(), &false.into()));
    assert_eq!(dry[0]["targets"][0]["dependents"], serde_json::json!(["b@1", "c@1"]), "{dry:?}");
    assert_eq!(dry[0]["targets"][1]["dependents"], serde_json::json!([]), "{dry:?}");
    // Twice, by another name, is once.
    let done = objects(&node, &["rm", "a@1", "a@2", "a@1", "a@-3", "--yes"]);
    assert_eq!((done.len(), done[0]["targets"].as_array().unwrap().len()), (1, 2), "{done:?}");
    assert!(done[0]["targets"].as_array().unwrap().iter().all(|one| one["removed"] == true), "{done:?}");
    assert_eq!(done[0]["removed"], true);
    assert_eq!(epochs(&node, &["ls", "a"]), [4, 3]);

    // Who goes as well misses nothing; who stays is named.
    let said = |output: Output| String::from_utf8(output.stderr).unwrap();
    let stays = epochlog(&node, &["rm", "a@3", "--dry-run"]);
    assert!(said(stays).contains("b@1 depends on a@3"));
    let both = epochlog(&node, &["rm", "a@3", "b@1", "--yes"]);
    assert_eq!(both.status.code(), Some(0), "{both:?}");
    assert_eq!(String::from_utf8(both.stdout.clone()).unwrap().lines().count(), 2, "{both:?}");
    assert!(!said(both).contains("depends on"));
    assert_eq!(epochs(&node, &["ls", "a"]), [4]);

    // Of several, what is gone already keeps nobody; where all are gone, or a number was never reached, nothing is done.
    let gone = epochlog(&node, &["rm", "a@1", "a@2", "--yes"]);
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
    assert_eq!(epochlog(&node, &["rm", "a@1", "a@4", "a@5", "--yes"]).status.code(), Some(4));
    assert_eq!(epochs(&node, &["ls", "a"]), [4]);
    let repeated = objects(&node, &["rm", "a@1", "a@4", "--yes"]);
    let told: Vec<_> = repeated[0]["targets"].as_array().unwrap().iter().collect();
    assert_eq!((&told[0]["removed"], &told[0]["gone_before"]), (&true.into(), &true.into()), "{repeated:?}");
    assert_eq!((&told[1]["removed"], told[1].get("gone_before")), (&true.into(), None), "{repeated:?}");
    assert_eq!(epochlog(&node, &["show", "a@4"]).status.code(), Some(4));
}

/// More of them than an answer names: those that it names go as well.
#[tokio::test(flavor = "multi_thread")]
async fn who_depends_on_what_goes_and_is_one_too_many_to_be_named_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let source = source(dir.path());
    let commit = |job: &str, more: &[&str]| {
        prints(&node, &[&["commit", source.to_str().unwrap(), "--job", job], more].concat());
    };
    commit("a", &[]);
    (0..20).for_each(|_| commit("b", &["--depends-on", "a@1"]));
    let targets: Vec<String> =
        std::iter::once("a@1".to_owned()).chain((1..=20).map(|n| format!("b@{n}"))).collect();
    let args: Vec<&str> = ["rm", "--dry-run"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let told = |output: Output| (output.status.code(), String::from_utf8(output.stderr).unwrap());
    let (code, said) = told(epochlog(&node, &args));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("depend"), "all of them go: {said}");
    commit("c", &["--depends-on", "a@1"]);
    let (code, said) = told(epochlog(&node, &args));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("more epochs than are named here depend on a@1"), "{said}");
    let dry = objects(&node, &args);
    assert_eq!(dry[0]["targets"][0]["more_dependents"], true, "{dry:?}");
}

/// A node that finds every epoch but one that is gone, and removes the first that it shall. What it says of the second it
/// says of all that follow, if that is no answer.
struct Half {
    expired: std::sync::atomic::AtomicUsize,
    second: Code,
    gone: Option<u64>,
}

impl client::testing::Served for Half {
    fn show(&self, request: pb::ShowRequest) -> Result<pb::ShowReply, tonic::Status> {
        let Some(pb::which::Kind::Exactly(epoch)) = request.which.unwrap().kind else {
            return Err(tonic::Status::invalid_argument("by its number"));
        };
        let gone = self.gone == Some(epoch);
        if gone && !request.or_gone {
            return Err(Failure::new(Code::NotFound, "there is no such epoch").to_status());
        }
        let epoch = pb::Epoch { job: request.job, epoch, ..Default::default() };
        Ok(pb::ShowReply { epoch: Some(epoch), gone, ..Default::default() })
    }

    fn expire(&self) -> Result<pb::ExpireReply, tonic::Status> {
        let failure = Failure::new(self.second, "it did not work").why("it has gone");
        match self.expired.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Ok(pb::ExpireReply::default()),
            1 => Err(failure.to_status()),
            _ if failure.is_transient() => Err(failure.to_status()),
            _ => Ok(pb::ExpireReply::default()),
        }
    }
}

/// What comes of an `rm -o json` at a node that is one half: exit code and object.
async fn half(second: Code, gone: Option<u64>, targets: &[&str]) -> (Option<i32>, serde_json::Value) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    client::testing::serve(Half { expired: Default::default(), second, gone }, listener);
    let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
    command.args(["-e", &endpoint, "-o", "json", "--timeout", "3s", "rm", "--yes"]).args(targets);
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

fn removed(told: &serde_json::Value) -> Vec<Option<bool>> {
    let targets = told["targets"].as_array().unwrap().iter();
    targets.map(|one| serde_json::from_value(one["removed"].clone()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_epochs_each_has_its_own_answer() {
    let (code, told) = half(Code::NotFound, None, &["a@1", "a@2", "a@3"]).await;
    assert_eq!(code, Some(4), "{told}");
    assert_eq!((&told["type"], &told["code"]), (&"error".into(), &"NotFound".into()), "{told}");
    assert_eq!(told["error"], "2 of 3 epochs are known to be removed");
    assert_eq!(removed(&told), [Some(true), Some(false), Some(true)]);
    assert_eq!(told["removed"], false);
    assert_eq!(told["targets"][1]["error"]["code"], "NotFound", "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_of_whose_removal_nobody_answers_is_not_told_as_there_and_a_repeat_gets_on() {
    let (_, told) = half(Code::Timeout, None, &["a@1", "a@2", "a@3"]).await;
    assert_eq!((&told["code"], &told["what"]), (&"Timeout".into(), &"rm a@2 a@3".into()), "{told}");
    assert_eq!(removed(&told), [Some(true), None, Some(false)], "{told}");
    assert!(told["removed"].is_null() && told["targets"][1]["removed"].is_null(), "{told}");
    // It was removed after all.
    let (code, told) = half(Code::NotFound, Some(2), &["a@2", "a@3"]).await;
    assert_eq!(code, Some(0), "{told}");
    assert_eq!((&told["type"], &told["removed"]), (&"summary".into(), &true.into()), "{told}");
    assert_eq!(removed(&told), [Some(true), Some(true)], "{told}");
    assert_eq!(told["targets"][0]["gone_before"], true, "{told}");
    // Of it alone that is the answer.
    assert_eq!(half(Code::NotFound, Some(2), &["a@2"]).await.0, Some(4));
}

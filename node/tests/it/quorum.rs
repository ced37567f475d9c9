//! What the command line says, and with which exit code, when the nodes that are named have no quorum; and that a node
//! that says nothing costs nobody else his time.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::trio::Trio;
use crate::support::{get, wait_for};

/// A question to a silent node is given up after so long: what each list would take that asked it.
const PATIENCE: Duration = Duration::from_secs(2);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_everything_ends_with_7_and_says_what_was_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let mut trio = Trio::start(dir.path());
    let leader = trio.leader().await;
    trio.commit(dir.path(), leader);
    for node in (0..3).filter(|node| *node != leader) {
        trio.nodes[node].kill().unwrap();
        trio.nodes[node].wait().unwrap();
    }
    wait_for("it notices", async || (trio.ask(leader, &["status"]).status.code() == Some(7)).then_some(()))
        .await;
    let target = dir.path().join("restored");
    let to = target.to_str().unwrap();
    for (args, first, what) in [
        (&["ls", "job"][..], "error: no quorum, nothing could be read", "list epochs"),
        (&["show", "job@1"], "error: no quorum, nothing could be read", "show an epoch"),
        (&["rm", "job@1", "--yes"], "error: no quorum, nothing was removed", "rm job@1"),
        (&["restore", "job@1", "--to", to], "error: no quorum, nothing could be read", "restore job"),
    ] {
        let began = Instant::now();
        let done = trio.ask(leader, args);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(7), "{args:?}: {said}");
        assert_eq!(said.lines().next(), Some(first), "{args:?}: {said}");
        assert!(
            said.contains(what) && said.contains("\n  why   ") && said.contains("has no quorum: "),
            "{args:?}: {said}"
        );
        assert!(said.contains("\n  do    "), "{args:?}: {said}");
        // It knows: nobody waits for the end of his patience, which is 20 s here.
        assert!(began.elapsed() < Duration::from_secs(10), "{args:?} took {:?}", began.elapsed());
    }
    assert!(!target.exists());
    // What the node itself knows is told to whoever asks for that.
    let stale = trio.ask(leader, &["ls", "job", "--stale"]);
    assert_eq!(stale.status.code(), Some(0), "{stale:?}");
    assert!(text(&stale.stdout).contains(" 1/3? "), "{stale:?}");
    let restored = trio.ask(leader, &["restore", "job@1", "--to", to, "--stale"]);
    assert_eq!(restored.status.code(), Some(0), "{restored:?}");
    assert!(text(&restored.stdout).contains("STALE"), "{restored:?}");
}

/// The only line of a command's output, as an object.
fn object(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_first_what_is_wrong_and_verify_calls_no_silence_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut trio = Trio::start(dir.path());
    let leader = trio.leader().await;
    trio.commit(dir.path(), leader);
    let fine = object(&trio.ask(leader, &["-o", "json", "status"]));
    assert_eq!((&fine["quorum"], &fine["wrong"]), (&true.into(), &serde_json::json!([])), "{fine}");

    let [one, other] = [1, 2].map(|step| (leader + step) % 3);
    trio.nodes[one].kill().unwrap();
    trio.nodes[one].wait().unwrap();
    let away = wait_for("it is found away", async || {
        let status = trio.ask(leader, &["-o", "json", "status"]);
        assert_eq!(status.status.code(), Some(0), "{status:?}");
        Some(object(&status)).filter(|status| status["voters_reachable"] == 2)
    })
    .await;
    let line = format!("2 of 3 voters answer: one more failure stops all commits; start node {}", one + 1);
    assert_eq!(away["wrong"][0], line, "{away}");
    assert!(text(&trio.ask(leader, &["status"]).stdout).starts_with(&format!("WRONG  {line}\ncluster trio")));

    // Neither damaged nor good: it was not looked at.
    let verify = trio.ask_within("5s", leader, &["verify", "--all-nodes"]);
    let said = text(&verify.stderr);
    assert_eq!(verify.status.code(), Some(6), "{said}");
    assert!(
        said.starts_with("error: not everything was looked at; the 2 copies that were are as sealed"),
        "{said}"
    );
    assert!(said.contains(&format!("could not be asked: node {}: ", one + 1)), "{said}");
    let all = said.clone() + &text(&verify.stdout);
    for word in ["WRONG", "DAMAGED", "damaged", "--repair", "disk", "@0"] {
        assert!(!all.contains(word), "{word}: {all}");
    }
    let json = trio.ask_within("5s", leader, &["-o", "json", "verify", "job", "--all-nodes"]);
    let last: serde_json::Value = serde_json::from_str(text(&json.stdout).lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["code"], &last["good"], &last["damaged"]),
        (&"NotLooked".into(), &2.into(), &0.into()),
        "{last}"
    );

    // Damage beside a good copy, and beside none.
    let rot = |node: usize| {
        let file = dir.path().join(format!("n{}/epochs/job/1/files/large", node + 1));
        std::fs::write(file, vec![9; 3_000_000]).unwrap();
    };
    rot(other);
    let damaged = trio.ask_within("5s", leader, &["verify", "job@1", "--all-nodes"]);
    let said = text(&damaged.stderr);
    assert_eq!(damaged.status.code(), Some(6), "{said}");
    let why = format!("job@1 is damaged on node {}, good on node {}", other + 1, leader + 1);
    assert!(said.contains(&why) && said.contains("repeat with --repair"), "{said}");
    rot(leader);
    let said = text(&trio.ask_within("5s", leader, &["verify", "job@1", "--all-nodes"]).stderr);
    assert!(
        said.contains("no good copy was seen") && said.contains("may have a good copy of job@1"),
        "{said}"
    );
    assert!(!said.contains("--repair"), "{said}");

    // Committed, but not on all: one object says both.
    let source = dir.path().join("small");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("more"), b"more").unwrap();
    let args = ["-o", "json", "commit", source.to_str().unwrap(), "--job", "two", "--wait", "all"];
    let partial = trio.ask_within("3s", leader, &args);
    assert_eq!(partial.status.code(), Some(3), "{partial:?}");
    let told = object(&partial);
    assert_eq!(
        (&told["type"], &told["code"], &told["committed"]),
        (&"error".into(), &"Partial".into(), &"yes".into())
    );
    assert!(told["root"].as_str().is_some_and(|root| root.len() == 64) && told["epoch"] == 1, "{told}");

    // No quorum is no quorum, also where most of the nodes that are named are not there.
    trio.nodes[other].kill().unwrap();
    trio.nodes[other].wait().unwrap();
    let lost = wait_for("it notices", async || {
        let status = trio.ask(leader, &["-o", "json", "status"]);
        (status.status.code() == Some(7)).then(|| object(&status))
    })
    .await;
    assert_eq!((&lost["quorum"], &lost["code"]), (&false.into(), &"NoQuorum".into()), "{lost}");
    assert!(lost["wrong"][0].as_str().unwrap().starts_with("NO QUORUM: 1 of 3 voters answers"), "{lost}");
    for order in [[leader, one, other], [one, other, leader]] {
        let named = order.map(|node| trio.endpoints[node].clone()).join(",");
        let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
        let done = command.args(["-e", &named, "--timeout", "3s", "ls"]).output().unwrap();
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(7), "{said}");
        assert!(
            said.starts_with("error: no quorum, nothing could be read") && said.contains("--stale"),
            "{said}"
        );
    }

    // Whoever looks at that node alone does not take it for one that leads.
    let cut_off = wait_for("it says that it is cut off", async || {
        let status = object(&trio.ask(leader, &["-o", "json", "status"]));
        (status["nodes"][leader]["role"] == "no quorum").then_some(status)
    })
    .await;
    assert_eq!(cut_off["nodes"][leader]["id"], leader + 1, "{cut_off}");
    assert_eq!(cut_off["leader"], serde_json::Value::Null, "{cut_off}");
    let http = cut_off["nodes"][leader]["http"].as_str().unwrap();
    let (head, ready) = get(http, "/readyz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(
        ready.lines().any(|line| line.starts_with("WRONG leader: ") && line.contains("has no quorum")),
        "{ready}"
    );
    wait_for("its metrics tell", async || {
        let (_, metrics) = get(http, "/metrics");
        let told = ["raft_is_leader 0", "raft_has_leader 0", "quorum 0", "voters 3", "voters_reachable 1"];
        let is_told = |told: &str| metrics.lines().any(|line| line.strip_prefix("epochlog_") == Some(told));
        told.into_iter().all(is_told).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_folder_was_wiped_is_told_by_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut trio = Trio::start(dir.path());
    let leader = trio.leader().await;
    trio.commit(dir.path(), leader);
    let wiped = (leader + 1) % 3;
    trio.nodes[wiped].kill().unwrap();
    trio.nodes[wiped].wait().unwrap();
    std::fs::remove_dir_all(dir.path().join(format!("n{}", wiped + 1))).unwrap();
    trio.nodes[wiped] = trio.node(dir.path(), wiped);
    wait_for("it is told", async || {
        let status = object(&trio.ask(leader, &["-o", "json", "status"]));
        let wrong = status["wrong"].as_array()?.iter().filter_map(|line| line.as_str());
        let told = format!("node {}: its data folder was wiped, so it cannot come back", wiped + 1);
        wrong.into_iter().any(|line| line.starts_with(&told)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_nothing_is_a_question_mark_and_costs_no_list_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let trio = Trio::start(dir.path());
    let leader = trio.leader().await;
    trio.commit(dir.path(), leader);
    let all = trio.ask(leader, &["ls", "job"]);
    assert!(text(&all.stdout).contains(" 3/3 "), "{all:?}");
    // It hangs: its connections stay, and nothing comes from them.
    let silent = (leader + 1) % 3;
    let pid = trio.nodes[silent].id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    // Nobody knows that yet: whoever asks it waits no longer than he said, and calls it no damage.
    let began = Instant::now();
    let verify = trio.ask_within("3s", leader, &["verify", "--all-nodes"]);
    assert_eq!(verify.status.code(), Some(6), "{verify:?}");
    assert!(text(&verify.stderr).starts_with("error: not everything was looked at"), "{verify:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    wait_for("it is found silent", async || {
        let status = text(&trio.ask(leader, &["status"]).stdout);
        let id = silent + 1;
        status.contains(&format!("node {id}: no answer for ")).then_some(())
    })
    .await;
    let mut fastest = Duration::MAX;
    for args in [&["ls", "job"][..], &["ls", "job"], &["ls", "job"], &["show", "job@1"]] {
        let began = Instant::now();
        let listed = trio.ask(leader, args);
        fastest = fastest.min(began.elapsed());
        assert_eq!(listed.status.code(), Some(0), "{listed:?}");
        if args[0] == "ls" {
            assert!(text(&listed.stdout).contains(" 2/3? "), "{listed:?}");
        }
    }
    assert!(fastest < PATIENCE / 2, "{fastest:?}");
}

//! What the command line says, and with which exit code, when the nodes that are named have no quorum; and that a node
//! that says nothing costs nobody else his time.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::trio::Trio;
use support::wait_for;

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

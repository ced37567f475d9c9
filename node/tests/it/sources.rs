//! What of a directory is committed, and what its program hears while it is.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use checkpoint::{Choice, Limits, Pattern};
use client::{Client, Commit, Done, Event, pb};

use crate::support::{Node, port, source};

/// Commits, and gives what was heard of the scan.
async fn heard(client: &Client, dir: &Path, commit: Commit) -> (Done, Vec<(pb::Captured, u64)>) {
    let planned = Mutex::new(Vec::new());
    let on = |event: Event| {
        if let Event::Planned { captured, bits_lost, .. } = event {
            planned.lock().unwrap().push((captured, bits_lost.map_or(0, |lost| lost.directories)));
        }
    };
    let done = client.commit(dir, commit, &on).await.unwrap();
    (done, planned.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_not_committed_and_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let choice =
        Choice { exclude: vec![Pattern::new(b"sub/*.sock"), Pattern::new(b"large")], ..Choice::default() };
    let whole = checkpoint::split::digest_chosen(&source, &Limits::default(), &choice).unwrap();
    let _socket = UnixListener::bind(source.join("sub/a.sock")).unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    for (by_path, immutable) in [(true, false), (true, true), (false, false)] {
        let commit = Commit { by_path, immutable, ..Commit::new("job".parse().unwrap()) };
        let refused = client.commit(&source, commit.clone(), &|_| {}).await.unwrap_err();
        assert!(refused.why.contains("a.sock") && refused.fix.contains("--exclude"), "{refused}");
        let done =
            client.commit(&source, Commit { choice: choice.clone(), ..commit }, &|_| {}).await.unwrap();
        assert_eq!(done.committed.by_path, by_path);
        assert_eq!(done.committed.root[..], whole.root().as_bytes()[..]);
    }
    let patterns = vec![Pattern::new(b"x"); 300];
    let choice = Choice { include: patterns, ..Choice::default() };
    let many = Commit { choice, ..Commit::new("job".parse().unwrap()) };
    let refused = client.commit(&source, many, &|_| {}).await.unwrap_err();
    assert!(refused.why.contains("patterns"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_hears_how_its_directory_is_held_and_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    std::fs::set_permissions(source.join("sub"), std::fs::Permissions::from_mode(0o2755)).unwrap();
    let node = Node::start(dir.path(), &port(), dir.path());
    let client = node.client().await;
    let (first, planned) = heard(&client, &source, Commit::new("job".parse().unwrap())).await;
    // In place, or cloned where the file system can.
    assert!(first.committed.by_path && planned.len() == 1, "{planned:?}");
    assert!(planned[0].0 != pb::Captured::Linked && planned[0].1 == 1, "{planned:?}");
    let fresh = || Commit { immutable: true, ..Commit::new("job".parse().unwrap()) };
    let (linked, planned) = heard(&client, &source, fresh()).await;
    assert_eq!(planned, [(pb::Captured::Linked, 1)]);
    assert_eq!(linked.committed.root, first.committed.root);
    let (streamed, planned) = heard(&client, &source, Commit { by_path: false, ..fresh() }).await;
    assert_eq!(planned, [(pb::Captured::InPlace, 1)]);
    assert_eq!(streamed.committed.root, first.committed.root);

    let source = source.to_str().unwrap();
    let said = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epochlog"));
        let output = command
            .args(["-e", &node.endpoint, "commit", source, "--job", "said"])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let text = said(&["--immutable"]);
    assert!(text.contains("captured: your program may add and remove files"), "{text}");
    assert!(text.contains("not kept: 1 of them, the first is sub"), "{text}");
    assert!(said(&["--immutable", "--stream"]).contains("not captured in spite of --immutable"));
    let lines = said(&["--immutable", "-o", "jsonl"]);
    let planned = lines.lines().find(|line| line.contains("\"planned\"")).unwrap();
    assert!(planned.contains("\"captured\":\"linked\"") && planned.contains("\"bits_lost\":1"), "{planned}");
}

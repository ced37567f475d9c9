//! What a node says when its folder is damaged, and what `repair` refuses. Its way through a cluster is tested with
//! clusters.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Node, port, source};
use client::Commit;

fn epochlog(command: &str, config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epochlog")).args([command, "--config"]).arg(config).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// A node with one epoch that was stopped properly; its configuration.
async fn stopped(dir: &Path) -> std::path::PathBuf {
    let source = source(dir);
    let mut node = Node::start(dir, &port(), dir);
    let mut order = Commit::new("job".parse().unwrap());
    order.wait_all = true;
    node.client().await.commit(&source, order, &|_| {}).await.unwrap();
    let running = epochlog("repair", &node.config);
    assert_eq!(running.status.code(), Some(2), "{}", told(&running));
    assert!(told(&running).contains("is in use by another process"), "{}", told(&running));
    node.terminate();
    assert!(tokio::task::block_in_place(|| node.child.wait()).unwrap().success());
    node.config.clone()
}

/// Flips a byte in the middle of the first segment of the log.
fn flip(dir: &Path) {
    let log = dir.join("data/groups/main/log");
    let mut segments: Vec<_> = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|end| end == "wal"));
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 1;
    std::fs::write(&segments[0], bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_refused_with_words_and_repair_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = stopped(dir.path()).await;
    let good = epochlog("repair", &config);
    assert_eq!(good.status.code(), Some(0), "{}", told(&good));
    assert!(told(&good).contains("nothing to repair"), "{}", told(&good));

    flip(dir.path());
    let refused = epochlog("serve", &config);
    let text = told(&refused);
    assert_eq!(refused.status.code(), Some(6), "{text}");
    for words in
        ["the node did not start: its log is damaged", "  what  serve", "  why   ", "run `epochlog repair`"]
    {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    // Nobody is there to repair it from: nothing is touched.
    let alone = epochlog("repair", &config);
    assert_eq!(alone.status.code(), Some(7), "{}", told(&alone));
    assert!(told(&alone).contains("the node was NOT repaired"), "{}", told(&alone));
    assert_eq!(epochlog("serve", &config).status.code(), Some(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_identity_or_log_is_replaced_not_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let config = stopped(dir.path()).await;
    let identity = dir.path().join("data/identity");
    let kept = std::fs::read(&identity).unwrap();
    std::fs::remove_file(&identity).unwrap();
    for command in ["serve", "repair"] {
        let output = epochlog(command, &config);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains("its identity is lost"), "{}", told(&output));
        assert!(told(&output).contains("set up a new cluster"), "{}", told(&output));
    }
    std::fs::write(&identity, kept).unwrap();
    std::fs::rename(dir.path().join("data/groups/main/log"), dir.path().join("away")).unwrap();
    for command in ["serve", "repair"] {
        let output = epochlog(command, &config);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains("its log is lost"), "{}", told(&output));
    }
    // Nothing was touched: with its log back, the node starts. It comes back under the name that a repair gives it before
    // its last step, as if it had been stopped there.
    let group = dir.path().join("data/groups/main");
    std::fs::rename(dir.path().join("away"), group.join("log.replacement")).unwrap();
    let back = epochlog("repair", &config);
    assert!(told(&back).contains("nothing to repair"), "{}", told(&back));
    assert!(group.join("log").is_dir() && !group.join("log.replacement").exists());
}

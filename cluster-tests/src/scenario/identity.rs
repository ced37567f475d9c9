//! A node is who its disk says it is, or it does not take part.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cluster::{Cluster, Options};
use crate::inputs::random_directory;
use crate::scenario::identical::{commit_and_compare, compare_everywhere};
use crate::seed::Rng;
use crate::wait::{try_until, wait_until};

/// A node with a wiped data folder under a known id ends, and says what that means; the others go
/// on. With its own folder back, the node is one of them again.
///
/// # Panics
/// When the wiped node takes part.
pub fn wiped_folder_is_refused(name: &str, rng: &mut Rng) {
    let mut cluster = Cluster::start(name, Options::default());
    let source = cluster.source("before");
    random_directory(&source, 3, 200_000, rng);
    commit_and_compare(&cluster, &source, "identity", 1);
    let victim = cluster.follower();
    cluster.kill9(victim);
    let (data, aside) = (cluster.node(victim).data.clone(), cluster.folder().join("aside"));
    fs::rename(&data, &aside).expect("our own folder moves");
    let from = said(&cluster, victim);
    cluster.restart(victim);
    let status = cluster.wait_exit(victim, Duration::from_secs(30));
    assert_eq!(
        status.code(),
        Some(2),
        "a wiped node ended with {status}\n{}",
        cluster.node(victim).log_tail()
    );
    let words = cluster.node(victim).said_since(from);
    for word in ["its data folder was wiped", "it must not come back"] {
        assert!(words.contains(word), "{word:?} is not in\n{words}");
    }
    assert!(
        !cluster.node(victim).published("identity", 1).exists(),
        "a wiped node under a known id published something"
    );
    let others = cluster.first(cluster.leader());
    let others: Vec<u64> = others.into_iter().filter(|id| *id != victim).collect();
    let later = cluster.source("without");
    random_directory(&later, 3, 200_000, rng);
    cluster.commit(&others, &later, "identity", 2, &[]).ok();
    cluster.kill9(victim);
    if data.exists() {
        crate::scratch::remove_tree(&data).expect("our own folder goes");
    }
    fs::rename(&aside, &data).expect("our own folder moves back");
    cluster.restart(victim);
    cluster.wait_ready();
    cluster.wait_published("identity", 2);
    compare_everywhere(&cluster, &source, "identity", 1);
    compare_everywhere(&cluster, &later, "identity", 2);
}

/// The node with the data folder of another cluster is refused, and nothing of
/// the other cluster shows up here.
///
/// # Panics
/// When it takes part.
pub fn other_cluster_is_refused(name: &str, rng: &mut Rng) {
    let mut here = Cluster::start(name, Options::default());
    let mut there = Cluster::start(name, Options::default());
    for (cluster, job) in [(&here, "here"), (&there, "there")] {
        let source = cluster.source(job);
        random_directory(&source, 2, 100_000, rng);
        commit_and_compare(cluster, &source, job, 1);
    }
    // A folder notes the cluster's uuid within a second or two; before, only the incarnation tells.
    let identity = there.node(3).data.join("identity");
    wait_until(Duration::from_secs(30), "the folder to know its cluster", || {
        let said = fs::read_to_string(&identity).unwrap_or_default();
        if said.lines().any(|line| line.trim_start().starts_with("cluster")) { Ok(()) } else { Err(said) }
    });
    there.kill9_all();
    here.kill9(3);
    let data = here.node(3).data.clone();
    fs::rename(&data, here.folder().join("aside")).expect("our own folder moves");
    copy(&there.node(3).data, &data);
    let from = said(&here, 3);
    here.restart(3);
    refuses(&mut here, 3, "cluster", from);
    assert!(!here.node(3).published("here", 1).exists(), "the stranger got our epoch");
    assert!(here.list("there").is_empty(), "an epoch of the other cluster is listed here");
    let source = here.source("later");
    random_directory(&source, 2, 100_000, rng);
    here.commit(&[1, 2], &source, "here", 2, &[]).ok();
}

/// `identity` without a log, and a log without `identity`: the node does not start.
///
/// # Panics
/// When it does.
pub fn half_a_folder_does_not_start(name: &str, rng: &mut Rng) {
    let mut cluster = Cluster::start(name, Options::default());
    let source = cluster.source("one");
    random_directory(&source, 2, 100_000, rng);
    commit_and_compare(&cluster, &source, "half", 1);
    let data = cluster.node(3).data.clone();
    let (log, identity) = (data.join("groups/main/log"), data.join("identity"));
    for (missing, what) in [(log, "log"), (identity, "identity")] {
        cluster.kill9(3);
        let aside = cluster.folder().join("aside");
        fs::rename(&missing, &aside).unwrap_or_else(|error| panic!("{}: {error}", missing.display()));
        cluster.restart(3);
        let status = cluster.wait_exit(3, Duration::from_secs(20));
        assert!(!status.success(), "without its {what} the node ended with {status}");
        assert!(!missing.exists(), "the node made a new {what}");
        fs::rename(&aside, &missing).expect("our own folder moves back");
    }
    // An empty log folder is a missing one.
    let log = data.join("groups/main/log");
    let aside = cluster.folder().join("aside");
    fs::rename(&log, &aside).expect("our own folder moves");
    fs::create_dir(&log).expect("our own folder is made");
    cluster.restart(3);
    let status = cluster.wait_exit(3, Duration::from_secs(20));
    assert!(!status.success(), "with an empty log the node ended with {status}");
    crate::scratch::remove_tree(&log).expect("our own folder goes");
    fs::rename(&aside, &log).expect("our own folder moves back");
    cluster.restart(3);
    cluster.wait_ready();
    compare_everywhere(&cluster, &source, "half", 1);
}

/// Waits until a node has ended with an error, or has said `word` since `from` and is not ready.
fn refuses(cluster: &mut Cluster, id: u64, word: &str, from: usize) {
    wait_until(Duration::from_secs(30), &format!("node {id} to be refused"), || {
        let said = fs::read_to_string(&cluster.node(id).log).unwrap_or_default();
        if !cluster.is_running(id) {
            return Ok(());
        }
        let said = &said[from.min(said.len())..];
        if said.to_lowercase().contains(word) {
            Ok(())
        } else {
            Err(format!("it says\n{}", cluster.node(id).log_tail()))
        }
    });
    let ready: Result<(), _> = try_until(Duration::from_secs(2), || match cluster.node(id).get("/readyz") {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(ready.is_err(), "a refused node says that it is ready");
}

/// How much a node has said so far, in bytes.
fn said(cluster: &Cluster, id: u64) -> usize {
    fs::read_to_string(&cluster.node(id).log).unwrap_or_default().len()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp can be started");
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

//! Histories that contradict each other: a node whose log is not that of the leader stops, and says so. How ledgers are
//! compared is tested beside `agreement`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use std::path::Path;
use std::sync::Arc;

use checkpoint::store::layout::Layout;
use checkpoint::{JobName, RealDisk};
use cluster::{Cluster, by_hand, commit_epoch, within};
use nativelog::record::LogId;
use nativelog::store::{Identity, LogStore, Options};

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// The log of a node that does not run.
fn log_of(data: &Path, node: u64) -> LogStore {
    let owner = Identity { node, incarnation: [node as u8; 16] };
    LogStore::open(Arc::new(RealDisk), &Layout::new(data), owner, Options::default()).unwrap().0
}

/// Positions of all entries of a log whose node does not run.
fn positions(data: &Path, node: u64) -> Vec<LogId> {
    let log = log_of(data, node);
    let last = log.log_state().1.unwrap();
    let ids = log.headers(0..last.index + 1).unwrap().iter().map(|entry| entry.id).collect();
    log.shutdown();
    ids
}

async fn end(cluster: &mut Cluster, nodes: &[u64]) {
    for node in nodes {
        cluster.nodes.remove(node).unwrap().shutdown().await;
    }
}

/// Waits until the node stops for a contradiction and the leader has heard of it.
async fn stops_and_says_so(cluster: &Cluster, node: u64) {
    let fatal = cluster.nodes[&node].replica.fatal();
    let why = within("the node stops", || async { fatal.borrow().clone() }).await;
    assert!(why.contains("lost what it had acknowledged"), "{why}");
    let leader = cluster.nodes.values().find(|other| other.id != node && other.replica.is_leader()).unwrap();
    assert!(why.contains(&format!("nodes {} and {node}", leader.id)), "{why}");
    let told = within("the leader hears of it", || async { leader.replica.contradictions().remove(&node) });
    assert_eq!(told.await, why);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_log_contradicts_the_leaders_stops_with_its_log_as_it_was() {
    let mut cluster = Cluster::start_keeping("copied", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, 4096).await;
    cluster.agree().await;
    end(&mut cluster, &[3]).await;
    let (data, kept) = (cluster.data(3), cluster.dir.path().join("copy"));
    copy(&data, &kept);
    cluster.resume(3).await;
    cluster.agree().await;

    // Acknowledged by 2 and 3; then 3 is put back to what it was.
    end(&mut cluster, &[1]).await;
    for number in 2..5 {
        commit_epoch(&cluster, "job", number, 4096).await;
    }
    cluster.agree().await;
    end(&mut cluster, &[2, 3]).await;
    std::fs::rename(&data, cluster.dir.path().join("lost")).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    cluster.resume(1).await;
    cluster.resume(3).await;
    for number in 5..9 {
        commit_epoch(&cluster, "job", number, 4096).await;
    }
    cluster.agree().await;

    let before = positions(&cluster.data(2), 2);
    cluster.resume(2).await;
    stops_and_says_so(&cluster, 2).await;
    cluster.nodes.remove(&2).unwrap().kill().await;
    assert_eq!(positions(&cluster.data(2), 2), before, "nothing of its log was changed");
    // The others go on; what they hold is what 1 and 3 acknowledged.
    cluster.agree().await;
    let job = JobName::try_from("job").unwrap();
    for node in cluster.nodes.values() {
        assert_eq!(node.machine.ledger().epochs(&job).count(), 5);
    }
    cluster.shutdown().await;
}

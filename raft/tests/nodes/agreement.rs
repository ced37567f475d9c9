//! Histories that contradict each other: a node whose log or ledger is not that of the leader stops, and says so.

use std::path::Path;
use std::sync::Arc;

use crate::cluster::{Cluster, by_hand, commit_epoch, within};
use checkpoint::store::layout::Layout;
use checkpoint::{CommitId, JobName, RealDisk};
use nativelog::compose;
use nativelog::record::{Body, Entry, Kind, LogId, LogRecord};
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

/// The epochs that node 1 lists.
fn epochs(cluster: &Cluster) -> Vec<u64> {
    let job = JobName::try_from("job").unwrap();
    cluster.nodes[&1].machine.ledger().epochs(&job).map(|epoch| epoch.sealed.epoch).collect()
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
    let listed = epochs(&cluster);

    let before = positions(&cluster.data(2), 2);
    cluster.resume(2).await;
    stops_and_says_so(&cluster, 2).await;
    cluster.nodes.remove(&2).unwrap().kill().await;
    assert_eq!(positions(&cluster.data(2), 2), before, "nothing of its log was changed");
    // A vote of the one that stopped may have made another leader, which moves the ledger's position.
    cluster.agree().await;
    assert_eq!(epochs(&cluster), listed, "the others are as they were");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_ledger_is_another_at_an_equal_position_stops() {
    let mut cluster = Cluster::start_keeping("another", 3, by_hand()).await;
    let job = JobName::try_from("job").unwrap();
    let leader = cluster.leader().await;
    let open = async |cluster: &Cluster, number: u16| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_le_bytes());
        let record = compose::open_writer(&job, CommitId::from_bytes(id), 0);
        cluster.nodes[&leader].replica.propose(record).await.unwrap().0
    };
    let planted = open(&cluster, 1).await;
    cluster.agree().await;
    let other = (1..=3).find(|node| *node != leader).unwrap();
    end(&mut cluster, &[other]).await;

    // The same positions, with another record at one of them: what a flipped bit that nobody checked would be.
    let log = log_of(&cluster.data(other), other);
    let last = log.log_state().1.unwrap();
    let entries = log.headers(planted.index..last.index + 1).unwrap();
    let before = log.log_id_at(planted.index - 1);
    log.truncate_after(before);
    let forged =
        compose::open_writer(&JobName::try_from("forged").unwrap(), CommitId::from_bytes([1; 16]), 0);
    let forge = |entry: Entry| match entry.body {
        Body::Record(LogRecord { ref header, .. }) if matches!(header.kind, Some(Kind::OpenWriter(_))) => {
            Entry { body: Body::Record(forged.clone()), ..entry }
        }
        _ => entry,
    };
    log.append(entries.into_iter().map(forge).collect(), Box::new(|done| done.unwrap()));
    log.save_committed(Some(last));
    assert!(log.wait_flushed(last.index));
    log.shutdown();

    cluster.resume(other).await;
    for number in 2..100 {
        open(&cluster, number).await;
    }
    stops_and_says_so(&cluster, other).await;
    let wrong = cluster.nodes.remove(&other).unwrap();
    wrong.kill().await;
    cluster.agree().await;
    cluster.shutdown().await;
}

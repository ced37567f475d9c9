//! A number that names two epochs, one after the other, because its job was removed and made anew; and content whose
//! bytes come a second time. What lies here of the first never passes for the second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::{JobName, RealDisk, Store, manifest};
use nativelog::compose;
use nativelog::ledger::SealedEpoch;
use nativelog::performer::Publication;
use nativelog::store::Identity;

use crate::catch_up::rot_unseen;
use crate::cluster::{
    Cluster, Commit, Node, by_hand, commit_epoch, directory_of, installed, remove_epochs, verified, within,
};
use crate::mending;

const MIB: usize = 1 << 20;

fn job() -> JobName {
    JobName::try_from("job").unwrap()
}

/// Ends the job with its only epoch.
async fn remove_job(cluster: &Cluster) {
    remove_epochs(cluster, "job", vec![1]).await;
    let leader = cluster.leader().await;
    let record = compose::remove_job(&job(), "done");
    let (_, verdict) = cluster.nodes[&leader].replica.propose(record).await.unwrap();
    assert!(verdict.is_accepted(), "{verdict}");
}

/// Commits the first epoch of the job in its second life, with the tree of `number` and a label.
async fn anew(cluster: &Cluster, number: u8) -> SealedEpoch {
    let leader = cluster.leader().await;
    let source = directory_of(MIB, number);
    let mut commit = Commit::of(source.path(), "job", 99);
    commit.opening.labels = vec![("life".into(), "second".into())];
    let sealed = commit.write(source.path(), &cluster.nodes[&leader].replica).await;
    assert_eq!(sealed.epoch, 1, "its numbers start anew");
    sealed
}

/// The manifest of the epoch says on `store` what was sealed.
fn is_as_sealed(store: &Store, sealed: &SealedEpoch) -> bool {
    let there = store.envelope(&sealed.job, sealed.epoch).unwrap();
    there.is_some_and(|there| (there.attempt, there.root) == (sealed.attempt, sealed.root))
}

/// A cluster of three that agrees on one epoch of the job, and which follower is lost then.
async fn one_away(name: &'static str) -> (Cluster, u64) {
    let mut cluster = Cluster::start_keeping(name, 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    let away = cluster.lose_follower().await;
    (cluster, away)
}

async fn comes_back_to(number: u8, name: &'static str) {
    let (mut cluster, away) = one_away(name).await;
    remove_job(&cluster).await;
    let sealed = anew(&cluster, number).await;
    cluster.agree().await;
    cluster.purge().await;

    cluster.resume(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(installed(back).await, 1);
    assert_eq!(verified(back).await, 1);
    assert!(is_as_sealed(back.machine.store(), &sealed), "{:?}", back.machine.store().envelope(&job(), 1));
    assert_eq!(back.machine.publication(&job(), 1), Some(Publication::Published));
    // By itself, now and after a start.
    cluster.bounce(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    within("it has looked", async || {
        (back.machine.publication(&job(), 1) == Some(Publication::Published)).then_some(())
    })
    .await;
    assert!(is_as_sealed(back.machine.store(), &sealed));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_was_away_while_a_job_was_made_anew_catches_up() {
    comes_back_to(2, "anew").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tree_that_was_committed_in_both_lives_of_its_job_is_the_second_ones() {
    comes_back_to(1, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_with_a_damaged_log_rejoins_after_a_job_was_made_anew() {
    let (mut cluster, away) = one_away("rejoin-anew").await;
    remove_job(&cluster).await;
    let sealed = anew(&cluster, 2).await;
    cluster.agree().await;

    let wal = mending::segment(&cluster, away);
    mending::rot_half_way(&wal);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let layout = Layout::new(&cluster.data(away));
    let owner = Identity { node: away, incarnation: [away as u8; 16] };
    let store = Arc::new(Store::open(disk.clone(), &cluster.data(away)).unwrap());
    let mut config = cluster.config(away, owner.incarnation);
    config.cluster = cluster.nodes.values().next().unwrap().replica.cluster();
    raft::rejoin(config, disk, layout, store.clone(), owner, |_| {}).await.unwrap();
    assert!(is_as_sealed(&store, &sealed), "{:?}", store.envelope(&job(), 1));
    drop(store);

    cluster.resume(away).await;
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&away]).await, 1);
    cluster.shutdown().await;
}

/// Writes another label into the manifest of the epoch: the tree and its root stay.
fn relabel(node: &Node) {
    let path = node.machine.store().layout().manifest_file(&job(), 1);
    let (mut envelope, tree) = manifest::decode_file(&std::fs::read(&path).unwrap()).unwrap();
    envelope.labels = vec![("of".into(), "nobody".into())];
    std::fs::write(&path, manifest::encode_file(&envelope, &tree.encode())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manifest_that_says_something_else_than_the_ledger_comes_from_another_peer() {
    let mut cluster = Cluster::start_keeping("labels", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    let sealed = commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    cluster.purge().await;
    // It sends the snapshot, and is asked first.
    let leader = cluster.leader().await;
    relabel(&cluster.nodes[&leader]);

    cluster.resume(away).await;
    let back = &cluster.nodes[&away];
    let began = Instant::now();
    while back.machine.publication(&job(), 1) != Some(Publication::Published) {
        // What is missing is mended in no time.
        assert!(back.machine.missing().is_empty(), "it was owed, although a peer has it");
        assert!(began.elapsed() < crate::cluster::DEADLINE, "it is not published");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let there = back.machine.store().envelope(&job(), 1).unwrap().unwrap();
    assert_eq!((there.attempt, there.labels), (sealed.attempt, Vec::new()));
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&away]).await, 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_come_anew_take_the_place_of_rotten_ones() {
    let mut cluster = Cluster::start_keeping("bytes-anew", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    commit_epoch(&cluster, "job", 1, 4 * MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    cluster.purge().await;
    let rotten = {
        let node = cluster.nodes.values().next().unwrap();
        let (_, tree) = node.machine.store().manifest(&job(), 1).unwrap().unwrap();
        tree.entries.iter().find(|entry| entry.path.as_bytes() == b"big").unwrap().digest
    };
    for node in cluster.nodes.values() {
        rot_unseen(&node.machine.store().blob_path(rotten).unwrap(), 12_345);
    }
    cluster.resume(away).await;
    cluster.agree().await;
    within("the rotten content is named on all nodes", async || {
        let names = |node: &Node| node.machine.ledger().quarantine().any(|there| there.digest == rotten);
        cluster.nodes.values().all(names).then_some(())
    })
    .await;

    // Nobody but the two with rotten copies gets the bytes at first: there is nobody to have good ones from.
    cluster.nodes.remove(&away).unwrap().kill().await;
    let leader = cluster.leader().await;
    let source = directory_of(4 * MIB, 1);
    let commit = Commit::of(source.path(), "other", 98);
    let sealed = commit.write(source.path(), &cluster.nodes[&leader].replica).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        within("the new epoch is published", async || {
            let there = node.machine.publication(&sealed.job, sealed.epoch);
            (there == Some(Publication::Published)).then_some(())
        })
        .await;
        let report = node.machine.store().verify(&sealed.job, sealed.epoch).unwrap();
        assert!(report.is_good(), "node {}: {report:?}", node.id);
    }
    // And the old epoch is whole again with it.
    for node in cluster.nodes.values() {
        within("the old epoch verifies", async || {
            node.machine.store().verify(&job(), 1).unwrap().is_good().then_some(())
        })
        .await;
    }
    cluster.shutdown().await;
}

//! Damage on one node of a running cluster: it is noticed, refetched and put in place, and nobody else minds.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::cluster::{Cluster, Commit, Node, accepted, by_hand, commit_epoch, noise, verified, within};
use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::{Digest, JobName, RealDisk, Store};
use nativelog::compose;
use nativelog::performer::Publication;
use nativelog::store::{Identity, LogStore, OpenError, Options};
use raft::{ProposalStream, RejoinError, RejoinStep, Stage};

const MIB: usize = 1 << 20;

/// Flips a byte in place.
pub fn rot(path: &Path, at: u64) {
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

/// In the middle of what is written of a segment of the log, before the zeros that it ends in.
pub fn rot_half_way(segment: &Path) {
    let written = std::fs::read(segment).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    rot(segment, written as u64 / 2);
}

fn job() -> JobName {
    JobName::try_from("job").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rot_and_loss_in_a_published_epoch_are_refetched_and_swapped_in() {
    let cluster = Cluster::start_keeping("rot", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, 6 * MIB).await;
    cluster.agree().await;
    let node = cluster.follower().await;
    assert_eq!(verified(node).await, 1);
    let files = node.machine.store().layout().files_dir(&job(), 1);
    rot(&files.join("big"), 12_345);
    rot(&files.join("sub/own"), 1);
    std::fs::remove_file(files.join("sub/small")).unwrap();
    assert!(!node.machine.store().verify(&job(), 1).unwrap().is_good());

    let report = node.replica.repair_epoch(&job(), 1).await.unwrap();
    assert!(report.files >= 2 && report.names >= 2, "{report:?}");
    assert!(report.bytes >= 3 * MIB as u64, "{report:?}");
    assert!(node.machine.store().verify(&job(), 1).unwrap().is_good());
    let again = node.replica.repair_epoch(&job(), 1).await.unwrap();
    assert_eq!(again, Default::default(), "a good epoch costs nothing");
    assert!(node.replica.repair_epoch(&job(), 77).await.is_err());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_manifest_is_replaced() {
    let cluster = Cluster::start_keeping("manifest", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    let node = cluster.follower().await;
    assert_eq!(verified(node).await, 1);
    let manifest = node.machine.store().layout().manifest_file(&job(), 1);
    let len = std::fs::metadata(&manifest).unwrap().len();
    rot(&manifest, len - 3);
    node.replica.repair_epoch(&job(), 1).await.unwrap();
    assert!(node.machine.store().verify(&job(), 1).unwrap().is_good());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn manifests_lost_while_a_follower_was_away_do_not_stop_its_catch_up() {
    let mut cluster = Cluster::start_keeping("manifests", 3, by_hand()).await;
    for number in 1..=3 {
        commit_epoch(&cluster, "job", number, MIB).await;
    }
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 3);
    }
    let away = cluster.lose_follower().await;
    let layout = Layout::new(&cluster.data(away));
    std::fs::remove_file(layout.manifest_file(&job(), 1)).unwrap();
    // In the envelope, which no root covers.
    rot(&layout.manifest_file(&job(), 2), 40);
    rot(&layout.files_dir(&job(), 2).join("big"), 12_345);
    commit_epoch(&cluster, "job", 4, MIB).await;
    cluster.purge().await;
    cluster.resume(away).await;
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&away]).await, 4);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manifest_that_the_device_has_lost_is_replaced() {
    let cluster = Cluster::start_keeping("manifest-lost", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    let node = cluster.follower().await;
    assert_eq!(verified(node).await, 1);
    let store = node.machine.store();
    let inode = || std::fs::metadata(store.layout().manifest_file(&job(), 1)).unwrap().ino();
    let lost = inode();
    cluster.disks[&node.id].lost.lock().unwrap().insert(lost);
    assert!(store.verify(&job(), 1).is_err(), "it cannot be read");
    node.replica.repair_epoch(&job(), 1).await.unwrap();
    assert_ne!(inode(), lost);
    assert!(store.verify(&job(), 1).unwrap().is_good());
    cluster.shutdown().await;
}

/// Somebody else's file where an epoch is to be, and another in a tree that has lost its manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_in_the_way_of_one_epoch_holds_up_no_catch_up() {
    let mut cluster = Cluster::start_keeping("in-the-way", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    let away = cluster.lose_follower().await;
    let layout = Layout::new(&cluster.data(away));
    std::fs::remove_file(layout.manifest_file(&job(), 1)).unwrap();
    let surplus = layout.files_dir(&job(), 1).join("surplus");
    let way = layout.epoch_dir(&job(), 2);
    for file in [&surplus, &way] {
        std::fs::write(file, b"not ours").unwrap();
    }
    for number in 2..=3 {
        commit_epoch(&cluster, "job", number, MIB).await;
    }
    cluster.purge().await;
    cluster.resume(away).await;
    let node = &cluster.nodes[&away];
    within("the node is home, and all are published", async || {
        let is_there = |epoch| node.machine.publication(&job(), epoch) == Some(Publication::Published);
        (1..=3).all(is_there).then_some(())
    })
    .await;
    // What is in the place of a whole epoch makes way. So does a folder without a manifest that does not verify, as a whole,
    // whoever comes first, who mends or the performer. All of it stays.
    let found = layout.epoch_dir(&job(), 1).with_extension("found");
    assert_eq!(std::fs::read(found.join("files/surplus")).unwrap(), b"not ours");
    assert_eq!(std::fs::read(way.with_extension("aside")).unwrap(), b"not ours");
    cluster.agree().await;
    cluster.shutdown().await;
}

/// As the folder of an earlier life of its job: with names that the epoch has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_that_does_not_say_what_it_is_and_cannot_be_mended_makes_way() {
    let mut cluster = Cluster::start_keeping("makes-way", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    let away = cluster.lose_follower().await;
    let layout = Layout::new(&cluster.data(away));
    rot(&layout.manifest_file(&job(), 1), 40);
    std::fs::write(layout.files_dir(&job(), 1).join("surplus"), b"of another").unwrap();
    commit_epoch(&cluster, "job", 2, MIB).await;
    cluster.purge().await;
    cluster.resume(away).await;
    cluster.agree().await;
    let node = &cluster.nodes[&away];
    within("both are published", async || {
        let is_there = |epoch| node.machine.publication(&job(), epoch) == Some(Publication::Published);
        (is_there(1) && is_there(2)).then_some(())
    })
    .await;
    assert_eq!(verified(node).await, 2);
    // With its folder: nothing is deleted, nothing taken out of it.
    let beside = |name: &str| layout.epoch_dir(&job(), 1).with_extension(name);
    assert_eq!(std::fs::read(beside("aside").join("files/surplus")).unwrap(), b"of another");
    assert!(!beside("found").exists());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_epoch_whose_directory_and_blobs_are_gone_comes_back_by_itself() {
    let mut cluster = Cluster::start_keeping("gone", 3, by_hand()).await;
    for number in 1..=2 {
        commit_epoch(&cluster, "job", number, 2 * MIB).await;
    }
    cluster.agree().await;
    let id = cluster.follower().await.id;
    assert_eq!(verified(&cluster.nodes[&id]).await, 2);
    cluster.purge().await;
    cluster.nodes.remove(&id).unwrap().kill().await;
    let data = cluster.data(id);
    std::fs::remove_dir_all(data.join("epochs/job/1")).unwrap();
    for shelf in std::fs::read_dir(data.join("groups/main/blobs")).unwrap() {
        for blob in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
            std::fs::remove_file(blob.unwrap().path()).unwrap();
        }
    }
    cluster.resume(id).await;
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&id]).await, 2);
    cluster.shutdown().await;
}

/// All pieces of an open attempt, of which one is rotten on this node, which leads.
async fn staged_and_rotten_at(cluster: &Cluster, leader: u64) -> (ProposalStream, u64, Digest) {
    let dir = tempfile::tempdir().unwrap();
    // More than the cache of payloads holds, so that the first of them are read from disk.
    std::fs::write(dir.path().join("large"), noise(48 * MIB, 7)).unwrap();
    let commit = Commit::of(dir.path(), "staged", 1);
    let stream = cluster.nodes[&leader].replica.stream().await.unwrap();
    let attempt = commit.begin(&stream).await;
    let (pieces, root) = commit.pieces(dir.path(), attempt);
    for piece in pieces {
        accepted(&stream, piece).await;
    }
    let layout = cluster.nodes[&leader].machine.store().layout().clone();
    let staged: Vec<_> = std::fs::read_dir(layout.attempt_dir(attempt)).unwrap().collect();
    let staged = staged.into_iter().map(|entry| entry.unwrap().path()).find(|path| path.is_file()).unwrap();
    rot(&staged, 3 * MIB as u64 + 77);
    (stream, attempt, root)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotten_staged_payload_on_the_leader_does_not_hold_a_follower_back() {
    let mut cluster = Cluster::start_keeping("staged", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    let leader = cluster.leader().await;
    let (stream, attempt, root) = staged_and_rotten_at(&cluster, leader).await;
    cluster.resume(away).await;
    cluster.agree().await;
    accepted(&stream, compose::seal(attempt, root)).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_payload_that_somebody_waits_for_does_not_wait_until_an_epoch_is_mended() {
    let mut cluster = Cluster::start_keeping("two-loops", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    cluster.purge().await;
    // An epoch is lost on one node, and its repair takes as long as the gate is closed.
    let id = cluster.lose_follower().await;
    std::fs::remove_dir_all(cluster.data(id).join("epochs/job/1")).unwrap();
    let gate = cluster.disks[&id].publish.clone();
    gate.close();
    cluster.resume(id).await;
    let is_mending = |node: &Node| node.replica.transfer().borrow().stage == Stage::Repair;
    within("it mends the epoch", async || is_mending(&cluster.nodes[&id]).then_some(())).await;
    // It leads, and a follower that was away needs a payload that is rotten there.
    let leader = cluster.leader().await;
    cluster.nodes[&leader].replica.transfer_leader(id).await.unwrap();
    within("it leads", async || cluster.nodes[&id].replica.is_leader().then_some(())).await;
    let away = cluster.lose_follower().await;
    let (stream, attempt, root) = staged_and_rotten_at(&cluster, id).await;
    cluster.resume(away).await;
    cluster.agree().await;
    let busy = &cluster.nodes[&id];
    assert!(is_mending(busy), "the epoch was still being mended");
    assert_eq!(busy.machine.store().published(&job(), 1).unwrap(), None);
    gate.open();
    accepted(&stream, compose::seal(attempt, root)).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 2);
    }
    cluster.shutdown().await;
}

/// The longest WAL segment of a node.
pub fn segment(cluster: &Cluster, node: u64) -> std::path::PathBuf {
    let log = cluster.data(node).join("groups/main/log");
    let files = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let segments = files.filter(|path| path.file_name().unwrap() != "mark");
    segments.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_with_a_damaged_log_rejoins_and_no_vote_is_given_twice() {
    let mut cluster = Cluster::start_keeping("rejoin", 3, by_hand()).await;
    for number in 1..=3 {
        commit_epoch(&cluster, "job", number, 2 * MIB).await;
    }
    // An open attempt, so that its staged bytes count.
    let source = crate::cluster::directory(2 * MIB);
    let open = Commit::of(source.path(), "open", 9);
    let leader = cluster.leader().await;
    let stream = cluster.nodes[&leader].replica.stream().await.unwrap();
    let attempt = open.begin(&stream).await;
    let (pieces, root) = open.pieces(source.path(), attempt);
    for piece in pieces {
        accepted(&stream, piece).await;
    }
    drop(stream);
    cluster.agree().await;

    let victim = cluster.lose_follower().await;
    let wal = segment(&cluster, victim);
    rot_half_way(&wal);
    std::fs::remove_dir_all(cluster.data(victim).join(format!("groups/main/staging/{attempt}"))).unwrap();
    let layout = Layout::new(&cluster.data(victim));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let owner = Identity { node: victim, incarnation: [victim as u8; 16] };
    let refused = LogStore::open(disk.clone(), &layout, owner, Options::default());
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "a damaged log is refused");
    let bound = LogStore::certain_vote(&disk, &layout, owner).unwrap().unwrap();
    let term = cluster.nodes[&leader].replica.status().term;
    assert!(bound.term >= term, "it voted in this term: {bound:?}");

    let mut config = cluster.config(victim, owner.incarnation);
    let store = Arc::new(Store::open(disk.clone(), &cluster.data(victim)).unwrap());
    let steps = Mutex::new(Vec::new());
    let try_it = |config| {
        raft::rejoin(config, disk.clone(), layout.clone(), store.clone(), owner, |step| {
            steps.lock().unwrap().push(step);
        })
    };
    assert!(matches!(try_it(config.clone()).await, Err(RejoinError::NoCluster)));
    config.cluster = cluster.nodes[&leader].replica.cluster();
    let rejoined = try_it(config).await.unwrap();
    // The leader of the vote's term had counted on the lost log: another one leads now, in a higher term.
    assert!(rejoined.vote.committed && rejoined.vote.term > bound.term, "{rejoined:?}");
    assert!(steps.lock().unwrap().iter().any(|step| matches!(step, RejoinStep::Replacing { .. })));
    drop(store);

    cluster.resume(victim).await;
    let back = &cluster.nodes[&victim];
    assert!(back.log.vote().unwrap() >= rejoined.vote);
    assert!(back.log.log_state().0.unwrap() >= rejoined.position);
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&victim]).await, 3);

    // It counts again: with it and one other there is a majority, also for the open attempt.
    let third =
        *cluster.nodes.keys().find(|id| **id != victim && !cluster.nodes[id].replica.is_leader()).unwrap();
    cluster.nodes.remove(&third).unwrap().kill().await;
    let leader = cluster.leader().await;
    let stream = cluster.nodes[&leader].replica.stream().await.unwrap();
    accepted(&stream, compose::seal(attempt, root)).await;
    drop(stream);
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&victim]).await, 4);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_the_cluster_does_not_know_does_not_rejoin() {
    let mut cluster = Cluster::start_keeping("unknown", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    let victim = cluster.lose_follower().await;
    let leader = cluster.leader().await;
    let owner = Identity { node: victim, incarnation: [99; 16] };
    let fresh = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let store = Arc::new(Store::open(disk.clone(), fresh.path()).unwrap());
    let layout = Layout::new(fresh.path());
    let (log, _) = LogStore::open(disk.clone(), &layout, owner, Options::default()).unwrap();
    log.shutdown();
    let mut config = cluster.config(victim, owner.incarnation);
    config.cluster = cluster.nodes[&leader].replica.cluster();
    let refused = raft::rejoin(config, disk, layout, store, owner, |_| {}).await;
    assert!(matches!(refused, Err(RejoinError::Unknown(_))), "{refused:?}");
    within("the others go on", || async { cluster.nodes[&leader].replica.is_leader().then_some(()) }).await;
    cluster.shutdown().await;
}

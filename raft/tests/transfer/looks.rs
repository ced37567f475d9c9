//! What counts as a look: only the word of nodes that have carried out what brought the content, on all that they have.
//! Nothing else puts content in quarantine or ends an attempt.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::cluster::{
    Cluster, Commit, Node, accepted, by_hand, caller, commit_epoch, remove_epochs, verified, within,
};
use checkpoint::{Digest, EntryKind, JobName};
use nativelog::compose;
use nativelog::ledger::Verdict;
use nativelog::performer::Publication;
use nativelog::record::{Body, Kind};
use raft::Stage;
use raft::proto::{BlobWanted, BlobsRequest, Miss};

const MIB: usize = 1 << 20;

fn job() -> JobName {
    JobName::try_from("job").unwrap()
}

/// Flips a byte in place: same inode, and the same time of change, as rot does it.
fn rot(path: &Path, at: u64) {
    let meta = std::fs::metadata(path).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    std::fs::set_permissions(path, meta.permissions()).unwrap();
}

/// A file of an epoch that is published there: digest and bytes.
fn file(node: &Node, epoch: u64, path: &str) -> (Digest, u64) {
    let (_, manifest) = node.machine.store().manifest(&job(), epoch).unwrap().unwrap();
    let entry = manifest.entries.iter().find(|entry| entry.path.as_bytes() == path.as_bytes()).unwrap();
    (entry.digest, entry.size)
}

fn big(node: &Node, epoch: u64) -> (Digest, u64) {
    file(node, epoch, "big")
}

fn rot_blob(node: &Node, (digest, bytes): (Digest, u64)) {
    rot(&node.machine.store().blob_path(digest).unwrap(), bytes - 5);
}

fn is_published(node: &Node, epoch: u64) -> bool {
    node.machine.publication(&job(), epoch) == Some(Publication::Published)
}

/// Records of this kind in the log of the leader, from its purge point on.
async fn in_log(cluster: &Cluster, is: impl Fn(&Kind) -> bool) -> usize {
    let node = &cluster.nodes[&cluster.leader().await];
    let (purged, last) = node.log.log_state();
    let headers = node.log.headers(purged.map_or(0, |id| id.index + 1)..last.unwrap().index + 1).unwrap();
    let kinds = headers.iter().filter_map(|entry| match &entry.body {
        Body::Record(record) => record.header.kind.as_ref(),
        _ => None,
    });
    kinds.filter(|kind| is(kind)).count()
}

async fn quarantines(cluster: &Cluster) -> usize {
    in_log(cluster, |kind| matches!(kind, Kind::Quarantine(_))).await
}

/// Waits until a repair that begins now has ended.
async fn repaired_once(node: &Node) {
    let mut progress = node.replica.transfer();
    for stage in [Stage::Repair, Stage::Idle] {
        let reached = progress.wait_for(|now| now.stage == stage);
        tokio::time::timeout(crate::cluster::DEADLINE, reached).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_have_not_carried_out_an_epoch_say_nothing_of_its_content() {
    let cluster = Cluster::start_keeping("looks", 3, by_hand()).await;
    let quick = cluster.follower().await;
    for (id, disk) in &cluster.disks {
        // Two are still building it when the third cannot.
        if *id == quick.id { disk.publish.refuse() } else { disk.publish.close() }
    }
    commit_epoch(&cluster, "job", 1, MIB).await;
    within("it cannot be published on one node", async || {
        let publication = quick.machine.publication(&job(), 1);
        matches!(publication, Some(Publication::Unpublished(_))).then_some(())
    })
    .await;
    repaired_once(quick).await;
    assert_eq!(quarantines(&cluster).await, 0);
    cluster.disks.values().for_each(|disk| disk.publish.open());
    quick.machine.publish_again();
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    cluster.agree().await;
    assert_eq!(quarantines(&cluster).await, 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_could_not_be_published_is_a_good_copy_all_the_same() {
    let cluster = Cluster::start_keeping("kept", 3, by_hand()).await;
    let holder = cluster.follower().await;
    cluster.disks[&holder.id].publish.refuse();
    commit_epoch(&cluster, "job", 1, 5 * MIB).await;
    let others: Vec<&Node> = cluster.nodes.values().filter(|node| node.id != holder.id).collect();
    within("it is published on two nodes", async || {
        let unpublished = matches!(holder.machine.publication(&job(), 1), Some(Publication::Unpublished(_)));
        (unpublished && others.iter().all(|node| is_published(node, 1))).then_some(())
    })
    .await;
    // One lies there in a file of its own, the other in a pack that could not be unpacked.
    for lost in ["big", "sub/own"].map(|path| file(others[0], 1, path)) {
        others.iter().for_each(|node| rot_blob(node, lost));
        // It may have been brought from the others by now: what is staged is left.
        if let Some(brought) = holder.machine.store().blob_path(lost.0) {
            std::fs::remove_file(brought).unwrap();
        }
    }
    for node in &others {
        within("it comes from where it is staged", async || node.replica.repair_epoch(&job(), 1).await.ok())
            .await;
        assert!(node.machine.store().verify(&job(), 1).unwrap().is_good(), "node {}", node.id);
    }
    assert_eq!(quarantines(&cluster).await, 0);
    cluster.disks[&holder.id].publish.open();
    holder.machine.publish_again();
    assert_eq!(verified(holder).await, 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_come_wrong_are_not_the_word_of_who_sent_them() {
    let cluster = Cluster::start_keeping("wrong", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, 5 * MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    let node = cluster.follower().await;
    rot_blob(node, big(node, 1));
    cluster.disks.values().for_each(|disk| disk.spoils_sent.store(true, Ordering::Relaxed));
    let error = node.replica.repair_epoch(&job(), 1).await.unwrap_err();
    assert!(node.replica.transfer().borrow().came_wrong_total > 0, "{error}");
    assert_eq!(quarantines(&cluster).await, 0, "{error}");
    cluster.disks.values().for_each(|disk| disk.spoils_sent.store(false, Ordering::Relaxed));
    node.replica.repair_epoch(&job(), 1).await.unwrap();
    assert_eq!(verified(node).await, 1);
    assert_eq!(quarantines(&cluster).await, 0);
    cluster.shutdown().await;
}

/// Has `node` serve this content, so that it remembers it as good.
async fn serve(cluster: &Cluster, from: u64, node: &Node, (digest, size): (Digest, u64)) {
    let mut client = caller(cluster.name, from, (node.id, &node.address));
    let wanted = BlobWanted { digest: digest.as_bytes().to_vec().into(), size, ..Default::default() };
    let answer = client.fetch_blobs(BlobsRequest { blobs: vec![wanted], holes: false }).await.unwrap();
    let mut parts = answer.into_inner();
    while let Some(part) = parts.message().await.unwrap() {
        assert_eq!(part.miss(), Miss::None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_remembers_a_good_copy_looks_again_when_it_came_wrong() {
    let mut cluster = Cluster::start_keeping("again", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    for number in 1..=2 {
        commit_epoch(&cluster, "job", number, 5 * MIB).await;
    }
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 2);
    }
    cluster.purge().await;
    let lost = big(cluster.nodes.values().next().unwrap(), 2);
    for node in cluster.nodes.values() {
        serve(&cluster, away, node, lost).await;
        rot_blob(node, lost);
    }
    cluster.resume(away).await;
    cluster.agree().await;
    within("it is home, and the content is in quarantine", async || {
        let named = cluster.nodes.values().all(|node| node.machine.ledger().is_quarantined(&lost.0));
        (named && is_published(&cluster.nodes[&away], 1)).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_sealed_over_what_a_node_that_comes_home_finds_nowhere() {
    let mut cluster = Cluster::start_keeping("leaning", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    for number in 1..=2 {
        commit_epoch(&cluster, "job", number, MIB).await;
    }
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 2);
    }
    // Only an open attempt holds it.
    let leader = cluster.leader().await;
    let node = &cluster.nodes[&leader];
    let (lost, manifest) = (big(node, 1), node.machine.store().manifest(&job(), 1).unwrap().unwrap().1);
    assert!(manifest.entries.iter().any(|entry| entry.kind == EntryKind::File));
    let source = crate::cluster::directory_of(MIB, 1);
    let commit = Commit::of(source.path(), "other", 9);
    let stream = node.replica.stream().await.unwrap();
    let attempt = commit.begin(&stream).await;
    let (pieces, root) = commit.pieces_reusing(source.path(), attempt, &manifest);
    for piece in pieces {
        accepted(&stream, piece).await;
    }
    remove_epochs(&cluster, "job", vec![1]).await;
    cluster.agree().await;
    cluster.purge().await;
    cluster.nodes.values().for_each(|node| rot_blob(node, lost));

    cluster.resume(away).await;
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&away]).await, 1);
    let (_, verdict) = stream.send(compose::seal(attempt, root)).await.unwrap().await.unwrap();
    assert!(matches!(verdict, Verdict::Rejected(_)), "{verdict}");
    assert_eq!(quarantines(&cluster).await, 1);
    cluster.shutdown().await;
}

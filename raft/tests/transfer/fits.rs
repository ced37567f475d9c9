//! What is nearly all hole fits where there is room for what it holds.

use std::fs::File;
use std::os::unix::fs::FileExt;

use checkpoint::{JobName, digest};
use raft::proto::{BlobNamed, StoredRequest};

use crate::cluster::{
    Cluster, Commit, by_hand, caller, commit_epoch, noise, remove_epochs, verified, within,
};
use crate::holes::{BYTES, ISLANDS, commit, is_small, published};
use crate::mending::rot;

const MIB: u64 = 1 << 20;
/// Less than any of the epochs here is long.
const ROOM: u64 = 16 * MIB;
const UNIT: u64 = 64 << 10;

fn job(name: &str) -> JobName {
    JobName::try_from(name).unwrap()
}

/// Many files of 2 MiB, with one unit of data each.
async fn commit_many(cluster: &Cluster) {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..12 {
        let file = File::create(dir.path().join(format!("sparse-{number}"))).unwrap();
        file.set_len(2 * MIB).unwrap();
        file.write_all_at(&noise(UNIT as usize, number), MIB).unwrap();
    }
    let leader = cluster.leader().await;
    Commit::of(dir.path(), "many", 5).write(dir.path(), &cluster.nodes[&leader].replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sparse_epochs_come_to_a_node_with_room_for_what_they_hold() {
    let mut cluster = Cluster::start_keeping("fits", 3, by_hand()).await;
    commit_epoch(&cluster, "gone", 1, MIB as usize).await;
    cluster.agree().await;
    let away = cluster.lose_follower().await;
    let sparse = commit(&cluster, "job", 1).await;
    commit_many(&cluster).await;
    // This one is what it is long.
    commit_epoch(&cluster, "dense", 2, 2 * ROOM as usize).await;
    remove_epochs(&cluster, "gone", vec![1]).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 3);
    }
    cluster.purge().await;

    cluster.room.leave(away, ROOM);
    cluster.resume(away).await;
    let node = &cluster.nodes[&away];
    let mut heard = node.replica.transfer();
    let most = tokio::spawn(async move {
        let mut most = 0;
        loop {
            let now = *heard.borrow_and_update();
            most = most.max(now.lacking_bytes);
            if now.installed_total > 0 || heard.changed().await.is_err() {
                return most;
            }
        }
    });
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    let has = |name| back.machine.store().published(&job(name), 1).unwrap().is_some();
    within("what fits is here", || async { (has("job") && has("many")).then_some(()) }).await;
    is_small(&published(back, "job", 1), &sparse);
    let most = most.await.unwrap();
    assert!(most <= ROOM, "it looked as if {most} bytes were lacking");
    within("what does not fit is owed, and nothing else", || async {
        let owed: Vec<JobName> = back.machine.missing().into_iter().map(|missing| missing.job).collect();
        (owed == [job("dense")]).then_some(())
    })
    .await;
    cluster.room.free(&back.replica, u64::MAX);
    assert_eq!(verified(back).await, 3);
    within("it owes nothing", || async { back.machine.missing().is_empty().then_some(()) }).await;

    // Nor does a repair want room for holes.
    cluster.room.leave(away, ROOM);
    rot(&published(back, "job", 1), 4096 + 5);
    let report = back.replica.repair_epoch(&job("job"), 1).await.unwrap();
    assert_eq!(report.files, 1, "{report:?}");
    assert!(back.machine.store().verify(&job("job"), 1).unwrap().is_good());
    is_small(&published(back, "job", 1), &sparse);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_says_what_a_content_takes_where_it_has_it() {
    let cluster = Cluster::start_keeping("takes", 3, by_hand()).await;
    let source = commit(&cluster, "job", 1).await;
    commit_epoch(&cluster, "dense", 2, MIB as usize).await;
    cluster.agree().await;
    let (leader, node) = (cluster.leader().await, cluster.follower().await);
    verified(node).await;
    let blob = |name: &str| {
        let (_, manifest) = node.machine.store().manifest(&job(name), 1).unwrap().unwrap();
        let file = manifest.entries.iter().max_by_key(|entry| entry.size).unwrap();
        BlobNamed { digest: file.digest.as_bytes().to_vec().into(), size: file.size }
    };
    let (sparse, dense) = (blob("job"), blob("dense"));
    assert_eq!((sparse.size, std::fs::metadata(source.path().join("sparse")).unwrap().len()), (BYTES, BYTES));
    let nowhere = BlobNamed { digest: digest::content(b"nobody").as_bytes().to_vec().into(), size: 6 };
    let other_size = BlobNamed { size: dense.size + 1, ..dense.clone() };
    let mut client = caller("takes", leader, (node.id, &node.address));
    let request = StoredRequest { blobs: vec![sparse, nowhere, dense.clone(), other_size] };
    let told = client.stored_bytes(request).await.unwrap().into_inner();
    let told: Vec<Option<u64>> = told.blobs.into_iter().map(|blob| blob.bytes).collect();
    let [Some(holds), None, whole, None] = told[..] else { panic!("{told:?}") };
    assert_eq!(whole, Some(dense.size));
    // An island may lie across two units.
    assert!((ISLANDS * UNIT..=ISLANDS * UNIT + MIB).contains(&holds), "{holds}");
    cluster.shutdown().await;
}

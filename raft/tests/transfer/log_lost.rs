//! Content that came through the log and lies in a store, too, and whose copies rot on every node: who leans on the log ends,
//! and nobody who comes home waits for it.

use std::os::unix::fs::{FileExt, PermissionsExt};

use checkpoint::digest::content;
use checkpoint::{Digest, JobName, Piece};
use nativelog::compose::{self, LinkedFile, StoredObject};
use nativelog::ledger::{Accepted, STORES_RULES};
use nativelog::performer::Publication;

use crate::cluster::{
    Cluster, Commit, Node, accepted, by_hand, commit_epoch, directory_of, installed, within,
};

const MIB: usize = 1 << 20;

/// Flips a byte of the blob in place.
fn rot(node: &Node, digest: Digest) {
    let path = node.machine.store().blob_path(digest).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 12_345).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], 12_345).unwrap();
    std::fs::set_permissions(&path, mode).unwrap();
}

/// The big file of an epoch, alone, in a store and leant on by an open attempt that has none. That attempt.
async fn link_and_lean(cluster: &Cluster, big: &[u8]) -> u64 {
    let node = &cluster.nodes[&cluster.leader().await];
    let stream = node.replica.stream().await.unwrap();
    accepted(&stream, compose::activate(STORES_RULES)).await;
    accepted(&stream, compose::store("west", [9; 16], 1)).await;
    let store = node.machine.ledger().store_named("west").unwrap().id;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("big"), big).unwrap();
    let (digest, len) = (content(big), big.len() as u64);

    let hybrid = Commit::of(dir.path(), "hybrid", 50);
    let begun = accepted(&stream, compose::begin_in(&hybrid.opening, &hybrid.pages, store)).await;
    let Accepted::Begun { attempt, .. } = begun else { panic!("{begun:?}") };
    for part in hybrid.pages.parts(attempt, 0) {
        accepted(&stream, part).await;
    }
    let object = StoredObject { digest: content(b"an object"), nonce: 1, bytes: len };
    let file = LinkedFile { file: 1, offset: 0, len, digest };
    accepted(&stream, compose::link(attempt, &object, &[file])).await;
    let (_, root) = hybrid.pieces(dir.path(), attempt);
    let manifest = StoredObject { digest: root, nonce: 2, bytes: 100 };
    accepted(&stream, compose::seal_with(attempt, root, &manifest)).await;

    let leaning = Commit::of(dir.path(), "leaning", 51).begin(&stream).await;
    accepted(&stream, compose::piece(leaning, Piece::Reuse { files: vec![(1, digest)] })).await;
    leaning
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_comes_home_where_the_log_has_lost_what_a_store_has() {
    let mut cluster = Cluster::start_keeping("log-lost", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    let away = cluster.lose_follower().await;
    commit_epoch(&cluster, "job", 2, MIB).await;
    let big = std::fs::read(directory_of(MIB, 2).path().join("big")).unwrap();
    let digest = content(&big);
    let leaning = link_and_lean(&cluster, &big).await;
    cluster.agree().await;
    let epochs = [("job", 2), ("hybrid", 1)].map(|(job, epoch)| (JobName::try_from(job).unwrap(), epoch));
    within("published where they are", async || {
        let published = |node: &Node| {
            let is = |(job, epoch): &(JobName, u64)| {
                node.machine.publication(job, *epoch) == Some(Publication::Published)
            };
            epochs.iter().all(is)
        };
        cluster.nodes.values().all(published).then_some(())
    })
    .await;
    cluster.purge().await;
    cluster.nodes.values().for_each(|node| rot(node, digest));

    cluster.resume(away).await;
    within("the attempt that leans on the log ends, and nothing is in quarantine", async || {
        let settled = |node: &Node| {
            let ledger = node.machine.ledger();
            let in_store = ledger.only_in_store(&digest).is_some_and(|store| store.name == "west");
            ledger.attempt(leaning).is_none() && in_store && ledger.quarantine().next().is_none()
        };
        cluster.nodes.values().all(settled).then_some(())
    })
    .await;
    installed(&cluster.nodes[&away]).await;
    cluster.agree().await;
    let missing = cluster.nodes[&away].machine.missing();
    assert!(missing.iter().any(|missing| missing.job.as_str() == "hybrid"), "{missing:?}");
    cluster.shutdown().await;
}

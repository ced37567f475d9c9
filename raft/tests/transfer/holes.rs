//! Files that are nearly all hole: they cross the wire as what they hold, and lie on every node as at the source.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::cluster::{
    Cluster, Commit, Node, accepted, by_hand, caller, commit_epoch, installed, noise, remove_epochs, verified,
};
use crate::mending::rot;
use checkpoint::{Digest, JobName, digest};
use nativelog::compose;
use nativelog::ledger::Accepted;
use raft::proto::{BlobWanted, BlobsRequest, Miss};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
pub const BYTES: u64 = 4 * GIB + 12_345;
pub const ISLANDS: u64 = 3;

/// One sparse file.
fn source(number: u8) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("sparse")).unwrap();
    file.set_len(BYTES).unwrap();
    for island in 0..ISLANDS {
        let at = island * (GIB + 777_777) + u64::from(number) * 4096;
        file.write_all_at(&noise(64 << 10, number + island as u8), at).unwrap();
    }
    dir
}

fn room(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().blocks() * 512
}

pub async fn commit(cluster: &Cluster, job: &str, number: u8) -> tempfile::TempDir {
    let source = source(number);
    let leader = cluster.leader().await;
    Commit::of(source.path(), job, number).write(source.path(), &cluster.nodes[&leader].replica).await;
    source
}

/// On this node, published.
pub fn published(node: &Node, job: &str, epoch: u64) -> std::path::PathBuf {
    node.machine.store().layout().files_dir(&JobName::try_from(job).unwrap(), epoch).join("sparse")
}

pub fn is_small(file: &Path, source: &tempfile::TempDir) {
    let (here, there) = (room(file), room(&source.path().join("sparse")));
    assert_eq!(std::fs::metadata(file).unwrap().len(), BYTES);
    assert!(here <= there + MIB, "{}: {here} bytes, {there} at the source", file.display());
}

fn fetched(node: &Node) -> u64 {
    node.replica.transfer().borrow().fetched_bytes_total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn holes_stay_holes_on_a_node_that_was_away_and_after_a_repair() {
    let mut cluster = Cluster::start_keeping("holes", 3, by_hand()).await;
    commit_epoch(&cluster, "gone", 1, MIB as usize).await;
    let first = commit(&cluster, "job", 1).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        verified(node).await;
        is_small(&published(node, "job", 1), &first);
    }
    let away = cluster.lose_follower().await;
    let second = commit(&cluster, "job", 2).await;
    remove_epochs(&cluster, "gone", vec![1]).await;
    // An attempt that is open when the snapshot is taken, nearly complete.
    let open = source(9);
    let by_hand = Commit::of(open.path(), "open", 9);
    let leader = cluster.leader().await;
    let stream = cluster.nodes[&leader].replica.stream().await.unwrap();
    let attempt = by_hand.begin(&stream).await;
    let (pieces, root) = by_hand.pieces(open.path(), attempt);
    let (last, most) = pieces.split_last().unwrap();
    for piece in most {
        accepted(&stream, piece.clone()).await;
    }
    cluster.purge().await;

    cluster.resume(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(installed(back).await, 1);
    verified(back).await;
    is_small(&published(back, "job", 2), &second);
    let staged = back.machine.store().layout().staged_file(attempt, 1);
    assert!(room(&staged) <= room(&open.path().join("sparse")) + MIB, "{} bytes", room(&staged));
    assert!(fetched(back) < 2 * MIB, "{} bytes crossed the wire", fetched(back));
    accepted(&stream, last.clone()).await;
    let sealed = accepted(&stream, compose::seal(attempt, root)).await;
    assert!(matches!(&sealed, Accepted::Sealed(sealed) if sealed.root == root), "{sealed:?}");
    cluster.agree().await;
    let before = fetched(&cluster.nodes[&away]);
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 3);
        is_small(&published(node, "open", 1), &open);
    }

    let back = &cluster.nodes[&away];
    rot(&published(back, "job", 2), 2 * 4096 + 5);
    let job = JobName::try_from("job").unwrap();
    let report = back.replica.repair_epoch(&job, 2).await.unwrap();
    assert_eq!(report.files, 1, "{report:?}");
    assert!(back.machine.store().verify(&job, 2).unwrap().is_good());
    is_small(&published(back, "job", 2), &second);
    assert!(fetched(back) - before < MIB, "{} bytes crossed the wire", fetched(back) - before);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_does_not_know_holes_gets_bytes() {
    let cluster = Cluster::start_keeping("bytes", 3, by_hand()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("sparse")).unwrap();
    file.set_len(9 * MIB + 5).unwrap();
    file.write_all_at(&noise(100_000, 1), 3 * MIB).unwrap();
    drop(file);
    let leader = cluster.leader().await;
    Commit::of(dir.path(), "job", 1).write(dir.path(), &cluster.nodes[&leader].replica).await;
    cluster.agree().await;
    let node = cluster.follower().await;
    verified(node).await;
    let content = std::fs::read(dir.path().join("sparse")).unwrap();
    let digest: Digest = digest::content(&content);
    let mut client = caller("bytes", leader, (node.id, &node.address));
    for holes in [false, true] {
        for offset in [0, 1, 5 * MIB, content.len() as u64 - 1] {
            let (wanted, size) = (digest.as_bytes().to_vec().into(), content.len() as u64);
            let wanted = BlobWanted { digest: wanted, size, offset, ..Default::default() };
            let request = BlobsRequest { blobs: vec![wanted], holes };
            let mut parts = client.fetch_blobs(request).await.unwrap().into_inner();
            let (mut came, mut zeros) = (Vec::new(), 0);
            while let Some(part) = parts.message().await.unwrap() {
                assert_eq!(part.miss(), Miss::None);
                assert!(part.data.len() as u64 <= MIB && (part.zeros == 0 || part.data.is_empty()));
                came.extend_from_slice(&part.data);
                came.resize(came.len() + part.zeros as usize, 0);
                zeros += part.zeros;
            }
            assert!(came == content[offset as usize..], "from {offset}, holes {holes}");
            assert_eq!(zeros > 0, holes, "from {offset}");
        }
    }
    cluster.shutdown().await;
}

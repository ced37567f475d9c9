//! Followers that were away past the purge: they come back identical, whoever is killed on the way, and fetch
//! little more than they lacked.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::cluster::{
    Cluster, Commit, Node, accepted, by_hand, caller, commit_epoch, eager, installed, noise, remove_epochs,
    verified, within,
};
use checkpoint::{CommitId, Digest, JobName};
use nativelog::compose;
use nativelog::ledger::Accepted;
use raft::proto::{BlobWanted, BlobsRequest, Miss};
use raft::{Keeping, Stage};

const MIB: usize = 1 << 20;

/// Bytes of content of all sealed epochs, each content once.
fn sealed_bytes(node: &Node) -> u64 {
    let ledger = node.machine.ledger();
    let jobs: Vec<_> = ledger.jobs().cloned().collect();
    jobs.iter().flat_map(|job| ledger.epochs(job).collect::<Vec<_>>()).map(|info| info.sealed.new_bytes).sum()
}

fn fetched(node: &Node) -> u64 {
    node.replica.transfer().borrow().fetched_bytes_total
}

/// A directory with a large file, one with a hole in its middle, and small ones that travel in packs.
fn mixed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("large"), noise(3 * MIB + 4096, 200)).unwrap();
    let mut sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
    sparse.write_all(&noise(MIB, 201)).unwrap();
    sparse.seek(SeekFrom::Start(12 << 20)).unwrap();
    sparse.write_all(&noise(MIB, 202)).unwrap();
    std::fs::create_dir(dir.path().join("many")).unwrap();
    for n in 0..40u8 {
        std::fs::write(dir.path().join(format!("many/{n}")), noise(1000 + 4 * usize::from(n), n)).unwrap();
    }
    std::fs::create_dir(dir.path().join("bare")).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_was_away_past_the_purge_comes_back_identical() {
    let mut cluster = Cluster::start_keeping("away", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, 2 * MIB).await;
    cluster.agree().await;
    let away = cluster.lose_follower().await;

    for number in 2..=5 {
        commit_epoch(&cluster, "job", number, 2 * MIB).await;
    }
    remove_epochs(&cluster, "job", vec![1, 2]).await;
    // An attempt that is open when the snapshot is taken, half of its pieces in the log.
    let source = mixed();
    let commit = Commit::of(source.path(), "open", 9);
    let leader = cluster.leader().await;
    let stream = cluster.nodes[&leader].replica.stream().await.unwrap();
    let attempt = commit.begin(&stream).await;
    let (pieces, root) = commit.pieces(source.path(), attempt);
    let half = pieces.len() / 2 + 1;
    for piece in &pieces[..half] {
        accepted(&stream, piece.clone()).await;
    }
    cluster.purge().await;
    let lacked = {
        let node = &cluster.nodes[&leader];
        sealed_bytes(node) + node.machine.ledger().attempt(attempt).unwrap().covered_bytes
    };

    cluster.resume(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(installed(back).await, 1, "{:?}", back.replica.transfer().borrow());
    assert_eq!(verified(back).await, 3);
    assert!(fetched(back) <= lacked + lacked / 20, "{} of {lacked}", fetched(back));
    assert!(back.machine.store().published(&JobName::try_from("job").unwrap(), 1).unwrap().is_none());

    // What is left of the attempt comes by the log, and what the snapshot brought becomes part of the epoch.
    for piece in &pieces[half..] {
        accepted(&stream, piece.clone()).await;
    }
    let sealed = accepted(&stream, compose::seal(attempt, root)).await;
    assert!(matches!(&sealed, Accepted::Sealed(sealed) if sealed.root == root), "{sealed:?}");
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 4);
    }
    // It holds everything by itself now: it may lead and serve the others.
    cluster.bounce(away).await;
    cluster.agree().await;
    assert_eq!(verified(&cluster.nodes[&away]).await, 4);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_whose_entries_are_still_there_gets_no_snapshot() {
    let mut cluster = Cluster::start("briefly", 3).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    let away = cluster.lose_follower().await;
    commit_epoch(&cluster, "job", 2, MIB).await;
    // Snapshots alone cost a follower nothing.
    for node in cluster.nodes.values() {
        let capture = node.machine.capture(None).unwrap();
        let machine = node.machine.clone();
        tokio::task::spawn_blocking(move || machine.keep(capture)).await.unwrap().unwrap();
    }
    cluster.resume(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(verified(back).await, 2);
    // A snapshot that came all the same would be counted a moment after the ledger shows it.
    within("nothing is on its way", async || {
        (back.replica.transfer().borrow().stage == Stage::Idle).then_some(())
    })
    .await;
    assert_eq!((back.replica.transfer().borrow().installed_total, fetched(back)), (0, 0));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn content_of_an_epoch_that_expired_behind_the_snapshot_comes_for_those_who_reuse_it() {
    let mut cluster = Cluster::start_keeping("reused", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    commit_epoch(&cluster, "job", 2, MIB).await;
    cluster.agree().await;
    cluster.purge().await;
    // All this is behind the snapshot: another epoch takes over what the first one holds, and that one expires.
    let leader = cluster.leader().await;
    let node = &cluster.nodes[&leader];
    verified(node).await;
    let job = JobName::try_from("job").unwrap();
    let manifest = node.machine.store().manifest(&job, 1).unwrap().unwrap().1;
    let source = crate::cluster::directory_of(MIB, 1);
    let commit = Commit::of(source.path(), "other", 9);
    let stream = node.replica.stream().await.unwrap();
    let attempt = commit.begin(&stream).await;
    let (pieces, root) = commit.pieces_reusing(source.path(), attempt, &manifest);
    for piece in pieces {
        assert!(piece.payload.is_empty(), "everything is reused");
        accepted(&stream, piece).await;
    }
    accepted(&stream, compose::seal(attempt, root)).await;
    remove_epochs(&cluster, "job", vec![1]).await;
    cluster.agree().await;

    cluster.resume(away).await;
    let back = &cluster.nodes[&away];
    let other = JobName::try_from("other").unwrap();
    let begun = std::time::Instant::now();
    loop {
        // What is missing is mended in no time.
        assert!(back.machine.missing().iter().all(|missing| missing.job != other), "it lacks content");
        let sealed = back.machine.ledger().sealed(&other).next().map(|sealed| sealed.epoch);
        if sealed.is_some_and(|epoch| back.machine.store().published(&other, epoch).unwrap().is_some()) {
            break;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "it is not published");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    cluster.agree().await;
    assert_eq!(installed(back).await, 1);
    assert_eq!(verified(back).await, 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sender_is_killed_midway_and_another_goes_on() {
    let mut cluster = Cluster::start_keeping("sender", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    for number in 1..=6 {
        commit_epoch(&cluster, "job", number, 8 * MIB).await;
    }
    cluster.agree().await;
    cluster.purge().await;
    let sender = cluster.leader().await;
    let lacked = sealed_bytes(&cluster.nodes[&sender]);
    cluster.resume(away).await;
    let mut progress = cluster.nodes[&away].replica.transfer();
    let midway = progress.wait_for(|now| now.fetched_bytes > 4 << 20);
    tokio::time::timeout(crate::cluster::DEADLINE, midway).await.unwrap().unwrap();
    cluster.bounce(sender).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(verified(back).await, 6);
    assert!(installed(back).await >= 1);
    assert!(fetched(back) <= lacked + (4 << 20), "{} of {lacked}", fetched(back));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_receiver_is_killed_midway_and_fetches_only_the_rest() {
    let mut cluster = Cluster::start_keeping("receiver", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    for number in 1..=6 {
        commit_epoch(&cluster, "job", number, 8 * MIB).await;
    }
    cluster.agree().await;
    cluster.purge().await;
    let leader = cluster.leader().await;
    let lacked = sealed_bytes(&cluster.nodes[&leader]);
    let mut before = 0;
    for stop_at in [2 << 20, 9 << 20, 17 << 20] {
        cluster.resume(away).await;
        let mut progress = cluster.nodes[&away].replica.transfer();
        let goal = stop_at as u64;
        let midway =
            progress.wait_for(|now| before + now.fetched_bytes_total > goal || now.installed_total > 0);
        tokio::time::timeout(crate::cluster::DEADLINE, midway).await.unwrap().unwrap();
        let node = cluster.nodes.remove(&away).unwrap();
        node.kill().await;
        before += progress.borrow().fetched_bytes_total;
    }
    cluster.resume(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(verified(back).await, 6);
    let all = before + fetched(back);
    // A kill loses what was on its way: a few parts a stream.
    assert!(all <= lacked + (24 << 20), "{all} of {lacked}");
    cluster.shutdown().await;
}

/// The blobs of a node, the largest first.
fn blobs(cluster: &Cluster, node: u64) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let root = cluster.data(node).join("groups/main/blobs");
    for shelf in std::fs::read_dir(root).unwrap() {
        for blob in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
            let blob = blob.unwrap();
            found.push((blob.metadata().unwrap().len(), blob.path()));
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// Flips a byte in place: same inode, and the same time of change, as rot does it.
pub fn rot_unseen(path: &std::path::Path, at: u64) {
    let mode = std::fs::metadata(path).unwrap().permissions();
    let changed = std::fs::metadata(path).unwrap().modified().unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    file.set_modified(changed).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_without_the_blobs_and_one_with_rotten_ones_do_no_harm() {
    let mut cluster = Cluster::start_keeping("peers", 4, by_hand()).await;
    let away = cluster.lose_follower().await;
    for number in 1..=3 {
        commit_epoch(&cluster, "job", number, 8 * MIB).await;
    }
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 3);
    }
    cluster.purge().await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    for blob in blobs(&cluster, others[0]) {
        std::fs::remove_file(blob).unwrap();
    }
    for blob in blobs(&cluster, others[1]) {
        let len = std::fs::metadata(&blob).unwrap().len();
        if len > 0 {
            rot_unseen(&blob, len / 2);
        }
    }
    cluster.resume(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(verified(back).await, 3);
    assert_eq!(installed(back).await, 1);
    assert_eq!(back.replica.transfer().borrow().came_wrong_total, 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_a_peer_sends_wrong_are_thrown_away_and_come_from_another() {
    let mut cluster = Cluster::start_keeping("liar", 4, by_hand()).await;
    let away = cluster.lose_follower().await;
    let leader = cluster.leader().await;
    let liar = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    commit_epoch(&cluster, "job", 1, 24 * MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        verified(node).await;
    }
    cluster.purge().await;
    // It has served its blobs once and knows that they are good: what rots now leaves unseen.
    let mut client = caller("liar", leader, (liar, &cluster.nodes[&liar].address));
    for blob in blobs(&cluster, liar) {
        let size = std::fs::metadata(&blob).unwrap().len();
        let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
        let digest: Digest = name.split('.').next().unwrap().parse().unwrap();
        let digest = digest.as_bytes().to_vec().into();
        let wanted = BlobWanted { digest, size, ..Default::default() };
        let answer = client.fetch_blobs(BlobsRequest { blobs: vec![wanted], holes: false }).await.unwrap();
        let mut parts = answer.into_inner();
        while let Some(part) = parts.message().await.unwrap() {
            assert_eq!(part.miss(), Miss::None);
        }
        if size > MIB as u64 {
            rot_unseen(&blob, size - 5);
        }
    }
    cluster.resume(away).await;
    cluster.agree().await;
    let back = &cluster.nodes[&away];
    assert_eq!(verified(back).await, 1);
    assert!(back.replica.transfer().borrow().came_wrong_total > 0, "the liar was not asked");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_stays_bounded_while_nothing_is_removed() {
    let keeping = Keeping { snapshot_log_bytes: 256 << 10, purge_log_bytes: 512 << 10, ..by_hand() };
    let cluster = Cluster::start_keeping("bounded", 1, keeping).await;
    let node = &cluster.nodes[&1];
    let mut purged = vec![0];
    let mut numbers = (1..=250u8).cycle();
    let began = std::time::Instant::now();
    while purged.len() < 3 {
        assert!(began.elapsed() < crate::cluster::DEADLINE, "the log was purged only up to {purged:?}");
        let number = numbers.next().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("packed"), noise(60_000, number)).unwrap();
        std::fs::write(dir.path().join("own"), format!("{:?}", began.elapsed())).unwrap();
        let mut commit = Commit::of(dir.path(), "job", number);
        commit.opening.commit = CommitId::from_bytes(began.elapsed().as_nanos().to_be_bytes());
        commit.write(dir.path(), &node.replica).await;
        purged.push(node.log.log_state().0.map_or(0, |id| id.index));
        purged.dedup();
    }
    assert!(node.machine.marks().snapshot > 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_is_given_back_after_everything_was_removed() {
    let cluster = Cluster::start_keeping("baseline", 3, eager()).await;
    for number in 1..=4 {
        commit_epoch(&cluster, "job", number, 2 * MIB).await;
    }
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 4);
    }
    remove_epochs(&cluster, "job", vec![1, 2, 3, 4]).await;
    for id in cluster.nodes.keys() {
        within(&format!("node {id} gives everything back"), || async {
            let staging = std::fs::read_dir(cluster.data(*id).join("groups/main/staging")).unwrap().count();
            let trash = std::fs::read_dir(cluster.data(*id).join("groups/main/trash")).unwrap().count();
            (blobs(&cluster, *id).is_empty() && staging == 0 && trash == 0).then_some(())
        })
        .await;
    }
    // And it goes on as before.
    commit_epoch(&cluster, "job", 5, MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_purge_never_passes_a_pin_and_nothing_is_unlinked_under_it() {
    let cluster = Cluster::start_keeping("pinned", 1, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    let node = &cluster.nodes[&1];
    verified(node).await;
    node.replica.reclaim_now().await.unwrap();
    let pin = node.machine.pin();
    let held = node.log.log_state().0.unwrap();
    let there = blobs(&cluster, 1);
    commit_epoch(&cluster, "job", 2, MIB).await;
    remove_epochs(&cluster, "job", vec![1, 2]).await;
    for _ in 0..3 {
        node.replica.reclaim_now().await.unwrap();
    }
    assert!(node.machine.newest_snapshot().unwrap().position > held);
    assert!(node.log.log_state().0.unwrap() <= node.machine.newest_snapshot().unwrap().position);
    assert!(there.iter().all(|blob| blob.exists()), "something pinned was unlinked");
    let purged = node.log.log_state().0.unwrap().index;
    drop(pin);
    within("it is given back once nobody needs it", || async {
        node.replica.reclaim_now().await.unwrap();
        blobs(&cluster, 1).is_empty().then_some(())
    })
    .await;
    assert!(node.log.log_state().0.unwrap().index > purged);
    cluster.shutdown().await;
}

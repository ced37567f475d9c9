//! Bytes of open attempts that rotted wherever they are: what is staged is never owed. The attempt is ended by a record
//! before the replica that lacks them acknowledges anything above it, and nobody waits for them.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::{Digest, JobName, RealDisk, Store};
use nativelog::compose;
use nativelog::ledger::Verdict;
use nativelog::performer::Publication;
use nativelog::store::{Identity, LogStore};
use raft::{ProposalStream, RejoinError, TransferError};

use crate::cluster::{
    Cluster, Commit, Node, accepted, by_hand, commit_epoch, installed, noise, verified, within,
};
use crate::mending::{rot_half_way, segment};

const MIB: usize = 1 << 20;
/// More than the cache of payloads holds, so that the first of them are read from disk.
const BEYOND_CACHE: usize = 48 * MIB;

fn job(name: &str) -> JobName {
    JobName::try_from(name).unwrap()
}

/// An open attempt, all of whose pieces are committed.
struct Open {
    source: tempfile::TempDir,
    stream: ProposalStream,
    attempt: u64,
    root: Digest,
    /// Index of the last piece.
    last: u64,
}

impl Open {
    async fn new(cluster: &Cluster, bytes: usize) -> Open {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("large"), noise(bytes, 7)).unwrap();
        let commit = Commit::of(source.path(), "open", 1);
        let stream = cluster.nodes[&cluster.leader().await].replica.stream().await.unwrap();
        let attempt = commit.begin(&stream).await;
        let (pieces, root) = commit.pieces(source.path(), attempt);
        let mut last = 0;
        for piece in pieces {
            let (at, verdict) = stream.send(piece).await.unwrap().await.unwrap();
            assert!(verdict.is_accepted(), "{verdict}");
            last = at.index;
        }
        Open { source, stream, attempt, root, last }
    }

    fn staged(&self, node: &Node) -> PathBuf {
        let dir = node.machine.store().layout().attempt_dir(self.attempt);
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| path.is_file()).unwrap()
    }

    /// Flips a byte of the second chunk on this node.
    fn rot(&self, node: &Node) {
        let file = std::fs::File::options().read(true).write(true).open(self.staged(node)).unwrap();
        let (mut byte, at) = ([0], MIB as u64 + 77);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    }

    fn has_ended(&self, node: &Node) -> bool {
        node.machine.ledger().has_lapsed(self.attempt)
    }

    /// Waits until `node` acknowledges what is above the pieces. Before that the attempt must have ended.
    async fn is_passed(&self, node: &Node, leader: &Node) {
        within("it comes home", || async {
            // In this order: what is acknowledged now was so when the other is asked.
            let has = node.log.log_state().1.map_or(0, |last| last.index);
            if has < self.last {
                return None;
            }
            assert!(self.has_ended(leader), "entry {has} is acknowledged, {} has not ended", self.attempt);
            Some(())
        })
        .await;
    }

    /// The attempt cannot become an epoch; its writer begins anew, and that one does, everywhere.
    async fn begins_anew(self, cluster: &Cluster) {
        // Whoever leads by now.
        let leader = cluster.leader().await;
        let replica = &cluster.nodes[&leader].replica;
        let (_, verdict) = replica.propose(compose::seal(self.attempt, self.root)).await.unwrap();
        assert!(matches!(verdict, Verdict::Rejected(_)), "{verdict}");
        let again = Commit::of(self.source.path(), "open", 2);
        let sealed = again.write(self.source.path(), replica).await;
        assert_eq!(sealed.root, self.root);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_staged_range_that_nobody_can_serve_ends_its_attempt_before_anything_above_is_acknowledged() {
    let mut cluster = Cluster::start_keeping("range", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    let open = Open::new(&cluster, 2 * MIB).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    cluster.nodes.values().for_each(|node| open.rot(node));
    cluster.purge().await;
    let leader = cluster.leader().await;
    assert!(!open.has_ended(&cluster.nodes[&leader]));

    cluster.resume(away).await;
    open.is_passed(&cluster.nodes[&away], &cluster.nodes[&leader]).await;
    open.begins_anew(&cluster).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 2);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_good_copy_of_a_staged_range_is_enough_for_the_attempt_to_go_on() {
    let mut cluster = Cluster::start_keeping("one-good", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    let open = Open::new(&cluster, 2 * MIB).await;
    cluster.agree().await;
    let leader = cluster.leader().await;
    open.rot(&cluster.nodes[&leader]);
    cluster.purge().await;
    cluster.resume(away).await;
    cluster.agree().await;
    assert!(!open.has_ended(&cluster.nodes[&leader]), "it could be served");
    let good = std::fs::read(open.source.path().join("large")).unwrap();
    assert!(std::fs::read(open.staged(&cluster.nodes[&away])).unwrap() == good);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_payload_that_rotted_everywhere_is_gone_around_by_a_snapshot_and_its_attempt_ends() {
    let mut cluster = Cluster::start_keeping("around", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    let open = Open::new(&cluster, BEYOND_CACHE).await;
    cluster.agree().await;
    cluster.nodes.values().for_each(|node| open.rot(node));
    let leader = cluster.leader().await;

    // Its entries are all in the log: nothing was purged yet, and nobody asks for it.
    cluster.resume(away).await;
    open.is_passed(&cluster.nodes[&away], &cluster.nodes[&leader]).await;
    assert_eq!(installed(&cluster.nodes[&away]).await, 1);
    open.begins_anew(&cluster).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_payload_that_rotted_in_a_sealed_epoch_is_gone_around_and_owed() {
    let mut cluster = Cluster::start_keeping("owed", 3, by_hand()).await;
    let away = cluster.lose_follower().await;
    let open = Open::new(&cluster, BEYOND_CACHE).await;
    // Sealed and not published: what rotted is what the epoch is to be made of.
    let disks: Vec<_> = cluster.nodes.keys().map(|id| cluster.disks[id].publish.clone()).collect();
    disks.iter().for_each(|disk| disk.close());
    accepted(&open.stream, compose::seal(open.attempt, open.root)).await;
    cluster.nodes.values().for_each(|node| open.rot(node));
    disks.iter().for_each(|disk| disk.open());

    cluster.resume(away).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        within("the other one is published", async || {
            (node.machine.publication(&job("job"), 1) == Some(Publication::Published)).then_some(())
        })
        .await;
        within("what rotted is named", async || node.machine.ledger().quarantine().next()).await;
    }
    let home = &cluster.nodes[&away];
    assert!(matches!(home.machine.publication(&job("open"), 1), Some(Publication::Unpublished(_))));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rejoin_ends_attempts_that_nobody_can_serve_and_comes_home_without_them() {
    let mut cluster = Cluster::start_keeping("rejoin-staged", 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    let open = Open::new(&cluster, 2 * MIB).await;
    cluster.agree().await;
    let victim = cluster.lose_follower().await;
    cluster.nodes.values().for_each(|node| open.rot(node));
    std::fs::remove_dir_all(Layout::new(&cluster.data(victim)).attempt_dir(open.attempt)).unwrap();
    rot_half_way(&segment(&cluster, victim));

    let layout = Layout::new(&cluster.data(victim));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let owner = Identity { node: victim, incarnation: [victim as u8; 16] };
    let store = Arc::new(Store::open(disk.clone(), &cluster.data(victim)).unwrap());
    let mut config = cluster.config(victim, owner.incarnation);
    config.cluster = cluster.nodes.values().next().unwrap().replica.cluster();
    let bound = LogStore::certain_vote(&disk, &layout, owner).unwrap();
    let rejoin = || raft::rejoin(config.clone(), disk.clone(), layout.clone(), store.clone(), owner, |_| {});

    let first = rejoin().await;
    let Err(RejoinError::Transfer(TransferError::Staged(ended))) = &first else { panic!("{first:?}") };
    assert_eq!(ended.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [open.attempt]);
    assert_eq!(LogStore::certain_vote(&disk, &layout, owner).unwrap(), bound, "it has promised nothing");
    within("the attempt has ended", || async {
        cluster.nodes.values().all(|node| open.has_ended(node)).then_some(())
    })
    .await;
    let second = rejoin().await.unwrap();
    assert!(second.position.index > open.last);
    drop(store);
    cluster.resume(victim).await;
    open.begins_anew(&cluster).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 2);
    }
    cluster.shutdown().await;
}

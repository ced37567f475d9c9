//! Content that rotted on every node that has it: it holds up nothing, is named everywhere, and comes back.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::{Digest, JobName, RealDisk, Store};
use nativelog::performer::Publication;
use nativelog::store::Identity;

use crate::cluster::{Cluster, Node, by_hand, commit_epoch, within};
use crate::mending::{rot_half_way, segment};

const MIB: usize = 1 << 20;
const HOME: Duration = Duration::from_secs(30);
/// A copy that is put back is found, and taken to the others, within half a minute; and what a busy machine adds.
const FOUND: Duration = Duration::from_secs(45);

fn job() -> JobName {
    JobName::try_from("job").unwrap()
}

fn digest_of_big(node: &Node, epoch: u64) -> Digest {
    let (_, manifest) = node.machine.store().manifest(&job(), epoch).unwrap().unwrap();
    manifest.entries.iter().find(|entry| entry.path.as_bytes() == b"big").unwrap().digest
}

/// Flips a byte of the blob in place, or flips it back.
fn flip(node: &Node, digest: Digest) {
    let path: PathBuf = node.machine.store().blob_path(digest).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 12_345).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], 12_345).unwrap();
    std::fs::set_permissions(&path, mode).unwrap();
}

fn quarantined(node: &Node) -> Vec<Digest> {
    node.machine.ledger().quarantine().map(|info| info.digest).collect()
}

fn newest(node: &Node) -> Option<u64> {
    node.machine.ledger().newest(&job()).map(|info| info.sealed.epoch)
}

fn latest(node: &Node) -> PathBuf {
    std::fs::read_link(node.machine.store().layout().latest_link(&job())).unwrap()
}

/// How a node that was away comes home.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What it needs is purged: by a snapshot.
    Snapshot,
    /// By the log, which has all of it.
    Log,
    /// Its own log is damaged: it gets a new one first.
    Rejoin,
}

/// Damages the log of a node that does not run, and gives it a new one. All comes with that but the fourth epoch.
async fn rejoin(cluster: &Cluster, node: u64) {
    rot_half_way(&segment(cluster, node));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let layout = Layout::new(&cluster.data(node));
    let owner = Identity { node, incarnation: [node as u8; 16] };
    let store = Arc::new(Store::open(disk.clone(), &cluster.data(node)).unwrap());
    let mut config = cluster.config(node, owner.incarnation);
    config.cluster = cluster.nodes.values().next().unwrap().replica.cluster();
    let rejoined = raft::rejoin(config, disk, layout, store.clone(), owner, |_| {}).await;
    assert!(rejoined.is_ok(), "{rejoined:?}");
    let there = |epoch| store.published(&job(), epoch).unwrap().is_some();
    assert_eq!((1..=4).map(there).collect::<Vec<_>>(), [true, true, true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn content_that_rotted_everywhere_holds_up_nothing_and_comes_back() {
    comes_back("quarantine", Way::Snapshot).await;
}

/// The leader's log holds the entry that the third needs, and has nobody to bring its payload: it sends a snapshot
/// instead of waiting for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotten_payload_in_the_log_holds_up_nobody() {
    comes_back("rotten-log", Way::Log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rejoin_comes_home_without_what_rotted_everywhere_and_owes_it() {
    comes_back("rotten-rejoin", Way::Rejoin).await;
}

async fn comes_back(name: &'static str, way: Way) {
    let mut cluster = Cluster::start_keeping(name, 3, by_hand()).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    let away = cluster.lose_follower().await;
    for number in 2..=4 {
        commit_epoch(&cluster, "job", number, MIB).await;
    }
    cluster.agree().await;
    within("published where they are", async || {
        let all = cluster
            .nodes
            .values()
            .all(|node| node.machine.publication(&job(), 4) == Some(Publication::Published));
        all.then_some(())
    })
    .await;
    match way {
        Way::Snapshot | Way::Rejoin => cluster.purge().await,
        Way::Log => {
            // What the log holds is in nobody's memory.
            for id in cluster.nodes.keys().copied().collect::<Vec<_>>() {
                cluster.bounce(id).await;
            }
            cluster.leader().await;
        }
    }
    let rotten = digest_of_big(cluster.nodes.values().next().unwrap(), 4);
    cluster.nodes.values().for_each(|node| flip(node, rotten));

    if way == Way::Rejoin {
        rejoin(&cluster, away).await;
    }
    let began = Instant::now();
    cluster.resume(away).await;
    cluster.agree().await;
    within("home, with the rotten content named on all nodes", async || {
        let named = cluster.nodes.values().all(|node| quarantined(node) == [rotten]);
        let home = &cluster.nodes[&away];
        let published =
            (1..=3).all(|epoch| home.machine.publication(&job(), epoch) == Some(Publication::Published));
        (named && published).then_some(())
    })
    .await;
    assert!(began.elapsed() < HOME, "{:?}", began.elapsed());
    for node in cluster.nodes.values() {
        assert_eq!(newest(node), Some(3), "node {}", node.id);
        let info: Vec<_> = node.machine.ledger().quarantined_in(&job(), 4);
        assert_eq!(info[0].found.iter().map(|(node, _)| *node).collect::<Vec<_>>(), [1, 2, 3]);
        within("latest falls back", async || (latest(node) == Path::new("3")).then_some(())).await;
    }
    let home = &cluster.nodes[&away];
    assert!(matches!(home.machine.publication(&job(), 4), Some(Publication::Unpublished(_))));
    let owed: Vec<u64> = home.machine.missing().iter().map(|missing| missing.epoch).collect();
    assert_eq!(owed, [4]);
    // What is committed meanwhile is the newest.
    commit_epoch(&cluster, "job", 5, MIB).await;

    // One good copy is put back.
    let restored = cluster.nodes.values().find(|node| node.id != away).unwrap();
    flip(restored, rotten);
    let put_back = Instant::now();
    tokio::time::timeout(FOUND, async {
        while !cluster.nodes.values().all(|node| {
            quarantined(node).is_empty()
                && node.machine.publication(&job(), 4) == Some(Publication::Published)
        }) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it is back on all nodes");
    eprintln!("back on all nodes {:?} after it was put back on one", put_back.elapsed());
    for node in cluster.nodes.values() {
        assert!(node.machine.store().verify(&job(), 4).unwrap().is_good(), "node {}", node.id);
    }
    cluster.shutdown().await;
}

//! Leaders that should not lead: another one does soon, whose disk is better; and nobody, where no disk is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, within};
use nativelog::compose;
use raft::Replica;

/// From when a disk hangs until another one leads. Without a hand-over the leader steps down when its disk has written
/// nothing for two election timeouts, 4.8 s here, and only then the others begin to elect.
const HANDED_OVER: Duration = Duration::from_secs(5);
/// How long all disks stand still.
const STILL: Duration = Duration::from_secs(10);
/// Two election timeouts: whoever wants to lead instead has tried by then.
const CALM: Duration = Duration::from_millis(4800);

/// Ends with it.
struct Writer(tokio::task::JoinHandle<()>);

impl Writer {
    /// Proposes small records through `replica`, one after the other, whatever becomes of them.
    fn start(replica: &Replica) -> Writer {
        let replica = replica.clone();
        Writer(tokio::spawn(async move {
            loop {
                let _ = replica.propose(compose::tick(1)).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// It is accepted, by whoever leads.
async fn goes_on(replica: &Replica) {
    within("a record is accepted", || async {
        replica.propose(compose::tick(1)).await.ok().filter(|(_, verdict)| verdict.is_accepted())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_whose_disk_hangs_hands_over_to_a_voter_whose_disk_does_not() {
    let cluster = Cluster::start("hangs", 5).await;
    let leader = cluster.leader().await;
    // The first that comes to mind is no better.
    let as_bad = cluster.follower().await.id;
    let good: Vec<_> = cluster.nodes.values().filter(|node| ![leader, as_bad].contains(&node.id)).collect();
    let writer = Writer::start(&good[0].replica);
    goes_on(&good[0].replica).await;

    let hung = Instant::now();
    for node in [leader, as_bad] {
        cluster.disks[&node].log.close();
    }
    let next = within("another one leads", || async {
        cluster.nodes.values().find(|node| node.id != leader && node.replica.is_leader())
    })
    .await;
    let took = hung.elapsed();
    assert!(took < HANDED_OVER, "{took:?}");
    assert_ne!(next.id, as_bad);
    goes_on(&good[0].replica).await;
    for disk in cluster.disks.values() {
        disk.log.open();
    }
    drop(writer);
    cluster.agree().await;
    cluster.shutdown().await;
}

/// Everybody who leads now, with the term.
fn leading(cluster: &Cluster) -> impl Iterator<Item = (u64, u64)> {
    cluster.nodes.values().filter_map(|node| {
        let standing = node.replica.standing();
        (standing.role == "leader").then_some((standing.term, node.id))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_does_not_go_round_while_all_disks_stand_still() {
    let cluster = Cluster::start("still", 3).await;
    let first = cluster.leader().await;
    let replica = cluster.follower().await.replica.clone();
    goes_on(&replica).await;
    let mut leaders: BTreeSet<(u64, u64)> = leading(&cluster).collect();
    assert_eq!(leaders.iter().map(|(_, node)| *node).collect::<Vec<_>>(), [first]);
    let writer = Writer::start(&replica);
    for disk in cluster.disks.values() {
        disk.log.close();
    }
    let look = async |leaders: &mut BTreeSet<(u64, u64)>, time: Duration| {
        let until = Instant::now() + time;
        while Instant::now() < until {
            leaders.extend(leading(&cluster));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    look(&mut leaders, STILL).await;
    for disk in cluster.disks.values() {
        disk.log.open();
    }
    goes_on(&replica).await;
    look(&mut leaders, CALM).await;
    assert!(leaders.len() <= 2, "leaders by term: {leaders:?}");
    drop(writer);
    cluster.agree().await;
    cluster.shutdown().await;
}

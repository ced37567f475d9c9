//! Pins that end: log time alone ends them, and the leader writes as much of that as they need.

use crate::cluster::{Cluster, Node, by_hand, commit_epoch, remove_epochs, verified, within};
use checkpoint::{Digest, JobName};
use nativelog::compose;
use nativelog::ledger::{Reason, Verdict};
use nativelog::record::{Body, Entry, Kind};

/// How long the pin holds, in milliseconds of log time.
const FOR_MS: u64 = 2500;

/// The content of the file that no other epoch has.
fn own_content(node: &Node, job: &JobName) -> Digest {
    let (_, tree) = node.machine.store().manifest(job, 1).unwrap().unwrap();
    tree.entries.iter().find(|entry| entry.path.as_bytes() == b"big").unwrap().digest
}

/// Milliseconds that an entry adds to log time. It is written by nobody but a leader by itself.
fn ticked_ms(entry: &Entry) -> u64 {
    let Body::Record(record) = &entry.body else { return 0 };
    match &record.header.kind {
        Some(Kind::Tick(tick)) => tick.elapsed_ms,
        other => panic!("somebody has written {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pin_ends_on_every_node_though_nobody_writes_and_what_it_held_can_go() {
    let cluster = Cluster::start_keeping("pins", 3, by_hand()).await;
    let job = JobName::try_from("job").unwrap();
    for number in [1, 2] {
        commit_epoch(&cluster, "job", number, 1 << 20).await;
    }
    for node in cluster.nodes.values() {
        within("both epochs are there", || async { (verified(node).await == 2).then_some(()) }).await;
    }
    let leader = cluster.leader().await;
    let replica = &cluster.nodes[&leader].replica;
    let follower = cluster.follower().await;
    let content = own_content(follower, &job);

    let pin = compose::pin(&job, 1, "reader", "restores it", FOR_MS);
    let (pinned, verdict) = replica.propose(pin).await.unwrap();
    assert!(verdict.is_accepted(), "{verdict}");
    let expire = compose::expire(&job, vec![1], true, "test", vec![leader]);
    let (_, verdict) = replica.propose(expire).await.unwrap();
    assert!(matches!(&verdict, Verdict::Rejected(why) if why.reason == Reason::Protected), "{verdict}");

    follower.replica.wait_applied(pinned.index, crate::cluster::DEADLINE).await.unwrap();
    let ended = within("the pin has ended at a follower", || async {
        let ledger = follower.machine.ledger();
        ledger.epoch(&job, 1).unwrap().pins.is_empty().then(|| ledger.applied().unwrap().index)
    })
    .await;
    let since = follower.log.headers(pinned.index + 1..ended + 1).unwrap();
    let passed_ms: u64 = since.iter().map(ticked_ms).sum();
    assert!(passed_ms >= FOR_MS, "{passed_ms} ms");
    cluster.agree().await;

    remove_epochs(&cluster, "job", vec![1]).await;
    within("its room is given back", || async {
        follower.replica.reclaim_now().await.unwrap();
        follower.machine.store().blob_path(content).is_none().then_some(())
    })
    .await;
    cluster.shutdown().await;
}

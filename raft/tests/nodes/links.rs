//! Links that hold things up, and nodes that say what they can do no more.

use std::time::{Duration, Instant};

use crate::cluster::proxy::Way;
use crate::cluster::{Cluster, Commit, within};
use nativelog::compose;
use raft::ProposeError;

/// The upper bound of the election timeout here.
const MOST: Duration = Duration::from_millis(2400);
/// What a busy machine may add to a moment.
const MOMENT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_without_a_majority_says_so_at_once_to_all_who_ask_and_wait() {
    let cluster = Cluster::behind_proxies("cut-off", 3).await;
    let leader = cluster.leader().await;
    let replica = cluster.nodes[&leader].replica.clone();
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    assert_eq!(replica.cut_off(), None);
    for node in cluster.nodes.keys().filter(|node| **node != leader) {
        cluster.proxies[node].set(Way::Held);
    }
    // One is on its way when the others fall silent: nobody can say what becomes of it.
    let began = Instant::now();
    let waiting = replica.propose(compose::tick(1)).await;
    assert!(
        matches!(&waiting, Err(ProposeError::Unknown { why }) if why.contains("no quorum")),
        "{waiting:?}"
    );
    assert!(began.elapsed() < MOST + 2 * MOMENT, "{:?}", began.elapsed());
    // From then on it is no at once, and it names who is missing.
    let began = Instant::now();
    let refused = replica.propose(compose::tick(1)).await;
    assert!(
        matches!(&refused, Err(ProposeError::Unavailable { why }) if why.contains("no quorum")),
        "{refused:?}"
    );
    assert!(replica.read_barrier().await.is_err());
    assert!(replica.stream().await.is_err());
    assert!(began.elapsed() < MOMENT, "{:?}", began.elapsed());
    let cut_off = replica.cut_off().unwrap();
    assert!(cut_off.no_majority, "{cut_off:?}");
    let why = cut_off.why;
    for node in cluster.nodes.keys().filter(|node| **node != leader) {
        assert!(why.contains(&format!("node {node} has not answered for")), "{why}");
        assert!(replica.silence(*node).is_some());
    }
    for proxy in cluster.proxies.values() {
        proxy.set(Way::Open);
    }
    within("it is heard again", || async { replica.cut_off().is_none().then_some(()) }).await;
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_cannot_reach_the_leader_says_exactly_that() {
    let cluster = Cluster::behind_proxies("no-way", 3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let (node, replica) = (follower.id, follower.replica.clone());
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    // Whom the leader calls it still hears; it calls the leader in vain.
    cluster.proxies[&leader].set(Way::Held);
    let words = format!("node {node} cannot reach the leader, node {leader}, for");
    let cut_off = within("it notices", || async { replica.cut_off() }).await;
    assert!(cut_off.why.contains(&words) && !cut_off.no_majority, "{cut_off:?}");
    let began = Instant::now();
    let refused = replica.propose(compose::tick(1)).await;
    assert!(
        matches!(&refused, Err(ProposeError::Unavailable { why }) if why.contains(&words)),
        "{refused:?}"
    );
    let read = replica.read_barrier().await;
    assert!(matches!(&read, Err(ProposeError::Unavailable { why }) if why.contains(&words)), "{read:?}");
    assert!(began.elapsed() < MOMENT, "{:?}", began.elapsed());
    // Nobody else is worse off.
    assert!(cluster.nodes[&leader].replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    assert_eq!(cluster.nodes[&leader].replica.cut_off(), None);
    cluster.proxies[&leader].set(Way::Open);
    within("it reaches the leader", || async { replica.cut_off().is_none().then_some(()) }).await;
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_forwards_much_over_a_thin_link_reaches_its_leader() {
    // A chunk takes much longer than a leader may be silent.
    const RATE: u32 = 125_000;
    let cluster = Cluster::behind_proxies("thin-forward", 3).await;
    let leader = cluster.leader().await;
    let replica = cluster.follower().await.replica.clone();
    let dir = crate::cluster::directory(8 << 20);
    let commit = Commit::of(dir.path(), "much", 1);
    let stream = replica.stream().await.unwrap();
    let attempt = commit.begin(&stream).await;
    let (pieces, _) = commit.pieces(dir.path(), attempt);
    cluster.proxies[&leader].set(Way::Thin(RATE));
    let sending = tokio::spawn(async move {
        let mut answers = Vec::new();
        for piece in pieces {
            answers.push(stream.send(piece).await?);
        }
        for answer in answers {
            answer.await?;
        }
        Ok::<_, ProposeError>(())
    });
    let until = Instant::now() + 4 * MOST;
    while Instant::now() < until {
        assert_eq!(replica.cut_off(), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!sending.is_finished(), "the link is thin");
    cluster.proxies[&leader].set(Way::Open);
    tokio::time::timeout(crate::cluster::DEADLINE, sending).await.unwrap().unwrap().unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_at_a_follower_goes_on_with_the_new_leader_at_once() {
    let mut cluster = Cluster::start("go-on", 3).await;
    let old = cluster.leader().await;
    let replica = cluster.follower().await.replica.clone();
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    let killed = Instant::now();
    cluster.nodes.remove(&old).unwrap().kill().await;
    let (proposing, reading) = (replica.clone(), replica.clone());
    let proposed = tokio::spawn(async move {
        // An outcome may be unknown: whoever wants to know proposes again.
        while !matches!(proposing.propose(compose::tick(1)).await, Ok((_, verdict)) if verdict.is_accepted())
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    });
    let read = tokio::spawn(async move {
        while reading.read_barrier().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    });
    cluster.leader().await;
    let led = killed.elapsed();
    // The lease and the timer together, not one after the other.
    assert!(led < MOST + MOMENT, "{led:?}");
    for done in [proposed, read] {
        let done = tokio::time::timeout(crate::cluster::DEADLINE, done).await.unwrap().unwrap();
        assert!(done.saturating_duration_since(killed) < led + MOMENT, "{:?} after {led:?}", done - killed);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_steps_down_lets_the_others_lead_and_follows() {
    let cluster = Cluster::start("step-down", 3).await;
    let old = cluster.leader().await;
    let replica = cluster.nodes[&old].replica.clone();
    raft::testing::step_down(&replica, "nobody can have its last entry");
    within("another one leads", || async {
        cluster.nodes.values().find(|node| node.id != old && node.replica.is_leader()).map(|_| ())
    })
    .await;
    let new = cluster.leader().await;
    assert_ne!(new, old);
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());
    cluster.agree().await;
    cluster.shutdown().await;
}

//! Followers that are full: they take the ledger, owe what does not fit, let go of what expires, and come home.

use checkpoint::JobName;
use nativelog::compose;
use nativelog::ledger::Ledger;

use crate::cluster::room::FULL;
use crate::cluster::{
    Cluster, Commit, DEADLINE, Node, accepted, by_hand, commit_epoch, noise, remove_epochs, verified, within,
};

const MIB: usize = 1 << 20;
/// What a full node lets in all the same: next to nothing, beside the first request.
const LET_IN: usize = 64 << 10;
/// No request holds so much.
const EPOCH: usize = 4 * MIB;

fn job() -> JobName {
    JobName::try_from("job").unwrap()
}

fn has(node: &Node, epoch: u64) -> bool {
    node.machine.store().published(&job(), epoch).unwrap().is_some()
}

/// The numbers of epochs that it knows and has no directory of, which it owes because it is full.
fn owed(node: &Node) -> Vec<u64> {
    let missing = node.machine.missing();
    let mut full: Vec<u64> = missing
        .into_iter()
        .filter(|missing| missing.why.contains(FULL))
        .map(|missing| missing.epoch)
        .collect();
    full.sort_unstable();
    full
}

fn applied(node: &Node) -> u64 {
    node.machine.ledger().applied().map_or(0, |at| at.index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_follower_takes_the_ledger_and_owes_what_does_not_fit() {
    let cluster = Cluster::start_with("full", 3, by_hand(), LET_IN).await;
    for epoch in 1..=2 {
        commit_epoch(&cluster, "job", epoch, EPOCH).await;
    }
    cluster.agree().await;
    let full = cluster.follower().await.id;
    let full = &cluster.nodes[&full];
    within("it has both", || async { (has(full, 1) && has(full, 2)).then_some(()) }).await;
    cluster.room.fill(&full.replica);
    for epoch in 3..=5 {
        commit_epoch(&cluster, "job", epoch, if epoch == 4 { 3 * EPOCH } else { EPOCH }).await;
    }
    assert!(full.machine.ledger().epoch(&job(), 3).is_none(), "it takes no content");
    remove_epochs(&cluster, "job", vec![1]).await;
    cluster.purge().await;
    let leader = &cluster.nodes[&cluster.leader().await];
    within("it has the ledger", || async { (applied(full) >= applied(leader)).then_some(()) }).await;
    // What expired went first, and nothing came.
    assert!(!has(full, 1) && has(full, 2));
    assert_eq!(owed(full), [3, 4, 5]);
    assert_eq!(full.replica.transfer().borrow().fetched_bytes_total, 0);
    // It owes no copy that there was: the others have all of it.
    assert_eq!(verified(leader).await, 4);

    // One epoch that does not fit keeps no other out.
    cluster.room.free(&full.replica, 2 * EPOCH as u64);
    within("what fits is here", || async { (has(full, 3) && has(full, 5)).then_some(()) }).await;
    assert!(!has(full, 4));
    cluster.room.free(&full.replica, u64::MAX);
    assert_eq!(verified(full).await, 4);
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_leader_dead_a_removal_frees_the_full_one_and_commits_go_on() {
    let mut cluster = Cluster::start_with("frees", 3, by_hand(), LET_IN).await;
    commit_epoch(&cluster, "job", 1, EPOCH).await;
    cluster.agree().await;
    let full = cluster.follower().await.id;
    within("it has it", || async { has(&cluster.nodes[&full], 1).then_some(()) }).await;
    cluster.room.fill(&cluster.nodes[&full].replica);
    for epoch in 2..=4 {
        commit_epoch(&cluster, "job", epoch, EPOCH).await;
    }
    let (first, behind) = (cluster.leader().await, applied(&cluster.nodes[&full]));
    within("the third one has what is committed", || async {
        let third = cluster.nodes.values().find(|node| node.id != full && node.id != first)?;
        (third.machine.ledger().epoch(&job(), 4).is_some() && applied(third) > behind).then_some(())
    })
    .await;
    cluster.nodes.remove(&first).unwrap().kill().await;

    // Nothing could be committed by the one that is left while the full one refuses what was: not even this.
    remove_epochs(&cluster, "job", vec![1]).await;
    let node = &cluster.nodes[&full];
    within("what was removed is gone", || async {
        // As a node does that is short.
        node.replica.reclaim_now().await.ok()?;
        (!has(node, 1) && node.machine.ledger().epoch(&job(), 1).is_none()).then_some(())
    })
    .await;
    assert_eq!(owed(node), [2, 3, 4]);
    // That made room.
    cluster.room.free(&node.replica, u64::MAX);
    commit_epoch(&cluster, "job", 5, MIB).await;
    within("it has the last", || async { node.machine.ledger().epoch(&job(), 5).map(drop) }).await;
    assert_eq!(verified(node).await, 4);
    cluster.resume(first).await;
    cluster.agree().await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 4);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_kept_for_open_attempts_is_taken_once_over_all_snapshots() {
    let cluster = Cluster::start_with("once", 3, by_hand(), 4 * MIB).await;
    commit_epoch(&cluster, "job", 1, MIB).await;
    cluster.agree().await;
    let full = cluster.follower().await.id;
    let full = &cluster.nodes[&full];
    cluster.room.fill_to_the_last_byte(full.id);
    let leader = &cluster.nodes[&cluster.leader().await];
    let stream = leader.replica.stream().await.unwrap();
    let source = tempfile::tempdir().unwrap();
    let mut opened = Vec::new();
    for epoch in 8..=9 {
        std::fs::write(source.path().join("large"), noise(3 * MIB, epoch)).unwrap();
        let commit = Commit::of(source.path(), &format!("open-{epoch}"), epoch);
        let attempt = commit.begin(&stream).await;
        for piece in commit.pieces(source.path(), attempt).0 {
            accepted(&stream, piece).await;
        }
        cluster.purge().await;
        opened.push(attempt);
        if opened.len() == 1 {
            within("it has the first", || async { full.machine.ledger().attempt(attempt).map(drop) }).await;
        }
    }
    // The second fits by itself, and not beside the first.
    let mut heard = full.replica.transfer();
    let came = heard.wait_for(|now| now.position.is_some() && now.installed_total == 1);
    tokio::time::timeout(DEADLINE, came).await.unwrap().unwrap();
    let refused = heard.wait_for(|now| now.position.is_none());
    tokio::time::timeout(DEADLINE, refused).await.unwrap().unwrap();
    assert!(full.machine.ledger().attempt(opened[1]).is_none());
    cluster.room.free(&full.replica, u64::MAX);
    within("it has both", || async { (applied(full) >= applied(leader)).then_some(()) }).await;
    for attempt in opened {
        accepted(&stream, compose::abort(attempt, "test")).await;
    }
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_of_open_attempts_have_to_fit_in_what_is_kept_for_them() {
    for (name, bytes, fits) in [("fits", MIB, true), ("too-much", 8 * MIB, false)] {
        let cluster = Cluster::start_with(name, 3, by_hand(), 4 * MIB).await;
        commit_epoch(&cluster, "job", 1, MIB).await;
        cluster.agree().await;
        let full = cluster.follower().await.id;
        let full = &cluster.nodes[&full];
        cluster.room.fill_to_the_last_byte(full.id);
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("large"), noise(bytes, 7)).unwrap();
        let commit = Commit::of(source.path(), "open", 9);
        let leader = &cluster.nodes[&cluster.leader().await];
        let stream = leader.replica.stream().await.unwrap();
        let attempt = commit.begin(&stream).await;
        let (pieces, root) = commit.pieces(source.path(), attempt);
        for piece in pieces {
            accepted(&stream, piece).await;
        }
        cluster.purge().await;
        if fits {
            // All of it, nothing of it is owed, and it may become an epoch with this one's word.
            within("it has the ledger", || async {
                (applied(full) >= applied(leader) && full.machine.ledger().attempt(attempt).is_some())
                    .then_some(())
            })
            .await;
            let ledger = Ledger::clone(&full.machine.ledger());
            let machine = full.machine.clone();
            let lacks = tokio::task::spawn_blocking(move || machine.lacking_of_attempts(&ledger).unwrap());
            assert!(lacks.await.unwrap().is_empty());
        } else {
            // The snapshot has come, and it acknowledges nothing of it.
            let mut heard = full.replica.transfer();
            let came = heard.wait_for(|now| now.position.is_some());
            tokio::time::timeout(DEADLINE, came).await.unwrap().unwrap();
            assert!(full.machine.ledger().attempt(attempt).is_none());
            assert!(applied(full) < applied(leader));
            assert_eq!(full.replica.transfer().borrow().installed_total, 0);
            // Its end by a record is what lets it go on.
            accepted(&stream, compose::abort(attempt, "test")).await;
            cluster.purge().await;
            within("it has the ledger", || async { (applied(full) >= applied(leader)).then_some(()) }).await;
        }
        cluster.room.free(&full.replica, u64::MAX);
        if fits {
            accepted(&stream, compose::seal(attempt, root)).await;
        }
        cluster.agree().await;
        assert_eq!(verified(full).await, 1 + usize::from(fits));
        cluster.shutdown().await;
    }
}

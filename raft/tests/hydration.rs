//! Epochs that lie in an object store: every node makes the same directory of them, by way of the peers or from the store,
//! and waits for neither with anything else.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::{Digest, JobName};
use cluster::depot::{Hybrid, Mood, Objects, commit_hybrid};
use cluster::{Cluster, DEADLINE, Node, by_hand, commit_epoch, installed, verified, within};
use nativelog::ledger::ObjectKey;
use nativelog::performer::Publication;
use raft::{DepotTrouble, Hydrate, NotDeleted};

const MIB: usize = 1 << 20;

fn job(name: &str) -> JobName {
    JobName::try_from(name).unwrap()
}

fn publication(node: &Node, name: &str, epoch: u64) -> Option<Publication> {
    node.machine.publication(&job(name), epoch)
}

async fn is_published(node: &Node, name: &str, epoch: u64) {
    within(&format!("{name}@{epoch} is published on node {}", node.id), async || {
        (publication(node, name, epoch) == Some(Publication::Published)).then_some(())
    })
    .await;
}

async fn is_published_on_all(cluster: &Cluster, name: &str, epoch: u64) {
    for node in cluster.nodes.values() {
        is_published(node, name, epoch).await;
    }
}

/// Why it is no directory, once that is said in these words.
async fn is_owed(node: &Node, name: &str, epoch: u64, words: &str) {
    within(&format!("node {} says of {name}@{epoch}: {words}", node.id), async || {
        match publication(node, name, epoch) {
            Some(Publication::Unpublished(why)) if why.contains(words) => Some(()),
            _ => None,
        }
    })
    .await;
}

fn newest(node: &Node, name: &str) -> Option<u64> {
    node.machine.ledger().newest(&job(name)).map(|info| info.sealed.epoch)
}

fn quarantined(node: &Node) -> Vec<Digest> {
    node.machine.ledger().quarantine().map(|info| info.digest).collect()
}

async fn start(name: &'static str, hydrate: Hydrate) -> (Cluster, Objects) {
    let objects = Objects::of(3);
    let cluster = Cluster::start_with_objects(name, 3, (&objects, hydrate), by_hand()).await;
    (cluster, objects)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_uploaded_serves_the_others_and_nobody_reads_the_store() {
    let (cluster, objects) = start("peers-first", Hydrate::Peers).await;
    let uploader = cluster.follower().await.id;
    commit_hybrid(&cluster, &objects, Some(uploader), ("job", 1, 12 * MIB)).await;
    is_published_on_all(&cluster, "job", 1).await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    assert_eq!(objects.given_to_all(), 0);
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_uploader_dead_one_node_reads_the_store_and_serves_the_other() {
    let (mut cluster, objects) = start("uploader-dead", Hydrate::Peers).await;
    let uploader = cluster.follower().await.id;
    let hybrid = Hybrid::link(&cluster, &objects, Some(uploader), ("job", 1, 24 * MIB)).await;
    cluster.agree().await;
    cluster.nodes.remove(&uploader).unwrap().kill().await;
    hybrid.seal().await;
    is_published_on_all(&cluster, "job", 1).await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
    }
    let given = objects.given_to_all();
    assert!(
        given >= hybrid.bytes && given <= hybrid.bytes + hybrid.bytes / 20,
        "{given} of {}",
        hybrid.bytes
    );
    // Many small and large ones came in few requests.
    assert!(objects.answers() <= 12, "{}", objects.answers());

    cluster.resume(uploader).await;
    is_published_on_all(&cluster, "job", 1).await;
    assert_eq!(objects.given(uploader), 0, "it has its own bytes");
    assert_eq!(verified(&cluster.nodes[&uploader]).await, 1);
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_is_read_by_each_where_it_is_to_be_the_first() {
    let (cluster, objects) = start("store-first", Hydrate::Store).await;
    let uploader = cluster.follower().await.id;
    let hybrid = commit_hybrid(&cluster, &objects, Some(uploader), ("job", 1, 4 * MIB)).await;
    is_published_on_all(&cluster, "job", 1).await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 1);
        let expected = if node.id == uploader { 0 } else { hybrid.bytes };
        assert_eq!(objects.given(node.id), expected, "node {}", node.id);
    }
    // Away: then the peers have it.
    objects.all(Mood::Away);
    commit_hybrid(&cluster, &objects, Some(uploader), ("job", 2, MIB)).await;
    is_published_on_all(&cluster, "job", 2).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wrong_byte_from_the_store_is_never_published() {
    let (cluster, objects) = start("wrong-byte", Hydrate::Peers).await;
    // Hurt on its way: it comes once more.
    let once = Hybrid::link(&cluster, &objects, None, ("job", 1, 2 * MIB)).await;
    objects.spoil(once.attempt, Some(1));
    once.seal().await;
    is_published_on_all(&cluster, "job", 1).await;
    assert!(objects.given_to_all() > once.bytes, "something came twice");

    // What lies there is not what was written.
    let always = Hybrid::link(&cluster, &objects, None, ("job", 2, 2 * MIB)).await;
    objects.spoil(always.attempt, None);
    always.seal().await;
    commit_epoch(&cluster, "other", 1, MIB).await;
    is_published_on_all(&cluster, "other", 1).await;
    for node in cluster.nodes.values() {
        is_owed(node, "job", 2, "damaged").await;
        let own = |digest: &&Digest| !once.files.contains(digest);
        for digest in always.files.iter().filter(own) {
            assert_eq!(node.machine.store().blob_path(*digest), None, "node {}", node.id);
        }
    }
    objects.spoil_no_more();
    is_published_on_all(&cluster, "job", 2).await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 3);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_never_answers_holds_up_nothing() {
    let (cluster, objects) = start("silent", Hydrate::Peers).await;
    objects.all(Mood::Silent);
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].replica.standing().term;
    let hybrid = commit_hybrid(&cluster, &objects, None, ("job", 1, 4 * MIB)).await;
    let mut took = Vec::new();
    for number in 1..=20 {
        let began = Instant::now();
        commit_epoch(&cluster, "other", number, 64 << 10).await;
        took.push(began.elapsed());
    }
    is_published_on_all(&cluster, "other", 20).await;
    let slowest = took.iter().max().unwrap();
    assert!(*slowest < Duration::from_secs(2), "{took:?}");
    for node in cluster.nodes.values() {
        let before = node.machine.marks().snapshot;
        within("a snapshot is kept", async || {
            node.replica.reclaim_now().await.unwrap();
            (node.machine.marks().snapshot > before).then_some(())
        })
        .await;
        let owed = node.replica.hydration();
        // One small file of it came with the others through the log.
        let spoken_for = owed.bytes == hybrid.bytes || owed.bytes + 5 == hybrid.bytes;
        assert!(owed.epochs == 1 && spoken_for, "{owed:?} of {}", hybrid.bytes);
        assert!(matches!(publication(node, "job", 1), Some(Publication::Unpublished(_))));
    }
    // What a record lets expire goes as well.
    cluster::remove_epochs(&cluster, "other", vec![1, 2, 3]).await;
    assert_eq!(cluster.nodes[&cluster.leader().await].replica.standing().term, term, "no election");
    objects.all(Mood::Up);
    is_published_on_all(&cluster, "job", 1).await;
    for node in cluster.nodes.values() {
        within("nothing is owed", async || (node.replica.hydration().bytes == 0).then_some(())).await;
    }
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_past_the_purge_comes_home_while_the_store_is_away_and_hydrates_when_it_is_back() {
    let (mut cluster, objects) = start("away", Hydrate::Peers).await;
    let away = cluster.lose_follower().await;
    objects.all(Mood::Away);
    commit_hybrid(&cluster, &objects, None, ("job", 1, 4 * MIB)).await;
    commit_epoch(&cluster, "other", 1, MIB).await;
    cluster.agree().await;
    is_published_on_all(&cluster, "other", 1).await;
    cluster.purge().await;

    let began = Instant::now();
    cluster.resume(away).await;
    cluster.agree().await;
    let home = &cluster.nodes[&away];
    assert_eq!(installed(home).await, 1);
    is_published(home, "other", 1).await;
    assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
    for node in cluster.nodes.values() {
        is_owed(node, "job", 1, "waits for the store west: no answer").await;
    }
    // Nor does it keep the node from what comes next.
    commit_epoch(&cluster, "other", 2, MIB).await;
    is_published_on_all(&cluster, "other", 2).await;
    assert!(quarantined(&cluster.nodes[&away]).is_empty(), "what waits is not lost");

    // Only that node reaches the store again: the tree comes from there, too; and the others have all of it from that node.
    objects.mood(away, Mood::Up);
    is_published_on_all(&cluster, "job", 1).await;
    for node in cluster.nodes.values() {
        assert_eq!(verified(node).await, 3);
        let others = objects.given(node.id);
        assert_eq!(others == 0, node.id != away, "node {}: {others}", node.id);
    }
    let root = cluster.nodes[&away].machine.ledger().epoch(&job("job"), 1).unwrap().sealed.root;
    assert!(objects.gave(away, root), "its manifest");
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hydration_that_is_killed_goes_on_with_what_came() {
    let (mut cluster, objects) = start("killed", Hydrate::Store).await;
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != 1).collect();
    others.iter().for_each(|id| objects.mood(*id, Mood::Away));
    let before = 24 << 20;
    objects.silent_after(1, before);
    let hybrid = commit_hybrid(&cluster, &objects, None, ("job", 1, 48 * MIB)).await;
    within("a part has come", async || objects.is_silent(1).then_some(())).await;
    cluster.bounce(1).await;
    assert_ne!(publication(&cluster.nodes[&1], "job", 1), Some(Publication::Published));
    objects.mood(1, Mood::Up);
    is_published(&cluster.nodes[&1], "job", 1).await;
    assert_eq!(verified(&cluster.nodes[&1]).await, 1);
    // What was not synced came once more.
    let given = objects.given(1);
    assert!(given > hybrid.bytes / 2 && given <= hybrid.bytes + (16 << 20), "{given} of {}", hybrid.bytes);
    is_published_on_all(&cluster, "job", 1).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_object_that_is_gone_keeps_no_other_epoch_and_is_named_and_comes_back_with_it() {
    let (cluster, objects) = start("gone", Hydrate::Peers).await;
    let first = commit_hybrid(&cluster, &objects, None, ("job", 1, MIB)).await;
    is_published_on_all(&cluster, "job", 1).await;
    let second = Hybrid::link(&cluster, &objects, None, ("job", 2, MIB)).await;
    let lost = objects.lose(second.attempt);
    second.seal().await;
    commit_hybrid(&cluster, &objects, None, ("third", 1, MIB)).await;
    is_published_on_all(&cluster, "third", 1).await;
    for node in cluster.nodes.values() {
        is_owed(node, "job", 2, "in the store west").await;
        within("it is named, and the older one is the newest", async || {
            let named = quarantined(node);
            let only_its = named.iter().all(|digest| second.files.contains(digest));
            let kept = named.iter().all(|digest| !first.files.contains(digest));
            (!named.is_empty() && only_its && kept && newest(node, "job") == Some(1)).then_some(())
        })
        .await;
        let found: Vec<String> = {
            let ledger = node.machine.ledger();
            let all = ledger.quarantine().flat_map(|info| info.found.into_iter().map(|(_, what)| what));
            all.collect()
        };
        assert!(found.iter().any(|what| what.contains("in the store west it is gone")), "{found:?}");
    }
    objects.put_back(lost);
    is_published_on_all(&cluster, "job", 2).await;
    for node in cluster.nodes.values() {
        within("nothing is in quarantine", async || quarantined(node).is_empty().then_some(())).await;
        assert_eq!(verified(node).await, 3);
    }
    cluster.agree().await;
    cluster.shutdown().await;
}

fn released(node: &Node) -> usize {
    node.machine.ledger().released(None).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn objects_that_nobody_needs_are_deleted_by_the_leader_and_no_others() {
    let (cluster, objects) = start("release", Hydrate::Peers).await;
    let uploader = cluster.follower().await.id;
    let first = commit_hybrid(&cluster, &objects, Some(uploader), ("job", 1, MIB)).await;
    let second = commit_hybrid(&cluster, &objects, Some(uploader), ("job", 2, MIB)).await;
    is_published_on_all(&cluster, "job", 2).await;
    let marker = objects.marker();
    cluster::remove_epochs(&cluster, "job", vec![1]).await;
    for node in cluster.nodes.values() {
        within("they are gone, and the log says so", async || {
            (objects.there().is_disjoint(&first.objects) && released(node) == 0).then_some(())
        })
        .await;
    }
    assert!(objects.there().is_superset(&second.objects), "what is needed stays");
    assert_ne!(objects.marker(), marker, "it is told in the store who deletes");
    let known = cluster.nodes[&uploader].machine.ledger().store_named(cluster::depot::WEST).unwrap();
    assert_eq!((known.batch, known.before), (objects.marker(), Some(marker)));

    // A copy of all folders has deleted there: nothing more is deleted.
    objects.set_marker(99);
    let asked = objects.deletes();
    cluster::remove_epochs(&cluster, "job", vec![2]).await;
    within("it is found out", async || (objects.not_ours() > 0).then_some(())).await;
    assert!(objects.there().is_superset(&second.objects));
    assert_eq!(objects.deletes(), asked);
    assert!(released(cluster.follower().await) > 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_refuses_to_delete_is_not_asked_in_a_loop() {
    let (cluster, objects) = start("denied", Hydrate::Peers).await;
    objects.deny_deletes(true);
    let leader = cluster.leader().await;
    let hybrid = commit_hybrid(&cluster, &objects, Some(leader), ("job", 1, MIB)).await;
    is_published_on_all(&cluster, "job", 1).await;
    cluster::remove_epochs(&cluster, "job", vec![1]).await;
    within("it was asked", async || (objects.deletes() > 0).then_some(())).await;
    // Several looks long.
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_secs(3) {
        number += 1;
        commit_epoch(&cluster, "other", number, 64 << 10).await;
    }
    assert_eq!(objects.deletes(), 1);
    assert!(objects.there().is_superset(&hybrid.objects));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn garbage_goes_by_the_same_way_and_nothing_of_what_is_open() {
    let (cluster, objects) = start("garbage", Hydrate::Peers).await;
    let leader = cluster.leader().await;
    let sealed = commit_hybrid(&cluster, &objects, Some(leader), ("job", 1, MIB)).await;
    let open = Hybrid::link(&cluster, &objects, Some(leader), ("job", 2, MIB)).await;
    // Another upload of the same bytes, which nothing names.
    let stray = |of: &Hybrid| ObjectKey { nonce: u64::MAX, ..*of.objects.first().unwrap() };
    let (garbage, growing) = (stray(&sealed), stray(&open));
    objects.put_back(BTreeMap::from([garbage, growing].map(|key| (key, Bytes::from_static(b"bytes")))));
    let delete = async |node: u64, key: ObjectKey| {
        cluster.nodes[&node].replica.deletes().garbage(key.store, vec![key]).await
    };
    let follower = cluster.follower().await.id;
    assert!(
        matches!(delete(leader, growing).await, Err(NotDeleted::Log(_))),
        "its attempt may name it still"
    );
    assert!(matches!(delete(follower, garbage).await, Err(NotDeleted::Log(_))), "it does not lead");
    assert!(objects.there().is_superset(&[garbage, growing].into()));
    let marker = objects.marker();
    assert_eq!(delete(leader, garbage).await.unwrap(), [(garbage, Ok(()))]);
    assert!(!objects.there().contains(&garbage) && objects.marker() != marker);
    // Each of several has its turn: none takes another one's batch for a stranger's.
    let deletes = cluster.nodes[&leader].replica.deletes();
    let (one, two) =
        futures::join!(deletes.garbage(garbage.store, vec![]), deletes.garbage(garbage.store, vec![]));
    assert_eq!((one.unwrap(), two.unwrap(), objects.not_ours()), (vec![], vec![], 0));

    objects.put_back(BTreeMap::from([(garbage, Bytes::from_static(b"bytes"))]));
    objects.deny_deletes(true);
    let denied = delete(leader, garbage).await.unwrap();
    assert_eq!(denied[0].1.as_ref().unwrap_err().trouble, DepotTrouble::Denied);
    // A copy of all folders has deleted there.
    objects.deny_deletes(false);
    objects.set_marker(99);
    let refused = delete(leader, garbage).await;
    assert!(
        matches!(&refused, Err(NotDeleted::Store(error)) if error.trouble == DepotTrouble::NotOurs),
        "{refused:?}"
    );
    assert!(objects.there().is_superset(&sealed.objects) && objects.there().contains(&garbage));
    cluster.shutdown().await;
}

//! Nobody waits for a disk who need not: apply not for epochs that are still to be published, small records not for
//! large ones. Nor does consensus wait for apply. And what waits for a disk is bounded.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use checkpoint::{Digest, EntryKind, JobName, Manifest, ManifestEntry, PlanEntry, RelPath, digest};
use cluster::{Cluster, Commit, by_hand, noise, within};
use nativelog::compose::{self, Pages};
use nativelog::ledger::{Accepted, TICK_MS_MAX, Verdict};
use nativelog::record::LogRecord;
use raft::proto::{self, append_reply::Outcome, entry::Body};
use raft::testing::Client;
use raft::{Keeping, Replica};

/// Far below an election, and far above what a small record takes on a busy machine.
const SOON: Duration = Duration::from_secs(4);

/// Files of an epoch; five of them are more than 32 MiB of work.
const FILES: usize = 28_000;

/// A plan of so many empty files.
fn plan_of(files: usize) -> Vec<PlanEntry> {
    let entry = |path: &str, kind, mode| PlanEntry {
        path: RelPath::parse(path.as_bytes()).unwrap(),
        kind,
        mode,
        size: 0,
        target: Vec::new(),
    };
    let root = entry("", EntryKind::Directory, 0o755);
    let files = (0..files).map(|n| entry(&format!("f{n:07}"), EntryKind::File, 0o644));
    std::iter::once(root).chain(files).collect()
}

/// Proposes until it is accepted, whoever leads.
async fn insist(replica: &Replica, record: LogRecord) -> Accepted {
    within("a record is accepted", || async {
        match replica.propose(record.clone()).await.ok()?.1 {
            Verdict::Accepted(accepted) => Some(accepted),
            Verdict::Rejected(rejected) => panic!("{rejected:?}"),
        }
    })
    .await
}

/// An attempt that lacks nothing but its seal.
struct Complete {
    /// The last page of its plan.
    page: LogRecord,
    seal: LogRecord,
}

/// Begins an epoch of so many empty files, and brings all but its seal.
async fn all_but_the_seal(replica: &Replica, job: &str, files: usize) -> Complete {
    let dir = tempfile::tempdir().unwrap();
    let opening = Commit::of(dir.path(), job, 1).opening;
    let entries = plan_of(files);
    let pages = Pages::new(&entries);
    let begun = insist(replica, compose::begin(&opening, &pages)).await;
    let Accepted::Begun { attempt, .. } = begun else { panic!("{begun:?}") };
    for part in pages.parts(attempt, 0) {
        insist(replica, part).await;
    }
    let empty = digest::content(b"");
    let entries = entries.iter().map(|entry| {
        ManifestEntry::new(entry, if entry.kind == EntryKind::File { empty } else { Digest::NONE })
    });
    let seal = compose::seal(attempt, Manifest { entries: entries.collect() }.root());
    Complete { page: pages.part(attempt, pages.count() - 1), seal }
}

/// Seals an epoch of so many empty files. Returns when that is committed.
async fn seal_many(replica: &Replica, job: &str, files: usize) {
    let complete = all_but_the_seal(replica, job, files).await;
    insist(replica, complete.seal).await;
}

/// A small record is answered soon.
async fn goes_through(replica: &Replica, what: &str) {
    let began = Instant::now();
    let answer = tokio::time::timeout(SOON, replica.propose(compose::tick(1))).await;
    let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer for {SOON:?}"));
    assert!(answer.unwrap().1.is_accepted());
    assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_waits_until_an_epoch_of_many_files_is_published() {
    let mut cluster = Cluster::start_keeping("unpublished", 3, by_hand()).await;
    let mut leader = cluster.leader().await;
    for disk in cluster.disks.values() {
        disk.publish.close();
    }
    // More than anybody would keep in memory.
    for job in ["a", "b", "c", "d", "e"] {
        seal_many(&cluster.nodes[&leader].replica, job, FILES).await;
    }
    for node in cluster.nodes.values() {
        let all = 5 * 256 * FILES as u64;
        within("all wait", || async { (node.machine.behind() >= all).then_some(()) }).await;
    }
    for node in cluster.nodes.values() {
        goes_through(&node.replica, "behind an epoch that waits").await;
        tokio::time::timeout(SOON, node.replica.read_barrier()).await.expect("reads do not wait").unwrap();
    }
    leader = cluster.leader().await;
    // Large content goes slower, and goes.
    let dir = cluster::directory(1 << 20);
    let other = Commit::of(dir.path(), "other", 2);
    let written = other.write(dir.path(), &cluster.nodes[&leader].replica);
    tokio::time::timeout(cluster::DEADLINE, written).await.expect("content is not held up for ever");
    // Nor does a new leader wait for its own disk.
    cluster.disks[&leader].publish.refuse();
    cluster.nodes.remove(&leader).unwrap().kill().await;
    let next = cluster.leader().await;
    goes_through(&cluster.nodes[&next].replica, "under a new leader").await;
    for disk in cluster.disks.values() {
        disk.publish.refuse();
    }
    cluster.shutdown().await;
}

/// A leader's heartbeat is answered soon.
async fn heeds(client: &mut Client, heartbeat: proto::AppendRequest) {
    let answer = tokio::time::timeout(SOON, client.heartbeat(heartbeat)).await;
    let answer = answer.unwrap_or_else(|_| panic!("a heartbeat is not answered for {SOON:?}")).unwrap();
    let answer = answer.into_inner();
    assert!(matches!(answer.outcome, Some(Outcome::Matched(_))), "{answer:?}");
}

/// It may be busy for as long as a large seal takes, and hears of every commit meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_ledger_is_busy_heeds_its_leader_and_votes() {
    /// So often it hears that more is committed. Left to its defaults openraft stands still after 1,024.
    const STEPS: u64 = 2000;
    /// The upper bound of the election timeout here.
    const MOST: Duration = Duration::from_millis(2400);
    let mut cluster = Cluster::start_keeping("busy", 3, by_hand()).await;
    let leader = cluster.leader().await;
    let busy = cluster.follower().await.id;
    let third = cluster.nodes.keys().copied().find(|id| ![leader, busy].contains(id)).unwrap();
    let replica = cluster.nodes[&leader].replica.clone();
    // Smaller trees are not made before their seal comes.
    let complete = all_but_the_seal(&replica, "job", 4200).await;
    // Whoever applies the seal puts its tree together first, and waits while somebody else is at it. That is
    // this test, from when the node has let go of the tree that it had made already.
    let machine = cluster.nodes[&busy].machine.clone();
    let at_it = within("the tree is let go of", || async {
        insist(&replica, compose::tick(TICK_MS_MAX)).await;
        machine.early(&complete.page.header, true)
    })
    .await;
    // From here on this test speaks for the leader: what is committed when is up to it.
    for id in [third, leader] {
        cluster.nodes.remove(&id).unwrap().kill().await;
    }
    let node = &cluster.nodes[&busy];
    let last = node.log.log_state().1.unwrap();
    let (term, first) = (last.term + 1, last.index + 1);
    let at = |index| Some(proto::Position { term, node: leader, index });
    let vote = Some(proto::Vote { term, node: leader, committed: true });
    let mut client = cluster::caller("busy", leader, (busy, &node.address));

    let records = std::iter::once(complete.seal).chain((0..STEPS).map(|_| compose::tick(1)));
    let entry = |(index, record): (u64, LogRecord)| {
        let (header, payload) = (record.header.wire().clone(), record.payload);
        proto::Entry { position: at(index), body: Some(Body::Record(proto::Record { header, payload })) }
    };
    let request = proto::AppendRequest {
        vote,
        previous: Some(proto::Position { term: last.term, node: last.node, index: last.index }),
        entries: (first..).zip(records).map(entry).collect(),
        ..Default::default()
    };
    let answers = client.stream_append(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    assert!(matches!(answer.outcome, Some(Outcome::Matched(_))), "{answer:?}");

    let heartbeat = |committed| proto::AppendRequest {
        vote,
        previous: at(first + STEPS),
        committed: at(committed),
        ..Default::default()
    };
    let began = Instant::now();
    for committed in first..=first + STEPS {
        heeds(&mut client, heartbeat(committed)).await;
    }
    while began.elapsed() < MOST {
        heeds(&mut client, heartbeat(first + STEPS)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.replica.leader(), Some(leader));
    // Its vote may be the one that is needed.
    let mut candidate = cluster::caller("busy", third, (busy, &node.address));
    let request = proto::VoteRequest {
        vote: Some(proto::Vote { term: term + 1, node: third, committed: false }),
        last: at(first + STEPS),
        leadership_transfer: true,
    };
    let voted = tokio::time::timeout(SOON, candidate.vote(request)).await;
    let voted = voted.unwrap_or_else(|_| panic!("no vote for {SOON:?}")).unwrap().into_inner();
    assert!(voted.granted, "{voted:?}");

    node.replica.wait_applied(last.index, cluster::DEADLINE).await.unwrap();
    assert_eq!(*machine.applied().borrow(), first, "it is at the seal all the while");
    drop(at_it);
    node.replica.wait_applied(first + STEPS, cluster::DEADLINE).await.unwrap();
    let job = JobName::try_from("job").unwrap();
    assert_eq!(machine.ledger().epochs(&job).count(), 1);
}

/// What a seal is compared with takes long to put together: a leader waits for that beside the runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_at_a_leader_while_the_tree_of_a_seal_is_put_together() {
    /// So many that a seal takes long, and small records go through meanwhile.
    const MANY: usize = 5000;
    const SMALL: usize = 20;
    let mut cluster = Cluster::start_keeping("tree", 1, by_hand()).await;
    cluster.leader().await;
    let complete = all_but_the_seal(&cluster.nodes[&1].replica, "many", MANY).await;
    // A start from a snapshot puts no tree together.
    cluster.nodes[&1].replica.reclaim_now().await.unwrap();
    cluster.bounce(1).await;
    cluster.leader().await;
    cluster.disks[&1].publish.refuse();
    let node = &cluster.nodes[&1];
    let early = node.machine.early(&complete.page.header, true).expect("nobody has put its tree together");
    let (tell, told) = mpsc::channel();
    let at_it = std::thread::spawn(move || {
        let _turn = early;
        told.recv_timeout(cluster::DEADLINE).is_ok()
    });
    // As many as there are threads.
    let seals = [0; 2].map(|_| {
        let (replica, seal) = (node.replica.clone(), complete.seal.clone());
        tokio::spawn(async move { replica.propose(seal).await })
    });
    let replica = node.replica.clone();
    let small = tokio::spawn(async move {
        for _ in 0..SMALL {
            goes_through(&replica, "beside seals that wait for their tree").await;
        }
        let _ = tell.send(());
    });
    small.await.unwrap();
    assert!(at_it.join().unwrap(), "small records went through when the tree was there, and not before");
    for seal in seals {
        assert!(seal.await.unwrap().unwrap().1.is_accepted());
    }
    cluster.shutdown().await;
}

/// A directory of small files, `bytes` in all, and no two alike: they travel in packs.
fn packed(bytes: usize) -> tempfile::TempDir {
    const FILE: usize = 60 << 10;
    let dir = tempfile::tempdir().unwrap();
    for n in 0..bytes.div_ceil(FILE) {
        let mut content = vec![n as u8; FILE];
        content[..8].copy_from_slice(&n.to_le_bytes());
        std::fs::write(dir.path().join(format!("{n:05}")), content).unwrap();
    }
    dir
}

/// Records of a chunk of 256 KiB each.
async fn chunks(replica: &Replica, count: usize) -> Vec<LogRecord> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("big"), noise(count * (256 << 10), 9)).unwrap();
    let mut commit = Commit::of(dir.path(), "slow", 3);
    commit.opening.chunk_bytes = 256 << 10;
    let attempt = commit.begin(&replica.stream().await.unwrap()).await;
    commit.pieces(dir.path(), attempt).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_waits_for_a_leaders_own_disk_is_bounded() {
    const IN_FLIGHT: usize = 4 << 20;
    const CHUNK: u64 = 256 << 10;
    let cluster = Cluster::start_with("slow-leader", 3, Keeping::default(), IN_FLIGHT).await;
    let leader = cluster.leader().await;
    let slow = &cluster.nodes[&leader];
    let records = chunks(&slow.replica, 64).await;
    cluster.disks[&leader].log.close();
    let (replica, all) = (slow.replica.clone(), records.clone());
    let writer = tokio::spawn(async move {
        let stream = replica.stream().await.unwrap();
        for record in all {
            if stream.send(record).await.is_err() {
                return;
            }
        }
    });
    // Committed by the others, whatever this disk does: and still not more than may be in flight.
    let unflushed = || {
        let last = slow.log.log_state().1.map_or(0, |last| last.index + 1);
        last.saturating_sub(*slow.log.flushed().borrow()) * CHUNK
    };
    let bound = IN_FLIGHT as u64 + 2 * CHUNK;
    within("the others commit what is in flight", || async {
        (unflushed() >= IN_FLIGHT as u64 / 2).then_some(())
    })
    .await;
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        assert!(unflushed() <= bound, "{} bytes wait for the disk, {bound} may", unflushed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.disks[&leader].log.open();
    writer.await.unwrap();
    // Whoever leads by now: every chunk arrives.
    for record in records {
        within("a chunk is taken", || async {
            let answer = slow.replica.propose(record.clone()).await.ok()?;
            answer.1.is_accepted().then_some(())
        })
        .await;
    }
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn small_records_do_not_wait_for_large_ones_that_wait_for_the_leaders_disk() {
    let cluster = Cluster::start_with("small", 3, Keeping::default(), 4 << 20).await;
    let leader = cluster.leader().await;
    let slow = &cluster.nodes[&leader];
    let records = chunks(&slow.replica, 40).await;
    cluster.disks[&leader].log.close();
    let replica = slow.replica.clone();
    let writer = tokio::spawn(async move {
        let stream = replica.stream().await.unwrap();
        for record in records {
            if stream.send(record).await.is_err() {
                return;
            }
        }
    });
    within("large ones wait", || async {
        let last = slow.log.log_state().1.map_or(0, |last| last.index + 1);
        (last - *slow.log.flushed().borrow() >= 8).then_some(())
    })
    .await;
    goes_through(&slow.replica, "behind chunks that wait for the disk").await;
    cluster.disks[&leader].log.open();
    writer.await.unwrap();
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_far_behind_slows_large_content_and_nothing_else() {
    /// What the follower is behind, in bytes, and from where on that counts.
    const BEHIND: usize = 100 << 20;
    const COUNTS: f64 = (64 << 20) as f64;
    /// What a leader takes then, in bytes a second, when nobody is behind by more.
    const PACE: f64 = (16 << 20) as f64;
    const CHUNKS: usize = 96;
    let mut cluster = Cluster::start_keeping("behind", 3, by_hand()).await;
    let leader = cluster.leader().await;
    let slow = cluster.follower().await.id;
    let third = cluster.nodes.keys().copied().find(|id| ![leader, slow].contains(id)).unwrap();
    cluster.disks[&slow].publish.close();
    // Its performer waits for this one, and everything behind it waits too.
    cluster::commit_epoch(&cluster, "gone", 1, 4096).await;
    let source = packed(BEHIND);
    let replica = cluster.nodes[&leader].replica.clone();
    let packs = Commit::of(source.path(), "packs", 2);
    let stream = replica.stream().await.unwrap();
    let attempt = packs.begin(&stream).await;
    let mut pending = Vec::new();
    for piece in packs.pieces(source.path(), attempt).0 {
        pending.push(stream.send(piece).await.unwrap());
    }
    for answer in pending {
        assert!(answer.await.unwrap().1.is_accepted());
    }
    let records = chunks(&replica, CHUNKS).await;
    within("the others are done", || async {
        let done = |id| cluster.nodes[&id].machine.behind() < 1 << 20;
        (done(leader) && done(third)).then_some(())
    })
    .await;
    within("it is far behind", || async {
        (cluster.nodes[&slow].machine.behind() >= BEHIND as u64).then_some(())
    })
    .await;
    // Now there is no majority without it. What the third told counts for 5 s more.
    cluster.nodes.remove(&third).unwrap().kill().await;
    within("what the third told counts no more", || async {
        replica.silence(third).filter(|silence| *silence > Duration::from_secs(6)).map(drop)
    })
    .await;

    let paced = replica.clone();
    let large = tokio::spawn(async move {
        let stream = paced.stream().await.unwrap();
        let began = Instant::now();
        let mut pending = Vec::new();
        for record in records {
            pending.push(stream.send(record).await.unwrap());
        }
        for answer in pending {
            assert!(answer.await.unwrap().1.is_accepted());
        }
        began.elapsed()
    });
    for node in cluster.nodes.values() {
        goes_through(&node.replica, "beside content that is slowed").await;
        tokio::time::timeout(SOON, node.replica.read_barrier()).await.expect("reads do not wait").unwrap();
    }
    let small = cluster::directory(4096);
    let tiny = Commit::of(small.path(), "tiny", 4);
    tokio::time::timeout(SOON, tiny.write(small.path(), &replica)).await.expect("small content passes");
    let expire = cluster::remove_epochs(&cluster, "gone", vec![1]);
    tokio::time::timeout(SOON, expire).await.expect("what makes room passes");
    let abort = replica.propose(compose::abort(attempt, "test"));
    let aborted = tokio::time::timeout(SOON, abort).await.expect("what ends passes").unwrap();
    assert!(aborted.1.is_accepted(), "{}", aborted.1);

    let took = large.await.unwrap();
    let least = (CHUNKS * (256 << 10)) as f64 / PACE * (BEHIND as f64 / COUNTS).powi(2);
    // The first may leave before the leader has heard.
    assert!(took.as_secs_f64() > 0.9 * least, "{took:?}, at least {least} s");
    cluster.disks[&slow].publish.open();
    cluster.agree().await;
    cluster.shutdown().await;
}

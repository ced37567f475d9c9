//! Three replicas over loopback: elect, commit through a follower, lose the leader, refuse
//! strangers and damaged entries.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, Commit, accepted, directory, quick, within};
use bytes::Bytes;
use checkpoint::JobName;
use nativelog::compose;
use nativelog::ledger::{Accepted, Reason, Verdict};
use nativelog::record::{Header, Kind, LogRecord};
use raft::ProposeError;
use raft::proto::{self, entry::Body};
use raft::testing::{Check, Client, Known, Lane, Peers};
use tokio::sync::watch;
use tonic::Code;

const TERM_FAR_AHEAD: u64 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_through_a_follower_is_on_all_ledgers_and_published_everywhere() {
    let cluster = Cluster::start("whole", 3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let source = directory(3 << 20);
    let sealed = Commit::of(source.path(), "job", 1).write(source.path(), &follower.replica).await;
    assert_eq!(sealed.position.node, leader);

    cluster.agree().await;
    let job = JobName::try_from("job").unwrap();
    for node in cluster.nodes.values() {
        let seen = node.replica.read_barrier().await.unwrap();
        assert!(seen >= sealed.position);
        assert_eq!(node.machine.ledger().epoch(&job, sealed.epoch).unwrap().sealed.root, sealed.root);
        within("the epoch is published", || async {
            node.machine.store().published(&job, sealed.epoch).unwrap().filter(|root| *root == sealed.root)
        })
        .await;
        assert_eq!(node.machine.ledger().members().count(), 3, "every incarnation is fixed");
    }
    let all = follower.replica.status_of_all().await;
    assert_eq!(all.len(), 3);
    let clusters: std::collections::BTreeSet<_> =
        all.values().map(|s| s.as_ref().unwrap().cluster.clone()).collect();
    assert_eq!(clusters.len(), 1);
    assert_eq!(clusters.first().unwrap().len(), 32);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_chunks_are_pipelined_and_a_repeat_is_answered_the_same() {
    let cluster = Cluster::start("pipeline", 3).await;
    let follower = cluster.follower().await;
    let source = directory(64 << 20);
    let commit = Commit::of(source.path(), "job", 1);
    let first = commit.write(source.path(), &follower.replica).await;
    assert_eq!(first.bytes, (64 << 20) + 10);
    assert!(first.log_bytes < (64 << 20) + (1 << 20), "{}", first.log_bytes);
    // The same commit id finds its own outcome, at any node.
    let leader = &cluster.nodes[&cluster.leader().await];
    let stream = leader.replica.stream().await.unwrap();
    let again = accepted(&stream, compose::begin(&commit.opening, &commit.pages)).await;
    let Accepted::Sealed(again) = again else { panic!("{again:?}") };
    assert!(again.already && again.root == first.root && again.position == first.position);
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_keeps_its_order_when_nothing_is_waited_for() {
    let cluster = Cluster::start("order", 3).await;
    let follower = cluster.follower().await;
    let source = directory(2 << 20);
    let commit = Commit::of(source.path(), "job", 1);
    let stream = follower.replica.stream().await.unwrap();
    let begun = accepted(&stream, compose::begin(&commit.opening, &commit.pages)).await;
    let Accepted::Begun { attempt, .. } = begun else { panic!("{begun:?}") };
    // Plan, pieces and seal are all sent before any of them is answered.
    let covered = checkpoint::Coverage::default();
    let mut splitter =
        checkpoint::Splitter::new(source.path(), &commit.plan, 1 << 20, &covered, &|_| None).unwrap();
    let mut records: Vec<_> = commit.pages.parts(attempt, 0).collect();
    for piece in splitter.by_ref() {
        records.push(compose::piece(attempt, piece.unwrap()));
    }
    records.push(compose::seal(attempt, splitter.finish_root().unwrap()));
    let mut pending = Vec::new();
    for record in records {
        pending.push(stream.send(record).await.unwrap());
    }
    for answer in pending {
        let (_, verdict) = answer.await.unwrap();
        assert!(verdict.is_accepted(), "{verdict}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_leader_dies_mid_epoch_and_the_commit_resumes_at_the_new_one() {
    let mut cluster = Cluster::start("failover", 3).await;
    let old = cluster.leader().await;
    let source = directory(4 << 20);
    let commit = Commit::of(source.path(), "job", 1);
    let survivor = cluster.follower().await.replica.clone();
    let stream = survivor.stream().await.unwrap();
    let attempt = commit.begin(&stream).await;

    cluster.nodes.remove(&old).unwrap().kill().await;
    within("the stream ends", || async { stream.is_over().then_some(()) }).await;
    let late = stream.send(compose::tick(1)).await;
    assert!(matches!(late, Err(ProposeError::Unavailable { .. })));

    let began = std::time::Instant::now();
    let new = cluster.leader().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_ne!(new, old);
    let stream = survivor.stream().await.unwrap();
    let resumed = accepted(&stream, compose::begin(&commit.opening, &commit.pages)).await;
    assert!(
        matches!(resumed, Accepted::Begun { attempt: same, resumed: true, .. } if same == attempt),
        "{resumed:?}"
    );
    drop(stream);

    // The dead one comes back over the same folder and catches up from the log.
    cluster.restart(old, [old as u8; 16], &format!("n{old}")).await;
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leadership_is_handed_over_and_an_orderly_shutdown_leaves_a_leader() {
    let mut cluster = Cluster::start("handover", 3).await;
    let first = cluster.leader().await;
    let second = cluster.follower().await.id;
    cluster.nodes[&first].replica.transfer_leader(second).await.unwrap();
    within("the other one leads", || async { cluster.nodes[&second].replica.is_leader().then_some(()) })
        .await;
    cluster.nodes.remove(&second).unwrap().shutdown().await;
    let third = cluster.leader().await;
    assert_ne!(third, second);
    let (position, verdict) = cluster.nodes[&third].replica.propose(compose::tick(1)).await.unwrap();
    assert!(verdict.is_accepted() && position.node == third);
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = Cluster::start("minority", 3).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    for id in others {
        cluster.nodes.remove(&id).unwrap().kill().await;
    }
    let alone = &cluster.nodes[&leader].replica;
    let outcome = alone.propose(compose::tick(1)).await;
    assert!(
        matches!(outcome, Err(ProposeError::Unknown { .. } | ProposeError::Unavailable { .. })),
        "{outcome:?}"
    );
    assert!(matches!(alone.read_barrier().await, Err(ProposeError::Unavailable { .. })));
}

/// A caller that claims to be `node` of the cluster `name`.
fn stranger(node: u64, incarnation: [u8; 16], name: &str, to: (u64, &str)) -> Client {
    let config = quick(node, incarnation, name, vec![]);
    let peers = Peers::new(&config, Known::new(&config));
    peers.client(to.0, to.1, Lane::Control, Check::Full).unwrap()
}

fn vote_request() -> proto::VoteRequest {
    let vote = proto::Vote { term: TERM_FAR_AHEAD, node: 1, committed: false };
    proto::VoteRequest { vote: Some(vote), last: None, leadership_transfer: true }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn strangers_are_refused_and_change_nothing() {
    let cluster = Cluster::start("guarded", 3).await;
    let leader = cluster.leader().await;
    let target = cluster.follower().await;
    // It knows who belongs to the cluster once it has applied the first record.
    target.replica.read_barrier().await.unwrap();
    assert!(target.replica.cluster().is_some());
    let term = target.replica.status().term;
    let to = (target.id, target.address.as_str());

    let wiped = stranger(leader, [99; 16], "guarded", to).vote(vote_request()).await.unwrap_err();
    assert_eq!(wiped.code(), Code::FailedPrecondition);
    assert!(wiped.message().contains("its data folder was wiped, and what it promised is lost"), "{wiped}");

    let foreign = stranger(leader, [leader as u8; 16], "other", to).vote(vote_request()).await.unwrap_err();
    assert_eq!(foreign.code(), Code::Unavailable);
    assert!(foreign.message().contains("belongs to cluster \"guarded\""), "{foreign}");

    let misdirected = stranger(leader, [leader as u8; 16], "guarded", (77, to.1)).vote(vote_request()).await;
    assert!(misdirected.unwrap_err().message().contains("not node 77"));

    assert_eq!(target.replica.status().term, term);
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn damaged_entries_do_not_pass_the_ingress() {
    let cluster = Cluster::start("ingress", 3).await;
    let leader = cluster.leader().await;
    let target = cluster.follower().await;
    let before = target.log.log_state();

    let chunk = compose::piece(
        1,
        checkpoint::Piece::Chunk {
            file: 1,
            offset: 0,
            digest: checkpoint::digest::subtree(65_536, 0, &[1; 65_536]),
            file_bytes: 65_536,
            payload: Bytes::from(vec![2; 65_536]),
        },
    );
    let garbage = proto::Record { header: Bytes::from_static(b"\xff\xff\xff"), payload: Bytes::new() };
    let damaged = proto::Record { header: chunk.header.wire().clone(), payload: chunk.payload.clone() };
    let next = before.1.unwrap().index + 1;
    for (record, word) in [(damaged, "digest"), (garbage, "header")] {
        let position = proto::Position { term: TERM_FAR_AHEAD, node: leader, index: next };
        let entry = proto::Entry { position: Some(position), body: Some(Body::Record(record)) };
        let last = before.1.unwrap();
        let request = proto::AppendRequest {
            vote: Some(proto::Vote { term: TERM_FAR_AHEAD, node: leader, committed: true }),
            previous: Some(proto::Position { term: last.term, node: last.node, index: last.index }),
            entries: vec![entry],
            committed: None,
            ledger: None,
        };
        let mut client = stranger(leader, [leader as u8; 16], "ingress", (target.id, &target.address));
        let stream = client.stream_append(tokio_stream::iter([request])).await.unwrap();
        let refused = stream.into_inner().message().await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(word), "{refused}");
    }
    assert!(target.log.log_state().1.unwrap().term < TERM_FAR_AHEAD);

    // The same damage in a proposal is a rejection, and nothing enters the log.
    let (position, verdict) = target.replica.propose(chunk).await.unwrap();
    assert!(!verdict.is_accepted() && position == Default::default(), "{verdict}");
    let nothing = LogRecord::new(Kind::Tick(Default::default()), Bytes::from_static(b"not expected"));
    assert!(!target.replica.propose(nothing).await.unwrap().1.is_accepted());
    cluster.agree().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wiped_node_gets_nothing_and_the_others_go_on() {
    let mut cluster = Cluster::start("wiped", 3).await;
    let victim = cluster.follower().await.id;
    cluster.nodes.remove(&victim).unwrap().kill().await;
    cluster.restart(victim, [200; 16], "wiped-folder").await;
    let leader = within("a leader", || async {
        cluster.nodes.values().find(|node| node.id != victim && node.replica.is_leader()).map(|node| node.id)
    })
    .await;
    let (position, verdict) = cluster.nodes[&leader].replica.propose(compose::tick(1)).await.unwrap();
    assert!(verdict.is_accepted());
    // It is told so, by name, and holds nothing although the others have moved on.
    let all = cluster.nodes[&leader].replica.status_of_all().await;
    let why = all[&victim].as_ref().unwrap_err();
    assert!(why.contains(&format!("node {victim} is known with another incarnation")), "{why}");
    let other = cluster.nodes.values().find(|node| node.id != victim && node.id != leader).unwrap();
    other.replica.wait_applied(position.index, crate::cluster::DEADLINE).await.unwrap();
    assert_eq!(cluster.nodes[&victim].log.log_state(), (None, None));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_node_is_a_cluster_and_keeps_its_identity_over_a_restart() {
    let mut cluster = Cluster::start("single", 1).await;
    cluster.leader().await;
    let (position, verdict) = cluster.nodes[&1].replica.propose(compose::tick(5)).await.unwrap();
    assert!(verdict.is_accepted());
    let identity = cluster.nodes[&1].replica.cluster().unwrap();
    cluster.nodes.remove(&1).unwrap().shutdown().await;
    cluster.restart(1, [1; 16], "n1").await;
    cluster.leader().await;
    assert_eq!(cluster.nodes[&1].replica.cluster(), Some(identity));
    assert!(cluster.nodes[&1].replica.read_barrier().await.unwrap() > position);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_that_begin_through_two_nodes_only_one_gets_the_room_for_one() {
    let cluster = Cluster::start("room", 3).await;
    let source = directory(1 << 20);
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    // Enough for one of them and half of another.
    cluster.room.set_majority(3 << 19);
    for round in 0..10u8 {
        let begin = |commit: u8, job: &str| {
            let commit = Commit::of(source.path(), job, commit);
            compose::begin(&commit.opening, &commit.pages)
        };
        let through = [&cluster.nodes[&leader].replica, &follower.replica];
        let (one, other) = tokio::join!(
            through[0].propose(begin(2 * round + 1, "one")),
            through[1].propose(begin(2 * round + 2, "other")),
        );
        let verdicts = [one.unwrap().1, other.unwrap().1];
        let begun = verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Accepted(Accepted::Begun { attempt, .. }) => Some(*attempt),
            _ => None,
        });
        let refused = verdicts.iter().filter_map(Verdict::rejected).map(|no| no.reason);
        assert_eq!(refused.collect::<Vec<_>>(), [Reason::NoSpace], "{verdicts:?}");
        // Its end frees the room.
        let abort = compose::abort(begun.expect("one of them"), "test");
        assert!(follower.replica.propose(abort).await.unwrap().1.is_accepted());
    }
    let open = cluster.nodes[&leader].machine.ledger().attempts().count();
    assert_eq!(open, 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn small_records_pass_those_that_wait_for_room() {
    // One part in eight of it is for those that wait. A piece fits in the rest, and not with them.
    const IN_FLIGHT: usize = 32 << 10;
    const PIECE: usize = 26_000;
    let cluster = Cluster::start_with("passing", 3, raft::Keeping::default(), IN_FLIGHT).await;
    let replica = cluster.nodes[&cluster.leader().await].replica.clone();
    let source = directory(PIECE);
    let first = Commit::of(source.path(), "first", 1);
    let attempt = first.begin(&replica.stream().await.unwrap()).await;
    let (pieces, _) = first.pieces(source.path(), attempt);

    // Somebody makes room, and those who begin wait for it: as many as may.
    cluster.room.comes_back();
    cluster.room.set_majority(0);
    let begin = |number: usize| {
        let commit = Commit::of(source.path(), &format!("job-{number:02}"), 2 + number as u8);
        compose::begin(&commit.opening, &commit.pages)
    };
    let count = IN_FLIGHT / 8 / (begin(0).bytes() as usize + 256);
    let begins: Vec<_> = (0..count)
        .map(|number| {
            let (replica, record) = (replica.clone(), begin(number));
            tokio::spawn(async move { replica.propose(record).await.unwrap().1 })
        })
        .collect();
    within("all of them wait", || async { (cluster.room.refused() >= 2 * count as u64).then_some(()) }).await;
    for piece in pieces {
        let answered = tokio::time::timeout(Duration::from_secs(5), replica.propose(piece)).await;
        let (_, verdict) = answered.expect("it waits for nobody's room").unwrap();
        assert!(verdict.is_accepted(), "{verdict}");
    }
    cluster.room.set_majority(u64::MAX);
    for begun in begins {
        let verdict = begun.await.unwrap();
        assert!(verdict.is_accepted(), "{verdict}");
    }
    cluster.shutdown().await;
}

/// So many bytes may be on their way that one record of 64 KiB may rest, and seven may not be out.
const FEW_CHUNKS: usize = 8 * (66 << 10);

/// A Begin that says that all but so many bytes are holes.
fn begin_storing(commit: &Commit, stored: u64) -> LogRecord {
    let mut header = Header::clone(&compose::begin(&commit.opening, &commit.pages).header).into_record();
    let Some(Kind::Begin(begin)) = &mut header.kind else { unreachable!() };
    begin.stored_bytes = Some(stored);
    LogRecord::from_parts(Arc::new(Header::new(header)), Bytes::new())
}

/// Those behind it in its stream wait for it: it must not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_piece_for_which_there_is_no_room_is_answered_with_others_behind_it() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 16;
    // What may be out beside the one that waits.
    const BESIDE: usize = 5;
    let cluster = Cluster::start_with("outgrown", 1, raft::Keeping::default(), FEW_CHUNKS).await;
    let replica = cluster.nodes[&cluster.leader().await].replica.clone();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("big"), crate::cluster::noise(CHUNKS * CHUNK, 3)).unwrap();
    let mut commit = Commit::of(source.path(), "job", 1);
    commit.opening.chunk_bytes = CHUNK as u32;
    let stream = replica.stream().await.unwrap();
    let begun = accepted(&stream, begin_storing(&commit, CHUNK as u64)).await;
    let Accepted::Begun { attempt, .. } = begun else { panic!("{begun:?}") };
    for part in commit.pages.parts(attempt, 0) {
        accepted(&stream, part).await;
    }
    let mut pieces = commit.pieces(source.path(), attempt).0.into_iter();
    accepted(&stream, pieces.next().unwrap()).await;

    cluster.room.set_majority(0);
    cluster.room.set_answers(false);
    let outgrows = stream.send(pieces.next().unwrap()).await.unwrap();
    within("it asks for room", async || (cluster.room.asked() > 0).then_some(())).await;
    let (sent, behind) = watch::channel(0);
    let others = tokio::spawn(async move {
        let mut pending = Vec::new();
        for piece in pieces {
            pending.push(stream.send(piece).await.unwrap());
            sent.send_modify(|sent| *sent += 1);
        }
        for answer in pending {
            let (_, verdict) = answer.await.unwrap();
            assert_eq!(verdict.rejected().map(|no| no.reason), Some(Reason::NoSpace), "{verdict}");
        }
    });
    within("as many as may are behind it", async || (*behind.borrow() >= BESIDE).then_some(())).await;
    let mut more = behind.clone();
    let one_more = tokio::time::timeout(Duration::from_millis(500), more.wait_for(|sent| *sent > BESIDE));
    assert!(one_more.await.is_err(), "it keeps its place while it waits");
    cluster.room.set_answers(true);
    let answered = tokio::time::timeout(crate::cluster::DEADLINE, outgrows).await;
    let (_, verdict) = answered.expect("it waits for those that wait for it").unwrap();
    assert_eq!(verdict.rejected().map(|no| no.reason), Some(Reason::NoSpace), "{verdict}");
    tokio::time::timeout(crate::cluster::DEADLINE, others).await.expect("so are those behind it").unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_has_rested_begins_with_the_room_that_there_is_when_it_goes_on() {
    const CHUNK: usize = 1 << 20;
    let cluster = Cluster::start_with("rested", 1, raft::Keeping::default(), FEW_CHUNKS).await;
    let replica = cluster.nodes[&cluster.leader().await].replica.clone();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("big"), crate::cluster::noise(2 * CHUNK, 3)).unwrap();
    let other = Commit::of(source.path(), "other", 1);
    let stream = replica.stream().await.unwrap();
    let attempt = other.begin(&stream).await;
    let chunk = other.pieces(source.path(), attempt).0.remove(0);

    cluster.room.set_majority(0);
    cluster.room.set_answers(false);
    let begin = Commit::of(source.path(), "job", 2);
    let begin = compose::begin(&begin.opening, &begin.pages);
    let begins = tokio::spawn(async move { replica.propose(begin).await.unwrap().1 });
    within("it rests", async || (cluster.room.asked() > 0).then_some(())).await;
    // Alone it is more than may be out, and stays so until it is flushed.
    cluster.disks[&1].log.close();
    let unflushed = stream.send(chunk).await.unwrap();

    cluster.room.set_majority(u64::MAX);
    let looked = cluster.room.looked();
    cluster.room.set_answers(true);
    let looks = within("it looks", async || (cluster.room.looked() > looked).then_some(()));
    let early = tokio::time::timeout(Duration::from_millis(500), looks).await;
    assert!(early.is_err(), "it looks, and then waits until it may go on");
    cluster.room.set_majority(0);
    cluster.disks[&1].log.open();
    let verdict = begins.await.unwrap();
    assert_eq!(verdict.rejected().map(|no| no.reason), Some(Reason::NoSpace), "{verdict}");
    assert!(unflushed.await.unwrap().1.is_accepted());
    cluster.shutdown().await;
}

//! A disk that fails under a replica: nothing is acknowledged any more and the replica says why. And entries
//! that nobody takes from their leader.

use std::path::Path;
use std::sync::Arc;

use crate::cluster::{Cluster, Commit, quick, within};
use checkpoint::Store;
use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::testing::{CrashDisk, OpKind};
use nativelog::compose;
use nativelog::machine::Machine;
use nativelog::record::{Header, Kind, LogRecord, RECORD_VERSION, proto};
use nativelog::store::{Identity, LogStore, Options};
use raft::{ProposeError, Replica};

const EIO: i32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_of_the_log_ends_every_acknowledgement() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let data = Path::new("/data");
    shared.create_dir(data).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(shared.clone(), data).unwrap());
    let owner = Identity { node: 1, incarnation: [1; 16] };
    let (log, _) = LogStore::open(shared, &Layout::new(data), owner, Options::default()).unwrap();
    let machine = Machine::start(store, log.clone(), &dir.path().join("catalog")).unwrap();
    let config = quick(1, [1; 16], "faults", vec![(1, "127.0.0.1:1".into())]);
    let replica = Replica::start(config, log, machine).await.unwrap();
    replica.initialize_when_ready();
    within("it leads", || async { replica.is_leader().then_some(()) }).await;
    assert!(replica.propose(compose::tick(1)).await.unwrap().1.is_accepted());

    disk.fail_next(OpKind::SyncData, "/log/", EIO);
    let outcome = replica.propose(compose::tick(1)).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown { .. } | ProposeError::Fault { .. })), "{outcome:?}");
    let mut fatal = replica.fatal();
    let why = tokio::time::timeout(crate::cluster::DEADLINE, fatal.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(why.is_some());
    let later = replica.propose(compose::tick(1)).await;
    assert!(matches!(later, Err(ProposeError::Fault { .. })), "{later:?}");
    assert!(matches!(replica.read_barrier().await, Err(ProposeError::Fault { .. })));
    assert!(replica.status().fatal.is_some());
}

/// A chunk whose digest is not that of its payload, although this process says so: its memory has changed since.
fn changed_in_memory(chunk: LogRecord) -> LogRecord {
    let Some(Kind::Chunk(chunk_header)) = chunk.header.kind.clone() else { panic!("a chunk") };
    let mut digest = chunk_header.digest.to_vec();
    digest[7] ^= 1;
    let changed = Kind::Chunk(proto::Chunk { digest: digest.into(), ..chunk_header });
    LogRecord::new(changed, chunk.payload).digested_here()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_entry_nobody_can_take_does_not_lead_for_ever() {
    let mut cluster = Cluster::start("refused", 3).await;
    let leader = cluster.leader().await;
    let dir = crate::cluster::directory(4 << 20);
    let commit = Commit::of(dir.path(), "job", 1);
    let replica = cluster.nodes[&leader].replica.clone();
    let stream = replica.stream().await.unwrap();
    let attempt = commit.begin(&stream).await;
    let (pieces, _) = commit.pieces(dir.path(), attempt);
    let chunk = pieces.into_iter().find(|piece| matches!(piece.header.kind, Some(Kind::Chunk(_)))).unwrap();
    let mut fatal = replica.fatal();
    let answer = stream.send(changed_in_memory(chunk)).await.unwrap();
    let why = tokio::time::timeout(crate::cluster::DEADLINE, fatal.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(why.unwrap().contains("is not what was proposed"));
    assert!(!matches!(answer.await, Ok((_, verdict)) if verdict.is_accepted()));
    // As a node ends that has a fault.
    cluster.nodes.remove(&leader).unwrap().kill().await;
    let next = cluster.leader().await;
    commit.write(dir.path(), &cluster.nodes[&next].replica).await;
    cluster.resume(leader).await;
    cluster.agree().await;
    cluster.shutdown().await;
}

/// The same record in a format that no binary reads yet.
fn of_a_later_format(record: &LogRecord) -> Header {
    let record = Header::clone(&record.header).into_record();
    Header::new(proto::Record { version: RECORD_VERSION + 1, ..record })
}

/// As when its binary is newer than those of the others: there is nothing wrong with its own copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_whose_entry_is_right_to_nobody_else_lets_another_one_lead() {
    let cluster = Cluster::behind_proxies("skew", 3).await;
    let leader = cluster.leader().await;
    let replica = cluster.nodes[&leader].replica.clone();
    let dir = crate::cluster::directory(1 << 20);
    let commit = Commit::of(dir.path(), "job", 1);
    let begin = compose::begin(&commit.opening, &commit.pages);
    let theirs = of_a_later_format(&begin);
    for (_, proxy) in cluster.proxies.iter().filter(|(node, _)| **node != leader) {
        proxy.swap(begin.header.wire(), theirs.wire());
    }
    let answer = replica.propose(begin).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    let next = within("another one leads", || async {
        cluster.nodes.values().find(|node| node.id != leader && node.replica.is_leader())
    })
    .await;
    let fatal = replica.fatal().borrow().clone();
    assert_eq!(fatal, None, "nothing is wrong with the one that led");
    // The others commit what all can read, and the one that led takes that in.
    let other = Commit::of(dir.path(), "job", 2);
    let sealed = other.write(dir.path(), &next.replica).await;
    cluster.agree().await;
    {
        let ledger = cluster.nodes[&leader].machine.ledger();
        assert_eq!(ledger.epochs(&sealed.job).count(), 1);
        assert_eq!(ledger.attempts().count(), 0, "what nobody else could take is gone");
    }
    cluster.shutdown().await;
}

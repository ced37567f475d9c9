//! A disk that fails under a replica: nothing is acknowledged any more and the replica says why.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;

use std::path::Path;
use std::sync::Arc;

use checkpoint::Store;
use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::testing::{CrashDisk, OpKind};
use cluster::{quick, within};
use nativelog::compose;
use nativelog::machine::Machine;
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
    let why = tokio::time::timeout(cluster::DEADLINE, fatal.wait_for(Option::is_some))
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

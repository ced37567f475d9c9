//! openraft's own storage suite over the real log store and the real machine.
//!
//! Two things of the suite do not hold for this project by design, and a thin wrapper makes up for
//! them. The suite applies entries with gaps, which the ledger refuses (rule 12): the wrapper fills
//! gaps with blank entries. And it builds snapshots of entries that were never in the log, which are
//! performed by nobody: the wrapper appends blank ones before a snapshot is built. Nothing is wrapped
//! around the log, and snapshots are the real ones.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::path::Path;
use std::sync::Arc;

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::testing::CrashDisk;
use checkpoint::{RealDisk, Store};
use futures::{Stream, StreamExt};
use nativelog::machine::Machine;
use nativelog::record::{Body, Entry, LogId};
use nativelog::store::{Identity, LogStore, Options};
use openraft::StorageError;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use raft::ReplicaConfig;
use raft::testing::{
    Builder, Known, Meta, RaftEntry, RaftLog, RaftLogId, Snap, SnapshotData, StateMachine, StoredMembers,
    TypeConfig,
};

/// The real state machine, with gaps filled.
struct SuiteMachine {
    real: StateMachine,
    log: LogStore,
}

impl SuiteMachine {
    /// Lets the log hold as many entries as are applied, and waits until they are flushed.
    async fn fill_log(&mut self) {
        let Some(applied) = self.real.applied_state().await.unwrap().0 else { return };
        let next = self.log.log_state().1.map_or(0, |last| last.index + 1);
        let leader = applied.leader_id;
        let id = |index| LogId { term: leader.term, node: leader.node_id, index };
        let entries: Vec<_> =
            (next..=applied.index).map(|index| Entry { id: id(index), body: Body::Blank }).collect();
        let (done, flushed) = tokio::sync::oneshot::channel();
        self.log.append(entries, Box::new(move |result| done.send(result).unwrap()));
        flushed.await.unwrap().unwrap();
    }
}

impl RaftStateMachine<TypeConfig> for SuiteMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembers)> {
        self.real.applied_state().await
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let next = self.real.applied_state().await?.0.map_or(0, |id| id.index + 1);
            let blanks = (next..entry.log_id.index).map(|index| {
                let log_id = RaftLogId::new(entry.log_id.leader_id, index);
                Ok((RaftEntry { log_id, payload: openraft::EntryPayload::Blank }, None))
            });
            self.real.apply(futures::stream::iter(blanks.collect::<Vec<_>>())).await?;
            self.real.apply(futures::stream::iter([Ok((entry, responder))])).await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        self.fill_log().await;
        self.real.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.fill_log().await;
        self.real.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        self.real.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snap>> {
        self.real.get_current_snapshot().await
    }
}

struct Guard {
    machine: Arc<Machine>,
    log: LogStore,
    _dir: tempfile::TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.log.shutdown();
        let _ = &self.machine;
    }
}

/// Makes a fresh store for every test of the suite.
struct Fresh {
    disk: fn() -> Arc<dyn Disk>,
    /// The crash disk has a name space of its own.
    inside: Option<&'static str>,
}

impl StoreBuilder<TypeConfig, RaftLog, SuiteMachine, Guard> for Fresh {
    async fn build(&self) -> Result<(Guard, RaftLog, SuiteMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let disk = (self.disk)();
        let data = self.inside.map_or(dir.path(), Path::new);
        if self.inside.is_some() {
            disk.create_dir(data).unwrap();
        }
        let store = Arc::new(Store::open(disk.clone(), data).unwrap());
        let owner = Identity { node: 0, incarnation: [7; 16] };
        let (log, _) = LogStore::open(disk, &Layout::new(data), owner, Options::default()).unwrap();
        let machine = Machine::start(store, log.clone(), &dir.path().join("catalog")).unwrap();
        let known = Known::new(&ReplicaConfig::new(0, [7; 16], "suite", vec![]));
        let real = StateMachine::new(machine.clone(), known).unwrap();
        let suite = SuiteMachine { real, log: log.clone() };
        Ok((Guard { machine, log: log.clone(), _dir: dir }, RaftLog::new(log), suite))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_a_real_disk() {
    Suite::test_all(Fresh { disk: || Arc::new(RealDisk), inside: None }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_the_crash_disk() {
    Suite::test_all(Fresh { disk: || Arc::new(CrashDisk::new()), inside: Some("/data") }).await.unwrap();
}

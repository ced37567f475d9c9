//! openraft's own storage suite over the real log store and the real machine.
//!
//! Two things of the suite do not hold for this project by design, and a thin wrapper makes up for
//! them. The suite applies entries with gaps, which the ledger refuses (rule 12): the wrapper fills
//! gaps with blank entries. And it builds and installs a snapshot, which this version does not
//! have: the wrapper keeps the snapshot's metadata only. Nothing is wrapped around the log.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use checkpoint::testing::CrashDisk;
use checkpoint::{RealDisk, Store};
use futures::{Stream, StreamExt};
use nativelog::machine::Machine;
use nativelog::store::{Identity, LogStore, Options};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{BasicNode, RaftSnapshotBuilder, StorageError};
use raft::ReplicaConfig;
use raft::testing::{
    Known, Lead, RaftEntry, RaftLog, RaftLogId, SnapshotData, StateMachine, StoredMembers, TypeConfig,
};

type Meta = SnapshotMeta<Lead, u64, BasicNode>;
type Snap = Snapshot<Lead, u64, BasicNode, SnapshotData>;

/// The real state machine, with gaps filled and a snapshot of metadata.
struct SuiteMachine {
    real: StateMachine,
    installed: Option<Meta>,
    current: Arc<Mutex<Option<Meta>>>,
}

fn snap(meta: Meta) -> Snap {
    Snapshot { meta, snapshot: SnapshotData }
}

impl RaftStateMachine<TypeConfig> for SuiteMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = MetaBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembers)> {
        match &self.installed {
            Some(meta) => Ok((meta.last_log_id, meta.last_membership.clone())),
            None => self.real.applied_state().await,
        }
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

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<MetaBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> MetaBuilder {
        let (last_log_id, last_membership) = self.applied_state().await.unwrap();
        MetaBuilder { meta: Meta { last_log_id, last_membership }, current: self.current.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, _snapshot: SnapshotData) -> io::Result<()> {
        self.installed = Some(meta.clone());
        *self.current.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snap>> {
        Ok(self.current.lock().unwrap().clone().map(snap))
    }
}

struct MetaBuilder {
    meta: Meta,
    current: Arc<Mutex<Option<Meta>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for MetaBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snap> {
        *self.current.lock().unwrap() = Some(self.meta.clone());
        Ok(snap(self.meta.clone()))
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
struct Builder {
    disk: fn() -> Arc<dyn Disk>,
    /// The crash disk has a name space of its own.
    inside: Option<&'static str>,
}

impl StoreBuilder<TypeConfig, RaftLog, SuiteMachine, Guard> for Builder {
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
        let suite = SuiteMachine { real, installed: None, current: Arc::default() };
        Ok((Guard { machine, log: log.clone(), _dir: dir }, RaftLog::new(log), suite))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_a_real_disk() {
    Suite::test_all(Builder { disk: || Arc::new(RealDisk), inside: None }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_the_crash_disk() {
    Suite::test_all(Builder { disk: || Arc::new(CrashDisk::new()), inside: Some("/data") }).await.unwrap();
}

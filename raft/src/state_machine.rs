//! openraft's state machine over [`nativelog::machine::Machine`].
//!
//! Apply is the ledger in memory: a verdict per entry, answered at once, no file touched, no
//! payload read. What must happen on disk is the performer's business, behind this node's own
//! flushed mark. Indexes are checked to be contiguous by the machine.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use nativelog::machine::Machine;
use nativelog::record::{Body, Kind};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};

use crate::identity::Known;
use crate::log_store::to_entry;
use crate::snapshot::{SnapshotData, unsupported};
use crate::types::{Answer, Lead, RaftLogId, StoredMembers, TypeConfig, decode_members, raft_id};

type Snap = Snapshot<Lead, u64, openraft::BasicNode, SnapshotData>;
type Meta = SnapshotMeta<Lead, u64, openraft::BasicNode>;

/// The ledger as openraft wants it.
pub struct StateMachine {
    machine: Arc<Machine>,
    known: Arc<Known>,
    members: StoredMembers,
}

impl StateMachine {
    /// Wraps `machine`.
    ///
    /// # Errors
    /// A membership in the log that cannot be read.
    pub fn new(machine: Arc<Machine>, known: Arc<Known>) -> io::Result<Self> {
        let members = match machine.last_membership()? {
            None => StoredMembers::default(),
            Some((id, bytes)) => {
                let damaged =
                    |why| io::Error::new(io::ErrorKind::InvalidData, format!("membership at {id}: {why}"));
                StoredMembers::new(Some(raft_id(id)), decode_members(&bytes).map_err(damaged)?)
            }
        };
        known.refresh(&machine);
        Ok(StateMachine { machine, known, members })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembers)> {
        Ok((self.machine.ledger().applied().map(raft_id), self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.machine.room().await;
            if let openraft::EntryPayload::Membership(members) = &entry.payload {
                self.members = StoredMembers::new(Some(entry.log_id), members.clone());
            }
            let entry = to_entry(entry);
            let verdict = self.machine.apply(&entry).map_err(io::Error::other)?;
            if let Body::Record(record) = &entry.body
                && matches!(record.header.kind, Some(Kind::Genesis(_) | Kind::Join(_)))
            {
                self.known.refresh(&self.machine);
            }
            if let Some(responder) = responder {
                responder.send(Answer(verdict));
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        Some(NoSnapshots)
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(&mut self, _meta: &Meta, _snapshot: SnapshotData) -> io::Result<()> {
        Err(unsupported())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snap>> {
        Ok(None)
    }
}

/// Builds no snapshot and says so; see [`crate::snapshot`].
pub struct NoSnapshots;

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshots {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snap> {
        Err(unsupported())
    }
}

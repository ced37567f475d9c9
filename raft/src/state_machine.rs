//! openraft's state machine over [`nativelog::machine::Machine`].
//!
//! Apply is the ledger in memory: a verdict per entry, answered at once, no file written, no
//! payload read. A seal whose plan was not read yet waits for that, and for nobody else. What must happen on disk is the performer's business, behind this
//! node's own flushed mark. Indexes are checked to be contiguous by the machine.
//!
//! **Never.** A snapshot that cannot be written or read ends nobody: openraft takes an error of a
//! builder, or of [`RaftStateMachine::get_current_snapshot`], as a broken disk and stops the node.
//! The keeper writes snapshots and tells openraft of those that are durable; a rotten one is
//! replaced by the ledger as it is now.

use std::io;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt};
use nativelog::background::{self, BULK};
use nativelog::ledger::{LedgerFault, Verdict};
use nativelog::machine::Machine;

use nativelog::record::{Body, Entry, Kind};
use nativelog::snapshot::{Capture, Frozen, SnapshotError, SnapshotMeta};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine};
use tokio::task::spawn_blocking;

use crate::agreement::Agreement;
use crate::identity::Known;
use crate::log_store::to_entry;
use crate::snapshot::{Meta, Snap, SnapshotData, kept_members, snap, stored_members};
use crate::types::{Answer, RaftLogId, StoredMembers, TypeConfig, raft_id};

/// The ledger as openraft wants it.
pub struct StateMachine {
    machine: Arc<Machine>,
    known: Arc<Known>,
    members: StoredMembers,
    agreement: Option<Arc<Agreement>>,
}

impl StateMachine {
    /// Wraps `machine`.
    ///
    /// # Errors
    /// A membership in the log or the snapshot that cannot be read.
    pub fn new(machine: Arc<Machine>, known: Arc<Known>) -> io::Result<Self> {
        // What was purged is in the snapshot only.
        let in_snapshot = machine.newest_snapshot().and_then(|meta| meta.membership);
        let newest = machine.last_membership()?.into_iter().chain(in_snapshot).max_by_key(|(id, _)| id.index);
        let members = stored_members(newest.as_ref())?;
        known.refresh(&machine);
        Ok(StateMachine { machine, known, members, agreement: None })
    }

    /// The same, which applies nothing once the leader's ledger was seen to be another one.
    pub(crate) fn agreeing(self, agreement: Arc<Agreement>) -> Self {
        StateMachine { agreement: Some(agreement), ..self }
    }

    /// The ledger as it is applied now, with the membership at that position. Called where entries
    /// are applied, so that the two belong together.
    pub fn freeze(&self) -> Option<Frozen> {
        self.machine.freeze(kept_members(&self.members))
    }
}

impl StateMachine {
    /// What takes long does not hold up the others of this thread. Where nobody waits for it, as at a follower, it gives way
    /// to those that somebody waits for; so do pages of plans, of which many come at once. The step itself is never done by
    /// a thread that gives way: it locks the ledger.
    async fn judge(&self, entry: &Entry, awaited: bool) -> io::Result<Result<Verdict, LedgerFault>> {
        let Body::Record(record) = &entry.body else { return Ok(self.machine.apply(entry)) };
        if !self.machine.ledger().takes_long(&record.header) {
            return Ok(self.machine.apply(entry));
        }
        let page = matches!(record.header.kind, Some(Kind::Part(_)));
        let (machine, next) = (self.machine.clone(), entry.clone());
        let ahead = move || machine.ahead(&next);
        let ahead = match awaited && !page {
            true => spawn_blocking(ahead).await.map_err(io::Error::other)?,
            false => background::run("apply", BULK, ahead).await.ok_or_else(panicked)?,
        };
        if let Err(fault) = ahead {
            return Ok(Err(fault));
        }
        if page {
            return Ok(self.machine.step(entry));
        }
        let (machine, next) = (self.machine.clone(), entry.clone());
        spawn_blocking(move || machine.step(&next)).await.map_err(io::Error::other)
    }
}

fn panicked() -> io::Error {
    io::Error::other("a thread in the background panicked")
}

/// Encodes a ledger, which may have hundreds of thousands of rows, where apply does not wait for it. `None`: that panicked.
pub async fn encode(frozen: Frozen) -> Option<Capture> {
    background::run("snapshot", BULK, move || frozen.capture()).await
}

fn failed(error: SnapshotError) -> io::Error {
    match error {
        SnapshotError::Io { what, source } => io::Error::new(source.kind(), format!("{what}: {source}")),
        other => io::Error::other(other),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembers)> {
        Ok((self.machine.ledger().applied().map(raft_id), self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let openraft::EntryPayload::Membership(members) = &entry.payload {
                self.members = StoredMembers::new(Some(entry.log_id), members.clone());
            }
            let entry = to_entry(entry);
            let verdict = self.judge(&entry, responder.is_some()).await?.map_err(io::Error::other)?;
            if let Body::Record(record) = &entry.body
                && verdict.is_accepted()
                && let Some(early) = self.machine.early(&record.header)
            {
                let machine = self.machine.clone();
                let prepared = background::run("prepare-seal", BULK, move || machine.prepare_early(early));
                tokio::spawn(prepared.inspect(|done| {
                    if done.is_none() {
                        tracing::error!("what prepares a seal panicked; its seal does it again");
                    }
                }));
            }
            if let Body::Record(record) = &entry.body
                && matches!(record.header.kind, Some(Kind::Genesis(_) | Kind::Join(_)))
            {
                self.known.refresh(&self.machine);
            }
            if let Some(agreement) = &self.agreement {
                agreement.applied(entry.id).map_err(io::Error::other)?;
            }
            if let Some(responder) = responder {
                responder.send(Answer(verdict));
            }
        }
        Ok(())
    }

    /// Forced: a snapshot of now. Otherwise the newest durable one, which is what the keeper asks for
    /// after it has made one.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force {
            return Some(self.get_snapshot_builder().await);
        }
        let meta = self.machine.newest_snapshot()?;
        Some(Builder { machine: self.machine.clone(), task: Task::Announce(meta) })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { machine: self.machine.clone(), task: Task::Take(self.freeze().map(Box::new)) }
    }

    /// Everything that `snapshot` refers to is here and fsynced: the receiver saw to that. At start openraft
    /// may come with what the machine has loaded already; then there is nothing to do.
    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> io::Result<()> {
        let capture = snapshot.capture()?.clone();
        let applied = self.machine.ledger().applied();
        if let Some(agreement) = &self.agreement {
            agreement.holds().map_err(io::Error::other)?;
        }
        if applied.is_some_and(|applied| applied.index >= capture.meta.position.index) {
            return Ok(());
        }
        let (machine, position) = (self.machine.clone(), capture.meta.position);
        // Before anybody sees that it is applied: the log is purged later.
        self.agreement.iter().for_each(|agreement| agreement.installs(position));
        spawn_blocking(move || machine.install(&capture)).await.map_err(io::Error::other)?.map_err(failed)?;
        self.agreement.iter().for_each(|agreement| agreement.installed(position));
        self.members = meta.last_membership.clone();
        self.known.refresh(&self.machine);
        Ok(())
    }

    /// The newest durable snapshot.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snap>> {
        let machine = self.machine.clone();
        let read = spawn_blocking(move || machine.read_snapshot()).await.map_err(io::Error::other)?;
        let capture = match read {
            Ok(None) => return Ok(None),
            Ok(Some(capture)) => capture,
            Err(error) => {
                tracing::error!(%error, "the newest snapshot does not read back; the ledger as it is now goes instead, and the next snapshot replaces it");
                let Some(frozen) = self.freeze() else { return Ok(None) };
                // Apply waits.
                spawn_blocking(move || frozen.capture()).await.map_err(io::Error::other)?
            }
        };
        let meta = capture.meta.clone();
        snap(&meta, SnapshotData::of(self.machine.clone(), capture)).map(Some)
    }
}

/// Makes the ledger at one position durable, or names what is durable.
pub struct Builder {
    machine: Arc<Machine>,
    task: Task,
}

enum Task {
    Take(Option<Box<Frozen>>),
    Announce(SnapshotMeta),
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snap> {
        let capture = match std::mem::replace(&mut self.task, Task::Take(None)) {
            Task::Announce(meta) => return snap(&meta, SnapshotData::announced()),
            // Nothing is applied: there is nothing that a snapshot could be of.
            Task::Take(None) => {
                return Ok(Snap { meta: Meta::default(), snapshot: SnapshotData::announced() });
            }
            Task::Take(Some(frozen)) => encode(*frozen).await.ok_or_else(panicked)?,
        };
        let (machine, kept) = (self.machine.clone(), capture.clone());
        let meta = spawn_blocking(move || machine.keep(kept)).await.map_err(io::Error::other)?;
        snap(&meta.map_err(failed)?, SnapshotData::new(capture))
    }
}

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

mod installing;

use std::io;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt};
use nativelog::background::{self, BULK};
use nativelog::ledger::{LedgerFault, Verdict};
use nativelog::machine::Machine;

use nativelog::record::{Body, Entry, Kind};
use nativelog::snapshot::{Capture, Frozen, SnapshotMeta};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{EntryResponder, RaftStateMachine};
use tokio::task::spawn_blocking;

use crate::agreement::Agreement;
use crate::identity::Known;
use crate::life::Life;
use crate::log_store::to_entry;
use crate::snapshot::{Meta, Snap, SnapshotData, kept_members, snap, stored_members};
use crate::types::{Answer, RaftLogId, StoredMembers, TypeConfig, raft_id};

use installing::{failed, install_when_there_is_room};

/// The ledger as openraft wants it.
pub struct StateMachine {
    machine: Arc<Machine>,
    known: Arc<Known>,
    members: StoredMembers,
    agreement: Option<Arc<Agreement>>,
    life: Option<Arc<Life>>,
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
        Ok(StateMachine { machine, known, members, agreement: None, life: None })
    }

    /// The same, which applies nothing once the leader's ledger was seen to be another one.
    pub(crate) fn agreeing(self, agreement: Arc<Agreement>) -> Self {
        StateMachine { agreement: Some(agreement), ..self }
    }

    /// The same, which waits for nothing once the replica ends.
    pub(crate) fn living(self, life: Arc<Life>) -> Self {
        StateMachine { life: Some(life), ..self }
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
                && let Some(early) = self.machine.early(&record.header, responder.is_some())
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
        let position = capture.meta.position;
        // Before anybody sees that it is applied: the log is purged later.
        self.agreement.iter().for_each(|agreement| agreement.installs(position));
        install_when_there_is_room(&self.machine, self.life.as_deref(), &capture).await?;
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

#[cfg(test)]
mod waiting;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use checkpoint::disk::Disk;
    use checkpoint::store::{Layout, Store};
    use checkpoint::testing::CrashDisk;
    use checkpoint::{CommitId, Digest, EntryKind, Manifest, ManifestEntry, PlanEntry, RelPath, digest};
    use futures::future::join;
    use nativelog::compose::{self, Opening, Pages};
    use nativelog::record::{Header, LogId, LogRecord};
    use nativelog::store::{Identity, LogStore, Options};

    use super::*;
    use crate::config::ReplicaConfig;

    /// So many that a page of the plan, and the seal, take long.
    const FILES: usize = 5000;
    /// So often another task of the thread has its turn before what is judged may go on.
    const TURNS: usize = 200;
    /// Whoever had no turn by then gets none.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A plan of empty files: with its last page the attempt has everything.
    fn plan() -> Vec<PlanEntry> {
        let entry = |path: &str, kind, mode| PlanEntry {
            path: RelPath::parse(path.as_bytes()).unwrap(),
            kind,
            mode,
            size: 0,
            target: Vec::new(),
        };
        let root = entry("", EntryKind::Directory, 0o755);
        let files = (0..FILES).map(|n| entry(&format!("f{n:04}"), EntryKind::File, 0o644));
        std::iter::once(root).chain(files).collect()
    }

    /// Begin, the only page of the plan, and seal, as the first three entries of a log.
    fn epoch() -> [Entry; 3] {
        let opening = Opening {
            job: "job".parse().unwrap(),
            epoch: Some(1),
            token: None,
            commit: CommitId::from_bytes([1; 16]),
            born: 0,
            chunk_bytes: 1 << 20,
            base: None,
            labels: Vec::new(),
            depends_on: Vec::new(),
        };
        let plan = plan();
        let pages = Pages::new(&plan);
        assert_eq!(pages.count(), 1);
        let entries = plan.iter().map(|entry| {
            let is_file = entry.kind == EntryKind::File;
            ManifestEntry::new(entry, if is_file { digest::content(b"") } else { Digest::NONE })
        });
        let root = Manifest { entries: entries.collect() }.root();
        let entry = |index, record: LogRecord| Entry {
            id: LogId { term: 1, node: 1, index },
            body: Body::Record(record),
        };
        [
            entry(0, compose::begin(&opening, &pages)),
            entry(1, pages.part(0, 0)),
            entry(2, compose::seal(0, root)),
        ]
    }

    fn header(entry: &Entry) -> &Header {
        let Body::Record(record) = &entry.body else { panic!("no record") };
        &record.header
    }

    /// A state machine that has applied these.
    fn applied(entries: &[Entry]) -> (StateMachine, LogStore) {
        let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
        let data = Path::new("/data");
        disk.create_dir(data).unwrap();
        let store = Arc::new(Store::open(disk.clone(), data).unwrap());
        let owner = Identity { node: 1, incarnation: [1; 16] };
        let (log, _) = LogStore::open(disk, &Layout::new(data), owner, Options::default()).unwrap();
        let machine = Machine::start(store, log.clone(), Path::new("/dev/null/no-catalog")).unwrap();
        let (answer, answered) = mpsc::channel();
        log.append(entries.to_vec(), Box::new(move |result| drop(answer.send(result))));
        answered.recv().unwrap().unwrap();
        for entry in entries {
            assert!(machine.apply(entry).unwrap().is_accepted());
        }
        let known = Known::new(&ReplicaConfig::new(1, [1; 16], "long", vec![]));
        (StateMachine::new(machine, known).unwrap(), log)
    }

    /// Waits until nobody wants to change the ledger but who applies: the catalog takes what has changed once a second, and
    /// a writer that waits holds off readers.
    async fn settled(machine: &Machine) {
        let began = Instant::now();
        while machine.ledger().has_changed() {
            assert!(began.elapsed() < DEADLINE, "nobody takes what has changed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Has a thread hold what `held` takes for as long as that waits: until it is told, or the deadline. True when it was
    /// told.
    fn hold(
        held: impl FnOnce(&dyn Fn() -> bool) -> bool + Send + 'static,
    ) -> (mpsc::Sender<()>, JoinHandle<bool>) {
        let (tell, told) = mpsc::channel();
        let (took, taken) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            held(&|| {
                took.send(()).unwrap();
                told.recv_timeout(DEADLINE).is_ok()
            })
        });
        taken.recv().unwrap();
        (tell, thread)
    }

    /// Judges what has to wait for `held`, which another task of the same thread ends after some turns.
    async fn judge_beside(
        state: &StateMachine,
        entry: &Entry,
        awaited: bool,
        held: impl FnOnce(&dyn Fn() -> bool) -> bool + Send + 'static,
    ) {
        let (tell, thread) = hold(held);
        let other = async {
            for _ in 0..TURNS {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = tell.send(());
        };
        let (judged, ()) = join(state.judge(entry, awaited), other).await;
        assert!(judged.unwrap().unwrap().is_accepted());
        let in_time = thread.join().unwrap();
        assert!(in_time, "awaited: {awaited}; no other task had a turn before it was judged");
    }

    fn end(state: &StateMachine, log: &LogStore) {
        // First: the performer waits for a seal that was never flushed.
        log.shutdown();
        state.machine.shutdown();
    }

    /// What takes long of a seal is worked out elsewhere: here it takes as long as it takes somebody else to put its tree
    /// together.
    #[tokio::test]
    async fn other_tasks_go_on_while_a_seal_waits_for_its_tree() {
        for awaited in [false, true] {
            let [begin, part, seal] = epoch();
            let (state, log) = applied(&[begin, part.clone()]);
            let early = state.machine.early(header(&part), true).expect("its seal takes long");
            judge_beside(&state, &seal, awaited, move |wait| {
                let _turn = early;
                wait()
            })
            .await;
            end(&state, &log);
        }
    }

    /// So is the step of a seal, which changes the ledger.
    #[tokio::test]
    async fn other_tasks_go_on_while_a_seal_waits_for_the_ledger() {
        for awaited in [false, true] {
            let [begin, part, seal] = epoch();
            let (state, log) = applied(&[begin, part]);
            // Nothing but the step is left.
            state.machine.prepare(header(&seal)).unwrap();
            let machine = state.machine.clone();
            settled(&machine).await;
            judge_beside(&state, &seal, awaited, move |wait| {
                let _ledger = machine.ledger();
                wait()
            })
            .await;
            end(&state, &log);
        }
    }

    #[tokio::test]
    async fn other_tasks_go_on_while_a_page_of_a_plan_waits_for_the_ledger() {
        for awaited in [false, true] {
            let [begin, part, _] = epoch();
            let (state, log) = applied(&[begin]);
            let machine = state.machine.clone();
            settled(&machine).await;
            judge_beside(&state, &part, awaited, move |wait| {
                let _ledger = machine.ledger();
                wait()
            })
            .await;
            end(&state, &log);
        }
    }
}

//! Snapshots, purge, and giving space back: every replica does it for itself.
//!
//! ```text
//!  capture (where entries are applied) ─▶ Machine::keep: durable ─▶ openraft hears of it
//!    ─▶ purge up to Machine::purge_limit ─▶ the purge is fsynced ─▶ Machine::reclaim unlinks
//! ```
//!
//! A snapshot is due when the WAL has grown or many entries were applied. The log is purged only for a reason:
//! it is long, something waits to be given back, or space is short; a follower that is away for a moment
//! finds its entries. Snapshots that turn out to be dear are taken less often: they get 5 % of the time.
//!
//! A follower that is full refuses the entries that bring content, and with them all that stand behind, the record that
//! would make room for it too. Where nothing is committed any more because of that, the leader cuts its log above
//! what that follower has: then it gets a snapshot, in which content is owed, and what stands behind it comes through
//! ([`Stuck`]). What is cut is applied here and in two durable snapshots, like everything that is purged; entries that are
//! not committed stand behind it and stay.
//!
//! **Never.** Nothing here decides what goes: records did. A snapshot that cannot be written is tried again and
//! stops nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::store::Reclaimed;
use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::machine::{Garbage, Machine};
use nativelog::record::LogId;
use nativelog::snapshot::{SnapshotError, SnapshotMeta};
use nativelog::store::LogStore;
use tokio::sync::Notify;

use crate::config::Keeping;
use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::life::Life;
use crate::transfer::MakeRoom;

/// Time given to a snapshot is at most one part in so many.
const SHARE: u32 = 20;
/// How long openraft may take to hear of a snapshot, and a purge to be fsynced. A leader that is sending
/// entries keeps them until they have left; it is tried again then.
const PATIENCE: Duration = Duration::from_secs(10);
/// What cannot be published here holds the log until it is this many times as long as one that is purged.
const HELD_LOGS: u64 = 4;
/// A follower has refused content for so long, and nothing was committed since, before the log is cut for it.
const STUCK: Duration = Duration::from_secs(3);
/// Pause before it is cut once more.
const CUT_AGAIN: Duration = Duration::from_secs(10);
/// The longest pause after a round, however dear it was and however little it could give back.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Takes snapshots, purges and gives back: one round at a time, and a way to begin one early.
pub(crate) struct Keeper {
    node: u64,
    keeping: Keeping,
    machine: Arc<Machine>,
    log: LogStore,
    consensus: Consensus,
    intake: Arc<Intake>,
    life: Arc<Life>,
    wake: Notify,
    turn: tokio::sync::Mutex<()>,
}

/// Why a round did not come to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The snapshot could not be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Something could not be removed.
    #[error("cannot give space back: {0}")]
    Reclaim(#[from] std::io::Error),
    /// The node stops, or openraft is busy.
    #[error("{0}")]
    NotNow(String),
}

impl Keeper {
    /// A keeper of this machine and log.
    pub fn new(
        node: u64,
        keeping: Keeping,
        machine: Arc<Machine>,
        log: LogStore,
        consensus: Consensus,
        intake: Arc<Intake>,
        life: Arc<Life>,
    ) -> Arc<Keeper> {
        let (wake, turn) = (Notify::new(), tokio::sync::Mutex::default());
        Arc::new(Keeper { node, keeping, machine, log, consensus, intake, life, wake, turn })
    }

    /// Space is short: look now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// See [`Replica::reclaim_now`](crate::Replica::reclaim_now).
    pub async fn reclaim_now(&self) -> Result<Reclaimed, KeepError> {
        let _turn = self.turn.lock().await;
        self.reclaim(Hold::Afforded).await
    }

    async fn reclaim(&self, hold: Hold) -> Result<Reclaimed, KeepError> {
        let mut all = Reclaimed::default();
        // The log goes up to the older of two snapshots: after the second round that is now.
        for _ in 0..2 {
            self.snapshot().await?;
            add(&mut all, self.give_back(hold).await?);
        }
        Ok(all)
    }

    /// Looks and works until this node stops.
    pub async fn run(self: Arc<Self>) {
        let mut looks = Looks::default();
        let mut stuck = Stuck::default();
        while !self.life.is_closing() {
            if stuck.look(&self) {
                self.cut_log().await;
            }
            if let Some(round) = looks.look(&self) {
                let mut dear = Duration::ZERO;
                let turn = self.turn.lock().await;
                let done = self.work(&round, &mut dear).await;
                drop(turn);
                if let Err(error) = &done {
                    tracing::warn!(node = self.node, %error, "a round of keeping did not come to its end; it is tried again");
                }
                looks.after(&self, &round, dear, done.unwrap_or(false));
            }
            tokio::select! {
                () = tokio::time::sleep(self.keeping.look_every) => {}
                () = self.wake.notified() => {}
            }
        }
    }
}

impl MakeRoom for Keeper {
    fn make_room(&self) -> BoxFuture<'_, Result<(), String>> {
        async { self.reclaim_now().await.map(drop).map_err(|error| error.to_string()) }.boxed()
    }
}

fn add(all: &mut Reclaimed, more: Reclaimed) {
    all.files += more.files;
    all.bytes += more.bytes;
}

/// What keeps the log on behind a purge that could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Packs that are nowhere else and pins of transfers, until the log is too dear.
    Afforded,
    /// Nothing: packs are copied into files first, and whoever goes by a pin gets another snapshot. That takes nothing from
    /// a transfer but the log behind its ledger: content and staged bytes that a pin knows stay as long as it is held.
    Nothing,
}

/// What a round is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    /// A snapshot is due by itself.
    due: bool,
    purge: bool,
    give_back: bool,
    hurry: bool,
}

/// Whether this leader's log stands still because of followers that are full.
#[derive(Default)]
struct Stuck {
    /// What was committed when it was seen to stand still, and since when it does.
    since: Option<(u64, Instant)>,
    cut: Option<Instant>,
}

impl Stuck {
    /// Whether the log has to be cut. Execution: B is full and has entries up to 5; A and C commit up to 9; A dies. C leads,
    /// and its own entry 10 cannot be committed, because B refuses 6. C cuts its log up to 9, which it has applied; B takes
    /// the snapshot at 9, and then 10. Had A and C not committed 7 to 9, they would come to B behind the snapshot at 6, in
    /// the bounded part that it lets in.
    fn look(&mut self, keeper: &Keeper) -> bool {
        let view = keeper.consensus.view();
        let count = |at: Option<LogId>| at.map_or(0, |at| at.index + 1);
        let (committed, last) = (count(view.committed), keeper.log.log_state().1);
        if committed >= count(last) {
            self.since = None;
            return false;
        }
        let since = match self.since {
            Some((at, since)) if at == committed => since,
            _ => self.since.insert((committed, Instant::now())).1,
        };
        if since.elapsed() < STUCK || self.cut.is_some_and(|cut| cut.elapsed() < CUT_AGAIN) {
            return false;
        }
        let applied = keeper.machine.marks().applied;
        let purged = *keeper.log.purged().borrow();
        // Of one that has no more than was purged here, the next thing is a snapshot anyhow.
        let fed_by_log = |peer: &u64| {
            let has = view.matched.get(peer).copied().flatten().map(|at| at.index + 1);
            has.is_none_or(|has| purged <= has && has < applied) && purged < applied
        };
        let short = keeper.intake.heard().short_for_long(STUCK);
        let cut = short.iter().any(fed_by_log);
        if cut {
            tracing::warn!(
                node = keeper.node,
                ?short,
                committed,
                "nothing is committed while these nodes are full: they get a snapshot"
            );
            self.cut = Some(Instant::now());
        }
        cut
    }
}

/// What was seen before.
#[derive(Default)]
struct Looks {
    /// Bytes of the WAL after the last round.
    wal_bytes: u64,
    /// Since when contents wait.
    contents_since: Option<Instant>,
    /// Since when folders of ended attempts wait.
    attempts_since: Option<Instant>,
    not_before: Option<Instant>,
    fruitless: u32,
}

fn since(waiting: bool, since: &mut Option<Instant>) -> Duration {
    match (waiting, *since) {
        (false, _) => *since = None,
        (true, None) => *since = Some(Instant::now()),
        (true, Some(_)) => {}
    }
    since.map_or(Duration::ZERO, |since| since.elapsed())
}

impl Looks {
    /// What there is to do now.
    fn look(&mut self, keeper: &Keeper) -> Option<Round> {
        let keeping = &keeper.keeping;
        let garbage = keeper.machine.garbage();
        let contents_age = since(garbage.contents > 0, &mut self.contents_since);
        let attempts_age = since(garbage.attempts > 0, &mut self.attempts_since);
        let short = keeper.intake.takes_no_content().is_some();
        if self.not_before.is_some_and(|at| Instant::now() < at) && !(short && self.fruitless == 0) {
            return None;
        }
        let wal_bytes = keeper.log.wal_bytes();
        let grown = wal_bytes.saturating_sub(self.wal_bytes);
        let marks = keeper.machine.marks();
        let entries = marks.applied.saturating_sub(marks.snapshot);
        let due = grown >= keeping.snapshot_log_bytes || entries >= keeping.snapshot_entries;
        let give_back = garbage.bytes >= keeping.garbage_bytes
            || garbage.contents > 0 && contents_age >= keeping.garbage_age
            || garbage.attempts > 0 && attempts_age >= keeping.attempts_age
            || short && garbage != Garbage::default();
        let purge = give_back || due && wal_bytes >= keeping.purge_log_bytes || short && due;
        (due || purge).then_some(Round { due, purge, give_back, hurry: short })
    }

    /// `dear`: what the snapshots of this round took.
    fn after(&mut self, keeper: &Keeper, round: &Round, dear: Duration, progress: bool) {
        self.wal_bytes = keeper.log.wal_bytes();
        self.contents_since = self.contents_since.map(|_| Instant::now());
        self.attempts_since = self.attempts_since.map(|_| Instant::now());
        let mut pause = if round.hurry { Duration::ZERO } else { (dear * (SHARE - 1)).min(PAUSE_MAX) };
        if !round.due && !progress {
            self.fruitless = (self.fruitless + 1).min(16);
            let longer = keeper.keeping.garbage_age.saturating_mul(2u32.pow(self.fruitless.min(6)));
            pause = pause.max(longer.min(PAUSE_MAX));
        } else {
            self.fruitless = 0;
        }
        self.not_before = Some(Instant::now() + pause);
    }
}

impl Keeper {
    /// Purges all that is applied, whatever else keeps it: while nothing is committed, no transfer comes to an end either.
    async fn cut_log(&self) {
        let _turn = self.turn.lock().await;
        if let Err(error) = self.reclaim(Hold::Nothing).await {
            tracing::warn!(node = self.node, %error, "the log could not be cut for a follower that is full; it is tried again");
        }
    }

    /// True when the log got shorter or something was given back.
    async fn work(&self, round: &Round, dear: &mut Duration) -> Result<bool, KeepError> {
        let before = *self.log.purged().borrow();
        let began = Instant::now();
        let taken = self.snapshot().await;
        *dear = began.elapsed();
        let at = taken?;
        if !round.purge {
            return Ok(true);
        }
        let mut all = self.give_back(Hold::Afforded).await?;
        let idle = || self.machine.ledger().applied() == at.as_ref().map(|meta| meta.position);
        // Idle: nothing comes that would make this snapshot the older one, so another is written beside it.
        if round.give_back && self.machine.garbage() != Garbage::default() && idle() {
            self.snapshot().await?;
            add(&mut all, self.give_back(Hold::Afforded).await?);
        }
        let purged = *self.log.purged().borrow();
        if all != Reclaimed::default() {
            tracing::info!(
                node = self.node,
                files = all.files,
                bytes = all.bytes,
                purged,
                "space was given back"
            );
        }
        Ok(purged > before || all != Reclaimed::default())
    }

    /// Makes the ledger of now durable and lets openraft know. The machine writes nothing when both kept snapshots
    /// are of this position already.
    async fn snapshot(&self) -> Result<Option<SnapshotMeta>, KeepError> {
        let captured = self.consensus.capture().await;
        let Some(capture) = captured.map_err(|ended| KeepError::NotNow(ended.to_string()))? else {
            return Ok(None);
        };
        // Not on a thread: while the log waits for room, this does too, and whoever asked may give up meanwhile.
        tokio::select! {
            () = self.machine.wait_performed(capture.meta.position.index) => {}
            () = self.life.ended() => return Err(KeepError::NotNow("the node stops".into())),
        }
        let machine = self.machine.clone();
        let kept = tokio::task::spawn_blocking(move || machine.keep(capture)).await;
        let meta = kept.map_err(|panic| KeepError::NotNow(panic.to_string()))??;
        self.consensus.announce(meta.position, PATIENCE).await.map_err(KeepError::NotNow)?;
        Ok(Some(meta))
    }

    /// Purges the log as far as it may be, waits until that is fsynced, and gives back what it allows.
    async fn give_back(&self, hold: Hold) -> Result<Reclaimed, KeepError> {
        let most = match hold {
            Hold::Afforded => self.keeping.purge_log_bytes.saturating_mul(HELD_LOGS),
            Hold::Nothing => 0,
        };
        let machine = self.machine.clone();
        let let_go = tokio::task::spawn_blocking(move || machine.let_go_of_log(most)).await;
        if let Err(error) = let_go.map_err(|panic| KeepError::NotNow(panic.to_string()))? {
            tracing::warn!(node = self.node, %error, "the log is long, and what could not be published here holds it on");
        }
        let held = self.log.wal_bytes().saturating_add(self.machine.garbage().bytes);
        let too_dear = hold == Hold::Nothing || held > self.keeping.held_bytes;
        let machine = self.machine.clone();
        // A pin may just be taken, or something unlinked.
        let limit = tokio::task::spawn_blocking(move || match too_dear {
            true => machine.purge_limit_beyond_pins(),
            false => machine.purge_limit(),
        });
        let limit = limit.await.map_err(|panic| KeepError::NotNow(panic.to_string()))?;
        if let Some(limit) = limit {
            let mut purged = self.log.purged();
            if *purged.borrow() <= limit.index {
                self.consensus.purge(limit.index).await.map_err(KeepError::NotNow)?;
                let reached = purged.wait_for(|purged| *purged > limit.index);
                if !matches!(tokio::time::timeout(PATIENCE, reached).await, Ok(Ok(_))) {
                    tracing::debug!(node = self.node, %limit, "entries that are to be purged are still being sent");
                }
            }
        }
        let machine = self.machine.clone();
        let given = tokio::task::spawn_blocking(move || machine.reclaim()).await;
        Ok(given.map_err(|panic| KeepError::NotNow(panic.to_string()))??)
    }
}

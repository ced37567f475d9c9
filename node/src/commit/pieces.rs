//! An epoch in pieces: Begin, the plan, pieces through the window, Seal; over the death of leaders.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::plan::{PlanChecker, encode};
use checkpoint::{Coverage, Digest, PlanEntry};
use client::{Failure, pb, wire};
use nativelog::background::{self, UPKEEP};
use nativelog::compose;
use nativelog::ledger::{Accepted, AttemptInfo, Covering, LAPSES_MS, Reason, Rejected, SealedEpoch, Verdict};
use nativelog::record::{Kind, LogId, LogRecord};
use pb::commit_reply::Kind as Reply;
use raft::ProposeError;

use super::compare::is_taken;
use super::driver::Driver;
use super::ground::Ground;
use super::no;
use super::origin::{Broken, Next, Opening, Origin};
use super::window::{self, Covers, Settled, Window};

/// Time without a record of the attempt after which the log is told that its writer lives: well below what counts as
/// silence (30 s of log time, which is counted in steps of a few seconds).
const LIFE_EVERY: Duration = Duration::from_secs(10);
/// A client that lives is heard of within this time, by a piece or by the sign of life that it sends every 3 s.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(6);
/// A client that was not heard of for so long has no room kept for it any more, by log time or a little before.
pub(super) const ROOM_LAPSES: Duration = Duration::from_millis(LAPSES_MS);
/// More known files are forgotten on a thread that nobody waits for.
const MANY: usize = 4096;
/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// An open attempt.
pub(super) struct Attempt {
    pub id: u64,
    pub epoch: u64,
    pub chunk_bytes: u32,
    pub coverage: Coverage,
}

/// Why an attempt does not go on.
pub(super) enum Stopped {
    Failed(Failure),
    /// Sealed already, by an earlier call of this commit.
    Sealed(Box<SealedEpoch>),
    /// The object store did not take it, before anything was sealed.
    Store(Failure),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

/// What is known of an open attempt, and what the log has of it, in slices; `None` when it has ended. Progress begins
/// with what was covered at first: what comes in meanwhile is told too late rather than twice.
async fn resumed_at<G: Ground>(ground: &G, attempt: u64) -> Option<(AttemptInfo, Coverage)> {
    let info = ground.ledger().attempt(attempt)?;
    let mut covering = Covering::of(attempt);
    while covering.slice(&ground.ledger())? {
        tokio::task::yield_now().await;
    }
    Some((info, covering.finish()))
}

/// Waits until the log has not heard for long of an attempt that was `named` to it last then.
pub(super) async fn life_is_due(named: Instant) {
    tokio::time::sleep((named + LIFE_EVERY).saturating_duration_since(Instant::now())).await;
}

/// Drops what may be large on a thread that nobody waits for.
fn forget<K: Send + 'static, V: Send + 'static>(known: BTreeMap<K, V>) {
    if known.len() > MANY {
        tokio::spawn(background::run("forget", UPKEEP, move || drop(known)));
    }
}

/// What comes first while the window has room.
enum Came {
    Settled(Settled),
    Next(Result<Next, Broken>),
    LifeIsDue,
}

/// What became of an attempt that was given up.
pub(super) enum GivenUp {
    Gone,
    /// It had sealed before.
    Sealed(Digest, LogId),
    /// The log has not said: it stays open until its time to live, or ends at any moment.
    Unanswered,
}

/// What Begin led to.
pub(super) enum Begun {
    Open(Attempt),
    /// By this commit, earlier.
    Sealed(SealedEpoch),
    /// The epoch is sealed, by another commit or one that is too old to know: equal content is a success, other
    /// content what the rejection says.
    Taken(Rejected),
}

impl<G: Ground> Driver<'_, G> {
    /// Begins, or goes on with this attempt and no other.
    pub(super) async fn begin(&mut self, attempt: Option<u64>) -> Result<Begun, Failure> {
        let record = LogRecord::new(Kind::Begin(self.order.begin(attempt)), Bytes::new());
        match self.propose(record).await?.1 {
            Verdict::Accepted(Accepted::Sealed(sealed)) => Ok(Begun::Sealed(sealed)),
            Verdict::Accepted(Accepted::Begun { attempt, epoch, resumed, token }) => {
                self.order.epoch = Some(epoch);
                // Also 0, of a job that never had a writer: the first one fences this commit.
                self.order.token = Some(token);
                let mut chunk_bytes = self.order.chunk_bytes;
                let mut coverage = Coverage::default();
                if resumed {
                    self.barrier().await?;
                    let Some((info, covered)) = resumed_at(self.ground, attempt).await else {
                        return match self.ground.ledger().sealed_attempt(attempt) {
                            Some(sealed) => Ok(Begun::Sealed(sealed)),
                            None => Err(no::ended(&self.order.name())),
                        };
                    };
                    chunk_bytes = info.chunk_bytes;
                    self.acknowledged = info.covered_bytes;
                    coverage = covered;
                }
                Ok(Begun::Open(Attempt { id: attempt, epoch, chunk_bytes, coverage }))
            }
            Verdict::Accepted(other) => Err(self.odd(&format!("begin was answered {other:?}"))),
            Verdict::Rejected(rejected) if is_taken(&rejected) => Ok(Begun::Taken(rejected)),
            Verdict::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected)),
        }
    }

    pub(super) async fn in_pieces<O: Origin>(
        &mut self,
        attempt: Attempt,
        origin: &mut O,
    ) -> Result<SealedEpoch, Stopped> {
        let mut window = Window::new(attempt.id);
        self.ended("begin");
        let (hints, sizes) = self.plan(&attempt, origin, &mut window, &mut |_| {}).await?;
        self.ended("plan");
        let opening = Opening {
            attempt: attempt.id,
            epoch: attempt.epoch,
            token: self.order.token,
            chunk_bytes: attempt.chunk_bytes,
            resumed: attempt.coverage.parts > 0,
            coverage: attempt.coverage,
            hints,
            silent: false,
        };
        self.from(origin.open(opening).await)?;
        self.opened = true;
        let mut heard = Instant::now();
        // For the client alone: what this node or its log takes is no silence.
        let mut waited = Duration::ZERO;
        let root = loop {
            if !window.has_room() {
                let settled = self.settle(&mut window).await;
                self.settled(settled, &mut window).await?;
                continue;
            }
            let asked = Instant::now();
            let came = tokio::select! {
                settled = window.settle(), if !window.is_empty() => Came::Settled(settled),
                next = origin.next() => Came::Next(next),
                () = life_is_due(self.named) => Came::LifeIsDue,
            };
            waited += asked.elapsed();
            let next = match came {
                Came::Settled(settled) => {
                    self.settled(settled, &mut window).await?;
                    continue;
                }
                Came::LifeIsDue if O::HASHED_HERE || waited < HEARD_WITHIN => {
                    self.show_life(attempt.id);
                    continue;
                }
                Came::LifeIsDue => {
                    // A client that stands still says nothing: this node does not speak for it.
                    self.named = Instant::now();
                    continue;
                }
                Came::Next(next) => self.from(next)?,
            };
            waited = Duration::ZERO;
            if !O::HASHED_HERE && heard.elapsed() >= ROOM_LAPSES {
                self.ask_again(attempt.id).await?;
            }
            heard = Instant::now();
            match next {
                Next::Alive => {}
                Next::Seal(root) => break root,
                Next::Piece(piece) => {
                    let (covers, bytes) = window::covers(&piece, &sizes);
                    let mut record = compose::piece(attempt.id, piece);
                    if O::HASHED_HERE {
                        record = record.digested_here();
                    }
                    self.send(record, covers, bytes, &mut window).await?;
                }
            }
        };
        self.root = Some(root);
        forget(sizes);
        self.drain(&mut window).await?;
        self.ended("content");
        let sealed = self.seal(attempt.id, root).await?;
        self.ended("seal");
        Ok(sealed)
    }

    /// The client has stood still for so long that others may have been given the room that was kept for it: it asks
    /// anew before anything more of it comes.
    pub(super) async fn ask_again(&mut self, attempt: u64) -> Result<(), Stopped> {
        match self.begin(Some(attempt)).await? {
            Begun::Open(_) => Ok(()),
            Begun::Sealed(sealed) => Err(Stopped::Sealed(Box::new(sealed))),
            Begun::Taken(_) => Err(no::ended(&self.order.name()).into()),
        }
    }

    /// Brings the plan into the log, and shows it to `each` page by page; answers with what the newest epoch knows of its files, digests and sizes in bytes:
    /// made page by page, a million would hold this thread for long.
    pub(super) async fn plan<O: Origin>(
        &mut self,
        attempt: &Attempt,
        origin: &mut O,
        window: &mut Window<G::Stream>,
        each: &mut (dyn FnMut(&[PlanEntry]) + Send),
    ) -> Result<(BTreeMap<u32, Digest>, BTreeMap<u32, u64>), Stopped> {
        let mut previous = self.ground.newest_files(&self.order.job, self.order.store_id).await;
        // Who scanned the directory here has checked it already.
        let mut checker = (!O::HASHED_HERE).then(|| PlanChecker::new(self.ground.limits()));
        let (mut hints, mut sizes) = (BTreeMap::new(), BTreeMap::new());
        let (mut page, mut file) = (0, 0);
        while let Some(entries) = self.from(origin.page().await)? {
            if let Some(checker) = &mut checker {
                let checked = entries.iter().try_for_each(|entry| checker.push(entry.borrowed()));
                checked.map_err(|error| no::refused(&self.order.name(), error.to_string()))?;
            }
            each(&entries);
            for (known, digest) in previous.among(file, &entries).await {
                hints.insert(known, digest);
                sizes.insert(known, entries[(known - file) as usize].size);
            }
            file += wire::id(entries.len());
            if page >= attempt.coverage.parts {
                let part = compose::part(attempt.id, page, encode(entries.iter()).into());
                self.send(part, Covers::Page(page), 0, window).await?;
            }
            page += 1;
        }
        let finished = checker.as_ref().map_or(Ok(()), PlanChecker::finish);
        finished.map_err(|error| no::refused(&self.order.name(), error.to_string()))?;
        self.drain(window).await?;
        Ok((hints, sizes))
    }

    pub(super) async fn send(
        &mut self,
        record: LogRecord,
        covers: Covers,
        bytes: u64,
        window: &mut Window<G::Stream>,
    ) -> Result<(), Stopped> {
        window.push(record, covers, bytes);
        self.named = Instant::now();
        while !window.has_room() {
            let settled = self.settle(window).await;
            self.settled(settled, window).await?;
        }
        if let Err(error) = window.dispatch(self.ground).await {
            self.reconnect(error, window).await?;
        }
        Ok(())
    }

    /// Waits until all records of the window are acknowledged.
    pub(super) async fn drain(&mut self, window: &mut Window<G::Stream>) -> Result<(), Stopped> {
        while !window.is_empty() {
            let patience = self.order.patience.saturating_sub(self.moved.elapsed());
            match tokio::time::timeout(patience, self.settle(window)).await {
                Ok(settled) => self.settled(settled, window).await?,
                Err(_) => {
                    self.last_error = "a quorum has not acknowledged it in time".into();
                    return Err(self.gave_up().into());
                }
            }
        }
        Ok(())
    }

    /// The answer to the oldest record of the window; while none comes, the log hears of this commit all the same.
    pub(super) async fn settle(&mut self, window: &mut Window<G::Stream>) -> Settled {
        loop {
            tokio::select! {
                settled = window.settle() => return settled,
                () = life_is_due(self.named) => self.show_life(window.attempt()),
            }
        }
    }

    /// Names the attempt to the log, so that no other commit takes its place. Nobody waits for the answer: what has
    /// become of the attempt is the answer to its next piece.
    pub(super) fn show_life(&mut self, attempt: u64) {
        self.named = Instant::now();
        let record = LogRecord::new(Kind::Begin(self.order.begin(Some(attempt))), Bytes::new());
        let proposed = self.ground.propose(record);
        tokio::spawn(async move {
            if let Ok(Err(error)) = tokio::time::timeout(LIFE_EVERY, proposed).await {
                tracing::debug!(attempt, %error, "a sign of life did not get through");
            }
        });
    }

    pub(super) async fn settled(
        &mut self,
        settled: Settled,
        window: &mut Window<G::Stream>,
    ) -> Result<(), Stopped> {
        match settled {
            Settled::Acknowledged(bytes) => {
                self.progress(bytes);
                Ok(())
            }
            Settled::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected).into()),
            Settled::Lost(error) => self.reconnect(error, window).await,
        }
    }

    fn progress(&mut self, bytes: u64) {
        self.moved = Instant::now();
        self.acknowledged += bytes;
        self.tell(0);
    }

    /// Tells how far it is; so many bytes more are on their way.
    pub(super) fn tell(&mut self, on_their_way: u64) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            let total_bytes = self.order.declared_bytes;
            self.replies.try_send(Reply::Progress(pb::Progress {
                acknowledged_bytes: self.acknowledged.saturating_add(on_their_way).min(total_bytes),
                total_bytes,
            }));
        }
    }

    /// The leader is another one, or cut off: resume the attempt there and send what the log lacks.
    async fn reconnect(
        &mut self,
        error: ProposeError,
        window: &mut Window<G::Stream>,
    ) -> Result<(), Stopped> {
        tracing::info!(attempt = window.attempt(), %error, unacknowledged = window.len(), "the commit looks for the leader");
        let mut error = error;
        loop {
            self.retry_or_give_up(&error).await?;
            window.disconnect();
            let attempt = match self.begin(Some(window.attempt())).await? {
                Begun::Open(attempt) if attempt.id == window.attempt() => attempt,
                Begun::Sealed(sealed) => return Err(Stopped::Sealed(Box::new(sealed))),
                // `failed` looks at what became of ours.
                Begun::Taken(_) | Begun::Open(_) => return Err(no::ended(&self.order.name()).into()),
            };
            // `begin` has read behind a barrier: what is not covered now was lost with its term, or is on its way in the
            // same term still, and that leader does not take it twice.
            let landed = window.resume(&attempt.coverage);
            if landed > 0 {
                self.moved = Instant::now();
            }
            match window.dispatch(self.ground).await {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }

    async fn seal(&mut self, attempt: u64, root: Digest) -> Result<SealedEpoch, Failure> {
        match self.propose_seal(compose::seal(attempt, root)).await?.1 {
            Verdict::Accepted(Accepted::Sealed(sealed)) => Ok(sealed),
            // One writer, so all pieces are of its directory: as it was at different times.
            Verdict::Rejected(rejected) if rejected.reason == Reason::WrongRoot => {
                Err(no::changed_meanwhile(&self.order))
            }
            Verdict::Accepted(other) => Err(self.odd(&format!("seal was answered {other:?}"))),
            Verdict::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected)),
        }
    }

    /// Gives the attempt up, so that its space comes back; a failure here leaves it to its time to live.
    pub(super) async fn abort(&mut self, attempt: u64, why: &str) -> GivenUp {
        let reason: String = why.chars().take(200).collect();
        let abort = self.ground.propose(compose::abort(attempt, reason));
        match tokio::time::timeout(Duration::from_secs(5), abort).await {
            Ok(Ok((_, Verdict::Rejected(rejected)))) => {
                let sealed = rejected.root.zip(rejected.position);
                return sealed.map_or(GivenUp::Gone, |(root, position)| GivenUp::Sealed(root, position));
            }
            Ok(Ok(_)) => return GivenUp::Gone,
            Ok(Err(error)) => {
                tracing::warn!(attempt, %error, "the attempt stays open until its time to live")
            }
            Err(_) => tracing::warn!(attempt, "the attempt stays open until its time to live"),
        }
        GivenUp::Unanswered
    }
}

//! One commit, from a directory's pieces to the answer. Read this file first.
//!
//! ```text
//!   Begin ──> Begun{attempt}                 the log names the attempt
//!   plan pages                               what the directory looked like
//!   pieces, pipelined, a window of bytes     chunks, packs, zeros, references
//!   Seal ──> Sealed{root, position}          the answer: durable on a quorum
//! ```
//!
//! Where the pieces come from is an [`Origin`]: this node's own splitter, or a client's stream. A tiny
//! epoch is one `Whole` record instead.
//!
//! **When the leader dies**: the records that nobody has acknowledged are kept. Begin is repeated
//! under the same commit id, which resumes the attempt; a read barrier makes this node's ledger
//! current; and of the kept records only those are sent again that the log lacks.
//!
//! **Never**: answer "not committed" when a seal may be in the log. A seal without an answer is
//! repeated (it is idempotent) until there is one or the time without progress is over: then the
//! answer is "unknown".

mod no;
pub mod origin;
mod whole;
mod window;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::plan::PlanChecker;
use checkpoint::{CommitId, Coverage, Digest, JobName};
use client::{Certainty, Code, Failure, pb, wire};
use nativelog::compose;
use nativelog::ledger::{Accepted, Reason, Rejected, SealedEpoch, Verdict};
use nativelog::record::{Kind, LogId, LogRecord, proto};
use pb::commit_reply::Kind as Reply;
use raft::ProposeError;

use crate::node::Node;
use origin::{Broken, Next, Opening, Origin, Replies};
use window::{Covers, Settled, Window};

/// Pause before a proposal is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What is to be committed.
#[derive(Debug, Clone)]
pub struct Order {
    /// The job.
    pub job: JobName,
    /// The epoch; the next one when absent.
    pub epoch: Option<u64>,
    /// The writer's token; absent joins the current writer.
    pub token: Option<u64>,
    /// Names this commit.
    pub commit_id: CommitId,
    /// Labels, for the manifest.
    pub labels: Vec<(String, String)>,
    /// Names of epochs that this one depends on.
    pub depends_on: Vec<String>,
    /// Fence all older writers first.
    pub take_over: bool,
    /// An epoch that is there already is a success.
    pub if_not_exists: bool,
    /// Time without progress after which the commit is given up.
    pub patience: Duration,
    /// Chunk size, bytes.
    pub chunk_bytes: u32,
    /// Sum of the sizes of the plan's files, bytes.
    pub declared_bytes: u64,
    /// Digest of the plan.
    pub plan_digest: Digest,
    /// Entries of the plan.
    pub plan_entries: u32,
    /// Pages of the plan.
    pub plan_pages: u32,
}

impl Order {
    /// Whether the epoch travels as one record.
    pub fn is_tiny(&self) -> bool {
        wire::is_tiny_by(self.declared_bytes, self.plan_entries as usize, self.plan_pages as usize)
    }

    fn begin(&self) -> proto::Begin {
        proto::Begin {
            job: self.job.to_string(),
            epoch: self.epoch,
            token: self.token,
            commit_id: Bytes::copy_from_slice(self.commit_id.as_bytes()),
            declared_bytes: self.declared_bytes,
            chunk_bytes: self.chunk_bytes,
            base: None,
            labels: self
                .labels
                .iter()
                .map(|(key, value)| proto::Label { key: key.clone(), value: value.clone() })
                .collect(),
            depends_on: self.depends_on.clone(),
            plan_digest: Bytes::copy_from_slice(self.plan_digest.as_bytes()),
            plan_pages: self.plan_pages,
            plan_entries: self.plan_entries,
        }
    }

    /// `commit job@epoch`, for people.
    pub fn name(&self) -> String {
        match self.epoch {
            Some(epoch) => format!("commit {}@{epoch}", self.job),
            None => format!("commit {}", self.job),
        }
    }
}

/// Commits what `origin` brings; answers when it is durable on a quorum, or says no, or says unknown.
pub async fn commit<O: Origin>(
    node: &Node,
    order: Order,
    origin: &mut O,
    replies: &Replies,
) -> Result<pb::Committed, Failure> {
    let started = Instant::now();
    let mut driver = Driver {
        node,
        order,
        replies,
        moved: started,
        told: started,
        maybe: false,
        opened: false,
        acknowledged: 0,
        last_error: String::new(),
    };
    let sealed = driver.run(origin).await?;
    Ok(driver.committed(&sealed, started))
}

struct Driver<'a> {
    node: &'a Node,
    order: Order,
    replies: &'a Replies,
    /// When something last moved forward.
    moved: Instant,
    /// When progress was last told.
    told: Instant,
    /// A seal without an answer is on its way.
    maybe: bool,
    /// The origin was told to begin with its pieces.
    opened: bool,
    /// Bytes of files that a quorum has.
    acknowledged: u64,
    last_error: String,
}

/// An open attempt.
struct Attempt {
    id: u64,
    epoch: u64,
    chunk_bytes: u32,
    coverage: Coverage,
}

/// Why an attempt does not go on.
enum Stopped {
    Failed(Failure),
    /// Sealed already, by another commit that joined it or by an earlier call of this one.
    Sealed(Box<SealedEpoch>),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

/// What Begin led to.
enum Begun {
    Open(Attempt),
    Sealed(SealedEpoch),
    /// The epoch is sealed by another commit: equal content is a success, other content a conflict.
    Taken(Rejected),
}

impl Driver<'_> {
    async fn run<O: Origin>(&mut self, origin: &mut O) -> Result<SealedEpoch, Failure> {
        if let Some(sealed) = self.exists_already().await? {
            return Ok(sealed);
        }
        if self.order.take_over {
            self.open_writer().await?;
        }
        if let Err(no_space) = self.node.check_space(self.order.declared_bytes, &self.order.name()).await
            && self.is_new().await?
        {
            return Err(no_space);
        }
        if self.order.is_tiny() {
            return self.whole(origin).await;
        }
        match self.begin().await? {
            Begun::Sealed(sealed) => Ok(sealed),
            Begun::Taken(taken) => self.compare(&taken, origin).await,
            Begun::Open(attempt) => {
                let id = attempt.id;
                match self.in_pieces(attempt, origin).await {
                    Ok(sealed) => Ok(sealed),
                    Err(Stopped::Sealed(sealed)) => self.sealed_already(&sealed, origin).await,
                    Err(Stopped::Failed(failure)) => self.failed(id, failure, origin).await,
                }
            }
        }
    }

    /// An attempt went wrong: it is given up when its source did, and another commit that joined it
    /// may have sealed it.
    async fn failed<O: Origin>(
        &mut self,
        attempt: u64,
        failure: Failure,
        origin: &mut O,
    ) -> Result<SealedEpoch, Failure> {
        match failure.code {
            Code::SourceChanged | Code::Refused => match self.abort(attempt, &failure.why).await {
                Some((root, position)) => Err(no::changed_since(&self.order, &root, position, &failure.why)),
                None => Err(failure),
            },
            Code::Interrupted | Code::NoQuorum | Code::Timeout | Code::Internal => Err(failure),
            _ => {
                let current =
                    tokio::time::timeout(self.order.patience, self.node.replica.read_barrier()).await;
                if !matches!(current, Ok(Ok(_))) {
                    return Err(match failure.code {
                        Code::Fenced | Code::Subsumed | Code::TooLate => failure,
                        _ => no::unknown(&self.order, &failure.to_string()),
                    });
                }
                let sealed = self.node.replica.machine().ledger().sealed_attempt(attempt);
                match sealed {
                    Some(sealed) => self.sealed_already(&sealed, origin).await,
                    None => Err(failure),
                }
            }
        }
    }

    /// The attempt is sealed, though not by this call: does it hold the same directory?
    async fn sealed_already<O: Origin>(
        &mut self,
        sealed: &SealedEpoch,
        origin: &mut O,
    ) -> Result<SealedEpoch, Failure> {
        self.order.epoch = Some(sealed.epoch);
        let root = match self.root(origin).await {
            Ok(root) => root,
            Err(failure) if failure.code == Code::Interrupted => return Err(failure),
            Err(failure) => {
                return Err(no::changed_since(&self.order, &sealed.root, sealed.position, &failure.why));
            }
        };
        if root == sealed.root {
            return Ok(SealedEpoch { already: true, ..sealed.clone() });
        }
        let taken = Rejected {
            reason: Reason::Conflict,
            detail: "another commit sealed the epoch".into(),
            current: 0,
            root: Some(sealed.root),
            position: Some(sealed.position),
        };
        Err(no::rejected(&self.order.name(), &taken))
    }

    /// Of a rejection that names a sealed root: an error when this very commit id sealed it, with
    /// the directory as it was then. A Begin for no number in particular brings that out: it can
    /// only come upon a sealed root through its own commit id.
    async fn own_seal(&mut self, rejected: &Rejected) -> Result<(), Failure> {
        if rejected.reason != Reason::Conflict || rejected.root.is_none() {
            return Ok(());
        }
        // What is sealed may be ours: without this node's ledger nothing is certain.
        let before = std::mem::replace(&mut self.maybe, true);
        self.barrier().await?;
        self.maybe = before;
        let begin = proto::Begin { epoch: None, token: None, ..self.order.begin() };
        let begin = LogRecord::new(Kind::Begin(begin), Bytes::new());
        let own = match self.node.replica.machine().ledger().check(&begin.header) {
            Verdict::Accepted(Accepted::Sealed(sealed)) => Some((sealed.root, sealed.position)),
            Verdict::Rejected(Rejected {
                reason: Reason::Conflict,
                root: Some(root),
                position: Some(position),
                ..
            }) => Some((root, position)),
            _ => None,
        };
        match own {
            Some((root, position)) => {
                Err(no::changed_since(&self.order, &root, position, "the directory has changed since"))
            }
            None => Ok(()),
        }
    }

    /// With `--if-not-exists`: the epoch, when it is there.
    async fn exists_already(&mut self) -> Result<Option<SealedEpoch>, Failure> {
        let Some(epoch) = self.order.epoch.filter(|_| self.order.if_not_exists) else { return Ok(None) };
        self.barrier().await?;
        let ledger = self.node.replica.machine().ledger();
        let found = ledger.epoch(&self.order.job, epoch);
        Ok(found.map(|found| SealedEpoch { already: true, ..SealedEpoch::clone(&found.sealed) }))
    }

    /// Whether Begin would open a new attempt. A repeat needs no new space, and its answer must not
    /// be "not committed" when it was.
    async fn is_new(&mut self) -> Result<bool, Failure> {
        self.barrier().await?;
        let begin = LogRecord::new(Kind::Begin(self.order.begin()), Bytes::new());
        let verdict = self.node.replica.machine().ledger().check(&begin.header);
        Ok(matches!(verdict, Verdict::Accepted(Accepted::Begun { resumed: false, .. })))
    }

    async fn open_writer(&mut self) -> Result<(), Failure> {
        // The commit's id names the attempt; the writer needs one of its own, the same at every repeat.
        let derived = checkpoint::digest::checksum(&[b"writer of ", self.order.commit_id.as_bytes()]);
        let record = compose::open_writer(&self.order.job, CommitId::from_bytes(derived));
        match self.propose(record).await?.1 {
            Verdict::Accepted(Accepted::Opened { token }) => {
                self.order.token = Some(token);
                Ok(())
            }
            Verdict::Accepted(other) => Err(self.odd(&format!("open_writer was answered {other:?}"))),
            Verdict::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected)),
        }
    }

    // ---- an epoch in pieces

    async fn begin(&mut self) -> Result<Begun, Failure> {
        let record = LogRecord::new(Kind::Begin(self.order.begin()), Bytes::new());
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
                    let ledger = self.node.replica.machine().ledger();
                    let info = ledger.attempt(attempt);
                    let Some(info) = info else {
                        return match ledger.sealed_attempt(attempt) {
                            Some(sealed) => Ok(Begun::Sealed(SealedEpoch {
                                already: true,
                                ..SealedEpoch::clone(&sealed)
                            })),
                            None => Err(no::ended(&self.order.name())),
                        };
                    };
                    chunk_bytes = info.chunk_bytes;
                    self.acknowledged = info.covered_bytes;
                    coverage = ledger.coverage(attempt).unwrap_or_default();
                }
                Ok(Begun::Open(Attempt { id: attempt, epoch, chunk_bytes, coverage }))
            }
            Verdict::Accepted(other) => Err(self.odd(&format!("begin was answered {other:?}"))),
            Verdict::Rejected(rejected) if rejected.reason == Reason::Conflict && rejected.root.is_some() => {
                Ok(Begun::Taken(rejected))
            }
            Verdict::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected)),
        }
    }

    async fn in_pieces<O: Origin>(
        &mut self,
        attempt: Attempt,
        origin: &mut O,
    ) -> Result<SealedEpoch, Stopped> {
        let mut window = Window::new(attempt.id);
        let hints = self.plan(&attempt, origin, &mut window).await?;
        let sizes: BTreeMap<u32, u64> = hints.iter().map(|(file, (_, size))| (*file, *size)).collect();
        let opening = Opening {
            attempt: attempt.id,
            epoch: attempt.epoch,
            token: self.order.token,
            chunk_bytes: attempt.chunk_bytes,
            resumed: attempt.coverage.parts > 0,
            coverage: attempt.coverage,
            hints: hints.into_iter().map(|(file, (digest, _))| (file, digest)).collect(),
            silent: false,
        };
        self.from(origin.open(opening).await)?;
        self.opened = true;
        let root = loop {
            let next = if window.has_room() {
                tokio::select! {
                    settled = window.settle(), if !window.is_empty() => {
                        self.settled(settled, &mut window).await?;
                        continue;
                    }
                    next = origin.next() => self.from(next)?,
                }
            } else {
                let settled = window.settle().await;
                self.settled(settled, &mut window).await?;
                continue;
            };
            match next {
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
        self.drain(&mut window).await?;
        Ok(self.seal(attempt.id, root).await?)
    }

    /// Brings the plan into the log; answers with what the newest epoch knows of its files.
    async fn plan<O: Origin>(
        &mut self,
        attempt: &Attempt,
        origin: &mut O,
        window: &mut Window,
    ) -> Result<BTreeMap<u32, (Digest, u64)>, Stopped> {
        let previous = self.node.newest_files(&self.order.job).await;
        let mut checker = PlanChecker::new(self.node.config.limits);
        let mut hints = BTreeMap::new();
        let (mut page, mut file) = (0, 0);
        while let Some(entries) = self.from(origin.page().await)? {
            for entry in &entries {
                checker.push(entry).map_err(|error| no::refused(&self.order.name(), error.to_string()))?;
                if let Some((size, digest)) = previous.get(entry.path.as_bytes())
                    && *size == entry.size
                    && entry.size > 0
                {
                    hints.insert(file, (*digest, entry.size));
                }
                file += 1;
            }
            if page >= attempt.coverage.parts {
                let entries = entries.iter().map(compose::entry_to_proto).collect();
                let part = Kind::Part(proto::Part { attempt: attempt.id, page, entries });
                self.send(LogRecord::new(part, Bytes::new()), Covers::Page(page), 0, window).await?;
            }
            page += 1;
        }
        checker.finish().map_err(|error| no::refused(&self.order.name(), error.to_string()))?;
        self.drain(window).await?;
        Ok(hints)
    }

    async fn send(
        &mut self,
        record: LogRecord,
        covers: Covers,
        bytes: u64,
        window: &mut Window,
    ) -> Result<(), Stopped> {
        window.push(record, covers, bytes);
        while !window.has_room() {
            let settled = window.settle().await;
            self.settled(settled, window).await?;
        }
        if let Err(error) = window.dispatch(&self.node.replica).await {
            self.reconnect(error, window).await?;
        }
        Ok(())
    }

    /// Waits until all records of the window are acknowledged.
    async fn drain(&mut self, window: &mut Window) -> Result<(), Stopped> {
        while !window.is_empty() {
            let patience = self.order.patience.saturating_sub(self.moved.elapsed());
            match tokio::time::timeout(patience, window.settle()).await {
                Ok(settled) => self.settled(settled, window).await?,
                Err(_) => {
                    self.last_error = "a quorum has not acknowledged it in time".into();
                    return Err(self.gave_up().into());
                }
            }
        }
        Ok(())
    }

    async fn settled(&mut self, settled: Settled, window: &mut Window) -> Result<(), Stopped> {
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
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            self.replies.try_send(Reply::Progress(pb::Progress {
                acknowledged_bytes: self.acknowledged,
                total_bytes: self.order.declared_bytes,
            }));
        }
    }

    /// The leader is another one, or cut off: resume the attempt there and send what the log lacks.
    async fn reconnect(&mut self, error: ProposeError, window: &mut Window) -> Result<(), Stopped> {
        tracing::info!(attempt = window.attempt(), %error, unacknowledged = window.len(), "the commit looks for the leader");
        let mut error = error;
        loop {
            self.retry_or_give_up(&error).await?;
            window.disconnect();
            let attempt = match self.begin().await? {
                Begun::Open(attempt) if attempt.id == window.attempt() => attempt,
                Begun::Sealed(sealed) => return Err(Stopped::Sealed(Box::new(sealed))),
                // `failed` looks at what became of ours.
                Begun::Taken(_) | Begun::Open(_) => return Err(no::ended(&self.order.name()).into()),
            };
            // `begin` has read behind a barrier: what is not covered now never will be by what was sent.
            let landed = window.resume(&attempt.coverage);
            if landed > 0 {
                self.moved = Instant::now();
            }
            match window.dispatch(&self.node.replica).await {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }

    async fn seal(&mut self, attempt: u64, root: Digest) -> Result<SealedEpoch, Failure> {
        match self.propose_seal(compose::seal(attempt, root)).await?.1 {
            Verdict::Accepted(Accepted::Sealed(sealed)) => Ok(sealed),
            Verdict::Accepted(other) => Err(self.odd(&format!("seal was answered {other:?}"))),
            Verdict::Rejected(rejected) => Err(no::rejected(&self.order.name(), &rejected)),
        }
    }

    /// The epoch is sealed by another commit: does it hold the same directory?
    async fn compare<O: Origin>(&mut self, taken: &Rejected, origin: &mut O) -> Result<SealedEpoch, Failure> {
        self.own_seal(taken).await?;
        let epoch = self.order.epoch.unwrap_or_default();
        let root = self.root(origin).await?;
        if taken.root != Some(root) {
            return Err(no::rejected(&self.order.name(), taken));
        }
        let ledger = self.node.replica.machine().ledger();
        match ledger.epoch(&self.order.job, epoch) {
            Some(found) if found.sealed.root == root => {
                Ok(SealedEpoch { already: true, ..SealedEpoch::clone(&found.sealed) })
            }
            _ => Err(no::rejected(&self.order.name(), taken)),
        }
    }

    /// The root of the origin; its pieces are wanted by nobody.
    async fn root<O: Origin>(&mut self, origin: &mut O) -> Result<Digest, Failure> {
        if !self.opened {
            self.open_to_compare(origin).await?;
        }
        loop {
            match self.from(origin.next().await)? {
                Next::Seal(root) => return Ok(root),
                Next::Piece(_) => {}
            }
        }
    }

    /// Asks the origin for the root alone: everything counts as covered.
    async fn open_to_compare<O: Origin>(&mut self, origin: &mut O) -> Result<(), Failure> {
        while self.from(origin.page().await)?.is_some() {}
        let mut coverage = Coverage::default();
        coverage.add_files(0..self.order.plan_entries);
        let epoch = self.order.epoch.unwrap_or_default();
        let opening = Opening { epoch, coverage, resumed: true, ..Opening::silent(self.order.chunk_bytes) };
        self.from(origin.open(Opening { silent: false, ..opening }).await)?;
        self.opened = true;
        Ok(())
    }

    /// Gives the attempt up, so that its space comes back; a failure here leaves it to its time to live.
    /// Answers with root and position when it is sealed.
    async fn abort(&mut self, attempt: u64, why: &str) -> Option<(Digest, LogId)> {
        let reason: String = why.chars().take(200).collect();
        let abort = self.node.replica.propose(compose::abort(attempt, reason));
        match tokio::time::timeout(Duration::from_secs(5), abort).await {
            Ok(Ok((_, Verdict::Rejected(rejected)))) => return rejected.root.zip(rejected.position),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(attempt, %error, "the attempt stays open until its time to live")
            }
            Err(_) => tracing::warn!(attempt, "the attempt stays open until its time to live"),
        }
        None
    }

    // ---- single proposals

    /// Proposes a record that may be repeated, until there is an answer.
    async fn propose(&mut self, record: LogRecord) -> Result<(LogId, Verdict), Failure> {
        loop {
            let patience = self.order.patience.saturating_sub(self.moved.elapsed()).max(RETRY_PAUSE);
            let error = match tokio::time::timeout(patience, self.node.replica.propose(record.clone())).await
            {
                Ok(Ok(answer)) => {
                    self.moved = Instant::now();
                    return Ok(answer);
                }
                Ok(Err(error)) => error,
                Err(_) => ProposeError::Unknown { why: "a quorum has not acknowledged it in time".into() },
            };
            self.retry_or_give_up(&error).await?;
        }
    }

    /// The same for a record that seals: from its first unknown outcome on, so is the commit's.
    async fn propose_seal(&mut self, record: LogRecord) -> Result<(LogId, Verdict), Failure> {
        loop {
            let patience = self.order.patience.saturating_sub(self.moved.elapsed()).max(RETRY_PAUSE);
            let error = match tokio::time::timeout(patience, self.node.replica.propose(record.clone())).await
            {
                Ok(Ok((position, Verdict::Accepted(Accepted::Sealed(sealed))))) => {
                    // Our own lost seal was the one that did it.
                    let already = sealed.already && !self.maybe;
                    return Ok((
                        position,
                        Verdict::Accepted(Accepted::Sealed(SealedEpoch { already, ..sealed })),
                    ));
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => ProposeError::Unknown { why: "a quorum has not acknowledged it in time".into() },
            };
            self.maybe |= !matches!(error, ProposeError::Unavailable { .. });
            self.retry_or_give_up(&error).await?;
        }
    }

    /// Waits until everything committed so far is applied here.
    async fn barrier(&mut self) -> Result<(), Failure> {
        loop {
            match self.node.replica.read_barrier().await {
                Ok(_) => return Ok(()),
                Err(error) => self.retry_or_give_up(&error).await?,
            }
        }
    }

    async fn retry_or_give_up(&mut self, error: &ProposeError) -> Result<(), Failure> {
        self.last_error = match error {
            ProposeError::Unavailable { why } | ProposeError::Unknown { why } => why.clone(),
            ProposeError::Fault { why } => {
                self.last_error = format!("node {} has a fault: {why}", self.node.config.id);
                return Err(self.gave_up());
            }
        };
        if self.moved.elapsed() + RETRY_PAUSE >= self.order.patience {
            return Err(self.gave_up());
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }

    // ---- answers

    fn gave_up(&self) -> Failure {
        let failure = if self.maybe {
            no::unknown(&self.order, &self.last_error)
        } else {
            no::no_quorum(&self.order, &self.last_error)
        };
        Failure { epoch: self.order.epoch, ..failure }
    }

    fn odd(&self, why: &str) -> Failure {
        let certainty = if self.maybe { Certainty::Unknown } else { Certainty::No };
        Failure::new(Code::Internal, "this is a bug in epochlog")
            .what(self.order.name())
            .why(why)
            .fix("please report it")
            .committed(certainty)
    }

    fn from<T>(&mut self, brought: Result<T, Broken>) -> Result<T, Failure> {
        self.moved = Instant::now();
        brought.map_err(|broken| match broken {
            Broken::GaveUp(failure) => *failure,
            Broken::Gone => Failure::new(Code::Interrupted, "the client went away").what(self.order.name()),
        })
    }

    fn committed(&self, sealed: &SealedEpoch, started: Instant) -> pb::Committed {
        pb::Committed {
            quorum_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            voters: u32::try_from(self.node.voters().len()).unwrap_or(u32::MAX),
            ..sealed_pb(sealed)
        }
    }
}

/// A sealed epoch as the API tells it.
fn sealed_pb(sealed: &SealedEpoch) -> pb::Committed {
    pb::Committed {
        job: sealed.job.to_string(),
        epoch: sealed.epoch,
        root: Bytes::copy_from_slice(sealed.root.as_bytes()),
        position: Some(pb::Position { term: sealed.position.term, index: sealed.position.index }),
        attempt: sealed.attempt,
        files: sealed.files,
        bytes: sealed.bytes,
        new_bytes: sealed.new_bytes,
        new_files: sealed.new_files,
        log_bytes: sealed.log_bytes,
        already: sealed.already,
        ..pb::Committed::default()
    }
}

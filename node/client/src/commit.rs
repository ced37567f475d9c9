//! The client's side of a commit: scan, split, stream; when a node dies, go on at the next one.
//!
//! By path where the node proves that it sees the same directory, else as a stream of pieces. The
//! answer is never better than what is known: a seal that was handed to a node which then died may
//! have been committed, so only another node's word can make a "no" of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use checkpoint::digest::Digest;
use checkpoint::epoch::{CommitId, JobName};
use checkpoint::limits::{self, Limits};
use checkpoint::plan::{Plan, PlanEntry};
use checkpoint::split::{Coverage, Splitter};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::{Client, unavailable};
use crate::failure::{Certainty, Code, Failure};
use crate::pb::commit_reply::Kind as Reply;
use crate::pb::commit_request::Kind as Request;
use crate::{pb, place, wire};

/// Messages on their way to the node: at most this many pieces of at most one chunk each.
const PIECES_QUEUED_MAX: usize = 8;
/// Pause before the endpoints are tried once more.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// What to commit, and how.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The job.
    pub job: JobName,
    /// The epoch; the next one when absent.
    pub epoch: Option<u64>,
    /// The writer's token; absent joins the job's current writer.
    pub token: Option<u64>,
    /// Names this commit: a repeat under the same id finds its own outcome.
    pub commit_id: CommitId,
    /// Labels, `key=value`.
    pub labels: Vec<(String, String)>,
    /// Names of epochs this one depends on.
    pub depends_on: Vec<String>,
    /// Wait until every voter has published it, not only until it is durable on a quorum.
    pub wait_all: bool,
    /// Fence all older writers first.
    pub take_over: bool,
    /// An epoch that is there already is a success.
    pub if_not_exists: bool,
    /// The caller promises that files never change in place.
    pub immutable: bool,
    /// Let a node on this machine read the directory itself.
    pub by_path: bool,
    /// Limits of the plan.
    pub limits: Limits,
}

impl Commit {
    /// A commit of the next epoch of `job` with a fresh commit id.
    pub fn new(job: JobName) -> Commit {
        Commit {
            job,
            epoch: None,
            token: None,
            commit_id: CommitId::from_bytes(rand::random()),
            labels: Vec::new(),
            depends_on: Vec::new(),
            wait_all: false,
            take_over: false,
            if_not_exists: false,
            immutable: false,
            by_path: true,
            limits: Limits::default(),
        }
    }
}

/// What happens on the way.
#[derive(Debug, Clone)]
pub enum Event {
    /// The directory has been scanned (streams only).
    Planned {
        /// Files in the plan.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The attempt is open.
    Opened(pb::Opened),
    /// Bytes that a quorum has acknowledged so far.
    Progress(pb::Progress),
    /// Durable on a quorum. With `wait_all` more follows.
    Committed(Box<pb::Committed>),
    /// A node broke off; the commit goes on elsewhere.
    Reconnecting {
        /// The endpoint that broke off.
        endpoint: String,
        /// Why.
        why: String,
    },
}

/// A commit that went well.
#[derive(Debug, Clone)]
pub struct Done {
    /// The answer of the quorum.
    pub committed: pb::Committed,
    /// With `wait_all`: who has published it.
    pub published: Option<pb::Published>,
}

/// How one node's part in a commit ended.
enum Ended {
    Done(Done),
    Failed(Failure),
    BrokeOff(Failure),
    StreamIt,
}

impl Client {
    /// Commits the directory `dir`. `on` sees events as they come and must not block.
    pub async fn commit(
        &self,
        dir: &Path,
        commit: Commit,
        on: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Done, Failure> {
        let mut run = Run {
            client: self,
            what: what(&commit),
            dir: dir.to_owned(),
            place: None,
            plan: None,
            commit,
            on,
            maybe: Arc::new(AtomicBool::new(false)),
            moved: Instant::now(),
        };
        let place = place::of(dir).map_err(|error| {
            refused(&run.what, format!("{}: {error}", dir.display())).fix("name a directory that can be read")
        })?;
        if run.commit.by_path {
            run.place = Some(place);
        }
        run.go().await
    }
}

fn what(commit: &Commit) -> String {
    match commit.epoch {
        Some(epoch) => format!("commit {}@{epoch}", commit.job),
        None => format!("commit {}", commit.job),
    }
}

fn refused(what: &str, why: String) -> Failure {
    Failure::new(Code::Refused, "refused, the epoch was NOT committed")
        .what(what)
        .why(why)
        .committed(Certainty::No)
}

/// One commit over as many nodes as it takes.
struct Run<'a> {
    client: &'a Client,
    what: String,
    dir: PathBuf,
    place: Option<pb::SourcePath>,
    plan: Option<Arc<Plan>>,
    commit: Commit,
    on: &'a (dyn Fn(Event) + Send + Sync),
    /// A node that has not answered may have sealed.
    maybe: Arc<AtomicBool>,
    /// When something last moved forward.
    moved: Instant,
}

impl Run<'_> {
    async fn go(&mut self) -> Result<Done, Failure> {
        let mut reasons = BTreeMap::new();
        let mut last: Option<Failure> = None;
        loop {
            for endpoint in self.client.endpoints() {
                let before = self.maybe.load(Ordering::Relaxed);
                let ended = match self.at(&endpoint).await? {
                    Ended::StreamIt => {
                        self.place = None;
                        self.maybe.store(before, Ordering::Relaxed);
                        self.at(&endpoint).await?
                    }
                    ended => ended,
                };
                let failure = match ended {
                    Ended::Done(done) => {
                        self.client.prefer(&endpoint);
                        return Ok(done);
                    }
                    Ended::Failed(failure) if !failure.is_transient() => return Err(failure),
                    Ended::StreamIt => Failure::new(Code::Unavailable, "the node refused the stream"),
                    Ended::Failed(failure) => {
                        // This node knows what became of what it was handed; of others it does not.
                        self.maybe
                            .store(before || failure.committed == Certainty::Unknown, Ordering::Relaxed);
                        failure
                    }
                    Ended::BrokeOff(failure) => failure,
                };
                let known = reasons.insert(endpoint.clone(), failure.why.clone());
                if known.as_ref() != Some(&failure.why) {
                    (self.on)(Event::Reconnecting { endpoint, why: failure.why.clone() });
                }
                last = Some(failure);
            }
            if self.moved.elapsed() + ROUND_PAUSE >= self.client.options.timeout || reasons.is_empty() {
                return Err(self.gave_up(&reasons, last));
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// What is known when no node gave a final answer.
    fn gave_up(&self, reasons: &BTreeMap<String, String>, last: Option<Failure>) -> Failure {
        let failure = unavailable(&self.what, reasons, last);
        if self.maybe.load(Ordering::Relaxed) {
            let epoch = self.commit.epoch.map(|epoch| format!(" --epoch {epoch}")).unwrap_or_default();
            return Failure {
                code: Code::Timeout,
                committed: Certainty::Unknown,
                sentence: "no answer, it is UNKNOWN whether the epoch was committed".into(),
                fix: format!(
                    "repeat, it is idempotent: epochlog commit {} --job {}{epoch} --commit-id {}",
                    self.dir.display(),
                    self.commit.job,
                    self.commit.commit_id
                ),
                epoch: self.commit.epoch,
                ..failure
            };
        }
        let sentence = match failure.code {
            Code::NoQuorum => "no quorum, the epoch was NOT committed",
            _ => "no node answered, the epoch was NOT committed",
        };
        Failure {
            committed: Certainty::No,
            code: if failure.code == Code::Timeout { Code::Unavailable } else { failure.code },
            sentence: sentence.into(),
            fix: "start the nodes or correct --endpoints, then repeat the command: it is idempotent. Your directory is untouched."
                .into(),
            ..failure
        }
    }

    async fn scan(&mut self) -> Result<Arc<Plan>, Failure> {
        if let Some(plan) = &self.plan {
            return Ok(plan.clone());
        }
        let (dir, limits) = (self.dir.clone(), self.commit.limits);
        let scanned = tokio::task::spawn_blocking(move || Plan::scan(&dir, &limits)).await;
        let plan = scanned
            .expect("a scan does not panic")
            .map_err(|error| wire::plan_failure(&self.what, &error))?;
        let plan = Arc::new(plan);
        (self.on)(Event::Planned { files: plan.files(), bytes: plan.bytes() });
        self.plan = Some(plan.clone());
        Ok(plan)
    }

    fn start(&self, plan: Option<&Plan>) -> pb::Start {
        let commit = &self.commit;
        pb::Start {
            job: commit.job.to_string(),
            epoch: commit.epoch,
            token: commit.token,
            commit_id: commit.commit_id.as_bytes().to_vec().into(),
            labels: commit
                .labels
                .iter()
                .map(|(key, value)| pb::Label { key: key.clone(), value: value.clone() })
                .collect(),
            depends_on: commit.depends_on.clone(),
            wait: if commit.wait_all { pb::Wait::All } else { pb::Wait::Quorum }.into(),
            wait_ms: u64::try_from(self.client.options.timeout.as_millis()).unwrap_or(u64::MAX),
            take_over: commit.take_over,
            if_not_exists: commit.if_not_exists,
            source: if plan.is_none() { self.place.clone() } else { None },
            declared_bytes: plan.map_or(0, Plan::bytes),
            plan_digest: plan.map_or_else(Default::default, |plan| plan.digest().as_bytes().to_vec().into()),
            plan_entries: plan.map_or(0, |plan| wire::id(plan.entries.len())),
            plan_pages: plan.map_or(0, |plan| wire::id(wire::pages(&plan.entries).len())),
            chunk_bytes: 0,
            immutable: commit.immutable,
        }
    }

    /// The commit at one node. An error is final; what another node may do better is in `Ended`.
    async fn at(&mut self, endpoint: &str) -> Result<Ended, Failure> {
        let mut stub = self.client.stub(endpoint)?;
        let plan = match &self.place {
            Some(_) => None,
            None => Some(self.scan().await?),
        };
        let (send, requests) = mpsc::channel(PIECES_QUEUED_MAX);
        let start = self.start(plan.as_deref());
        let tiny = plan.as_deref().is_some_and(wire::is_tiny);
        let feeder = tokio::spawn(feed_plan(send.clone(), start, plan.clone()));
        let mut sender = Some(send);
        if tiny {
            let plan = plan.clone().expect("only a scanned plan is known to be tiny");
            self.split(
                plan,
                limits::CHUNK_BYTES_DEFAULT,
                Coverage::default(),
                BTreeMap::new(),
                &mut sender,
                Some(feeder),
            );
        }
        let by_path = plan.is_none();
        if by_path {
            sender = None;
        }
        let call = stub.commit(ReceiverStream::new(requests));
        let mut replies = match tokio::time::timeout(self.client.options.timeout, call).await {
            Ok(Ok(replies)) => replies.into_inner(),
            Ok(Err(status)) => return Ok(Ended::BrokeOff(Failure::from_status(&status))),
            Err(_) => {
                return Ok(Ended::BrokeOff(
                    Failure::new(Code::Unavailable, "no answer").why("no answer in time"),
                ));
            }
        };
        if by_path {
            // The node seals by itself: from here on it may have.
            self.maybe.store(true, Ordering::Relaxed);
        }
        let mut hints = BTreeMap::new();
        let mut committed: Option<pb::Committed> = None;
        // The node has its own, equal, timeout and says more than we can: it may speak first.
        let patience = self.client.options.timeout + Duration::from_secs(5);
        loop {
            let reply = match tokio::time::timeout(patience, replies.message()).await {
                Ok(Ok(Some(pb::CommitReply { kind: Some(reply) }))) => reply,
                Ok(Ok(Some(pb::CommitReply { kind: None }))) => continue,
                Ok(Ok(None)) => return Ok(broke_off(committed, "the node ended the answer early".into())),
                Ok(Err(status)) => return Ok(broke_off(committed, Failure::from_status(&status).why)),
                Err(_) => return Ok(broke_off(committed, "no answer in time".into())),
            };
            match reply {
                Reply::Hints(more) => {
                    hints.extend(more.files.iter().filter_map(|known| {
                        Digest::from_slice(&known.digest).map(|digest| (known.file, digest))
                    }));
                }
                Reply::Opened(opened) => {
                    self.moved = Instant::now();
                    self.commit.epoch = Some(opened.epoch);
                    self.what = what(&self.commit);
                    (self.on)(Event::Opened(opened.clone()));
                    if let Some(plan) = plan.clone().filter(|_| !tiny) {
                        let covered = opened.covered.as_ref().map(wire::coverage).unwrap_or_default();
                        let hints = std::mem::take(&mut hints);
                        self.split(plan, opened.chunk_bytes, covered, hints, &mut sender, None);
                    }
                }
                Reply::Progress(progress) => {
                    self.moved = Instant::now();
                    (self.on)(Event::Progress(progress));
                }
                Reply::Committed(answer) => {
                    self.moved = Instant::now();
                    (self.on)(Event::Committed(Box::new(answer.clone())));
                    if !self.commit.wait_all {
                        return Ok(Ended::Done(Done { committed: answer, published: None }));
                    }
                    committed = Some(answer);
                }
                Reply::Published(published) => {
                    if let Some(committed) = committed.take() {
                        return Ok(Ended::Done(Done { committed, published: Some(published) }));
                    }
                }
                Reply::Failed(failed) => return Ok(Ended::Failed(Failure::from_pb(failed))),
                Reply::StreamIt(_) => return Ok(Ended::StreamIt),
            }
        }
    }

    /// Splits the directory on a thread of its own; the pieces go to the node as they come.
    fn split(
        &self,
        plan: Arc<Plan>,
        chunk_bytes: u32,
        covered: Coverage,
        hints: BTreeMap<u32, Digest>,
        sender: &mut Option<mpsc::Sender<pb::CommitRequest>>,
        after: Option<tokio::task::JoinHandle<()>>,
    ) {
        let Some(sender) = sender.take() else { return };
        let dir = self.dir.clone();
        let maybe = self.maybe.clone();
        let what = self.what.clone();
        tokio::spawn(async move {
            if let Some(after) = after {
                // A feeder that failed has closed the stream: the sends below then end at once.
                let _ = after.await;
            }
            tokio::task::spawn_blocking(move || {
                let last = match split_into(&dir, &plan, chunk_bytes, &covered, &hints, &sender) {
                    Ok(Some(root)) => {
                        maybe.store(true, Ordering::Relaxed);
                        Request::Seal(pb::Seal { root: root.as_bytes().to_vec().into() })
                    }
                    Ok(None) => return,
                    Err(error) => {
                        Request::GiveUp(pb::GiveUp { why: Some(wire::split_failure(&what, &error).to_pb()) })
                    }
                };
                let _ = sender.blocking_send(pb::CommitRequest { kind: Some(last) });
            });
        });
    }
}

fn broke_off(committed: Option<pb::Committed>, why: String) -> Ended {
    match committed {
        // Durable already; only the news of who has published it is missing.
        Some(committed) => Ended::Done(Done { committed, published: Some(pb::Published::default()) }),
        None => Ended::BrokeOff(Failure::new(Code::Unavailable, "the node broke off").why(why)),
    }
}

/// Sends Start and the plan.
async fn feed_plan(send: mpsc::Sender<pb::CommitRequest>, start: pb::Start, plan: Option<Arc<Plan>>) {
    if send.send(pb::CommitRequest { kind: Some(Request::Start(start)) }).await.is_err() {
        return;
    }
    let Some(plan) = plan else { return };
    for (page, range) in wire::pages(&plan.entries).into_iter().enumerate() {
        let page = pb::PlanPage {
            page: wire::id(page),
            entries: plan.entries[range].iter().map(wire::plan_entry).collect(),
        };
        if send.send(pb::CommitRequest { kind: Some(Request::Page(page)) }).await.is_err() {
            return;
        }
    }
}

/// Sends all pieces; the root at the end, or nothing when the node is gone.
fn split_into(
    dir: &Path,
    plan: &Plan,
    chunk_bytes: u32,
    covered: &Coverage,
    hints: &BTreeMap<u32, Digest>,
    sender: &mpsc::Sender<pb::CommitRequest>,
) -> Result<Option<Digest>, checkpoint::split::SplitError> {
    let by_path: BTreeMap<&[u8], Digest> = hints
        .iter()
        .filter_map(|(file, digest)| Some((plan.entries.get(*file as usize)?.path.as_bytes(), *digest)))
        .collect();
    let previous = |entry: &PlanEntry| by_path.get(entry.path.as_bytes()).copied();
    let mut splitter = Splitter::new(dir, plan, chunk_bytes, covered, &previous)?;
    for piece in splitter.by_ref() {
        let request = pb::CommitRequest { kind: Some(Request::Piece(wire::piece(piece?))) };
        if sender.blocking_send(request).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(splitter.finish()?.root()))
}

//! The client's side of a commit: scan, split, stream; when a node dies, go on at the next one.
//!
//! By path where the node proves that it sees the same directory, else as a stream of pieces. The
//! answer is never better than what is known: a seal that was handed to a node which then died may
//! have been committed. Only the log's own word about this commit can make a "no" of it: that it is
//! fenced, subsumed or too late. Whatever else goes wrong at a later node leaves it unknown.
//!
//! The writer's token that the first node names is kept: a commit that was cut off never joins the
//! writer that took over meanwhile.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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

    /// The command that repeats this commit of `dir`: idempotent, under the same commit id.
    pub fn command(&self, dir: &str, endpoints: &[String]) -> String {
        let mut words = vec!["epochlog".to_owned()];
        if !endpoints.is_empty() {
            words.extend(["-e".to_owned(), quoted(&endpoints.join(","))]);
        }
        words.extend(["commit".to_owned(), quoted(dir), "--job".to_owned(), self.job.to_string()]);
        if let Some(epoch) = self.epoch {
            words.extend(["--epoch".to_owned(), epoch.to_string()]);
        }
        words.extend(["--commit-id".to_owned(), self.commit_id.to_string()]);
        if let Some(token) = self.token {
            words.extend(["--token".to_owned(), token.to_string()]);
        }
        for (key, value) in &self.labels {
            words.extend(["--label".to_owned(), quoted(&format!("{key}={value}"))]);
        }
        for name in &self.depends_on {
            words.extend(["--depends-on".to_owned(), quoted(name)]);
        }
        // With a token the take-over is done: the token stands for it.
        let flags = [
            (self.wait_all, "--wait all"),
            (self.take_over && self.token.is_none(), "--take-over"),
            (self.if_not_exists, "--if-not-exists"),
            (self.immutable, "--immutable"),
            (!self.by_path, "--stream"),
        ];
        words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()));
        words.join(" ")
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        true => word.to_owned(),
        // A leading dash would read as a flag; only a path can have one.
        false if word.starts_with('-') => quoted(&format!("./{word}")),
        false => format!("'{}'", word.replace('\'', r"'\''")),
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
    /// It has seen nothing of the commit.
    Unreached(Failure),
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
        self.commit_until(dir, commit, on, std::future::pending()).await
    }

    /// The same until `stop` completes: then the answer is what is known at that moment.
    pub async fn commit_until(
        &self,
        dir: &Path,
        commit: Commit,
        on: &(dyn Fn(Event) + Send + Sync),
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Done, Failure> {
        let mut run = Run {
            client: self,
            what: what(&commit),
            dir: dir.to_owned(),
            place: None,
            plan: None,
            commit,
            on,
            maybe: false,
            handing: Arc::default(),
            durable: None,
            moved: Instant::now(),
        };
        let place = place::of(dir).map_err(|error| {
            refused(&run.what, format!("{}: {error}", dir.display())).fix("name a directory that can be read")
        })?;
        if run.commit.by_path {
            run.place = Some(place);
        }
        let ended = tokio::select! {
            ended = run.go() => Some(ended),
            () = stop => None,
        };
        ended.unwrap_or_else(|| Err(run.interrupted()))
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

/// Whether the node of one try may seal: decided once, either by handing it the seal or by the end
/// of the try, after which the seal is not handed out any more.
#[derive(Default)]
struct Handing(AtomicU8);

const OPEN: u8 = 0;
const HANDED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Handing {
    /// Before the seal is sent; false when the try is over and nothing may be sent.
    fn hand(&self) -> bool {
        self.0.compare_exchange(OPEN, HANDED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The try is over; true when the node may have sealed.
    fn end(&self) -> bool {
        self.0.compare_exchange(OPEN, WITHDRAWN, Ordering::SeqCst, Ordering::SeqCst) == Err(HANDED)
    }
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
    /// An earlier node that has not answered may have sealed.
    maybe: bool,
    /// The seal of the try that is under way.
    handing: Arc<Handing>,
    /// Committed already; only the news of who has published it is missing.
    durable: Option<pb::Committed>,
    /// When something last moved forward.
    moved: Instant,
}

impl Run<'_> {
    async fn go(&mut self) -> Result<Done, Failure> {
        let mut reasons = BTreeMap::new();
        let mut last: Option<Failure> = None;
        loop {
            for endpoint in self.client.endpoints() {
                let failure = match self.try_at(&endpoint).await {
                    Ended::Done(done) => {
                        self.client.prefer(&endpoint);
                        return Ok(done);
                    }
                    Ended::Failed(failure) if !failure.is_transient() => return Err(self.final_no(failure)),
                    Ended::StreamIt => Failure::new(Code::Unavailable, "the node refused the stream"),
                    Ended::Failed(failure) => {
                        // This node knows what became of what it was handed; of others it does not.
                        self.maybe |= failure.committed == Certainty::Unknown;
                        failure
                    }
                    Ended::BrokeOff(failure) => {
                        self.maybe |= self.handing.end();
                        failure
                    }
                    Ended::Unreached(failure) => failure,
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

    /// The commit at one node: by path, else over a stream. Whatever it was handed, no more follows.
    async fn try_at(&mut self, endpoint: &str) -> Ended {
        let mut ended = self.at(endpoint).await;
        if matches!(ended, Ok(Ended::StreamIt)) {
            self.place = None;
            ended = self.at(endpoint).await;
        }
        let ended = ended.unwrap_or_else(Ended::Failed);
        if !matches!(ended, Ended::BrokeOff(_)) {
            // The node has answered, or never had anything.
            self.handing.end();
            self.handing = Arc::default();
        }
        ended
    }

    /// A final no of one node stands when no earlier node may have sealed, or when it is the log's
    /// own word about this commit: the log looks for the commit id before it says any of these.
    fn final_no(&self, failure: Failure) -> Failure {
        let of_the_log = matches!(failure.code, Code::Fenced | Code::Subsumed | Code::TooLate);
        let certain = matches!(failure.committed, Certainty::Yes | Certainty::Unknown);
        if !self.maybe || of_the_log || certain {
            return failure;
        }
        self.unknown(Failure {
            why: format!(
                "an earlier node may have committed it; then: {}: {}",
                failure.sentence, failure.why
            ),
            ..failure
        })
    }

    fn unknown(&self, failure: Failure) -> Failure {
        Failure {
            code: Code::Timeout,
            committed: Certainty::Unknown,
            sentence: "no answer, it is UNKNOWN whether the epoch was committed".into(),
            what: self.what.clone(),
            fix: format!("repeat, it is idempotent: {}", self.command()),
            epoch: self.commit.epoch,
            ..failure
        }
    }

    fn command(&self) -> String {
        self.commit.command(&self.dir.to_string_lossy(), &self.client.endpoints())
    }

    /// What is known when the user does not want to wait any longer.
    fn interrupted(&self) -> Failure {
        let maybe = self.handing.end() || self.maybe;
        let (committed, sentence, fix) = match &self.durable {
            Some(_) => (
                Certainty::Yes,
                "interrupted, the epoch is COMMITTED, but it is not known who has published it",
                "`epochlog ls` shows who has published it; the same answer again",
            ),
            None if maybe => (
                Certainty::Unknown,
                "interrupted, it is UNKNOWN whether the epoch was committed",
                "repeat, it is idempotent",
            ),
            None => (
                Certainty::No,
                "interrupted, the epoch was NOT committed",
                "your directory is untouched; to go on where it stopped",
            ),
        };
        Failure {
            epoch: self.durable.as_ref().map(|durable| durable.epoch).or(self.commit.epoch),
            ..Failure::new(Code::Interrupted, sentence)
                .what(self.what.clone())
                .why("it was stopped by hand")
                .fix(format!("{fix}: {}", self.command()))
                .committed(committed)
        }
    }

    /// What is known when no node gave a final answer.
    fn gave_up(&self, reasons: &BTreeMap<String, String>, last: Option<Failure>) -> Failure {
        let failure = unavailable(&self.what, reasons, last);
        if self.maybe {
            return self.unknown(failure);
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
        self.handing = Arc::default();
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
        if by_path {
            // The node seals by itself: once it has Start it may have.
            self.handing.hand();
        }
        let call = stub.commit(ReceiverStream::new(requests));
        let mut replies = match tokio::time::timeout(self.client.options.timeout, call).await {
            Ok(Ok(replies)) => replies.into_inner(),
            Ok(Err(status)) if never_connected(&status) => {
                return Ok(Ended::Unreached(Failure::from_status(&status)));
            }
            Ok(Err(status)) => return Ok(Ended::BrokeOff(Failure::from_status(&status))),
            Err(_) => {
                return Ok(Ended::BrokeOff(
                    Failure::new(Code::Unavailable, "no answer").why("no answer in time"),
                ));
            }
        };
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
                    if opened.token.is_some() {
                        // From here on this writer, also at the next node; a take-over is done.
                        self.commit.token = opened.token;
                        self.commit.take_over = false;
                    }
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
                    self.durable = Some(answer.clone());
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
        let handing = self.handing.clone();
        let what = self.what.clone();
        tokio::spawn(async move {
            if let Some(after) = after {
                // A feeder that failed has closed the stream: the sends below then end at once.
                let _ = after.await;
            }
            tokio::task::spawn_blocking(move || {
                let last = match split_into(&dir, &plan, chunk_bytes, &covered, &hints, &sender) {
                    Ok(Some(root)) => {
                        if !handing.hand() {
                            return;
                        }
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

/// Whether the call failed before a byte of it was sent.
fn never_connected(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_repeat_holds_all_that_matters() {
        let mut commit = Commit::new("etl".parse().expect("a good name"));
        commit.commit_id = CommitId::from_bytes([0xab; 16]);
        commit.epoch = Some(7);
        commit.labels = vec![("note".into(), "it's late".into())];
        commit.wait_all = true;
        commit.take_over = true;
        let endpoints = ["a:1".to_owned(), "b:2".to_owned()];
        let id = "ab".repeat(16);
        assert_eq!(
            commit.command("my dir", &endpoints),
            format!(
                "epochlog -e a:1,b:2 commit 'my dir' --job etl --epoch 7 --commit-id {id} \
                 --label 'note=it'\\''s late' --wait all --take-over"
            )
        );
        // The take-over is done.
        commit.token = Some(9);
        let again = commit.command("-d", &[]);
        assert!(again.starts_with("epochlog commit ./-d --job etl"), "{again}");
        assert!(again.contains("--token 9") && !again.contains("--take-over"), "{again}");
    }

    #[test]
    fn a_seal_is_handed_out_or_withdrawn_never_both() {
        let handed = Handing::default();
        assert!(handed.hand());
        assert!(handed.end() && handed.end());
        let withdrawn = Handing::default();
        assert!(!withdrawn.end());
        assert!(!withdrawn.hand() && !withdrawn.end());
    }
}

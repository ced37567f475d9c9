//! The client's side of a commit: scan, split, stream; when a node dies, go on at the next one.
//!
//! By path where a node of this machine and user takes the open directory (`neighbour`), else as a stream of pieces. The
//! answer is never better than what is known: a seal that was handed to a node which then died may
//! have been committed. Only the log's own word about this commit can make a "no" of it: that it is
//! fenced, subsumed or too late, or that its epoch is another's. Whatever else goes wrong at a later node leaves it unknown. The same holds for a commit
//! under an id that is not new: an earlier run of it may have sealed, and a node that cannot ask the log does not know.
//!
//! Once a node has said that it holds the directory captured, the program may change it. So the commit ends with that
//! node: nobody reads the directory again for it, here or elsewhere.
//!
//! The writer's token that the first node names is kept: a commit that was cut off never joins the
//! writer that took over meanwhile.

mod attempt;
mod handing;
mod order;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::IoError;
use checkpoint::plan::{BitsLost, Plan};

use crate::connect::{Client, share, telling, unavailable};
use crate::failure::{Certainty, Code, Failure};
use crate::pb;
use handing::Handing;
pub use order::Commit;

/// Pause before the endpoints are tried once more.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// What happens on the way.
#[derive(Debug, Clone)]
pub enum Event {
    /// The directory has been scanned, here or by a node.
    Planned {
        /// Files in the plan.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Whether the program may go on with its directory already. Then the commit ends with the node that says so,
        /// should that fail: nobody else has the directory as it was.
        captured: pb::Captured,
        /// Directories that lose a bit of their mode.
        bits_lost: Option<BitsLost>,
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
    /// It has not said a word for its share of the time.
    Hung,
    /// It has seen nothing of the commit.
    Unreached(Failure),
    /// It cannot read the directory, and nothing is left of what it began.
    StreamIt(String),
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
            by_path: commit.by_path,
            plan: None,
            asked: commit.epoch,
            captured: false,
            unheard: commit.born.is_none(),
            earlier: commit.born.is_some(),
            commit,
            on,
            maybe: false,
            handing: Arc::default(),
            durable: None,
            moved: Instant::now(),
        };
        if let Some(failure) = run.commit.unwritable() {
            return Err(run.final_no(failure.what(run.what.clone())));
        }
        is_directory(dir).map_err(|source| {
            let error = IoError { path: dir.to_owned(), what: "read", source };
            let failure = Failure::from_io(&error)
                .sentence("the source cannot be read, the epoch was NOT committed")
                .what(run.what.clone())
                .committed(Certainty::No);
            run.final_no(failure)
        })?;
        let ended = tokio::select! {
            ended = run.go() => Some(ended),
            () = stop => None,
        };
        ended.unwrap_or_else(|| Err(run.interrupted()))
    }
}

#[cfg(test)]
mod tests;

/// What is no directory cannot be committed, by whatever way.
fn is_directory(dir: &Path) -> std::io::Result<()> {
    // Through a link, as the scan goes.
    if std::fs::metadata(dir)?.is_dir() {
        return Ok(());
    }
    Err(std::io::Error::new(std::io::ErrorKind::NotADirectory, "not a directory"))
}

fn what(commit: &Commit) -> String {
    match commit.epoch {
        Some(epoch) => format!("commit {}@{epoch}", commit.job),
        None => format!("commit {}", commit.job),
    }
}

/// One commit over as many nodes as it takes.
struct Run<'a> {
    client: &'a Client,
    what: String,
    dir: PathBuf,
    /// No node has said yet that it cannot read the directory.
    by_path: bool,
    plan: Option<Arc<Plan>>,
    /// The epoch that the caller gave; `commit` has the one that it was opened as.
    asked: Option<u64>,
    /// A node holds the directory captured, and the program knows: nobody else may read it.
    captured: bool,
    commit: Commit,
    on: &'a (dyn Fn(Event) + Send + Sync),
    /// An earlier node that has not answered may have sealed.
    maybe: bool,
    /// An earlier run of this commit may have sealed: its id was not new when this one began.
    earlier: bool,
    /// No node was ever handed the commit's id.
    unheard: bool,
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
        let mut hung = BTreeMap::<String, u32>::new();
        loop {
            let mut last: Option<Failure> = None;
            let mut no_quorum = true;
            let endpoints = self.client.endpoints();
            for endpoint in &endpoints {
                let timeout = self.client.options.timeout;
                let patience = share(timeout, endpoints.len(), hung.get(endpoint).copied().unwrap_or(0));
                let failure = match self.try_at(endpoint, patience).await {
                    Ended::Done(done) => {
                        self.client.prefer(endpoint);
                        return Ok(done);
                    }
                    Ended::Failed(failure) if !failure.is_transient() => return Err(self.final_no(failure)),
                    Ended::StreamIt(why) => {
                        Failure::new(Code::Unavailable, "the node cannot read the directory").why(why)
                    }
                    Ended::Failed(failure) => {
                        // This node knows what became of what it was handed; of others it does not.
                        self.maybe |= failure.committed == Certainty::Unknown;
                        failure
                    }
                    Ended::BrokeOff(failure) => {
                        self.maybe |= self.handing.end();
                        failure
                    }
                    Ended::Hung => {
                        self.maybe |= self.handing.end();
                        *hung.entry(endpoint.clone()).or_default() += 1;
                        Failure::new(Code::Unavailable, "no answer").why("no answer in time")
                    }
                    Ended::Unreached(failure) => failure,
                };
                if self.captured {
                    return Err(self.lost_with(endpoint, failure));
                }
                let known = reasons.insert(endpoint.clone(), failure.why.clone());
                if known.as_ref() != Some(&failure.why) {
                    let endpoint = endpoint.clone();
                    (self.on)(Event::Reconnecting { endpoint, why: failure.why.clone() });
                }
                no_quorum &= failure.code == Code::NoQuorum;
                last = Some(telling(last, failure));
            }
            // Nodes that have no quorum know it for a while already when they say so.
            if no_quorum && !self.maybe {
                return Err(self.gave_up(&reasons, last));
            }
            if self.moved.elapsed() + ROUND_PAUSE >= self.client.options.timeout || reasons.is_empty() {
                return Err(self.gave_up(&reasons, last));
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// The commit at one node: by path, else over a stream. Whatever it was handed, no more follows.
    async fn try_at(&mut self, endpoint: &str, patience: Duration) -> Ended {
        if let Err(failure) = self.be_born(endpoint, false, patience).await {
            return Ended::Unreached(failure);
        }
        let unheard = std::mem::take(&mut self.unheard);
        let mut ended = self.at(endpoint, patience).await;
        if unheard
            && let Ok(Ended::Failed(failure)) = &mut ended
            && failure.code == Code::TooOld
        {
            // The node was far behind when it said how far the log is. Nothing has come of an id that is new.
            self.commit.born = None;
            if self.captured {
                (failure.code, failure.committed) = (Code::Unavailable, Certainty::No);
                return ended.unwrap_or_else(Ended::Failed);
            }
            if let Err(failure) = self.be_born(endpoint, true, patience).await {
                return Ended::Unreached(failure);
            }
            ended = self.at(endpoint, patience).await;
        }
        if matches!(ended, Ok(Ended::StreamIt(_))) {
            self.by_path = false;
            // Nothing is left there: no seal, and the number that it had may be another commit's.
            self.handing = Arc::default();
            self.commit.epoch = self.asked;
            self.what = what(&self.commit);
            if !self.captured {
                ended = self.at(endpoint, patience).await;
            }
        }
        let ended = ended.unwrap_or_else(Ended::Failed);
        if !matches!(ended, Ended::BrokeOff(_) | Ended::Hung) {
            // The node has answered, or never had anything.
            self.handing.end();
            self.handing = Arc::default();
        }
        ended
    }

    /// A new id gets its birth before any node is handed it.
    async fn be_born(&mut self, endpoint: &str, current: bool, patience: Duration) -> Result<(), Failure> {
        if self.commit.born.is_some() {
            return Ok(());
        }
        if let Some(reached) = self.client.lately_reached().filter(|_| !current) {
            self.commit.born = Some(reached);
            return Ok(());
        }
        let mut stub = self.client.stub(endpoint)?;
        let asked = stub.reached(pb::ReachedRequest { current });
        let applied = match tokio::time::timeout(patience, asked).await {
            Ok(answer) => answer?.into_inner().applied,
            Err(_) => return Err(Failure::new(Code::Unavailable, "no answer").why("no answer in time")),
        };
        self.client.saw(applied);
        self.commit.born = Some(applied);
        Ok(())
    }

    /// A final no of one node stands when nobody may have sealed before, or when it is the log's own word about this
    /// commit: the log looks for the commit id first, and what a node of an earlier try or run still does comes too late.
    fn final_no(&self, failure: Failure) -> Failure {
        let certain = matches!(failure.committed, Certainty::Yes | Certainty::Unknown);
        if !self.is_open() || failure.of_the_log || certain {
            return failure;
        }
        let who = if self.maybe { "an earlier node" } else { "an earlier run" };
        self.unknown(Failure {
            why: format!("{who} may have committed it; then: {}: {}", failure.sentence, failure.why),
            ..failure
        })
    }

    /// Whether a seal of this commit may be in the log.
    fn is_open(&self) -> bool {
        self.maybe || self.earlier
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

    /// What is known when the node that held the directory captured does not go on.
    fn lost_with(&self, endpoint: &str, failure: Failure) -> Failure {
        let why = format!(
            "{endpoint}: {}: {}; the capture went with it, and your program may have changed the directory since",
            failure.sentence, failure.why
        );
        let failure = Failure { why, what: self.what.clone(), ..failure };
        if self.is_open() {
            return self.unknown(failure);
        }
        // Another commit, of the directory as it will be: an attempt of this one may be open with its plan.
        let anew = Commit { epoch: self.asked, born: None, by_path: self.by_path, ..self.commit.clone() };
        let command = anew.command(&self.dir.to_string_lossy(), &self.client.endpoints());
        Failure {
            committed: Certainty::No,
            code: if failure.code == Code::Timeout { Code::Unavailable } else { failure.code },
            sentence: "the captured directory is lost, the epoch was NOT committed".into(),
            fix: format!("commit the directory as it is now, when it is whole: {command}"),
            ..failure
        }
    }

    fn command(&self) -> String {
        self.commit.command(&self.dir.to_string_lossy(), &self.client.endpoints())
    }

    /// What is known when the user does not want to wait any longer.
    fn interrupted(&self) -> Failure {
        let handed = self.handing.end();
        let maybe = handed || self.is_open();
        // Who streams has scanned it.
        let is_read_there = handed && self.plan.is_none() && !self.captured && self.durable.is_none();
        let why = match is_read_there {
            true => {
                "it was stopped; the node goes on reading the directory: leave that as it is until a repeat has answered"
            }
            false => "it was stopped",
        };
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
                .why(why)
                .fix(format!("{fix}: {}", self.command()))
                .committed(committed)
        }
    }

    /// What is known when no node gave a final answer.
    fn gave_up(&self, reasons: &BTreeMap<String, String>, last: Option<Failure>) -> Failure {
        let failure = unavailable(&self.what, reasons, last);
        if self.is_open() {
            return self.unknown(failure);
        }
        let sentence = match failure.code {
            Code::NoQuorum => "no quorum, the epoch was NOT committed",
            // What a node said of itself, not of a connection.
            Code::Unavailable | Code::Busy if failure.sentence.ends_with("NOT committed") => {
                &failure.sentence
            }
            _ => "no node answered, the epoch was NOT committed",
        };
        Failure {
            committed: Certainty::No,
            code: if failure.code == Code::Timeout { Code::Unavailable } else { failure.code },
            sentence: sentence.into(),
            fix: format!(
                "start the nodes or correct --endpoints, then repeat: {}. Your directory is untouched.",
                self.command()
            ),
            ..failure
        }
    }
}

//! The client's side of a commit: scan, split, stream; when a node dies, go on at the next one.
//!
//! By path where the node proves that it sees the same directory, else as a stream of pieces. The
//! answer is never better than what is known: a seal that was handed to a node which then died may
//! have been committed. Only the log's own word about this commit can make a "no" of it: that it is
//! fenced, subsumed or too late. Whatever else goes wrong at a later node leaves it unknown.
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

use checkpoint::plan::Plan;

use crate::connect::{Client, share, unavailable};
use crate::failure::{Certainty, Code, Failure};
use crate::{pb, place};
use handing::Handing;
pub use order::Commit;

/// Pause before the endpoints are tried once more.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

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
            unheard: commit.born.is_none(),
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
        if let Err(failure) = self.be_born(endpoint, false).await {
            return Ended::Unreached(failure);
        }
        let unheard = std::mem::take(&mut self.unheard);
        let mut ended = self.at(endpoint).await;
        if unheard && matches!(&ended, Ok(Ended::Failed(failure)) if failure.code == Code::TooOld) {
            // The node was far behind when it said how far the log is. Nothing has come of an id that is new.
            self.commit.born = None;
            if let Err(failure) = self.be_born(endpoint, true).await {
                return Ended::Unreached(failure);
            }
            ended = self.at(endpoint).await;
        }
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

    /// A new id gets its birth before any node is handed it.
    async fn be_born(&mut self, endpoint: &str, current: bool) -> Result<(), Failure> {
        if self.commit.born.is_some() {
            return Ok(());
        }
        if let Some(reached) = self.client.lately_reached().filter(|_| !current) {
            self.commit.born = Some(reached);
            return Ok(());
        }
        let mut stub = self.client.stub(endpoint)?;
        let patience = share(self.client.options.timeout, self.client.endpoints().len());
        let asked = stub.reached(pb::ReachedRequest { current });
        let applied = match tokio::time::timeout(patience, asked).await {
            Ok(answer) => answer?.into_inner().applied,
            Err(_) => return Err(Failure::new(Code::Unavailable, "no answer").why("no answer in time")),
        };
        self.client.saw(applied);
        self.commit.born = Some(applied);
        Ok(())
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
            fix: format!(
                "start the nodes or correct --endpoints, then repeat: {}. Your directory is untouched.",
                self.command()
            ),
            ..failure
        }
    }
}

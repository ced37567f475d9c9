//! A commit at one node: Start, the plan, pieces as a thread splits them, and the node's answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::digest::Digest;
use checkpoint::epoch::RelPath;
use checkpoint::limits;
use checkpoint::pattern::Pattern;
use checkpoint::plan::{BitsLost, Plan, PlanEntry};
use checkpoint::split::{Coverage, Splitter};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Done, Ended, Event, Run, what};
use crate::connect::REQUEST_BYTES_MAX;
use crate::dial::never_heard;
use crate::failure::{Code, Failure};
use crate::neighbour::{self, Ticket};
use crate::pb::commit_reply::Kind as Reply;
use crate::pb::commit_request::Kind as Request;
use crate::{pb, wire};

/// Messages on their way to the node: at most this many pieces of at most one chunk each.
const PIECES_QUEUED_MAX: usize = 8;
/// What a node that speaks first has more than we.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// Pause between signs of life.
const LIFE_EVERY: Duration = Duration::from_secs(3);

impl Run<'_> {
    async fn scan(&mut self) -> Result<Arc<Plan>, Failure> {
        if let Some(plan) = &self.plan {
            return Ok(plan.clone());
        }
        let (dir, limits, choice) = (self.dir.clone(), self.commit.limits, self.commit.choice.clone());
        let scanned = tokio::task::spawn_blocking(move || Plan::scan_chosen(&dir, &limits, &choice)).await;
        let plan = scanned
            .expect("a scan does not panic")
            .map_err(|error| wire::plan_failure(&self.what, &error))?;
        (self.on)(Event::Planned {
            files: plan.files(),
            bytes: plan.bytes(),
            captured: pb::Captured::InPlace,
            bits_lost: plan.bits_lost.clone(),
        });
        let plan = Arc::new(if self.commit.immutable { plan.ignoring_links() } else { plan });
        self.plan = Some(plan.clone());
        Ok(plan)
    }

    /// Hands the directory to the node, if that can read it as well as we: it runs here, and is ours.
    fn hand_over(&self, endpoint: &str) -> Option<Ticket> {
        if !self.by_path {
            return None;
        }
        // It is this machine that answers, or nobody: that takes no time that others would miss.
        match neighbour::hand_over(endpoint, &self.dir, self.commit.commit_id) {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                tracing::debug!(endpoint, %error, "the directory is streamed");
                None
            }
        }
    }

    fn start(&self, plan: Option<&Plan>, handed: Option<Ticket>) -> pb::Start {
        let commit = &self.commit;
        // Who streams has chosen already.
        let chosen = |patterns: &[Pattern]| match plan {
            None => patterns.iter().map(|pattern| pattern.text().into()).collect(),
            Some(_) => Vec::new(),
        };
        pb::Start {
            job: commit.job.to_string(),
            epoch: commit.epoch,
            token: commit.token,
            commit_id: commit.commit_id.as_bytes().to_vec().into(),
            born: commit.born,
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
            handed: handed.map_or_else(Default::default, |ticket| ticket.to_vec().into()),
            declared_bytes: plan.map_or(0, Plan::bytes),
            stored_bytes: plan.map(Plan::stored_bytes),
            plan_digest: plan.map_or_else(Default::default, |plan| plan.digest().as_bytes().to_vec().into()),
            plan_entries: plan.map_or(0, |plan| wire::id(plan.entries.len())),
            plan_pages: plan.map_or(0, |plan| wire::id(wire::pages(&plan.entries).len())),
            chunk_bytes: 0,
            immutable: commit.immutable,
            include: chosen(&commit.choice.include),
            exclude: chosen(&commit.choice.exclude),
        }
    }

    /// The commit at one node. An error is final; what another node may do better is in `Ended`.
    ///
    /// A node that works on the commit says so every second, and one that cannot go on says so at once: after
    /// `patience` without a word the next one is asked.
    pub(super) async fn at(&mut self, endpoint: &str, patience: Duration) -> Result<Ended, Failure> {
        assert!(!self.captured, "who holds the capture is asked last");
        let mut stub = self.client.stub(endpoint)?;
        let handed = self.hand_over(endpoint);
        let plan = match &handed {
            Some(_) => None,
            None => Some(self.scan().await?),
        };
        self.handing = Arc::default();
        let (send, requests) = mpsc::channel(PIECES_QUEUED_MAX);
        let start = self.start(plan.as_deref(), handed);
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
        let call = stub.commit(uncopied::request(ReceiverStream::new(requests), REQUEST_BYTES_MAX));
        let mut replies = match tokio::time::timeout(patience, call).await {
            Ok(Ok(replies)) => replies.into_inner(),
            Ok(Err(status)) if never_heard(&status) => {
                return Ok(Ended::Unreached(Failure::from_status(&status)));
            }
            Ok(Err(status)) => return Ok(Ended::BrokeOff(Failure::from_status(&status))),
            Err(_) => return Ok(Ended::Hung),
        };
        let mut hints = BTreeMap::new();
        let mut committed: Option<pb::Committed> = None;
        // The node has its own, equal, timeout and says more than we can: it may speak first.
        let timeout = self.client.options.timeout;
        loop {
            // Where the capture is, nobody else can take its place.
            let patience = if self.captured { timeout } else { patience.min(timeout) } + FIRST_WORD;
            let reply = match tokio::time::timeout(patience, replies.message()).await {
                Ok(Ok(Some(pb::CommitReply { kind: Some(reply) }))) => reply,
                Ok(Ok(Some(pb::CommitReply { kind: None }))) => continue,
                Ok(Ok(None)) => return Ok(broke_off(committed, "the node ended the answer early".into())),
                Ok(Err(status)) => return Ok(broke_off(committed, Failure::from_status(&status).why)),
                Err(_) if committed.is_none() => return Ok(Ended::Hung),
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
                Reply::Working(_) => {}
                Reply::Planned(planned) => {
                    self.moved = Instant::now();
                    self.captured = planned.captured() != pb::Captured::InPlace;
                    (self.on)(from_planned(&planned));
                }
                Reply::Progress(progress) => {
                    self.moved = Instant::now();
                    (self.on)(Event::Progress(progress));
                }
                Reply::Committed(answer) => {
                    self.moved = Instant::now();
                    self.client.saw(answer.position.unwrap_or_default().index);
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
                // It waits for us no longer: that says nothing of the commit.
                Reply::Failed(failed) if Code::from_name(&failed.code) == Code::Interrupted => {
                    let failure = Failure::from_pb(failed);
                    return Ok(broke_off(committed, format!("{}: {}", failure.sentence, failure.why)));
                }
                Reply::Failed(failed) => return Ok(Ended::Failed(Failure::from_pb(failed))),
                Reply::StreamIt(stream_it) => return Ok(Ended::StreamIt(stream_it.why)),
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
        tokio::spawn(show_life(sender.downgrade()));
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

fn from_planned(planned: &pb::Planned) -> Event {
    let first = RelPath::parse(&planned.bits_lost_first).ok().filter(|_| planned.bits_lost > 0);
    Event::Planned {
        files: planned.files,
        bytes: planned.bytes,
        captured: planned.captured(),
        bits_lost: first.map(|first| BitsLost { directories: planned.bits_lost, first }),
    }
}

fn broke_off(committed: Option<pb::Committed>, why: String) -> Ended {
    match committed {
        // Durable already; only the news of who has published it is missing.
        Some(committed) => Ended::Done(Done { committed, published: Some(pb::Published::default()) }),
        None => Ended::BrokeOff(Failure::new(Code::Unavailable, "the node broke off").why(why)),
    }
}

/// While the thread that splits holds the stream: tells the node that it is at work. Where pieces wait for the node
/// it knows by them.
async fn show_life(sender: mpsc::WeakSender<pb::CommitRequest>) {
    loop {
        tokio::time::sleep(LIFE_EVERY).await;
        let Some(sender) = sender.upgrade() else { return };
        // Full: a piece is on its way.
        let _ = sender.try_send(pb::CommitRequest { kind: Some(Request::Alive(pb::Alive {})) });
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
    Ok(Some(splitter.finish_root()?))
}

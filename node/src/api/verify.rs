//! Verify: re-reads published directories and compares them with their manifests. With `repair`, what is
//! not as sealed is fetched from other nodes and swapped in by rename.
//!
//! A copy is good, damaged, or was not looked at: a node that is away, an epoch that is just being published, a disk that
//! does not answer are no damage. What was removed meanwhile is not told at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use checkpoint::disk::is_rot;
use checkpoint::store::{StoreError, VerifyReport};
use checkpoint::{Digest, JobName};
use client::{Code, Failure, pb, wire};
use nativelog::performer::Publication;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::call::{Answers, job_name};
use super::{read, status};
use crate::epochs;
use crate::guests::Call;
use crate::node::Node;
use crate::turns::Turn;
use crate::units;

type Send = mpsc::Sender<Result<pb::VerifyReply, Status>>;

/// How often a caller hears that the node reads on.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// A caller who takes nothing for so long has gone or hangs: his call ends.
const STALL: Duration = Duration::from_secs(60);
/// Bounds of the time without progress that a caller may ask for.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
const PATIENCE_MAX: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the call; one answer an epoch and node.
pub async fn run(
    node: Arc<Node>,
    request: pb::VerifyRequest,
    place: Option<Arc<Call>>,
) -> Result<Answers<pb::VerifyReply>, Failure> {
    let turns = &node.turns.verifies;
    turns.may_wait().map_err(|busy| turns.refused(node.config.id, busy).what("verify"))?;
    let wanted = wanted(&node, &request).await?;
    let (send, answers) = mpsc::channel(16);
    let to = Teller { node: node.clone(), send, patience: patience(request.wait_ms) };
    tokio::spawn(async move {
        // A call counts until nobody works on it any more.
        let _place = place;
        for (job, epoch) in wanted {
            if to.here(&job, epoch, request.repair).await.is_err() {
                return;
            }
        }
        if request.all_nodes {
            for id in node.voters().into_iter().filter(|id| *id != node.config.id) {
                if to.there(id, &request).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

fn patience(wait_ms: u64) -> Duration {
    match wait_ms {
        0 => PATIENCE,
        ms => Duration::from_millis(ms).clamp(PATIENCE_MIN, PATIENCE_MAX),
    }
}

async fn wanted(node: &Node, request: &pb::VerifyRequest) -> Result<Vec<(JobName, u64)>, Failure> {
    let machine = node.replica.machine();
    let mut of = None;
    if !request.job.is_empty() {
        let job = job_name(&request.job)?;
        let found = read::find(machine, &job, request.which).await?;
        if request.which.is_some() {
            return Ok(vec![(job, found.info.sealed.epoch)]);
        }
        of = Some(job);
    }
    Ok(epochs::elsewhere(machine, |machine| epochs::all(machine, of)).await)
}

/// The reply as strangers may see it.
fn outward(node: &Node, mut reply: pb::VerifyReply) -> pb::VerifyReply {
    for text in reply.problems.iter_mut().chain(&mut reply.mended) {
        *text = node.outward(&*text);
    }
    reply.failed = reply.failed.map(|failed| node.outward_failure(Failure::from_pb(failed)).to_pb());
    reply
}

/// The caller is gone: nobody wants to know any more.
struct Gone;

/// One caller, and how long he waits for something to move.
struct Teller {
    node: Arc<Node>,
    send: Send,
    patience: Duration,
}

impl Teller {
    async fn tell(&self, reply: pb::VerifyReply) -> Result<(), Gone> {
        self.pass_on(outward(&self.node, reply)).await
    }

    /// What another node has told, which has seen to its own paths.
    async fn pass_on(&self, reply: pb::VerifyReply) -> Result<(), Gone> {
        match tokio::time::timeout(STALL, self.send.send(Ok(reply))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    async fn working(&self) -> Result<(), Gone> {
        let node = self.node.config.id;
        self.tell(pb::VerifyReply { node, working: true, ..pb::VerifyReply::default() }).await
    }

    /// Waits for a turn. Who waits has read nothing yet.
    async fn turn(&self) -> Result<Result<Arc<Turn>, Failure>, Gone> {
        let turns = &self.node.turns.verifies;
        let taken = turns.take();
        tokio::pin!(taken);
        loop {
            match tokio::time::timeout(WORKING_EVERY, &mut taken).await {
                Ok(Ok(turn)) => return Ok(Ok(Arc::new(turn))),
                Ok(Err(busy)) => return Ok(Err(turns.refused(self.node.config.id, busy))),
                Err(_) => self.working().await?,
            }
        }
    }

    /// Verifies an epoch here, and with `repair` mends what is not as sealed.
    async fn here(&self, job: &JobName, epoch: u64, repair: bool) -> Result<(), Gone> {
        let turn = match self.turn().await? {
            Ok(turn) => turn,
            Err(busy) => {
                let reply = pb::VerifyReply { job: job.to_string(), epoch, ..pb::VerifyReply::default() };
                let reply = pb::VerifyReply { node: self.node.config.id, ..reply };
                return self.tell(not_looked(reply, format!("{}: {}", busy.sentence, busy.why))).await;
            }
        };
        let Some(found) = self.check(job, epoch, &turn).await? else { return Ok(()) };
        if found.outcome() != pb::Outcome::Damaged {
            return self.tell(found).await;
        }
        let wrong = found.problems.clone();
        self.node.metrics.mismatches(wrong.len());
        tracing::warn!(%job, epoch, problems = wrong.len(), first = wrong.first(), "an epoch is not as sealed here");
        if !repair {
            return self.tell(found).await;
        }
        match self.mended(job, epoch).await? {
            Ok(()) => {
                let Some(mut after) = self.check(job, epoch, &turn).await? else { return Ok(()) };
                if after.outcome() != pb::Outcome::NotLooked {
                    let still = &after.problems;
                    after.mended = wrong.into_iter().filter(|problem| !still.contains(problem)).collect();
                }
                tracing::info!(%job, epoch, mended = after.mended.len(), ok = after.ok, "an epoch was mended");
                self.tell(after).await
            }
            Err(why) => {
                let mut found = found;
                found.problems.push(format!("it could not be mended: {why}"));
                self.tell(found).await
            }
        }
    }

    /// Fetches what is not as sealed. As long as that takes: other nodes and their patience are part of it.
    async fn mended(&self, job: &JobName, epoch: u64) -> Result<Result<(), String>, Gone> {
        let repair = self.node.replica.repair_epoch(job, epoch);
        tokio::pin!(repair);
        loop {
            match tokio::time::timeout(WORKING_EVERY, &mut repair).await {
                Ok(mended) => return Ok(mended.map(drop).map_err(|error| error.to_string())),
                Err(_) => self.working().await?,
            }
        }
    }

    /// What this node's copy is; nothing when there is no such epoch any more.
    async fn check(
        &self,
        job: &JobName,
        epoch: u64,
        turn: &Arc<Turn>,
    ) -> Result<Option<pb::VerifyReply>, Gone> {
        let machine = self.node.replica.machine();
        let reader = machine.read_epoch(job, epoch);
        let sealed = || {
            let ledger = machine.ledger();
            ledger.sealed_as(job, epoch).map(|sealed| (sealed.root, sealed.files, sealed.bytes))
        };
        let Some((root, files, bytes)) = sealed() else { return Ok(None) };
        let steps = Arc::new(AtomicU64::new(0));
        let (store, named, counted) = (self.node.store.clone(), job.clone(), steps.clone());
        let turn = turn.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // Kept until it is read, also when nobody waits any more.
            let _kept = (reader, turn);
            let on = || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            let report = store.verify_watched(&named, epoch, &on)?;
            Ok::<_, StoreError>((report, store.published(&named, epoch)?))
        });
        let looked = self.moving(reading, &steps).await?;
        if sealed().is_none() {
            return Ok(None);
        }
        let reply = pb::VerifyReply {
            node: self.node.config.id,
            job: job.to_string(),
            epoch,
            root: wire::digest(&root),
            ..pb::VerifyReply::default()
        };
        let Some(looked) = looked else {
            let why = format!("its disk has not answered for {}", units::seconds_of(self.patience));
            return Ok(Some(not_looked(reply, why)));
        };
        let publication = machine.publication(job, epoch);
        Ok(Some(judged(reply, &root, (files, bytes), looked, publication)))
    }

    /// What comes of a look, while it moves; nothing when it has stopped to.
    async fn moving<T>(
        &self,
        mut reading: tokio::task::JoinHandle<T>,
        steps: &AtomicU64,
    ) -> Result<Option<T>, Gone> {
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let tick = WORKING_EVERY.min(self.patience / 2);
            if let Ok(done) = tokio::time::timeout(tick, &mut reading).await {
                return Ok(Some(done.expect("verifying does not panic")));
            }
            let now = steps.load(Ordering::Relaxed);
            if now != seen {
                (seen, moved) = (now, Instant::now());
                self.working().await?;
            } else if moved.elapsed() >= self.patience {
                return Ok(None);
            }
        }
    }

    /// The same on another node, passed on.
    async fn there(&self, id: u64, request: &pb::VerifyRequest) -> Result<(), Gone> {
        let wait_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        let request = pb::VerifyRequest { all_nodes: false, wait_ms, ..request.clone() };
        let unasked = |why: String| {
            let reply = pb::VerifyReply { node: id, job: String::new(), ..pb::VerifyReply::default() };
            not_looked(reply, why)
        };
        let Some((_, mut stub)) = self.node.peer(id) else {
            return self.tell(unasked(status::UNTOLD.into())).await;
        };
        if let Some(silence) = self.node.replica.silence(id) {
            return self.tell(unasked(format!("no answer for {}", units::seconds_of(silence)))).await;
        }
        // It says that it has no progress before we do.
        let patience = self.patience + 2 * WORKING_EVERY;
        let late = || format!("no answer for {}", units::seconds_of(patience));
        let mut stream = match tokio::time::timeout(patience, stub.verify(request)).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => {
                let failure = Failure::from_status(&status);
                // It is behind, or ahead: what is not there cannot be damaged.
                let why = if failure.why.is_empty() { failure.sentence } else { failure.why };
                return self.tell(unasked(why)).await;
            }
            Err(_) => return self.tell(unasked(late())).await,
        };
        loop {
            match tokio::time::timeout(patience, stream.message()).await {
                Ok(Ok(Some(reply))) => self.pass_on(reply).await?,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return self.tell(unasked(Failure::from_status(&status).why)).await,
                Err(_) => return self.tell(unasked(late())).await,
            }
        }
    }
}

fn not_looked(reply: pb::VerifyReply, why: String) -> pb::VerifyReply {
    let failure = Failure::new(Code::NotLooked, "it could not be looked at").why(why);
    pb::VerifyReply { outcome: pb::Outcome::NotLooked.into(), failed: Some(failure.to_pb()), ..reply }
}

fn damaged(reply: pb::VerifyReply, problems: Vec<String>) -> pb::VerifyReply {
    pb::VerifyReply { outcome: pb::Outcome::Damaged.into(), problems, ..reply }
}

/// Good, damaged, or not looked at. `size` is what the sealed epoch has, files and bytes.
fn judged(
    reply: pb::VerifyReply,
    root: &Digest,
    size: (u64, u64),
    looked: Result<(VerifyReport, Option<Digest>), StoreError>,
    publication: Option<Publication>,
) -> pb::VerifyReply {
    let error = match looked {
        Ok((report, found)) => {
            let problems = report.problems.iter().map(|problem| format!("{}: {}", problem.path, problem.why));
            let mut problems: Vec<String> = problems.collect();
            if found.as_ref() != Some(root) {
                problems.push("its manifest has another root than the epoch".into());
            }
            let reply = pb::VerifyReply { files: report.files, bytes: report.bytes, ..reply };
            if !problems.is_empty() {
                return damaged(reply, problems);
            }
            return pb::VerifyReply { outcome: pb::Outcome::Good.into(), ok: true, ..reply };
        }
        Err(error) => error,
    };
    let lacks = format!("the whole directory of {} files, {} is missing", size.0, units::size(size.1));
    match (error, publication) {
        (StoreError::NotPublished { .. }, Some(Publication::Pending)) => {
            not_looked(reply, "it is being published".into())
        }
        (StoreError::NotPublished { .. }, Some(Publication::NotLooked)) => {
            not_looked(reply, "the node started a moment ago and has not looked for it yet".into())
        }
        (StoreError::NotPublished { .. }, Some(Publication::Unpublished(why))) => {
            damaged(reply, vec![format!("{lacks}: {why}")])
        }
        (StoreError::NotPublished { .. }, _) => damaged(reply, vec![lacks]),
        (error @ StoreError::Manifest { .. }, _) => damaged(reply, vec![error.to_string()]),
        (StoreError::Io(error), _) => {
            let gone = error.source.kind() == std::io::ErrorKind::NotFound;
            match gone || is_rot(&error.source) {
                true => damaged(reply, vec![error.to_string()]),
                false => not_looked(reply, error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::IoError;
    use checkpoint::store::Problem;

    #[test]
    fn a_copy_is_good_or_damaged_or_was_not_looked_at() {
        let root = checkpoint::digest::content(b"sealed");
        let other = checkpoint::digest::content(b"other");
        let bad = || VerifyReport {
            problems: vec![Problem { path: "a".into(), why: "it is missing".into() }],
            ..VerifyReport::default()
        };
        let not_published = || Err(StoreError::NotPublished { job: "j".into(), epoch: 1 });
        let os = |number| {
            let source = std::io::Error::from_raw_os_error(number);
            Err(StoreError::Io(IoError { path: "/d".into(), what: "open", source }))
        };
        let is = Publication::Published;
        let unpublished = Publication::Unpublished("a blob is missing".into());
        use pb::Outcome::{Damaged, Good, NotLooked};
        for (looked, publication, outcome, word) in [
            (Ok((VerifyReport::default(), Some(root))), is.clone(), Good, ""),
            (Ok((bad(), Some(root))), is.clone(), Damaged, "a: it is missing"),
            (Ok((VerifyReport::default(), Some(other))), is.clone(), Damaged, "another root"),
            (not_published(), Publication::Pending, NotLooked, "being published"),
            (not_published(), Publication::NotLooked, NotLooked, "has not looked"),
            (not_published(), unpublished, Damaged, "a blob is missing"),
            (not_published(), is.clone(), Damaged, "2 files, 9 B is missing"),
            (os(5), is.clone(), Damaged, "cannot open"),
            (os(2), is.clone(), Damaged, "cannot open"),
            (os(24), is.clone(), NotLooked, "cannot open"),
            (os(13), is, NotLooked, "cannot open"),
        ] {
            let reply = judged(pb::VerifyReply::default(), &root, (2, 9), looked, Some(publication));
            assert_eq!(reply.outcome(), outcome, "{reply:?}");
            assert_eq!(reply.ok, outcome == Good, "{reply:?}");
            assert_eq!(reply.failed.is_some(), outcome == NotLooked, "{reply:?}");
            let why = reply.failed.iter().map(|failed| failed.why.clone()).chain(reply.problems);
            let why = why.collect::<Vec<_>>().join("; ");
            assert!(why.contains(word), "{why}");
        }
    }
}

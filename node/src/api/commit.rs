//! The Commit call: from Start to the right origin, and back to the answers.

mod ground;
mod line;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::limits::{EPOCH_MAX, LABEL_BYTES_MAX, LABELS_MAX};
use checkpoint::plan::{PlanError, RuleError};
use checkpoint::{Choice, CommitId, Digest, Limits, Pattern};
use client::{Certainty, Code, Failure, SPLIT_OR_RAISE, pb, wire};
use nativelog::background::{self, BULK, UPKEEP};
use nativelog::record::{TEXTS_BYTES_MAX, texts_bytes};
use pb::commit_reply::Kind as Reply;
use pb::commit_request::Kind as Request;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uncopied::Incoming;

use self::line::{Line, Room};
use super::call::{Answers, job_name};
use super::published;
use crate::capture::{self, Held, How};
use crate::commit::origin::{self, Local, Remote, Replies, is_silence};
use crate::commit::{self, Order};
use crate::config::Mode;
use crate::guests::Call;
use crate::limits::{DEPENDS_ON_MAX, PATTERNS_MAX, PLAN_STEP, REPLIES_QUEUED_MAX, SMALL_PLAN_ENTRIES};
use crate::node::Node;

/// How often a client hears that its commit is being worked on.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// Bounds of the time without progress that a client may ask for.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Runs the call in a task of its own; its answers are the stream.
pub fn run(
    node: Arc<Node>,
    requests: Incoming<pb::CommitRequest>,
    place: Option<Arc<Call>>,
) -> Answers<pb::CommitReply> {
    let (send, answers) = mpsc::channel(REPLIES_QUEUED_MAX);
    let replies = Replies(send);
    tokio::spawn(async move {
        // A call counts until nobody works on it any more.
        let place = place;
        let working = replies.clone();
        let answered = tokio::select! {
            answered = answer(&node, requests, place.clone(), &replies) => answered,
            () = say_working(&working) => unreachable!("it is said until there is an answer"),
        };
        if let Err(failure) = answered {
            node.metrics.not_committed(&failure);
            let (code, what, why) = (failure.code.name(), &failure.what, &failure.why);
            // Whoever opens streams and leaves them is not to fill the log.
            match failure.code {
                Code::Interrupted => tracing::debug!(code, what, why, "a commit ended without its client"),
                _ => tracing::info!(code, what, why, "a commit failed"),
            }
            replies.send(Reply::Failed(node.outward_failure(failure).to_pb())).await;
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

/// Says that the node is at it, for as long as this is polled.
async fn say_working(replies: &Replies) {
    loop {
        tokio::time::sleep(WORKING_EVERY).await;
        replies.try_send(Reply::Working(pb::Working {}));
    }
}

async fn answer(
    node: &Node,
    mut requests: Incoming<pb::CommitRequest>,
    place: Option<Arc<Call>>,
    replies: &Replies,
) -> Result<(), Failure> {
    let start = match requests.message().await {
        Ok(Some(pb::CommitRequest { kind: Some(Request::Start(start)) })) => start,
        Ok(_) => return Err(refused("commit", "the first message must be Start")),
        Err(status) if is_silence(&status) => {
            let silent = Failure::new(Code::Interrupted, "the client was silent").what("commit");
            return Err(silent.why(status.message()));
        }
        Err(status) => return Err(refused("commit", status.message())),
    };
    if let Some(place) = &place {
        place.progress();
    }
    let started = Instant::now();
    let wait_all = start.wait() == pb::Wait::All;
    let committed = match start.handed.is_empty() {
        false => {
            match usable(&node.config.source_roots, node.handed.take(&start.handed, &start.commit_id)) {
                Ok(opened) => {
                    if let Some(place) = &place {
                        place.is_by_path();
                    }
                    match by_path(node, &start, opened, replies).await {
                        // Nothing is sealed of what this node cannot read for want of rights, files or memory. The client
                        // may have them.
                        Err(failure) if failure.code == Code::PermissionDenied => {
                            replies.send(Reply::StreamIt(pb::StreamIt { why: failure.why })).await;
                            return Ok(());
                        }
                        committed => committed?,
                    }
                }
                Err(why) => {
                    replies.send(Reply::StreamIt(pb::StreamIt { why })).await;
                    return Ok(());
                }
            }
        }
        true => {
            let order = order(node, &start)?;
            let mut origin = Remote::new(requests, place.clone(), order.plan_pages, replies.clone());
            commit::commit(node, order, &mut origin, replies).await?
        }
    };
    node.metrics.committed(&committed, started.elapsed());
    tracing::info!(
        job = committed.job,
        epoch = committed.epoch,
        bytes = committed.bytes,
        log_bytes = committed.log_bytes,
        ms = committed.quorum_ms,
        by_path = committed.by_path,
        "committed"
    );
    replies.send(Reply::Committed(committed.clone())).await;
    if wait_all && committed.expired {
        // Nobody will publish it any more.
        replies.send(Reply::Published(pb::Published::default())).await;
    } else if wait_all {
        let patience = Duration::from_millis(start.wait_ms).clamp(PATIENCE_MIN, PATIENCE_MAX);
        let sealed = Instant::now();
        let published = published::wait_all(node, &committed, patience).await;
        if published.missing.is_empty() {
            node.metrics.stage("publish", sealed.elapsed());
        }
        replies.send(Reply::Published(published)).await;
    }
    Ok(())
}

/// A source directory, open. Its name may lead elsewhere at any time, the descriptor never does.
struct Opened {
    fd: OwnedFd,
    name: PathBuf,
}

impl Opened {
    /// A path to the very directory that was checked, good while this lives.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The failure, with the name that people know.
    fn named(&self, failure: Failure) -> Failure {
        let magic = self.path().display().to_string();
        let why = failure.why.replace(&magic, &self.name.display().to_string());
        failure.why(why)
    }
}

/// The directory that was handed over, when it lies under a source root. Its client had it open and is the node's own user
/// (`neighbours`), so that what is below it is no more open to this node than to him: the roots guard nothing, they say
/// which directories this node is to read for its clients.
fn usable(roots: &[PathBuf], handed: Option<OwnedFd>) -> Result<Opened, String> {
    let fd = handed.ok_or("no directory was handed over to this node under that ticket for this commit")?;
    // Without procfs the descriptor has no path.
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let opened = Opened { fd, name: name.map_err(|error| format!("this node has no procfs: {error}"))? };
    if !roots.iter().any(|root| opened.name.starts_with(root)) {
        return Err(format!("{} is under none of the node's source roots", opened.name.display()));
    }
    let stat = rustix::fs::fstat(&opened.fd).map_err(|error| error.to_string())?;
    match rustix::fs::stat(opened.path()) {
        Ok(seen) if (seen.st_dev, seen.st_ino) == (stat.st_dev, stat.st_ino) => Ok(opened),
        _ => Err("the descriptor's path leads elsewhere".into()),
    }
}

async fn by_path(
    node: &Node,
    start: &pb::Start,
    opened: Opened,
    replies: &Replies,
) -> Result<pb::Committed, Failure> {
    // `opened` lives to the end: until then its path leads to it.
    held_and_committed(node, start, opened.path(), replies).await.map_err(|failure| opened.named(failure))
}

async fn held_and_committed(
    node: &Node,
    start: &pb::Start,
    dir: PathBuf,
    replies: &Replies,
) -> Result<pb::Committed, Failure> {
    let what = format!("commit {}", start.job);
    within_limits(start).map_err(|why| refused(&what, &why))?;
    let line = Line { turns: &node.turns, id: node.config.id, what: &what, replies };
    // It ends with the commit, whose plan it stands for.
    let (_room, held, start) = held(node, start, &dir, &line).await?;
    replies.send(Reply::Planned(planned(&held))).await;
    let order = order(node, &start)?;
    let mut origin = Local::new(
        order.name(),
        held.dir.clone(),
        held.plan.clone(),
        node.buffers.split.clone(),
        replies.clone(),
    );
    let committed = commit::commit(node, order, &mut origin, replies).await?;
    // A capture may be large: its removal is nobody's wait.
    tokio::spawn(background::run("capture", UPKEEP, move || drop(held)));
    Ok(pb::Committed { by_path: true, ..committed })
}

/// The source as it will be read, scanned as far as there is room for its plan: until that is all of it, room is waited
/// for, with nothing in hand.
async fn held(
    node: &Node,
    start: &pb::Start,
    dir: &Path,
    line: &Line<'_>,
) -> Result<(Room, Held, pb::Start), Failure> {
    let limits = node.config.limits;
    let mut entries_max = SMALL_PLAN_ENTRIES.min(limits.files_max);
    let mut room = line.small().await?;
    loop {
        line.is_wanted()?;
        let limits = Limits { files_max: entries_max, ..limits };
        let wanted = capture::Wanted { choice: choice(start), immutable: start.immutable, limits };
        let (captures, dir, begun) = (node.store.layout().capture_dir(), dir.to_owned(), start.clone());
        let hold = move || {
            let held = capture::hold(&dir, &captures, &wanted)?;
            let start = pb::Start {
                declared_bytes: held.plan.bytes(),
                stored_bytes: Some(held.plan.stored_bytes()),
                plan_digest: wire::digest(&held.plan.digest()),
                plan_entries: wire::id(held.plan.entries.len()),
                plan_pages: wire::id(wire::pages(&held.plan.entries).len()),
                ..begun
            };
            Ok::<_, PlanError>((held, start))
        };
        match background::run("capture", BULK, hold).await.ok_or_else(|| panicked(line.what))? {
            Ok((held, start)) => return Ok((room, held, start)),
            Err(PlanError::Rules(RuleError::Limit { unit: "entries", .. }))
                if entries_max < node.config.limits.files_max =>
            {
                entries_max = entries_max.saturating_mul(PLAN_STEP).min(node.config.limits.files_max);
                // What it has is too little: with it in hand it would wait for others who wait for it.
                drop(room);
                room = line.large(entries_max).await?;
            }
            Err(error) => return Err(origin::unplanned(line.what, &error)),
        }
    }
}

/// What the client hears of the scan, and whether its program may go on.
fn planned(held: &Held) -> pb::Planned {
    let captured = match held.how {
        How::InPlace => pb::Captured::InPlace,
        How::Cloned => pb::Captured::Cloned,
        How::Linked => pb::Captured::Linked,
    };
    let lost = held.bits_lost.as_ref();
    pb::Planned {
        files: held.plan.files(),
        bytes: held.plan.bytes(),
        captured: captured.into(),
        bits_lost: lost.map_or(0, |lost| lost.directories),
        bits_lost_first: lost.map_or_else(Default::default, |lost| lost.first.as_bytes().to_vec().into()),
    }
}

fn choice(start: &pb::Start) -> Choice {
    let patterns = |all: &[bytes::Bytes]| all.iter().map(|one| Pattern::new(one)).collect();
    Choice { include: patterns(&start.include), exclude: patterns(&start.exclude) }
}

fn order(node: &Node, start: &pb::Start) -> Result<Order, Failure> {
    let what = format!("commit {}", start.job);
    let job = job_name(&start.job).map_err(|failure| failure.committed(Certainty::No))?;
    within_limits(start).map_err(|why| refused(&what, &why))?;
    let commit_id =
        CommitId::from_slice(&start.commit_id).ok_or_else(|| refused(&what, "a commit id has 16 bytes"))?;
    let plan_digest =
        Digest::from_slice(&start.plan_digest).ok_or_else(|| refused(&what, "a plan digest has 32 bytes"))?;
    let (entries, bytes) = (u64::from(start.plan_entries), start.declared_bytes);
    let over =
        [("entries", entries, node.config.limits.files_max), ("bytes", bytes, node.config.limits.bytes_max)];
    if let Some((unit, _, most)) = over.into_iter().find(|(_, there, most)| there > most) {
        return Err(Failure::new(Code::QuotaExceeded, "over a limit, the epoch was NOT committed")
            .what(what)
            .why(format!("too many {unit}, at most {most} {unit}: {entries} entries, {bytes} bytes"))
            .fix(SPLIT_OR_RAISE)
            .committed(Certainty::No));
    }
    let labels = start.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    let store = match node.config.modes.of(&job) {
        Mode::Log => None,
        // The configuration has found it among its own. Never into the log instead.
        Mode::Hybrid(name) => match node.stores.get(name) {
            Some(kept) => Some(kept.clone()),
            None => return Err(store_away(node, &what, name)),
        },
    };
    Ok(Order {
        job,
        epoch: start.epoch,
        token: start.token,
        commit_id,
        born: start.born,
        labels,
        depends_on: start.depends_on.clone(),
        take_over: start.take_over,
        if_not_exists: start.if_not_exists,
        choice: choice(start),
        immutable: start.immutable,
        patience: Duration::from_millis(start.wait_ms).clamp(PATIENCE_MIN, PATIENCE_MAX),
        chunk_bytes: if start.chunk_bytes == 0 { node.config.chunk_bytes } else { start.chunk_bytes },
        declared_bytes: start.declared_bytes,
        stored_bytes: start.stored_bytes.unwrap_or(u64::MAX).min(start.declared_bytes),
        plan_digest,
        plan_entries: start.plan_entries,
        plan_pages: start.plan_pages,
        store,
        store_id: None,
    })
}

/// The store of a job could not be opened on this node yet.
fn store_away(node: &Node, what: &str, name: &str) -> Failure {
    let why = format!("{name}: {}", node.stores.why_away(name).unwrap_or_default());
    Failure::new(Code::Unavailable, "the object store is away, the epoch was NOT committed")
        .what(what)
        .why(node.outward(why))
        .fix("bring it back on this node, or repeat the command at another; it is opened as soon as it is there")
        .committed(Certainty::No)
}

/// The bounds of what a Start may bring along; what they hold is for the ledger to judge.
fn within_limits(start: &pb::Start) -> Result<(), String> {
    let long = |text: &str| text.len() > LABEL_BYTES_MAX;
    if let Some(epoch) = start.epoch.filter(|epoch| *epoch > EPOCH_MAX) {
        return Err(format!("epoch {epoch}: the highest number is {EPOCH_MAX} (2^53)"));
    }
    if start.labels.len() > LABELS_MAX || start.labels.iter().any(|l| long(&l.key) || long(&l.value)) {
        return Err(format!("at most {LABELS_MAX} labels, of at most {LABEL_BYTES_MAX} bytes each"));
    }
    if start.depends_on.len() > DEPENDS_ON_MAX || start.depends_on.iter().any(|text| long(text)) {
        return Err(format!(
            "at most {DEPENDS_ON_MAX} epochs to depend on, with names of at most {LABEL_BYTES_MAX} bytes"
        ));
    }
    let labels = start.labels.iter().flat_map(|label| [label.key.as_str(), label.value.as_str()]);
    if texts_bytes(labels.chain(start.depends_on.iter().map(String::as_str))) > TEXTS_BYTES_MAX {
        return Err(format!(
            "labels and the names of epochs to depend on have at most {} KiB together",
            TEXTS_BYTES_MAX >> 10
        ));
    }
    let patterns = start.include.len() + start.exclude.len();
    if patterns > PATTERNS_MAX
        || start.include.iter().chain(&start.exclude).any(|p| p.len() > LABEL_BYTES_MAX)
    {
        return Err(format!("more than {PATTERNS_MAX} patterns, or one over {LABEL_BYTES_MAX} bytes"));
    }
    if start.plan_pages > start.plan_entries {
        return Err(format!("{} pages for {} entries", start.plan_pages, start.plan_entries));
    }
    Ok(())
}

fn panicked(what: &str) -> Failure {
    Failure::new(Code::Internal, "this is a bug in epochlog, the epoch was NOT committed")
        .what(what)
        .why("reading the directory panicked: the node's log says where")
        .fix("please report it")
        .committed(Certainty::No)
}

fn refused(what: &str, why: &str) -> Failure {
    Failure::new(Code::Refused, "refused, the epoch was NOT committed")
        .what(what)
        .why(why)
        .fix("correct what is named, then repeat the command")
        .committed(Certainty::No)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_was_handed_over_is_itself_whatever_its_name_becomes() {
        let dir = tempfile::tempdir().unwrap();
        let base = std::fs::canonicalize(dir.path()).unwrap();
        let (root, outside) = (base.join("root"), base.join("outside"));
        std::fs::create_dir_all(root.join("x")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let roots = [root.clone()];
        let open = |path: &Path| Some(OwnedFd::from(std::fs::File::open(path).unwrap()));
        let opened = usable(&roots, open(&root.join("x"))).map_err(drop).unwrap();
        assert!(usable(&roots, open(&root)).is_ok());
        assert!(usable(&roots, open(&outside)).is_err());
        assert!(usable(&roots, open(&root.join("../outside"))).is_err());
        assert!(usable(&roots, None).is_err());

        // Another directory takes the name.
        std::fs::rename(root.join("x"), root.join("moved")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("x")).unwrap();
        assert!(usable(&roots, open(&root.join("x"))).is_err());
        std::fs::write(root.join("moved/file"), b"x").unwrap();
        assert!(opened.path().join("file").exists());
        let named =
            opened.named(Failure::new(Code::Refused, "r").why(format!("{}/a: no", opened.path().display())));
        assert_eq!(named.why, format!("{}/x/a: no", root.display()));
    }

    #[test]
    fn a_start_over_its_limits_is_refused() {
        assert!(within_limits(&pb::Start::default()).is_ok());
        let labels = vec![pb::Label::default(); LABELS_MAX + 1];
        assert!(within_limits(&pb::Start { labels, ..Default::default() }).is_err());
        let depends_on = vec![String::new(); DEPENDS_ON_MAX + 1];
        assert!(within_limits(&pb::Start { depends_on, ..Default::default() }).is_err());
        let label = pb::Label { key: "k".into(), value: "v".repeat(LABEL_BYTES_MAX) };
        let few = |labels| vec![label.clone(); labels];
        assert!(within_limits(&pb::Start { labels: few(20), ..Default::default() }).is_ok());
        let together = within_limits(&pb::Start { labels: few(30), ..Default::default() }).unwrap_err();
        assert!(together.contains("112 KiB together"), "{together}");
        let exclude = vec![Default::default(); PATTERNS_MAX + 1];
        assert!(within_limits(&pb::Start { exclude, ..Default::default() }).is_err());
        let numbered = |epoch| within_limits(&pb::Start { epoch: Some(epoch), ..Default::default() });
        assert!(numbered(1 << 53).is_ok());
        assert!(numbered((1 << 53) + 1).unwrap_err().contains("9007199254740992"));
        assert!(numbered(u64::MAX).is_err());
        assert!(within_limits(&pb::Start { plan_pages: 2, plan_entries: 1, ..Default::default() }).is_err());
    }
}

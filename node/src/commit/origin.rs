//! Where the pieces of a commit come from: this node's own splitter, or a client's stream.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::IoError;
use checkpoint::disk::{Pool, says_nothing};
use checkpoint::plan::PlanError;
use checkpoint::split::SplitError;
use checkpoint::{Coverage, Digest, Piece, Plan, PlanEntry, Splitter};
use client::{Certainty, Code, Failure, pb, wire};
use nativelog::background::{self, BULK};
use pb::commit_reply::Kind as Reply;
use pb::commit_request::Kind as Request;
use tokio::sync::mpsc;
use tonic::Status;
use uncopied::Incoming;

use crate::guests::Call;
use crate::limits::PIECES_QUEUED_MAX;

/// A client that takes no answer for so long has gone or hangs.
const STALL: Duration = Duration::from_secs(60);
/// Hints in one message.
const HINTS_A_MESSAGE: usize = 4096;

/// The answers of one commit call.
#[derive(Debug, Clone)]
pub struct Replies(pub mpsc::Sender<Result<pb::CommitReply, Status>>);

impl Replies {
    /// Sends an answer; false when the client is gone, or takes nothing any more.
    pub async fn send(&self, kind: Reply) -> bool {
        let sent = self.0.send(Ok(pb::CommitReply { kind: Some(kind) }));
        matches!(tokio::time::timeout(STALL, sent).await, Ok(Ok(())))
    }

    /// Sends news that may be left out.
    pub fn try_send(&self, kind: Reply) {
        // Full or closed: the next news replaces this one, and a client that is gone needs none.
        let _ = self.0.try_send(Ok(pb::CommitReply { kind: Some(kind) }));
    }

    /// Waits until nobody is there any more whom an answer could reach.
    pub async fn gone(&self) {
        self.0.closed().await;
    }

    /// Whether somebody is there whom an answer can reach.
    pub fn are_taken(&self) -> bool {
        !self.0.is_closed()
    }
}

/// What comes next.
pub enum Next {
    /// A piece.
    Piece(Piece),
    /// That was all; this is the root.
    Seal(Digest),
    /// Not yet; the source is being read.
    Alive,
}

/// Why nothing comes any more.
pub enum Broken {
    /// The source cannot be read on; the failure is for the user.
    GaveUp(Box<Failure>),
    /// The client is gone. The attempt stays open: it may come back through another node.
    Gone,
    /// Nothing comes from the client though it is there; why it is not waited for. The attempt stays open, too.
    Silent(String),
}

/// An attempt as the origin needs to know it.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// Its id.
    pub attempt: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its writer token, if any.
    pub token: Option<u64>,
    /// Chunk size, bytes.
    pub chunk_bytes: u32,
    /// It was open before.
    pub resumed: bool,
    /// What the log has already.
    pub coverage: Coverage,
    /// Digests of equally long files of the same path in the newest epoch.
    pub hints: BTreeMap<u32, Digest>,
    /// The client does not wait for it: it sends a tiny epoch at once.
    pub silent: bool,
}

impl Opening {
    /// For an epoch that needs no attempt.
    pub fn silent(chunk_bytes: u32) -> Opening {
        Opening { chunk_bytes, silent: true, ..Opening::default() }
    }
}

/// A source of pieces. Calls come in this order: `page` until `None`, `open`, `next` until the seal.
pub trait Origin: Send {
    /// This node has scanned the directory, and reads and hashes the pieces, itself.
    const HASHED_HERE: bool;

    /// The next page of the plan.
    fn page(&mut self) -> impl Future<Output = Result<Option<Cow<'_, [PlanEntry]>>, Broken>> + Send;
    /// Pieces may come now.
    fn open(&mut self, opening: Opening) -> impl Future<Output = Result<(), Broken>> + Send;
    /// The next piece, or the root. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Next, Broken>> + Send;
}

/// A directory that this node reads itself.
pub struct Local {
    what: String,
    dir: PathBuf,
    plan: Arc<Plan>,
    pages: std::vec::IntoIter<Range<usize>>,
    buffers: Pool,
    pieces: Option<mpsc::Receiver<Result<Next, Broken>>>,
    replies: Replies,
}

impl Local {
    /// The directory `dir` as `plan` saw it, read to `buffers`.
    pub fn new(what: String, dir: PathBuf, plan: Arc<Plan>, buffers: Pool, replies: Replies) -> Local {
        let pages = wire::pages(&plan.entries).into_iter();
        Local { what, dir, plan, pages, buffers, pieces: None, replies }
    }
}

impl Origin for Local {
    const HASHED_HERE: bool = true;

    async fn page(&mut self) -> Result<Option<Cow<'_, [PlanEntry]>>, Broken> {
        Ok(self.pages.next().map(|page| Cow::Borrowed(&self.plan.entries[page])))
    }

    async fn open(&mut self, opening: Opening) -> Result<(), Broken> {
        if !opening.silent {
            // Only news here: whoever went away asked for a commit and gets it all the same.
            self.replies.send(Reply::Opened(opened(&opening))).await;
        }
        let (send, pieces) = mpsc::channel(PIECES_QUEUED_MAX);
        self.pieces = Some(pieces);
        let (dir, plan, what) = (self.dir.clone(), self.plan.clone(), self.what.clone());
        let buffers = self.buffers.clone();
        tokio::spawn(background::run("splitter", BULK, move || {
            let last = match split(&dir, &plan, &opening, &buffers, &send) {
                Ok(None) => return,
                Ok(Some(root)) => Ok(Next::Seal(root)),
                Err(error) => Err(Broken::GaveUp(Box::new(unsplit(&what, &error)))),
            };
            // The commit may have ended before its pieces did.
            let _ = send.blocking_send(last);
        }));
        Ok(())
    }

    async fn next(&mut self) -> Result<Next, Broken> {
        let pieces = self.pieces.as_mut().expect("open comes before next");
        match pieces.recv().await {
            Some(next) => next,
            None => Err(Broken::GaveUp(Box::new(
                Failure::new(Code::Internal, "this is a bug in epochlog, the epoch was NOT committed")
                    .what(self.what.clone())
                    .why("the splitter ended early")
                    .fix("please report it")
                    .committed(Certainty::No),
            ))),
        }
    }
}

/// A directory that this node cannot plan, for people. By [`Code::PermissionDenied`] its client is sent to stream.
pub fn unplanned(what: &str, error: &PlanError) -> Failure {
    let failure = wire::plan_failure(what, error);
    if let PlanError::Io(error) = error { unread_here(failure, error) } else { failure }
}

/// A directory that this node cannot split, likewise.
fn unsplit(what: &str, error: &SplitError) -> Failure {
    let failure = wire::split_failure(what, error);
    if let SplitError::Io(error) = error { unread_here(failure, error) } else { failure }
}

/// What this node has too few files or too little memory for is closed to it, like what it has no right to: its client
/// may have them.
fn unread_here(failure: Failure, error: &IoError) -> Failure {
    let code = if says_nothing(&error.source) { Code::PermissionDenied } else { failure.code };
    Failure { code, ..failure }
}

/// So many entries are looked through before one is looked up.
const NEAR: usize = 64;

/// Sends all pieces; the root at the end, or nothing when nobody takes them any more.
fn split(
    dir: &std::path::Path,
    plan: &Plan,
    opening: &Opening,
    buffers: &Pool,
    send: &mpsc::Sender<Result<Next, Broken>>,
) -> Result<Option<Digest>, SplitError> {
    // By the order of the plan: a table by path would take as much memory as the plan. Whoever asks goes through it in
    // order: the next one is near, as a rule.
    let place = Cell::new(0);
    let previous = |entry: &PlanEntry| {
        if opening.hints.is_empty() {
            return None;
        }
        let ahead =
            plan.entries[place.get()..].iter().take(NEAR).position(|other| std::ptr::eq(other, entry));
        let file = match ahead {
            Some(steps) => place.get() + steps,
            None => plan.entries.binary_search_by(|other| other.path.cmp(&entry.path)).ok()?,
        };
        place.set(file);
        opening.hints.get(&wire::id(file)).copied()
    };
    let splitter = Splitter::new(dir, plan, opening.chunk_bytes, &opening.coverage, &previous)?;
    let mut splitter = splitter.with_buffers(buffers);
    for piece in splitter.by_ref() {
        if send.blocking_send(Ok(Next::Piece(piece?))).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(splitter.finish_root()?))
}

/// A client that reads the directory and streams its pieces.
pub struct Remote {
    requests: Incoming<pb::CommitRequest>,
    call: Option<Arc<Call>>,
    replies: Replies,
    pages_left: u32,
    page: u32,
}

impl Remote {
    /// The rest of a call whose Start announced so many pages, and its place.
    pub fn new(
        requests: Incoming<pb::CommitRequest>,
        call: Option<Arc<Call>>,
        plan_pages: u32,
        replies: Replies,
    ) -> Remote {
        Remote { requests, call, replies, pages_left: plan_pages, page: 0 }
    }

    async fn request(&mut self) -> Result<Request, Broken> {
        // Between two questions this node works: that is no silence of the client.
        let asking = self.call.as_ref().map(|call| call.asking());
        let came = self.requests.message().await;
        drop(asking);
        match came {
            Ok(Some(pb::CommitRequest { kind: Some(kind) })) => {
                if let Some(call) = self.call.as_ref().filter(|_| !matches!(kind, Request::Alive(_))) {
                    call.progress();
                }
                Ok(kind)
            }
            Ok(Some(pb::CommitRequest { kind: None })) => Err(refused("a message without content")),
            // What is no message is the client's fault; anything else is the connection's.
            Err(status)
                if matches!(status.code(), tonic::Code::InvalidArgument | tonic::Code::OutOfRange) =>
            {
                Err(refused(status.message()))
            }
            Err(status) if is_silence(&status) => Err(Broken::Silent(status.message().to_owned())),
            Ok(None) | Err(_) => Err(Broken::Gone),
        }
    }
}

/// Whether a call ends because nothing came on it (`guests`): that is no word of its client.
pub fn is_silence(status: &Status) -> bool {
    matches!(status.code(), tonic::Code::DeadlineExceeded | tonic::Code::ResourceExhausted)
}

fn refused(why: &str) -> Broken {
    Broken::GaveUp(Box::new(
        Failure::new(Code::Refused, "refused, the epoch was NOT committed")
            .what("commit over a stream")
            .why(why)
            .fix("send Start, all plan pages, then pieces and one Seal")
            .committed(Certainty::No),
    ))
}

fn give_up(give_up: pb::GiveUp) -> Broken {
    let failure = give_up.why.map(Failure::from_pb);
    let failure = failure.unwrap_or_else(|| Failure::new(Code::SourceChanged, "the source changed"));
    Broken::GaveUp(Box::new(failure.committed(Certainty::No)))
}

impl Origin for Remote {
    const HASHED_HERE: bool = false;

    async fn page(&mut self) -> Result<Option<Cow<'_, [PlanEntry]>>, Broken> {
        if self.pages_left == 0 {
            return Ok(None);
        }
        let page = match self.request().await? {
            Request::Page(page) => page,
            Request::GiveUp(why) => return Err(give_up(why)),
            _ => return Err(refused("the plan is not complete")),
        };
        if page.page != self.page {
            return Err(refused("the pages of the plan are not in order"));
        }
        self.page += 1;
        self.pages_left -= 1;
        let entries: Result<Vec<_>, _> = page.entries.into_iter().map(wire::from_plan_entry).collect();
        entries.map(|entries| Some(Cow::Owned(entries))).map_err(|why| refused(&why))
    }

    async fn open(&mut self, opening: Opening) -> Result<(), Broken> {
        if opening.silent {
            return Ok(());
        }
        let known: Vec<pb::KnownFile> = opening
            .hints
            .iter()
            .map(|(file, digest)| pb::KnownFile { file: *file, digest: wire::digest(digest) })
            .collect();
        for files in known.chunks(HINTS_A_MESSAGE) {
            self.replies.send(Reply::Hints(pb::Hints { files: files.to_vec() })).await;
        }
        match self.replies.send(Reply::Opened(opened(&opening))).await {
            true => Ok(()),
            false => Err(Broken::Gone),
        }
    }

    async fn next(&mut self) -> Result<Next, Broken> {
        match self.request().await? {
            Request::Piece(piece) => wire::from_piece(piece).map(Next::Piece).map_err(|why| refused(&why)),
            Request::Seal(seal) => {
                Digest::from_slice(&seal.root).map(Next::Seal).ok_or_else(|| refused("a root has 32 bytes"))
            }
            Request::Alive(_) => Ok(Next::Alive),
            Request::GiveUp(why) => Err(give_up(why)),
            Request::Start(_) | Request::Page(_) => Err(refused("pieces were expected")),
        }
    }
}

fn opened(opening: &Opening) -> pb::Opened {
    pb::Opened {
        attempt: opening.attempt,
        epoch: opening.epoch,
        token: opening.token,
        chunk_bytes: opening.chunk_bytes,
        resumed: opening.resumed,
        covered: Some(wire::covered(&opening.coverage)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_node_has_no_files_or_memory_for_is_its_clients_to_stream() {
        for (number, is_streamed) in
            [(24, true), (23, true), (12, true), (13, true), (5, false), (2, false), (28, false)]
        {
            let error = || {
                let source = std::io::Error::from_raw_os_error(number);
                IoError { path: "/d/f".into(), what: "open", source }
            };
            for failure in [unplanned("commit j", &error().into()), unsplit("commit j", &error().into())] {
                assert_eq!(failure.code == Code::PermissionDenied, is_streamed, "{number}: {failure:?}");
                assert!(failure.why.starts_with("/d/f: cannot open"), "{failure:?}");
            }
        }
    }
}

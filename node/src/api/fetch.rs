//! Fetch: an epoch's manifest and content. Every file is checked against the manifest before a byte of
//! it leaves; a damaged one is an answer (`Corrupt`), and the client goes to another replica. A node
//! that has not published the epoch passes the call on to one that has.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::digest::{self, Digest, FileHasher};
use checkpoint::disk::next_data;
use checkpoint::disk::says_nothing;
use checkpoint::store::{ManifestFile, StoreError};
use checkpoint::{EntryKind, JobName, ManifestEntry};
use client::{Cause, Code, Failure, pb, wire};
use pb::fetch_reply::Kind;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::call::{Answers, current, job_name};
use super::read;
use crate::guests::Call;
use crate::limits::{CHUNKS_QUEUED_MAX, MANIFEST_PART_BYTES, RANGES_MAX};
use crate::node::Node;
use crate::reads::State;
use crate::turns::{Turn, Turns};

/// Bytes of one chunk on the wire.
const CHUNK_BYTES: u64 = 1 << 20;
/// A client that takes nothing for so long has gone or hangs: its call ends.
const STALL: Duration = Duration::from_secs(60);
/// How often a client that waits is told that the node goes on.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// How long a publication that is under way is waited for.
const PUBLISHING_PATIENCE: Duration = Duration::from_secs(5);

type Send = mpsc::Sender<Result<pb::FetchReply, Status>>;

/// Runs the call in a task of its own.
pub fn run(node: Arc<Node>, request: pb::FetchRequest, place: Option<Arc<Call>>) -> Answers<pb::FetchReply> {
    let (send, answers) = mpsc::channel(CHUNKS_QUEUED_MAX);
    tokio::spawn(async move {
        // A call counts until nobody works on it any more.
        let _place = place;
        if let Err(failure) = answer(&node, request, &send).await
            && failure.code != Code::Interrupted
        {
            // It fails only when the caller is gone: then there is nobody to tell.
            let _ = tell(&send, Kind::Failed(node.outward_failure(failure).to_pb())).await;
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

async fn tell(send: &Send, kind: Kind) -> Result<(), Failure> {
    let reply = pb::FetchReply { kind: Some(kind) };
    match tokio::time::timeout(STALL, send.send(Ok(reply))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(gone("the client went away")),
        Err(_) => Err(gone("the client takes nothing any more")),
    }
}

fn gone(why: &str) -> Failure {
    tracing::debug!(why, "a fetch ends");
    Failure::new(Code::Interrupted, why)
}

/// News for a client that waits; one that has something to read needs none.
fn working(send: &Send) {
    let _ = send.try_send(Ok(pb::FetchReply { kind: Some(Kind::Working(pb::Working {})) }));
}

/// Waits for `what`, and tells the client from time to time that it is not forgotten.
async fn meanwhile<T>(send: &Send, what: impl Future<Output = T>) -> Result<T, Failure> {
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            done = &mut what => return Ok(done),
            () = send.closed() => return Err(gone("the client went away")),
            () = tokio::time::sleep(WORKING_EVERY) => working(send),
        }
    }
}

async fn answer(node: &Arc<Node>, request: pb::FetchRequest, send: &Send) -> Result<(), Failure> {
    let job = job_name(&request.job)?;
    current(node, request.stale, &format!("restore {job}")).await?;
    let found = read::find(node.replica.machine(), &job, request.which).await?;
    let (epoch, root, age_ms) = (found.info.sealed.epoch, found.info.sealed.root, found.age_ms());
    let _reader = node.replica.machine().read_epoch(&job, epoch);
    if request.elsewhere && !request.direct && pass_on(node, &request, epoch, send).await? {
        return Ok(());
    }
    let mut published = node.published(&job, epoch, root.as_bytes());
    if published.is_err() {
        if !request.direct && pass_on(node, &request, epoch, send).await? {
            return Ok(());
        }
        let deadline = Instant::now() + PUBLISHING_PATIENCE;
        published = meanwhile(send, node.wait_published(&job, epoch, root.as_bytes(), deadline)).await?;
    }
    published.map_err(|why| not_here(node, &job, epoch, &why))?;
    let files = node.store.layout().files_dir(&job, epoch);
    let wanted = Wanted { job, epoch, root, files };
    if !request.content {
        let head = pb::Head {
            job: wanted.job.to_string(),
            epoch,
            root: wire::digest(&root),
            node: node.config.id,
            stale: request.stale,
            age_ms,
            ..pb::Head::default()
        };
        return manifest(node, &wanted, head, send).await;
    }
    let started = Instant::now();
    let mut sent = content(node, &wanted, &request, send).await;
    // It may have gone just before this reader came.
    let here = pb::Which { kind: Some(pb::which::Kind::Exactly(epoch)) };
    if sent.is_err()
        && let Err(gone) = read::find(node.replica.machine(), &wanted.job, Some(here)).await
    {
        sent = Err(gone);
    }
    if sent.is_ok() {
        node.metrics.restored(started.elapsed());
    }
    sent
}

/// The epoch that a call is about.
struct Wanted {
    job: JobName,
    epoch: u64,
    root: Digest,
    files: PathBuf,
}

/// Waits for a turn. Who waits has read nothing yet.
async fn turn(node: &Node, turns: &Turns, send: &Send) -> Result<Turn, Failure> {
    meanwhile(send, turns.take()).await?.map_err(|busy| turns.refused(node.config.id, busy))
}

/// The manifest of an epoch that is published here, open and compared with its root.
async fn open(
    node: &Node,
    wanted: &Wanted,
    turn: Turn,
    send: &Send,
) -> Result<(Turn, ManifestFile), Failure> {
    let Wanted { job, epoch, root, .. } = wanted;
    let (store, named, epoch) = (node.store.clone(), job.clone(), *epoch);
    // A million entries take long. The turn ends with the work, also when the caller is gone before.
    let opening = tokio::task::spawn_blocking(move || (turn, store.manifest_file(&named, epoch)));
    let (turn, opened) = meanwhile(send, opening).await?.expect("reading a manifest does not panic");
    match opened {
        Ok(Some(file)) if file.envelope().root == *root => Ok((turn, file)),
        Ok(Some(_)) => Err(corrupt(node, "manifest", "it has another root than the epoch")),
        Ok(None) => Err(not_here(node, job, epoch, "its directory is gone")),
        Err(error) => Err(unread_manifest(node, error)),
    }
}

/// Sends the manifest: ranges of its file, as they are.
async fn manifest(node: &Node, wanted: &Wanted, head: pb::Head, send: &Send) -> Result<(), Failure> {
    let turn = turn(node, &node.turns.manifests, send).await?;
    let (_turn, file) = open(node, wanted, turn, send).await?;
    let bytes = file.tree_bytes();
    tell(send, Kind::Head(pb::Head { manifest_bytes: bytes, ..head })).await?;
    node.metrics.restore_begun(&wanted.job);
    let file = Arc::new(file);
    for at in (0..bytes).step_by(MANIFEST_PART_BYTES) {
        let file = file.clone();
        let part = tokio::task::spawn_blocking(move || file.tree(at, MANIFEST_PART_BYTES)).await;
        let part = part.expect("reading a manifest does not panic");
        let part = part.map_err(|error| unread(node, "manifest", &error.source))?;
        tell(send, Kind::Manifest(part.into())).await?;
    }
    Ok(())
}

fn not_here(node: &Node, job: &JobName, epoch: u64, why: &str) -> Failure {
    Failure::new(Code::Unavailable, "the node has not published the epoch")
        .what(format!("restore {job}@{epoch}"))
        .why(format!("node {}: {why}", node.config.id))
        .fix("repeat the command a little later, or name other nodes with --endpoints")
}

/// What cannot be read is damaged, unless this process or machine has too little of something just now.
fn unread(node: &Node, what: &str, error: &io::Error) -> Failure {
    if !says_nothing(error) {
        return corrupt(node, what, &error.to_string());
    }
    Failure::new(Code::Unavailable, "the node cannot read its copy now")
        .what(format!("read {what}"))
        .why(format!("node {}: {what}: {error}", node.config.id))
        .fix(format!("another replica is asked; on that node: {}", Cause::of(error).fix))
}

fn unread_manifest(node: &Node, error: StoreError) -> Failure {
    match error {
        StoreError::Io(error) => unread(node, "manifest", &error.source),
        error => corrupt(node, "manifest", &error.to_string()),
    }
}

fn corrupt(node: &Node, what: &str, why: &str) -> Failure {
    node.metrics.mismatches(1);
    Failure::new(Code::Corrupt, "a copy is damaged")
        .what(format!("read {what}"))
        .why(format!("node {}: {what}: {why}", node.config.id))
        .fix("another replica is asked; run `epochlog verify --all-nodes --repair` and look at the node's disk")
}

/// Lets another node answer. False when no other has it either, and nothing was sent.
async fn pass_on(node: &Node, request: &pb::FetchRequest, epoch: u64, send: &Send) -> Result<bool, Failure> {
    let which = pb::Which { kind: Some(pb::which::Kind::Exactly(epoch)) };
    let request = pb::FetchRequest {
        which: Some(which),
        direct: true,
        stale: true,
        elsewhere: false,
        ..request.clone()
    };
    let _turn = turn(node, &node.turns.passed_on, send).await?;
    for id in node.voters().into_iter().filter(|id| *id != node.config.id) {
        let Some((_, mut stub)) = node.peer(id) else { continue };
        let asked = tokio::time::timeout(PUBLISHING_PATIENCE, stub.fetch(request.clone()));
        let Ok(Ok(stream)) = meanwhile(send, asked).await? else { continue };
        let mut stream = stream.into_inner();
        let mut first = true;
        loop {
            let reply = match tokio::time::timeout(STALL, stream.message()).await {
                Ok(reply) => reply,
                Err(_) => Err(Status::deadline_exceeded(format!("node {id} is silent"))),
            };
            match reply {
                Ok(Some(pb::FetchReply { kind: Some(Kind::Working(_)) })) => working(send),
                // Nothing was sent yet: the next one may have it.
                Ok(Some(pb::FetchReply { kind: Some(Kind::Failed(_)) }) | None) | Err(_) if first => break,
                Ok(Some(pb::FetchReply { kind: Some(kind) })) => {
                    first = false;
                    tell(send, kind).await?;
                }
                Ok(_) => return Ok(true),
                Err(status) => return Err(Failure::from_status(&status)),
            }
        }
    }
    Ok(false)
}

async fn content(
    node: &Arc<Node>,
    wanted: &Wanted,
    request: &pb::FetchRequest,
    send: &Send,
) -> Result<(), Failure> {
    let ranges = match &request.files[..] {
        [] => vec![pb::IdRange { from: 0, to: u32::MAX }],
        ranges if ranges.len() > RANGES_MAX => {
            return Err(Failure::new(Code::Usage, "too many ranges of files")
                .why(format!("{} are named, at most {RANGES_MAX} may be", ranges.len())));
        }
        ranges => ranges.to_vec(),
    };
    let turn = turn(node, &node.turns.contents, send).await?;
    let (turn, manifest) = open(node, wanted, turn, send).await?;
    let (node, send, files) = (node.clone(), send.clone(), wanted.files.clone());
    let (mut offset, anew) = (request.start_offset, request.elsewhere);
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let outlet = Outlet { send, runtime: tokio::runtime::Handle::current(), told: Instant::now() };
        let mut reading = Reading { node: &node, files: &files, outlet, anew };
        let mut walk = manifest.walk();
        for range in &ranges {
            walk.seek(range.from).map_err(|error| unread_manifest(&node, error))?;
            while walk.index() < range.to {
                let stepped = walk.step(|index, entry, digest| {
                    let is_sent = entry.kind == EntryKind::File && entry.size > 0;
                    is_sent.then(|| (index, ManifestEntry::copied(entry, digest)))
                });
                match stepped.map_err(|error| unread_manifest(&node, error))? {
                    None => break,
                    Some(None) => {}
                    Some(Some((index, entry))) => {
                        reading.send_file(index, &entry, std::mem::take(&mut offset))?;
                    }
                }
            }
        }
        Ok(())
    });
    read.await.expect("reading content does not panic")
}

/// The way to the client, from a blocking thread.
struct Outlet {
    send: Send,
    runtime: tokio::runtime::Handle,
    told: Instant,
}

impl Outlet {
    fn tell(&mut self, kind: Kind) -> Result<(), Failure> {
        self.told = Instant::now();
        self.runtime.block_on(tell(&self.send, kind))
    }

    /// Called for every MiB that is read and not sent.
    fn going_on(&mut self) -> Result<(), Failure> {
        if self.send.is_closed() {
            return Err(gone("the client went away"));
        }
        if self.told.elapsed() >= WORKING_EVERY {
            self.told = Instant::now();
            working(&self.send);
        }
        Ok(())
    }
}

/// One call's reading of one epoch.
struct Reading<'a> {
    node: &'a Node,
    files: &'a Path,
    outlet: Outlet,
    /// The next file is read whole once more, whatever is remembered of it: what was sent of it did not verify.
    anew: bool,
}

impl Reading<'_> {
    /// Checks one file, then sends it from `offset` on.
    fn send_file(&mut self, index: u32, entry: &ManifestEntry, offset: u64) -> Result<(), Failure> {
        let (node, name) = (self.node, entry.path.to_string());
        let bad = |error: io::Error| unread(node, &name, &error);
        let other = || corrupt(node, &name, "its content is not the sealed content");
        let path = self.files.join(entry.path.as_os_str());
        let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("an open flag is small");
        let file = File::options().read(true).custom_flags(nofollow).open(path).map_err(bad)?;
        let meta = file.metadata().map_err(bad)?;
        if meta.len() != entry.size {
            return Err(corrupt(node, &name, "it has another size"));
        }
        let small = entry.size <= CHUNK_BYTES;
        let state = State::of(&meta);
        let anew = std::mem::take(&mut self.anew);
        if !small && (anew || !node.reads.was_intact(&state, &entry.digest)) {
            if self.hash(&file, bad)? != entry.digest {
                return Err(other());
            }
            node.reads.is_intact(state, entry.digest);
        }
        let mut at = offset;
        while at < entry.size {
            let whole = (entry.size, entry.size);
            // What is small is checked as it is sent: all of it.
            let (start, end) = match small {
                true => (at, entry.size),
                false => next_data(&file, at, entry.size).map_err(bad)?.unwrap_or(whole),
            };
            if at < start {
                let zeros = start - at;
                self.outlet.tell(Kind::Chunk(pb::FileChunk {
                    file: index,
                    offset: at,
                    zeros,
                    ..Default::default()
                }))?;
                at = start;
            }
            while at < end {
                let len = CHUNK_BYTES.min(end - at);
                let mut payload = node.buffers.read.take(usize::try_from(len).expect("at most 1 MiB"));
                let room = payload.room();
                let start = room.len();
                room.resize(start + len as usize, 0);
                file.read_exact_at(&mut room[start..], at).map_err(bad)?;
                if small && at == 0 && digest::content(payload.as_ref()) != entry.digest {
                    return Err(other());
                }
                let mut chunk = pb::FileChunk { file: index, offset: at, ..pb::FileChunk::default() };
                if digest::is_zero(payload.as_ref()) {
                    chunk.zeros = len;
                } else {
                    chunk.digest = wire::digest(&digest::content(payload.as_ref()));
                    chunk.payload = payload.freeze();
                }
                self.outlet.tell(Kind::Chunk(chunk))?;
                at += len;
            }
        }
        Ok(())
    }

    fn hash(&mut self, file: &File, bad: impl Fn(io::Error) -> Failure) -> Result<Digest, Failure> {
        let mut hasher = FileHasher::new();
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        let (mut at, size) = (0, file.metadata().map_err(&bad)?.len());
        while at < size {
            let (start, end) = next_data(file, at, size).map_err(&bad)?.unwrap_or((size, size));
            hasher.zeros(start - at);
            at = start;
            while at < end {
                let want = (end - at).min(CHUNK_BYTES) as usize;
                match file.read_at(&mut buffer[..want], at) {
                    // It was cut meanwhile.
                    Ok(0) => return Ok(hasher.finish()),
                    Ok(read) => {
                        hasher.data(&buffer[..read]);
                        at += read as u64;
                        self.outlet.going_on()?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(bad(error)),
                }
            }
        }
        Ok(hasher.finish())
    }
}

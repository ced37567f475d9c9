//! Fetch: an epoch's manifest and content. Every file is checked against the manifest before a byte of
//! it leaves; a damaged one is an answer (`Corrupt`), and the client goes to another replica. A node
//! that has not published the epoch passes the call on to one that has.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::digest::{self, Digest, Hasher};
use checkpoint::disk::says_nothing;
use checkpoint::store::StoreError;
use checkpoint::{EntryKind, JobName, Manifest, ManifestEntry};
use client::{Cause, Code, Failure, pb, wire};
use pb::fetch_reply::Kind;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::reads::State;
use super::{Answers, current, job_name, read};
use crate::guests::Call;
use crate::node::Node;

/// Bytes of one chunk on the wire.
const CHUNK_BYTES: u64 = 1 << 20;
/// Chunks between the disk and the wire.
const CHUNKS_QUEUED_MAX: usize = 2;
/// A client that takes nothing for so long has gone or hangs: its call ends.
const STALL: Duration = Duration::from_secs(60);
/// How long a call waits for its turn to read content.
const TURN_PATIENCE: Duration = Duration::from_secs(60);
/// How often a client that waits is told that the node goes on.
const WORKING_EVERY: Duration = Duration::from_secs(1);
/// Ranges of files in one request.
const RANGES_MAX: usize = 10_000;
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

/// What was read where a manifest should be.
enum Read {
    Nothing,
    Another,
    Whole(Manifest),
    Encoded(Bytes),
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
    let (store, named, whole) = (node.store.clone(), job.clone(), request.content);
    // A million entries take long to hash, to encode and to drop.
    let read = tokio::task::spawn_blocking(move || {
        let Some((_, manifest)) = store.manifest(&named, epoch)? else { return Ok(Read::Nothing) };
        if manifest.root() != root {
            return Ok(Read::Another);
        }
        Ok::<_, StoreError>(if whole {
            Read::Whole(manifest)
        } else {
            Read::Encoded(manifest.encode().into())
        })
    });
    let encoded = match read.await.expect("reading a manifest does not panic") {
        Ok(Read::Encoded(encoded)) => encoded,
        Ok(Read::Whole(manifest)) => {
            let started = Instant::now();
            let mut sent = content(node, manifest, files, &request, send).await;
            // It may have gone just before this reader came.
            let here = pb::Which { kind: Some(pb::which::Kind::Exactly(epoch)) };
            if sent.is_err()
                && let Err(gone) = read::find(node.replica.machine(), &job, Some(here)).await
            {
                sent = Err(gone);
            }
            if sent.is_ok() {
                node.metrics.restored(started.elapsed());
            }
            return sent;
        }
        Ok(Read::Another) => return Err(corrupt(node, "manifest", "it has another root than the epoch")),
        Ok(Read::Nothing) => return Err(not_here(node, &job, epoch, "its directory is gone")),
        Err(StoreError::Io(error)) => return Err(unread(node, "manifest", &error.source)),
        Err(error) => return Err(corrupt(node, "manifest", &error.to_string())),
    };
    let head = pb::Head {
        job: job.to_string(),
        epoch,
        root: wire::digest(&root),
        node: node.config.id,
        manifest_bytes: encoded.len() as u64,
        stale: request.stale,
        age_ms,
    };
    tell(send, Kind::Head(head)).await?;
    node.metrics.restore_begun(&job);
    for at in (0..encoded.len()).step_by(CHUNK_BYTES as usize) {
        let to = encoded.len().min(at + CHUNK_BYTES as usize);
        tell(send, Kind::Manifest(encoded.slice(at..to))).await?;
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
    manifest: Manifest,
    files: PathBuf,
    request: &pb::FetchRequest,
    send: &Send,
) -> Result<(), Failure> {
    let wanted = request.files.clone();
    if wanted.len() > RANGES_MAX {
        return Err(Failure::new(Code::Usage, "too many ranges of files")
            .why(format!("{} are named, at most {RANGES_MAX} may be", wanted.len())));
    }
    let room = tokio::time::timeout(TURN_PATIENCE, node.reads.room.clone().acquire_owned());
    let Ok(Ok(permit)) = meanwhile(send, room).await? else {
        return Err(Failure::new(Code::Unavailable, "the node is busy with other restores")
            .why(format!("node {}: no turn in {TURN_PATIENCE:?}", node.config.id))
            .fix("repeat the command a little later, or name other nodes with --endpoints"));
    };
    let (node, send, mut offset) = (node.clone(), send.clone(), request.start_offset);
    let anew = request.elsewhere;
    let read = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let outlet = Outlet { send, runtime: tokio::runtime::Handle::current(), told: Instant::now() };
        let mut reading = Reading { node: &node, files: &files, outlet, anew };
        let all = [pb::IdRange { from: 0, to: u32::MAX }];
        let ranges = if wanted.is_empty() { &all[..] } else { &wanted[..] };
        for range in ranges {
            let to = (range.to as usize).min(manifest.entries.len());
            for index in (range.from as usize)..to {
                let entry = &manifest.entries[index];
                if entry.kind == EntryKind::File && entry.size > 0 {
                    reading.send_file(index, entry, std::mem::take(&mut offset))?;
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
    fn send_file(&mut self, index: usize, entry: &ManifestEntry, offset: u64) -> Result<(), Failure> {
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
            let len = CHUNK_BYTES.min(entry.size - at);
            let mut payload = vec![0; usize::try_from(len).expect("at most 1 MiB")];
            file.read_exact_at(&mut payload, at).map_err(bad)?;
            if small && at == 0 && digest::content(&payload) != entry.digest {
                return Err(other());
            }
            let mut chunk = pb::FileChunk { file: wire::id(index), offset: at, ..pb::FileChunk::default() };
            if digest::is_zero(&payload) {
                chunk.zeros = len;
            } else {
                chunk.digest = wire::digest(&digest::content(&payload));
                chunk.payload = payload.into();
            }
            self.outlet.tell(Kind::Chunk(chunk))?;
            at += len;
        }
        Ok(())
    }

    fn hash(&mut self, file: &File, bad: impl Fn(io::Error) -> Failure) -> Result<Digest, Failure> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                    self.outlet.going_on()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(bad(error)),
            }
        }
    }
}

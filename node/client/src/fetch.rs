//! Getting an epoch back: its manifest from any node, then its content, file by file, each chunk
//! checked as it comes. A node that breaks off or holds a damaged copy is left for the next one, at
//! the byte where it stopped.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::digest::{self, Digest};
use checkpoint::manifest::{Manifest, ManifestEntry};
use checkpoint::restore::{ContentSource, SourceError};
use tonic::Streaming;

use crate::connect::{Client, share, telling, unavailable};
use crate::failure::{Code, Failure};
use crate::pb::fetch_reply::Kind;
use crate::{pb, place, wire};

/// Zero bytes are handed on in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Rounds over all endpoints before content is given up.
const ROUNDS_MAX: u32 = 3;
/// Pause before they are asked once more.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// An epoch's manifest, and where it came from.
#[derive(Debug)]
pub struct Fetched {
    /// What the node says about it.
    pub head: pb::Head,
    /// The manifest; its root is the one in the head.
    pub manifest: Manifest,
}

impl Fetched {
    /// The published files, when this machine is the node's and sees them.
    pub fn local_files(&self) -> Option<PathBuf> {
        place::same_directory(self.head.place.as_ref()?).ok()
    }
}

impl Client {
    /// The manifest of an epoch. With `stale`, from the node's own knowledge, without the leader.
    pub async fn manifest(&self, job: &str, which: pb::Which, stale: bool) -> Result<Fetched, Failure> {
        let request =
            pb::FetchRequest { job: job.to_owned(), which: Some(which), stale, ..Default::default() };
        let mut reasons = BTreeMap::new();
        let (mut last, mut told): (Option<Failure>, Option<Failure>) = (None, None);
        let deadline = Instant::now() + self.options.timeout;
        let mut hung = BTreeMap::<String, u32>::new();
        for round in 1.. {
            let mut no_quorum = true;
            told = None;
            let endpoints = self.endpoints();
            for endpoint in &endpoints {
                let left = deadline.saturating_duration_since(Instant::now());
                let first = share(left, endpoints.len(), hung.get(endpoint).copied().unwrap_or(0));
                match self.manifest_at(endpoint, request.clone(), first).await {
                    Ok(fetched) => {
                        self.prefer(endpoint);
                        return Ok(fetched);
                    }
                    Err(failure) if failure.is_transient() || failure.code == Code::Corrupt => {
                        if failure.code == Code::Timeout {
                            *hung.entry(endpoint.clone()).or_default() += 1;
                        }
                        no_quorum &= failure.code == Code::NoQuorum;
                        reasons.insert(endpoint.clone(), failure.why.clone());
                        told = Some(telling(told, failure.clone()));
                        last = Some(failure);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            // A copy that is damaged everywhere does not get better by waiting.
            let damaged = last.as_ref().is_none_or(|last| last.code == Code::Corrupt);
            // Nodes that have no quorum know it for a while already when they say so.
            if Instant::now() + ROUND_PAUSE >= deadline || no_quorum || damaged && round >= ROUNDS_MAX {
                break;
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        Err(unavailable(&format!("restore {job}"), &reasons, told))
    }

    /// The first answer may take `first`; each after it the timeout.
    async fn manifest_at(
        &self,
        endpoint: &str,
        request: pb::FetchRequest,
        first: Duration,
    ) -> Result<Fetched, Failure> {
        let patience = self.options.timeout;
        let mut stream = self.open_fetch(endpoint, request, first).await?;
        let head = match next(&mut stream, first, patience).await? {
            Some(Kind::Head(head)) => head,
            _ => {
                return Err(Failure::new(Code::Internal, "the node answered out of order").why("no head"));
            }
        };
        let mut bytes = Vec::new();
        while let Some(kind) = next(&mut stream, patience, patience).await? {
            if let Kind::Manifest(more) = kind {
                bytes.extend_from_slice(&more);
            }
        }
        let corrupt = |why: String| Failure::new(Code::Corrupt, "the manifest is damaged").why(why);
        let manifest = Manifest::decode(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if head.root[..] != manifest.root().as_bytes()[..] {
            return Err(corrupt("it has another root than the epoch".into()));
        }
        Ok(Fetched { head, manifest })
    }

    async fn open_fetch(
        &self,
        endpoint: &str,
        request: pb::FetchRequest,
        patience: Duration,
    ) -> Result<Streaming<pb::FetchReply>, Failure> {
        let mut stub = self.stub(endpoint)?;
        let answer = tokio::time::timeout(patience, stub.fetch(request)).await.map_err(|_| no_answer())?;
        Ok(answer?.into_inner())
    }
}

fn no_answer() -> Failure {
    Failure::new(Code::Timeout, "no answer").why("no answer in time")
}

/// The next message that brings something. It may take `first`, or for ever while the node says at least once
/// every `patience` that it works on it.
async fn next(
    stream: &mut Streaming<pb::FetchReply>,
    first: Duration,
    patience: Duration,
) -> Result<Option<Kind>, Failure> {
    let mut wait = first;
    loop {
        let message = tokio::time::timeout(wait, stream.message()).await.map_err(|_| no_answer())?;
        wait = patience;
        match message? {
            Some(pb::FetchReply { kind: Some(Kind::Working(_)) }) => {}
            Some(pb::FetchReply { kind: Some(Kind::Failed(failed)) }) => {
                return Err(Failure::from_pb(failed));
            }
            Some(pb::FetchReply { kind: Some(kind) }) => return Ok(Some(kind)),
            Some(pb::FetchReply { kind: None }) => {
                return Err(
                    Failure::new(Code::Internal, "the node answered out of order").why("an empty message")
                );
            }
            None => return Ok(None),
        }
    }
}

/// Content of one epoch from the cluster, for [`checkpoint::restore::restore`], which is synchronous:
/// use it on a blocking thread of the runtime it was made on.
pub struct ReplicaContent {
    client: Arc<Client>,
    runtime: tokio::runtime::Handle,
    job: String,
    epoch: u64,
    files: u32,
    local: Option<PathBuf>,
    /// Files are wanted one by one, not all in order.
    picked: bool,
    open: Option<Open>,
    /// Why endpoints were left, the newest reason of each.
    pub left: BTreeMap<String, Failure>,
}

/// An open stream that goes on with this file.
struct Open {
    endpoint: String,
    stream: Streaming<pb::FetchReply>,
    next_file: u32,
}

impl ReplicaContent {
    /// The content of what was fetched. `picked`: only some of the files will be asked for.
    pub fn new(client: Arc<Client>, fetched: &Fetched, picked: bool) -> ReplicaContent {
        ReplicaContent {
            client,
            runtime: tokio::runtime::Handle::current(),
            job: fetched.head.job.clone(),
            epoch: fetched.head.epoch,
            files: wire::id(fetched.manifest.entries.len()),
            local: fetched.local_files(),
            picked,
            open: None,
            left: BTreeMap::new(),
        }
    }

    /// Whether content is read from the node's own published files.
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Fetches everything, even where the published files could be read.
    pub fn stream_only(&mut self) {
        self.local = None;
    }

    async fn connect(&self, endpoint: &str, file: u32, offset: u64) -> Result<Open, Failure> {
        let to = if self.picked { file + 1 } else { self.files };
        let request = pb::FetchRequest {
            job: self.job.clone(),
            which: Some(pb::Which { kind: Some(pb::which::Kind::Exactly(self.epoch)) }),
            stale: true,
            content: true,
            files: vec![pb::IdRange { from: file, to }],
            start_offset: offset,
            direct: false,
        };
        let stream = self.client.open_fetch(endpoint, request, self.client.options.timeout).await?;
        Ok(Open { endpoint: endpoint.to_owned(), stream, next_file: file })
    }

    /// The next chunk of `file` at `offset`, from wherever it is to be had.
    async fn chunk(&mut self, file: u32, offset: u64) -> Result<pb::FileChunk, Failure> {
        let endpoints = self.client.endpoints();
        let mut tries = endpoints.iter().cycle().take(endpoints.len() * ROUNDS_MAX as usize);
        loop {
            let mut open = match self.open.take() {
                Some(open) if open.next_file == file => open,
                _ => {
                    let Some(endpoint) = tries.next() else { return Err(self.nobody_has_it()) };
                    match self.connect(endpoint, file, offset).await {
                        Ok(open) => open,
                        Err(failure) => {
                            self.left.insert(endpoint.clone(), failure);
                            continue;
                        }
                    }
                }
            };
            match read_chunk(&mut open.stream, self.client.options.timeout).await {
                Ok(chunk) => {
                    self.open = Some(open);
                    return Ok(chunk);
                }
                Err(failure) => {
                    self.left.insert(open.endpoint, failure);
                }
            }
        }
    }

    fn nobody_has_it(&self) -> Failure {
        let why: Vec<String> = self.left.iter().map(|(endpoint, why)| format!("{endpoint} {why}")).collect();
        let corrupt = self.left.values().any(|failure| failure.code == Code::Corrupt);
        let code = if corrupt { Code::Corrupt } else { Code::Unavailable };
        Failure::new(code, "no node gave the content").why(why.join("; "))
    }

    fn stream_file(
        &mut self,
        file: u32,
        entry: &ManifestEntry,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        let runtime = self.runtime.clone();
        let mut offset = 0;
        while offset < entry.size {
            let chunk = runtime
                .block_on(self.chunk(file, offset))
                .map_err(|failure| SourceError::Failed(Box::new(failure)))?;
            let len = if chunk.payload.is_empty() { chunk.zeros } else { chunk.payload.len() as u64 };
            if chunk.file != file || chunk.offset != offset || len == 0 || len > entry.size - offset {
                return Err(SourceError::failed("the node sent another range than it was asked for"));
            }
            hand_on(&chunk.payload, len, sink)?;
            offset += len;
        }
        if let Some(open) = &mut self.open {
            open.next_file = file + 1;
        }
        Ok(())
    }
}

fn hand_on(payload: &Bytes, len: u64, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    if !payload.is_empty() {
        return sink(payload);
    }
    let mut left = len;
    while left > 0 {
        let now = left.min(ZEROS.len() as u64);
        sink(&ZEROS[..usize::try_from(now).expect("at most 64 KiB")])?;
        left -= now;
    }
    Ok(())
}

/// Reads one chunk and checks it against the digest that came with it, when the range is a subtree.
async fn read_chunk(
    stream: &mut Streaming<pb::FetchReply>,
    patience: Duration,
) -> Result<pb::FileChunk, Failure> {
    let chunk = loop {
        match next(stream, patience, patience).await? {
            Some(Kind::Chunk(chunk)) => break chunk,
            Some(_) => {}
            None => {
                return Err(
                    Failure::new(Code::Unavailable, "the node ended early").why("the stream ended early")
                );
            }
        }
    };
    let intact = chunk.payload.is_empty()
        || Digest::from_slice(&chunk.digest).is_some_and(|known| digest::content(&chunk.payload) == known);
    match intact {
        true => Ok(chunk),
        false => Err(Failure::new(Code::Corrupt, "a chunk was damaged on its way")
            .why(format!("file {} at offset {}", chunk.file, chunk.offset))),
    }
}

impl ContentSource for ReplicaContent {
    fn fetch(
        &mut self,
        index: usize,
        entry: &ManifestEntry,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        self.stream_file(wire::id(index), entry, sink)
    }

    fn local(&self, entry: &ManifestEntry) -> Option<PathBuf> {
        Some(self.local.as_ref()?.join(entry.path.as_os_str()))
    }
}

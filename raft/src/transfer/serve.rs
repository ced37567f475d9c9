//! Content for peers, as streams of parts.
//!
//! Every request is bounded before anything is read: counts, sizes, and how many are served at once. Reading
//! happens on threads of its own, two parts ahead of the connection, and pauses for commits.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::limits::{CHUNK_BYTES_MAX, PACK_FILE_BYTES_MAX};
use checkpoint::{Digest, JobName, digest};
use futures::Stream;
use nativelog::ledger::Page;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::copies::Blob;
use super::outlet::{Outlet, Unsent};
use super::source::{Range, Source};
use crate::config::{ITEM_BYTES_MAX, ITEMS_MAX, PART_BYTES};
use crate::intake::Foreground;
use crate::positions::from_position;
use crate::proto::{self, ItemPart};

/// Requests for content that are served at once.
pub const SERVED_MAX: usize = 6;
/// How long the holes of the blobs of one request are looked for. With [`TURN`] it is well below the patience of callers.
const LOOK: Duration = Duration::from_secs(5);
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Parts of up to 1 MiB between the disk and the connection.
const AHEAD: usize = 2;
/// A caller that takes nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// News for a caller while a long blob is verified.
const WORKING_EVERY: Duration = Duration::from_secs(1);

/// Parts on their way to a peer.
pub type Parts = Pin<Box<dyn Stream<Item = Result<ItemPart, Status>> + Send>>;

/// Serves this node's content.
pub struct Service {
    source: Source,
    turns: Arc<Semaphore>,
    foreground: Arc<Foreground>,
}

fn bad(why: impl Into<String>) -> Status {
    Status::invalid_argument(why)
}

fn digest_of(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::from_slice(bytes).ok_or_else(|| bad("a digest has 32 bytes"))
}

fn count(items: usize) -> Result<(), Status> {
    if items == 0 || items > ITEMS_MAX {
        return Err(bad(format!("{items} items in one request; 1 to {ITEMS_MAX} may be")));
    }
    Ok(())
}

impl Service {
    /// A service of `source` that goes behind `foreground`.
    pub fn new(source: Source, foreground: Arc<Foreground>) -> Arc<Service> {
        Arc::new(Service { source, turns: Arc::new(Semaphore::new(SERVED_MAX)), foreground })
    }

    /// An epoch's manifest file.
    pub async fn manifest(self: &Arc<Self>, request: proto::ManifestRequest) -> Result<Parts, Status> {
        let job = JobName::try_from(request.job.as_str()).map_err(|_| bad("no job name"))?;
        let root = digest_of(&request.root)?;
        let (epoch, attempt, at) = (request.epoch, request.attempt, request.at);
        let read = move |source: &Source, _, out: &mut dyn Outlet| {
            source.manifest(&job, epoch, (attempt, root), at, out)
        };
        self.serve(1, false, read).await
    }

    /// Blobs, each from an offset on.
    pub async fn blobs(self: &Arc<Self>, request: proto::BlobsRequest) -> Result<Parts, Status> {
        count(request.blobs.len())?;
        let mut blobs = Vec::with_capacity(request.blobs.len());
        for blob in &request.blobs {
            if blob.offset >= blob.size {
                return Err(bad("an offset at or behind the end"));
            }
            let proto::BlobWanted { size, offset, brought, anew, .. } = *blob;
            blobs.push(Blob { digest: digest_of(&blob.digest)?, size, offset, brought, anew });
        }
        self.serve(blobs.len(), request.holes, move |source, item, out| source.blob(&blobs[item], out)).await
    }

    /// How much room blobs take here.
    pub async fn stored(
        self: &Arc<Self>,
        request: proto::StoredRequest,
    ) -> Result<proto::StoredReply, Status> {
        count(request.blobs.len())?;
        let mut blobs = Vec::with_capacity(request.blobs.len());
        for blob in &request.blobs {
            let (digest, size) = (digest_of(&blob.digest)?, blob.size);
            blobs.push(Blob { digest, size, offset: 0, brought: 0, anew: false });
        }
        let (turn, service) = (self.turn().await?, self.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let until = Instant::now() + LOOK;
            let told = blobs.iter().map(|blob| service.source.stored(blob, until));
            told.map(|bytes| proto::BlobStored { bytes }).collect()
        });
        let blobs = looked.await.map_err(|_| Status::internal("a thread of this node panicked"))?;
        Ok(proto::StoredReply { blobs })
    }

    /// Covered ranges of an open attempt.
    pub async fn ranges(self: &Arc<Self>, request: proto::RangesRequest) -> Result<Parts, Status> {
        count(request.ranges.len())?;
        let ranges: Vec<Range> = request.ranges.iter().map(take_range).collect::<Result<_, _>>()?;
        if ranges.iter().map(|range| range.len).sum::<u64>() > ITEM_BYTES_MAX {
            return Err(bad(format!("more than {ITEM_BYTES_MAX} bytes in one request")));
        }
        let (attempt, at) = (request.attempt, request.at);
        let read = move |source: &Source, item: usize, out: &mut dyn Outlet| {
            source.range(attempt, at, &ranges[item], out)
        };
        self.serve(request.ranges.len(), request.holes, read).await
    }

    /// Packed files of an open attempt.
    pub async fn packed(self: &Arc<Self>, request: proto::PackedRequest) -> Result<Parts, Status> {
        count(request.files.len())?;
        let mut files = Vec::with_capacity(request.files.len());
        for file in &request.files {
            if file.size == 0 || file.size > PACK_FILE_BYTES_MAX {
                return Err(bad("not the size of a packed file"));
            }
            files.push((file.file, file.size, digest_of(&file.digest)?));
        }
        let (attempt, at) = (request.attempt, request.at);
        let read = move |source: &Source, item: usize, out: &mut dyn Outlet| {
            source.packed(attempt, at, files[item], out)
        };
        self.serve(request.files.len(), false, read).await
    }

    /// Pages of the plan of an open attempt.
    pub async fn pages(self: &Arc<Self>, request: proto::PagesRequest) -> Result<Parts, Status> {
        count(request.pages.len())?;
        let pages = request.pages.iter().map(|wanted| {
            let proto::PageWanted { page, first, entries, index, bytes, .. } = *wanted;
            if bytes == 0 {
                return Err(bad("a page without bytes"));
            }
            let (attempt, digest) = (request.attempt, digest_of(&wanted.digest)?);
            Ok(Page { attempt, page, first, entries, index, bytes, digest })
        });
        let pages: Vec<Page> = pages.collect::<Result<_, Status>>()?;
        if pages.iter().map(|page| u64::from(page.bytes)).sum::<u64>() > ITEM_BYTES_MAX {
            return Err(bad(format!("more than {ITEM_BYTES_MAX} bytes in one request")));
        }
        self.serve(pages.len(), false, move |source, item, out| source.page(&pages[item], out)).await
    }

    /// The payload of a log entry.
    pub async fn payload(self: &Arc<Self>, request: proto::PayloadRequest) -> Result<Parts, Status> {
        let id = from_position(request.position.as_ref().ok_or_else(|| bad("no position"))?);
        self.serve(1, false, move |source, _, out| source.payload(id, out)).await
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        let turn = tokio::time::timeout(TURN, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| Status::resource_exhausted("busy with other transfers: ask again"))?;
        turn.map_err(|_| Status::unavailable("this node is shutting down"))
    }

    /// Reads `items` in order on a thread of its own. A miss is an answer; the rest goes on. Zeros leave by their length
    /// where the caller takes `holes`.
    async fn serve(
        self: &Arc<Self>,
        items: usize,
        holes: bool,
        read: impl Fn(&Source, usize, &mut dyn Outlet) -> Result<(), Unsent> + Send + 'static,
    ) -> Result<Parts, Status> {
        let turn = self.turn().await?;
        let (send, parts) = mpsc::channel(AHEAD);
        let service = self.clone();
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut out = Wire {
                send,
                runtime,
                foreground: service.foreground.clone(),
                item: 0,
                holes,
                since: Instant::now(),
                told: Instant::now(),
            };
            for item in 0..items {
                out.item = item as u32;
                match read(&service.source, item, &mut out) {
                    Ok(()) => {}
                    Err(Unsent::Missed(missed)) => {
                        let part = ItemPart {
                            item: item as u32,
                            data: Bytes::new(),
                            miss: missed.miss.into(),
                            why: missed.why,
                            zeros: 0,
                        };
                        if !out.send(part) {
                            return;
                        }
                    }
                    Err(Unsent::Gone) => return,
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(parts)))
    }
}

fn take_range(range: &proto::RangeWanted) -> Result<Range, Status> {
    if range.len == 0 || range.len > u64::from(CHUNK_BYTES_MAX) {
        return Err(bad("not the length of a range"));
    }
    if !digest::is_subtree(range.file_bytes, range.offset, range.len) {
        return Err(bad("a range that is no subtree of its file"));
    }
    Ok(Range {
        file: range.file,
        file_bytes: range.file_bytes,
        offset: range.offset,
        len: range.len,
        digest: digest_of(&range.digest)?,
    })
}

/// The way to the peer, from a blocking thread.
struct Wire {
    send: mpsc::Sender<Result<ItemPart, Status>>,
    runtime: Handle,
    foreground: Arc<Foreground>,
    item: u32,
    /// The caller takes zeros by their length.
    holes: bool,
    /// When the last part had left.
    since: Instant,
    told: Instant,
}

impl Wire {
    fn send(&mut self, part: ItemPart) -> bool {
        let send = self.send.clone();
        let sent = self.runtime.block_on(async move {
            tokio::time::timeout(PATIENCE, send.send(Ok(part))).await.is_ok_and(|sent| sent.is_ok())
        });
        if let Some(pause) = self.foreground.pause(self.since.elapsed()) {
            std::thread::sleep(pause);
        }
        self.since = Instant::now();
        self.told = self.since;
        sent
    }
}

impl Outlet for Wire {
    fn part(&mut self, data: Bytes) -> bool {
        self.send(ItemPart { item: self.item, data, ..ItemPart::default() })
    }

    fn zeros(&mut self, mut len: u64) -> bool {
        static ZEROS: [u8; PART_BYTES] = [0; PART_BYTES];
        if self.holes {
            return len == 0 || self.send(ItemPart { item: self.item, zeros: len, ..ItemPart::default() });
        }
        while len > 0 {
            let now = len.min(PART_BYTES as u64);
            if !self.part(Bytes::from_static(&ZEROS[..now as usize])) {
                return false;
            }
            len -= now;
        }
        true
    }

    fn working(&mut self) -> bool {
        if let Some(pause) = self.foreground.pause(self.since.elapsed()) {
            std::thread::sleep(pause);
        }
        self.since = Instant::now();
        if self.told.elapsed() >= WORKING_EVERY {
            self.told = Instant::now();
            // A full queue says as much.
            let _ = self.send.try_send(Ok(ItemPart { item: self.item, ..ItemPart::default() }));
        }
        !self.send.is_closed()
    }
}

//! Contents, spread over the peers.
//!
//! The work is a list of batches: many small contents that are shelved with the syncs of one, or one large
//! content. A few batches are under way at once, each begins at another peer, and what a peer does not have,
//! sends wrong or breaks off goes to the next one. What came stays in `incoming/`: the next peer, the next
//! round and the next process go on behind it. Whoever sent something wrong is asked to look at it anew: its word, not
//! what became of its bytes on the way, says whether it has a good copy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use checkpoint::Digest;
use checkpoint::store::{Content, Incoming, IncomingError, Store};
use futures::{FutureExt, StreamExt};
use nativelog::ledger::Ledger;
use tokio::sync::mpsc;

use super::answers::{Answers, Nowhere, Said};
use super::ask::{self, Event, Items, Trouble};
use super::batches::{STREAMS, batches};
use super::error::{TransferError, blocking};
use super::lost::Lost;
use super::progress::Progress;
use super::turn::{Stop, is_stopped, stopped};
use crate::config::RoomProbe;
use crate::intake::Kept;
use crate::network::peers::Peers;
use crate::proto::{self, BlobWanted};

/// Contents that are looked after at once: what is known of each while it is brought takes some 400 bytes.
pub(super) const CONTENTS_AT_ONCE: usize = 16 << 10;
/// Every peer is asked so often for what is lacking.
pub(super) const ROUNDS: u32 = 4;
/// Pause before all peers are asked again; twice as long every time.
const PAUSE: Duration = Duration::from_millis(250);
/// A peer that could not be reached is asked last for so long.
const AWAY: Duration = Duration::from_secs(5);
/// Parts between the connection and the disk.
const AHEAD: usize = 2;

/// Brings content from peers to this node.
#[derive(Clone)]
pub struct Gather {
    pub(super) peers: Arc<Peers>,
    store: Arc<Store>,
    me: u64,
    /// A peer that surely has everything: the sender of the snapshot.
    holder: Option<u64>,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: Stop,
    room: RoomProbe,
    /// Bytes that a disk which is short keeps room for, and what was taken of them.
    kept_bytes: u64,
    kept: Arc<Kept>,
    away: Arc<Mutex<HashMap<u64, Instant>>>,
    /// Counts batches: each begins at another peer.
    turns: Arc<AtomicUsize>,
    /// Contents that this transfer found nowhere: they are not asked for again by it.
    lost: Arc<Mutex<BTreeMap<Digest, Lost>>>,
    /// Where content was brought, by the ledger that the transfer goes by.
    brought: Brought,
    /// What came wrong, and from whom.
    doubted: Arc<Mutex<BTreeSet<(u64, Digest)>>>,
}

/// Log index of the seal that brought a content; `None` when nobody holds it (any more).
pub type Brought = Arc<dyn Fn(&Digest) -> Option<u64> + Send + Sync>;

/// As `ledger` says it.
pub fn by_ledger(ledger: &Arc<Ledger>) -> Brought {
    let ledger = ledger.clone();
    Arc::new(move |digest| ledger.brought(digest))
}

/// A content that is wanted, as it was brought by a seal, and what was said of it.
struct Left {
    content: Content,
    brought: u64,
    said: Answers,
}

/// What a batch asks of each peer: where each content was brought.
type Asked = HashMap<Digest, u64>;

impl Gather {
    /// For node `me`, that goes by what `brought` says; `stop` ends it.
    pub fn new(
        peers: Arc<Peers>,
        store: Arc<Store>,
        me: u64,
        progress: Arc<Progress>,
        brought: Brought,
        stop: Stop,
    ) -> Gather {
        Gather {
            peers,
            store,
            me,
            holder: None,
            progress,
            stop,
            room: RoomProbe::always(),
            kept_bytes: 0,
            kept: Arc::default(),
            away: Arc::default(),
            turns: Arc::default(),
            lost: Arc::default(),
            brought,
            doubted: Arc::default(),
        }
    }

    /// The same, for a disk that may be short of space.
    pub fn with_room(mut self, room: &RoomProbe) -> Gather {
        self.room = room.clone();
        self
    }

    /// The same, where that disk keeps room for so many bytes that may not be owed.
    pub fn with_kept(mut self, bytes: u64, kept: &Arc<Kept>) -> Gather {
        (self.kept_bytes, self.kept) = (bytes, kept.clone());
        self
    }

    /// The same, from `holder`, which surely has everything.
    pub fn with_holder(mut self, holder: u64) -> Gather {
        self.holder = Some(holder);
        self
    }

    /// The shelves that content goes to.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Who counts what comes.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Fails when the transfer has to end, or nothing more fits on this disk.
    pub fn check(&self) -> Result<(), TransferError> {
        self.fits(0)
    }

    /// Fails when the transfer has to end, or so many more bytes do not fit on this disk.
    pub fn fits(&self, bytes: u64) -> Result<(), TransferError> {
        self.check_stop()?;
        (self.room.0)(bytes).map_or(Ok(()), |why| Err(TransferError::Full(why)))
    }

    /// Whether so many bytes that may not be owed fit: a disk that is short keeps room for what is on its way to it. All or
    /// none, with all that was let in since it was short, by earlier tries, snapshots and the log: it is taken once.
    pub fn fits_what_is_kept(&self, bytes: u64) -> Result<(), TransferError> {
        if (self.room.0)(0).is_none() {
            self.kept.is_whole_again();
        }
        match self.fits(bytes) {
            // No bytes fit always: a snapshot without any is what makes room.
            Err(TransferError::Full(_)) if bytes == 0 || self.kept.fits(bytes, self.kept_bytes) => Ok(()),
            fits => fits,
        }
    }

    /// So many bytes come that may not be owed: of what is kept, if there is no other room.
    pub fn takes(&self, bytes: u64) {
        if (self.room.0)(0).is_some() {
            self.kept.take(bytes);
        }
    }

    /// Fails when the transfer has to end.
    pub fn check_stop(&self) -> Result<(), TransferError> {
        if is_stopped(&self.stop) { Err(TransferError::Stopped) } else { Ok(()) }
    }

    /// All peers, beginning with another one every time; those that did not answer lately come last.
    pub(super) fn order(&self) -> Vec<u64> {
        let mut peers = self.peers.others(self.me);
        if !peers.is_empty() {
            let first = self.turns.fetch_add(1, Ordering::Relaxed) % peers.len();
            peers.rotate_left(first);
        }
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        peers.sort_by_key(|peer| away.get(peer).is_some_and(|since| since.elapsed() < AWAY));
        peers
    }

    /// All peers, the one that surely has it first.
    pub(super) fn holder_first(&self) -> Vec<u64> {
        let mut peers = self.order();
        peers.sort_by_key(|peer| Some(*peer) != self.holder);
        peers
    }

    pub(super) fn is_away(&self, peer: u64) {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, Instant::now());
    }

    pub(super) async fn pause(&self, round: u32) -> Result<(), TransferError> {
        tokio::select! {
            () = stopped(&self.stop) => Err(TransferError::Stopped),
            () = tokio::time::sleep(PAUSE * 2u32.pow(round)) => Ok(()),
        }
    }

    fn lost(&self) -> MutexGuard<'_, BTreeMap<Digest, Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubted(&self) -> MutexGuard<'_, BTreeSet<(u64, Digest)>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn holder(&self) -> Option<u64> {
        self.holder
    }

    /// Brings `contents` to the shelves; what is nowhere to be had does not hold up the rest.
    ///
    /// # Errors
    /// [`TransferError`]; what came is kept.
    pub async fn bring(&self, contents: Vec<Content>) -> Result<(), TransferError> {
        let mut lost: BTreeMap<Digest, Lost> = BTreeMap::new();
        for some in contents.chunks(CONTENTS_AT_ONCE) {
            let nowhere = self.bring_some(some).await?;
            self.lost().extend(nowhere.iter().map(|(digest, lost)| (*digest, lost.clone())));
            lost.extend(nowhere);
        }
        let Some(first) = lost.values().next() else { return Ok(()) };
        let said = first.found.iter().map(|(peer, why)| format!("node {peer}: {why}"));
        let why = said.collect::<Vec<_>>().join("; ");
        let what = format!("content {}", first.digest);
        Err(TransferError::Nowhere { what, why, lost: lost.into_values().collect() })
    }

    /// Brings these; answers with what is nowhere to be had.
    async fn bring_some(&self, contents: &[Content]) -> Result<BTreeMap<Digest, Lost>, TransferError> {
        let mut lost = BTreeMap::new();
        let known = self.lost().clone();
        let mut rest = Vec::with_capacity(contents.len());
        for content in contents {
            match known.get(&content.digest) {
                Some(there) => drop(lost.insert(content.digest, there.clone())),
                None => rest.push(*content),
            }
        }
        // One digest is brought once at a time, also when it is wanted with two modes.
        let mut seen = BTreeSet::new();
        let (once, again): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|content| seen.insert(content.digest));
        lost.extend(self.bring_each(once).await?);
        for content in again {
            if !lost.contains_key(&content.digest) {
                lost.extend(self.bring_each(vec![content]).await?);
            }
        }
        Ok(lost)
    }

    /// Answers with what is nowhere to be had.
    async fn bring_each(&self, contents: Vec<Content>) -> Result<Vec<(Digest, Lost)>, TransferError> {
        let mut left = self.wanted(contents);
        // Whoever finds one content nowhere finds the next there, too: it is not waited for as long.
        let rounds = if self.lost().is_empty() { ROUNDS } else { 1 };
        for round in 0..ROUNDS {
            let decided = left.iter().all(|left| left.said.nowhere(self.holder).is_some());
            if left.is_empty() || round >= rounds && decided {
                break;
            }
            if round > 0 {
                self.pause(round).await?;
            }
            let batches = batches(left.iter().map(|left| left.content));
            let mut under_way = futures::stream::iter(batches)
                .map(|batch| self.bring_batch(batch).boxed())
                .buffer_unordered(STREAMS);
            left = Vec::new();
            while let Some(done) = under_way.next().await {
                left.extend(done?);
            }
        }
        let mut lost = Vec::new();
        for Left { content, brought, said } in left {
            let Some(nowhere) = said.nowhere(self.holder) else {
                let what = format!("content {}", content.digest);
                return Err(TransferError::Lacking { what, why: said.why() });
            };
            let Content { digest, size: bytes, .. } = content;
            let Nowhere { found, not_yet } = nowhere;
            lost.push((digest, Lost { digest, bytes, brought, found, not_yet }));
        }
        Ok(lost)
    }

    fn wanted(&self, contents: Vec<Content>) -> Vec<Left> {
        let left = contents.into_iter().map(|content| {
            // What nobody holds any more, nobody has to have.
            let brought = (self.brought)(&content.digest).unwrap_or_default();
            Left { content, brought, said: Answers::default() }
        });
        left.collect()
    }

    /// Asks one peer after the other; answers with what none of them brought.
    async fn bring_batch(&self, batch: Vec<Content>) -> Result<Vec<Left>, TransferError> {
        let mut left = self.wanted(batch);
        let asked: Asked = left.iter().map(|left| (left.content.digest, left.brought)).collect();
        for peer in self.order() {
            if left.is_empty() {
                break;
            }
            let contents = left.iter().map(|left| left.content).collect();
            let mut missed: HashMap<Digest, Said> = HashMap::new();
            for (content, said) in self.bring_from(peer, contents, &asked).await? {
                missed.insert(content.digest, said);
            }
            left.retain_mut(|left| {
                let said = missed.remove(&left.content.digest);
                said.map(|said| left.said.add(peer, said)).is_some()
            });
        }
        Ok(left)
    }

    /// What `peer` did not bring.
    async fn bring_from(
        &self,
        peer: u64,
        contents: Vec<Content>,
        asked: &Asked,
    ) -> Result<Vec<(Content, Said)>, TransferError> {
        let store = self.store.clone();
        let opened = blocking(move || {
            let open = contents.into_iter().map(|content| store.incoming(content));
            open.collect::<Result<Vec<Incoming>, _>>()
        });
        let arriving = opened.await?.map_err(here)?;
        let (arrived, wanted) =
            arriving.into_iter().partition::<Vec<_>, _>(|one| one.have() == one.content().size);
        let (arrived, mut left) = match wanted.is_empty() {
            true => (arrived, Vec::new()),
            false => self.receive(peer, arrived, wanted, asked).await?,
        };
        let contents: Vec<Content> = arrived.iter().map(Incoming::content).collect();
        let store = self.store.clone();
        let shelved = blocking(move || store.shelve(arrived)).await?;
        for (content, result) in contents.into_iter().zip(shelved) {
            match result {
                Ok(()) => {}
                Err(IncomingError::Store(error)) => return Err(here(error)),
                Err(error @ IncomingError::Corrupt { .. }) => {
                    tracing::warn!(peer, %error, "a peer sent content that does not verify; it is thrown away and asked for elsewhere");
                    self.progress.came_wrong(content.size);
                    self.doubted().insert((peer, content.digest));
                    left.push((content, Said::Trouble(error.to_string())));
                }
            }
        }
        Ok(left)
    }

    /// Takes `wanted` from `peer`, behind what is there. Answers with what is whole, `arrived` included, and
    /// with what is not.
    async fn receive(
        &self,
        peer: u64,
        mut arrived: Vec<Incoming>,
        wanted: Vec<Incoming>,
        asked: &Asked,
    ) -> Result<(Vec<Incoming>, Vec<(Content, Said)>), TransferError> {
        let blobs = wanted.iter().map(|one| {
            let Content { digest, size, .. } = one.content();
            let brought = asked.get(&digest).copied().unwrap_or_default();
            self.wanted_of(peer, digest, size, one.have(), brought)
        });
        let request = proto::BlobsRequest { blobs: blobs.collect(), holes: true };
        let sizes: Vec<u64> = request.blobs.iter().map(|blob| blob.size - blob.offset).collect();
        let (parts, taken) = mpsc::channel(AHEAD);
        let room = self.room.clone();
        let writer = tokio::task::spawn_blocking(move || write(wanted, taken, &room));
        let mut why: BTreeMap<usize, Said> = BTreeMap::new();
        let trouble = match self.blobs(peer, request, sizes, parts, &mut why).await {
            Ok(()) => None,
            Err(Trouble::Stopped) => Some(None),
            Err(trouble) => {
                self.is_away(peer);
                let said = Said::of(trouble);
                tracing::debug!(peer, why = said.why(), "a peer brings no more");
                Some(Some(said))
            }
        };
        // Also when it ends early: what the thread has must not be opened again before it lets go.
        let (wanted, written) =
            writer.await.map_err(|_| TransferError::Here("a thread of this node panicked".into()))?;
        written?;
        if let Some(None) = trouble {
            return Err(TransferError::Stopped);
        }
        let trouble = trouble.flatten().unwrap_or_else(|| Said::Trouble("it sent too little".into()));
        let mut left = Vec::new();
        for (item, one) in wanted.into_iter().enumerate() {
            if one.have() == one.content().size {
                arrived.push(one);
            } else {
                let why = why.remove(&item).unwrap_or_else(|| trouble.clone());
                left.push((one.content(), why));
            }
        }
        Ok((arrived, left))
    }

    fn wanted_of(&self, peer: u64, digest: Digest, size: u64, offset: u64, brought: u64) -> BlobWanted {
        let anew = self.doubted().contains(&(peer, digest));
        BlobWanted { digest: digest.as_bytes().to_vec().into(), size, offset, brought, anew }
    }

    /// Whether `peer` has a good copy: it verifies all of it and sends the last byte.
    pub async fn has(&self, peer: u64, digest: Digest, size: u64) -> Result<bool, TransferError> {
        let blob = self.wanted_of(peer, digest, size, size - 1, 0);
        let request = proto::BlobsRequest { blobs: vec![blob], holes: true };
        let asked = async {
            let mut client = ask::client(&self.peers, peer)?;
            let answer = ask::opened(&self.stop, client.fetch_blobs(request)).await?;
            Items::exactly(answer, vec![1], &self.stop).collect().await
        };
        match asked.await {
            Ok(items) => Ok(items.iter().all(Result::is_ok)),
            Err(Trouble::Stopped) => Err(TransferError::Stopped),
            Err(Trouble::Away(_) | Trouble::Peer(_)) => Ok(false),
        }
    }

    async fn blobs(
        &self,
        peer: u64,
        request: proto::BlobsRequest,
        sizes: Vec<u64>,
        parts: mpsc::Sender<(usize, Part)>,
        why: &mut BTreeMap<usize, Said>,
    ) -> Result<(), Trouble> {
        let mut client = ask::client(&self.peers, peer)?;
        let answer = ask::opened(&self.stop, client.fetch_blobs(request)).await?;
        let mut items = Items::exactly(answer, sizes, &self.stop);
        while let Some(event) = items.next().await? {
            let part = match event {
                Event::Missed(item, missed) => {
                    why.insert(item, Said::missed(missed));
                    continue;
                }
                Event::Data(item, data) => {
                    self.progress.fetched(data.len() as u64);
                    (item, Part::Data(data))
                }
                Event::Zeros(item, len) => {
                    self.progress.spared(len);
                    (item, Part::Zeros(len))
                }
            };
            // The writer ends before only when the disk refuses, and says so itself.
            if parts.send(part).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn here(error: impl std::error::Error + 'static) -> TransferError {
    TransferError::of_disk(&error)
}

/// What comes of one content.
enum Part {
    Data(Bytes),
    /// So many zero bytes.
    Zeros(u64),
}

type Written = (Vec<Incoming>, Result<(), TransferError>);

/// Writes parts behind what is there until no more come.
fn write(mut wanted: Vec<Incoming>, mut parts: mpsc::Receiver<(usize, Part)>, room: &RoomProbe) -> Written {
    while let Some((item, part)) = parts.blocking_recv() {
        if let Some(why) = (room.0)(0) {
            return (wanted, Err(TransferError::Full(why)));
        }
        let written = match part {
            Part::Data(data) => wanted[item].write(&data),
            Part::Zeros(len) => wanted[item].zeros(len),
        };
        if let Err(error) = written {
            return (wanted, Err(here(error)));
        }
    }
    (wanted, Ok(()))
}

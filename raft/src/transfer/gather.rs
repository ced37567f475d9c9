//! What one transfer goes by: whom it asks, what the ledger says, whether there is room, what was found nowhere, and who
//! ends it. How it brings contents is told in `bring`, single things in `anywhere`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::Digest;
use checkpoint::store::Store;

use super::error::TransferError;
use super::lost::Lost;
use super::progress::Progress;
use super::sealed::Sealed;
use super::turn::{Stop, is_stopped, stopped};
use super::way::Way;
use crate::config::RoomProbe;
use crate::intake::Kept;
use crate::network::peers::Peers;

/// Contents that are looked after at once: what is known of each while it is brought takes some 400 bytes.
pub(super) const CONTENTS_AT_ONCE: usize = 16 << 10;
/// Every peer is asked so often for what is lacking.
pub(super) const ROUNDS: u32 = 4;
/// Pause before all peers are asked again; twice as long every time.
const PAUSE: Duration = Duration::from_millis(250);
/// A peer that could not be reached is asked last for so long.
const AWAY: Duration = Duration::from_secs(5);

/// Brings content from peers to this node, and from stores.
#[derive(Clone)]
pub struct Gather {
    pub(super) peers: Arc<Peers>,
    store: Arc<Store>,
    pub(super) me: u64,
    /// A peer that surely has everything: the sender of the snapshot.
    holder: Option<u64>,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: Stop,
    pub(super) room: RoomProbe,
    /// Bytes that a disk which is short keeps room for, and what was taken of them.
    kept_bytes: u64,
    kept: Arc<Kept>,
    away: Arc<Mutex<HashMap<u64, Instant>>>,
    /// Counts batches: each begins at another peer.
    turns: Arc<AtomicUsize>,
    /// Contents that this transfer found nowhere: they are not asked for again by it.
    lost: Arc<Mutex<BTreeMap<Digest, Lost>>>,
    /// The ledger that the transfer goes by.
    pub(super) sealed: Arc<dyn Sealed>,
    /// What came wrong, and from whom.
    doubted: Arc<Mutex<BTreeSet<(u64, Digest)>>>,
    /// How stores are asked, if they are.
    pub(super) way: Option<Way>,
}

impl Gather {
    /// For node `me`, that goes by what `sealed` says; `stop` ends it.
    pub fn new(
        peers: Arc<Peers>,
        store: Arc<Store>,
        me: u64,
        progress: Arc<Progress>,
        sealed: Arc<dyn Sealed>,
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
            sealed,
            doubted: Arc::default(),
            way: None,
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

    /// The same, where what comes is counted there.
    pub fn with_progress(mut self, progress: &Arc<Progress>) -> Gather {
        self.progress = progress.clone();
        self
    }

    /// The same, that asks stores too for what lies in them.
    pub fn with_stores(mut self, way: Way) -> Gather {
        self.way = Some(way);
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

    pub(super) fn lost(&self) -> MutexGuard<'_, BTreeMap<Digest, Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doubted(&self) -> MutexGuard<'_, BTreeSet<(u64, Digest)>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn holder(&self) -> Option<u64> {
        self.holder
    }
}

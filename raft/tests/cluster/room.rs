//! Disks that say that they are full, and a leader that is told how much room a majority has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::NoRoom;
use raft::{Replica, RoomJudge, RoomProbe, Rooms, Sight};
use tokio::sync::watch;

/// What a full node says.
pub const FULL: &str = "it is short of space";

/// Bytes that fit on the disk of each node, and on a majority of them.
#[derive(Clone)]
pub struct Room {
    each: BTreeMap<u64, Arc<AtomicU64>>,
    majority: Arc<Majority>,
}

struct Majority {
    bytes: AtomicU64,
    /// What is lacking comes back in a moment.
    soon: AtomicBool,
    /// How often there was not enough.
    refused: Arc<AtomicU64>,
    /// How often somebody has looked, and has asked anew.
    looked: AtomicU64,
    asked: AtomicU64,
    /// Whoever asks anew is answered.
    answers: watch::Sender<bool>,
}

impl Rooms for Majority {
    fn look(&self) -> Sight {
        let (room, soon) = (self.bytes.load(Ordering::Relaxed), self.soon.load(Ordering::Relaxed));
        let refused = self.refused.clone();
        self.looked.fetch_add(1, Ordering::Relaxed);
        Box::new(move |_, ask| match ask.needed.saturating_add(ask.spoken_for) <= room {
            true => Ok(()),
            false => {
                refused.fetch_add(1, Ordering::Relaxed);
                Err(NoRoom { why: format!("{ask:?}"), soon, attempt: 0 })
            }
        })
    }

    fn ask_anew(&self) -> BoxFuture<'_, ()> {
        async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            // The sender is ours.
            let _ = self.answers.subscribe().wait_for(|answers| *answers).await;
        }
        .boxed()
    }
}

impl Room {
    /// As much as anybody wants.
    pub fn of(nodes: impl Iterator<Item = u64>) -> Room {
        let each = nodes.map(|id| (id, Arc::new(AtomicU64::new(u64::MAX)))).collect();
        let majority = Majority {
            bytes: AtomicU64::new(u64::MAX),
            soon: AtomicBool::new(false),
            refused: Arc::default(),
            looked: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            answers: watch::Sender::new(true),
        };
        Room { each, majority: Arc::new(majority) }
    }

    /// As a node with this id is asked.
    pub fn probe(&self, id: u64) -> RoomProbe {
        let room = self.each[&id].clone();
        RoomProbe(Arc::new(move |more| {
            let left = room.load(Ordering::Relaxed);
            (left == 0 || more > left).then(|| FULL.to_owned())
        }))
    }

    /// As a leader asks.
    pub fn judge(&self) -> RoomJudge {
        RoomJudge(self.majority.clone())
    }

    /// A majority has so much from now on.
    pub fn set_majority(&self, bytes: u64) {
        self.majority.bytes.store(bytes, Ordering::Relaxed);
    }

    /// What a majority lacks comes back in a moment: whoever asks waits for it.
    pub fn comes_back(&self) {
        self.majority.soon.store(true, Ordering::Relaxed);
    }

    /// How often a majority had not enough.
    pub fn refused(&self) -> u64 {
        self.majority.refused.load(Ordering::Relaxed)
    }

    /// How often a leader has looked what there is.
    pub fn looked(&self) -> u64 {
        self.majority.looked.load(Ordering::Relaxed)
    }

    /// How often a leader has asked the others anew.
    pub fn asked(&self) -> u64 {
        self.majority.asked.load(Ordering::Relaxed)
    }

    /// Whether the others answer: else who asks them waits.
    pub fn set_answers(&self, answers: bool) {
        self.majority.answers.send_replace(answers);
    }

    /// This node is full from now on.
    pub fn fill(&self, replica: &Replica) {
        self.each[&replica.node()].store(0, Ordering::Relaxed);
        replica.refuse_appends(Some(FULL.to_owned()));
    }

    /// Its disk is, and the node has not noticed yet: it lets in nothing at all.
    pub fn fill_to_the_last_byte(&self, id: u64) {
        self.each[&id].store(0, Ordering::Relaxed);
    }

    /// Its disk has room for so many bytes at a time.
    pub fn leave(&self, id: u64, bytes: u64) {
        self.each[&id].store(bytes, Ordering::Relaxed);
    }

    /// It has room for so many bytes again.
    pub fn free(&self, replica: &Replica, bytes: u64) {
        self.each[&replica.node()].store(bytes, Ordering::Relaxed);
        replica.refuse_appends(None);
    }
}

//! The one way to a delete: what [`super`] deletes by itself and what somebody asks for by hand goes through here, one batch
//! of a store at a time. Two at once would each find the other's batch in the marker, and take it for a stranger's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nativelog::compose;
use nativelog::ledger::{ObjectKey, StoreInfo, Verdict};
use nativelog::record::LogRecord;

use crate::depot::{DeletesBegin, DepotError, DepotTrouble};
use crate::leader::Leadership;
use crate::propose::Proposer;

/// Objects of one batch: what a store takes in one request.
pub const DELETES_AT_ONCE: usize = 1000;
/// A store that does not answer for so long is away.
const STALL: Duration = Duration::from_secs(120);
/// A leader that is not ready after so long is none.
const READY: Duration = Duration::from_secs(10);

/// Deletes in object stores.
pub struct Deletes {
    proposer: Arc<Proposer>,
    /// By store, whose batch it is. Kept over all of it.
    turns: Mutex<BTreeMap<u64, Arc<tokio::sync::Mutex<()>>>>,
}

/// Why objects were not deleted.
#[derive(Debug, thiserror::Error)]
pub enum NotDeleted {
    /// The store does not do it.
    #[error("{0}")]
    Store(DepotError),
    /// The log does not take a record now, or this node does not lead any more.
    #[error("{0}")]
    Log(String),
}

impl Deletes {
    pub(crate) fn new(proposer: Arc<Proposer>) -> Arc<Deletes> {
        Arc::new(Deletes { proposer, turns: Mutex::default() })
    }

    pub(super) fn proposer(&self) -> &Arc<Proposer> {
        &self.proposer
    }

    /// Deletes objects that no record names, of attempts that have ended: at most [`DELETES_AT_ONCE`]. Each has its answer.
    /// Without any only the way there is gone: who ends uploads of such attempts has to have gone it, too. This node has to
    /// lead; nothing is deleted where it turns out that it does not, or that the store is not this cluster's.
    ///
    /// # Errors
    /// [`NotDeleted`]: nothing was deleted, but where the store did not answer in time.
    ///
    /// # Panics
    /// When there are more.
    pub async fn garbage(
        &self,
        store: u64,
        objects: Vec<ObjectKey>,
    ) -> Result<Vec<(ObjectKey, Result<(), DepotError>)>, NotDeleted> {
        assert!(objects.len() <= DELETES_AT_ONCE, "a batch has a bound");
        let ready = self.proposer.leading.ready(READY).await;
        let leadership = ready.map_err(|error| NotDeleted::Log(error.to_string()))?;
        let is_over = {
            let ledger = self.proposer.machine.ledger();
            let applied = ledger.applied().map(|id| id.index);
            let is_over = |attempt| Some(attempt) <= applied && !ledger.is_attempt_open(attempt);
            objects.iter().all(|object| object.store == store && is_over(object.attempt))
        };
        if !is_over {
            return Err(NotDeleted::Log("an attempt of these objects is open".into()));
        }
        self.batch(&leadership, store, objects).await
    }

    pub(super) async fn batch(
        &self,
        leadership: &Arc<Leadership>,
        store: u64,
        objects: Vec<ObjectKey>,
    ) -> Result<Vec<(ObjectKey, Result<(), DepotError>)>, NotDeleted> {
        let turn =
            self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(store).or_default().clone();
        let _turn = turn.lock().await;
        // As it is now: whoever had the turn before has begun another batch.
        let store = self.proposer.machine.ledger().store(store);
        let store = store.ok_or_else(|| NotDeleted::Log("the log does not know the store".into()))?;
        // A leader before this one may have died between its record and the marker.
        self.mark(&store, store.before.into_iter().collect(), store.batch).await?;
        let nonce = loop {
            let nonce: u64 = rand::random();
            if nonce != store.batch && Some(nonce) != store.before {
                break nonce;
            }
        };
        self.propose(leadership, &compose::delete_batch(store.id, nonce)).await?;
        self.mark(&store, vec![store.batch], nonce).await?;
        // What is deleted from here on was let go by a log that is still the cluster's.
        self.proposer.consensus.confirmed().await.map_err(NotDeleted::Log)?;
        let asked = tokio::time::timeout(STALL, self.proposer.config.stores.0.delete(objects)).await;
        asked.map_err(|_| away())
    }

    async fn mark(&self, store: &StoreInfo, from: Vec<u64>, to: u64) -> Result<(), NotDeleted> {
        let begin = DeletesBegin { store: store.id, uuid: store.uuid, from, to };
        let marked = tokio::time::timeout(STALL, self.proposer.config.stores.0.begin_deletes(begin)).await;
        marked.map_err(|_| away())?.map_err(NotDeleted::Store)
    }

    pub(super) async fn propose(
        &self,
        leadership: &Arc<Leadership>,
        record: &LogRecord,
    ) -> Result<(), NotDeleted> {
        match self.proposer.propose_tied(leadership, record).await {
            Ok((_, Verdict::Accepted(_))) => Ok(()),
            Ok((_, Verdict::Rejected(rejected))) => Err(NotDeleted::Log(rejected.to_string())),
            Err(error) => Err(NotDeleted::Log(error.to_string())),
        }
    }
}

fn away() -> NotDeleted {
    NotDeleted::Store(DepotError::new(DepotTrouble::Away, format!("no answer for {STALL:?}")))
}

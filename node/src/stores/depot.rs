//! The stores of a node as its replica sees them: ranges of objects, by the ids that stores have in the log.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use nativelog::ledger::{ObjectKey, StoreInfo};
use nativelog::machine::Machine;
use raft::{DeletesBegin, Depot, DepotError, DepotTrouble, ObjectRange};
use remote::{Deleted, ObjectName, StoreError, Trouble};
use uuid::Uuid;

use super::all::Stores;
use super::kept::{Kept, NotIt};

/// See the module.
pub struct NodeDepot {
    stores: Arc<Stores>,
    machine: Arc<Machine>,
}

impl NodeDepot {
    /// Of the stores that this node's configuration names, as the log of `machine` knows them.
    pub fn new(stores: Arc<Stores>, machine: Arc<Machine>) -> NodeDepot {
        NodeDepot { stores, machine }
    }

    /// The store of this id, what the log knows of it, and the cluster.
    fn find(&self, id: u64) -> Result<(Arc<Kept>, StoreInfo, Uuid), DepotError> {
        let (known, cluster) = {
            let ledger = self.machine.ledger();
            (ledger.store(id), ledger.cluster())
        };
        let known = known.ok_or_else(|| not_ours(format!("the log knows no store {id}")))?;
        let cluster = cluster.ok_or_else(|| not_ours("the log knows no cluster yet".into()))?;
        match self.stores.get(&known.name) {
            Some(kept) => Ok((Arc::clone(kept), known, Uuid::from_bytes(cluster))),
            None => {
                let why = format!("this node's configuration has no [disk.{}]", known.name);
                Err(DepotError::new(DepotTrouble::Away, why))
            }
        }
    }

    async fn bytes(&self, range: ObjectRange) -> Result<Bytes, DepotError> {
        let ObjectRange { object, offset, len, .. } = range;
        let (kept, known, cluster) = self.find(object.store)?;
        kept.look(cluster, &known).await.map_err(|error| match error {
            NotIt::Another(why) => not_ours(why),
            NotIt::Store(error) => told(&error),
        })?;
        let (name, store) = (named(cluster, &object), kept.store().clone());
        let read = kept.run(async move { store.read_unverified(&name, offset, len).await }).await;
        read.map_err(|error| told(&error))
    }

    async fn mark(&self, batch: DeletesBegin) -> Result<(), DepotError> {
        let (kept, known, cluster) = self.find(batch.store)?;
        let (store, DeletesBegin { uuid, from, to, .. }) = (kept.store().clone(), batch);
        kept.run(async move {
            let marker = store.marker().await.map_err(|error| told(&error))?;
            let marker = marker.ok_or_else(|| not_ours(format!("nobody has marked {}", known.name)))?;
            let is_it = marker.cluster == cluster && *marker.store.as_bytes() == uuid;
            if !is_it || !(marker.deletes == to || from.contains(&marker.deletes)) {
                let why = format!("the marker of {} is not the one that the log knows", known.name);
                return Err(not_ours(why));
            }
            store.begin_deletes(&marker, to).await.map(drop).map_err(|error| told(&error))
        })
        .await
    }

    async fn deleted(&self, objects: Vec<ObjectKey>) -> Vec<(ObjectKey, Result<(), DepotError>)> {
        let Some(first) = objects.first() else { return Vec::new() };
        let (kept, _, cluster) = match self.find(first.store) {
            Ok(found) => found,
            Err(error) => return objects.into_iter().map(|object| (object, Err(error.clone()))).collect(),
        };
        let names: Vec<ObjectName> = objects.iter().map(|object| named(cluster, object)).collect();
        let store = kept.store().clone();
        let answers = kept.run(async move { store.delete(&names).await }).await;
        // In the order of the names.
        let answers = objects.into_iter().zip(answers).map(|(object, (_, deleted))| match deleted {
            Deleted::Gone => (object, Ok(())),
            Deleted::Stays(error) => (object, Err(told(&error))),
        });
        answers.collect()
    }
}

impl Depot for NodeDepot {
    fn fetch(&self, range: ObjectRange) -> BoxFuture<'_, Result<Bytes, DepotError>> {
        self.bytes(range).boxed()
    }

    fn begin_deletes(&self, batch: DeletesBegin) -> BoxFuture<'_, Result<(), DepotError>> {
        self.mark(batch).boxed()
    }

    fn delete(&self, objects: Vec<ObjectKey>) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), DepotError>)>> {
        self.deleted(objects).boxed()
    }
}

fn named(cluster: Uuid, object: &ObjectKey) -> ObjectName {
    ObjectName { cluster, digest: object.digest, attempt: object.attempt, nonce: object.nonce }
}

fn not_ours(why: String) -> DepotError {
    DepotError::new(DepotTrouble::NotOurs, why)
}

fn told(error: &StoreError) -> DepotError {
    let trouble = match error.trouble() {
        Trouble::Missing => DepotTrouble::Gone,
        Trouble::Denied => DepotTrouble::Denied,
        Trouble::Damaged | Trouble::Changed => DepotTrouble::Damaged,
        Trouble::Foreign => DepotTrouble::NotOurs,
        Trouble::Away | Trouble::Refused | Trouble::Configuration | Trouble::Disk => DepotTrouble::Away,
    };
    DepotError::new(trouble, error.to_string())
}

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
                let why = self.stores.why_away(&known.name).unwrap_or_default();
                Err(DepotError::new(DepotTrouble::Away, why))
            }
        }
    }

    async fn bytes(&self, range: ObjectRange) -> Result<Bytes, DepotError> {
        let (kept, known, cluster) = self.find(range.object.store)?;
        read(&kept, cluster, &known, range).await
    }

    async fn mark(&self, batch: DeletesBegin) -> Result<(), DepotError> {
        let (kept, known, cluster) = self.find(batch.store)?;
        let (store, DeletesBegin { uuid, from, to, .. }) = (kept.store().clone(), batch);
        kept.run(async move {
            let marker = store.marker().await.map_err(|error| told(&error))?;
            let marker = marker.ok_or_else(|| not_ours(format!("nobody has marked {}", known.name)))?;
            let is_it = marker.cluster == cluster && *marker.store.as_bytes() == uuid;
            // Several nodes begin batches. One of before ours may have been written after who asks has looked, and one
            // of after ours is there to stay.
            if is_it && marker.deletes == known.batch && known.before.contains(&to) {
                return Ok(());
            }
            let is_before =
                |nonce: &u64| from.contains(nonce) || known.batch == to && known.before.contains(nonce);
            if !is_it || !(marker.deletes == to || is_before(&marker.deletes)) {
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

/// Bytes of an object of a store whose prefix is the one that the log knows.
async fn read(
    kept: &Kept,
    cluster: Uuid,
    known: &StoreInfo,
    range: ObjectRange,
) -> Result<Bytes, DepotError> {
    look(kept, cluster, known).await?;
    let ObjectRange { object, offset, len, .. } = range;
    let (name, store) = (named(cluster, &object), kept.store().clone());
    let read = kept.run(async move { store.read_unverified(&name, offset, len).await }).await;
    let error = match read {
        Ok(bytes) => return Ok(bytes),
        Err(error) => told(&error),
    };
    // Where a folder is not mounted any more, or a bucket was emptied, every object is gone: that is said of the store.
    if error.is_of_object() {
        kept.doubt().await;
        look(kept, cluster, known).await?;
    }
    Err(error)
}

async fn look(kept: &Kept, cluster: Uuid, known: &StoreInfo) -> Result<(), DepotError> {
    kept.look(cluster, known).await.map_err(|error| match error {
        NotIt::Another(why) => not_ours(why),
        NotIt::Store(error) => told(&error),
    })
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

pub(super) fn named(cluster: Uuid, object: &ObjectKey) -> ObjectName {
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

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::RealDisk;
    use remote::testing::{Faults, ScriptedS3, Traits, open};
    use remote::{Marker, StoreRuntime};

    const CLUSTER: Uuid = Uuid::from_u128(9);

    fn kept(s3: &ScriptedS3, dir: &std::path::Path) -> Kept {
        let store = open(&ScriptedS3::config("p"), crate::stores::LIMITS, s3, &Faults::new()).unwrap();
        let runtime = Arc::new(StoreRuntime::new(2, 8).unwrap());
        Kept::new(store, runtime, Arc::new(RealDisk), dir).unwrap()
    }

    fn known(marker: &Marker) -> StoreInfo {
        let uuid = *marker.store.as_bytes();
        StoreInfo { id: 5, name: "main".into(), uuid, batch: marker.deletes, before: Vec::new() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_an_object_is_gone_is_believed_only_of_a_prefix_that_is_still_ours() {
        let (s3, dir) = (ScriptedS3::new(Traits::default()), tempfile::tempdir().unwrap());
        let kept = kept(&s3, dir.path());
        let known = known(&kept.claim(CLUSTER).await.unwrap());
        let stored = kept.upload_bytes(CLUSTER, 7, Bytes::from_static(b"content")).await.unwrap();
        let object = ObjectKey { store: 5, attempt: 7, digest: stored.digest, nonce: stored.nonce };
        let range = ObjectRange { object, object_bytes: 7, offset: 0, len: 7 };
        assert_eq!(read(&kept, CLUSTER, &known, range).await.unwrap(), "content");
        // This one alone.
        let object_key = s3.keys().into_iter().find(|key| !key.ends_with("epochlog.json")).unwrap();
        s3.lose(&object_key);
        let error = read(&kept, CLUSTER, &known, range).await.unwrap_err();
        assert_eq!(error.trouble, DepotTrouble::Gone, "{error}");
        // All of the bucket, a moment after its marker was seen.
        s3.lose("p/epochlog.json");
        let error = read(&kept, CLUSTER, &known, range).await.unwrap_err();
        assert_eq!(error.trouble, DepotTrouble::NotOurs, "{error}");
    }
}

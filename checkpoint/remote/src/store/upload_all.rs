//! Writing many objects at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use checkpoint::Digest;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::Store;
use super::upload::Stored;
use crate::content::ObjectPlan;
use crate::error::StoreError;
use crate::journal::Journal;
use crate::pack::Packed;

/// An object that was written, and what it holds.
#[derive(Clone)]
pub struct Written {
    /// Its contents.
    pub packed: Packed,
    /// Its length, digest and leaves.
    pub plan: ObjectPlan,
    /// Its key, and how it is known to be there.
    pub stored: Stored,
}

impl Store {
    /// Plans and writes all of `objects` for `attempt`; the answer is in their order. Those that hold the same bytes are
    /// written once. May be repeated as [`Store::upload`], and then sends only what is not there yet. Bytes under way
    /// are bounded for the store as a whole, not for each object.
    ///
    /// # Errors
    /// Those of the first object that fails; the others end there, and what was written stays in the journal's traces.
    pub async fn upload_all(
        &self,
        journal: &Arc<Journal>,
        cluster: Uuid,
        attempt: u64,
        objects: Vec<Packed>,
    ) -> Result<Vec<Written>, StoreError> {
        let known: Mutex<BTreeMap<Digest, Arc<OnceCell<Stored>>>> = Mutex::default();
        let known = &known;
        let writes = futures::stream::iter(objects.into_iter().enumerate()).map(|(at, packed)| async move {
            let plan = self.plan(&packed).await?;
            let cell = {
                let mut known = known.lock().expect("no thread panics while it notes an object");
                Arc::clone(known.entry(plan.digest()).or_default())
            };
            let upload = || self.upload(journal, cluster, attempt, &plan, packed.source());
            let stored = *cell.get_or_try_init(upload).await?;
            Ok((at, Written { packed, plan, stored }))
        });
        let writes = writes.buffer_unordered(self.line().limits.requests.max(1));
        let mut written: Vec<(usize, Written)> = writes.try_collect().await?;
        written.sort_by_key(|(at, _)| *at);
        Ok(written.into_iter().map(|(_, written)| written).collect())
    }

    async fn plan(&self, packed: &Packed) -> Result<ObjectPlan, StoreError> {
        let packed = packed.clone();
        let planned = crate::runtime::blocking(move || packed.plan()).await;
        planned.map_err(|e| {
            StoreError::disk(format!("store {:?}: reading what is to be uploaded", self.name()), &e)
        })
    }
}

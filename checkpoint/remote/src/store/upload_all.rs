//! Writing many objects at once.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
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
    /// Plans and writes all of `objects` for `attempt`; the answer is in their order. May be repeated as
    /// [`Store::upload`], and then sends only what is not there yet. Bytes under way are bounded for the store as a whole,
    /// not for each object.
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
        let writes = futures::stream::iter(objects).map(|packed| async move {
            let plan = self.plan(&packed).await?;
            let stored = self.upload(journal, cluster, attempt, &plan, packed.source()).await?;
            Ok(Written { packed, plan, stored })
        });
        writes.buffered(self.line().limits.requests.max(1)).try_collect().await
    }

    async fn plan(&self, packed: &Packed) -> Result<ObjectPlan, StoreError> {
        let packed = packed.clone();
        let planned = crate::runtime::blocking(move || packed.plan()).await;
        planned.map_err(|e| {
            StoreError::disk(format!("store {:?}: reading what is to be uploaded", self.name()), &e)
        })
    }
}

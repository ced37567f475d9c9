//! The store of a commit, as the log knows it: claimed and named with the first commit into it, and looked at with each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Failure;
use nativelog::compose;
use nativelog::ledger::{STORES_RULES, StoreInfo, Verdict};
use remote::Marker;
use uuid::Uuid;

use super::driver::Driver;
use super::ground::Ground;
use super::no;
use crate::stores::{Bound, Kept, agrees};

/// Pause before the rules are looked at again.
const PAUSE: Duration = Duration::from_millis(100);

impl<G: Ground> Driver<'_, G> {
    /// The store, when the log knows it as this very prefix, or by now does.
    pub(super) async fn bind(&mut self, kept: &Arc<Kept>) -> Result<Bound, Failure> {
        let cluster = self.ready_for_stores().await?;
        let marker = self.marker(kept, cluster).await?;
        // The ledger is not held over what follows.
        let known = self.ground.ledger().store_named(kept.name());
        let id = match known {
            Some(known) => self.agreed(&marker, &known)?,
            None => {
                let record = compose::store(kept.name(), *marker.store.as_bytes(), marker.deletes);
                if let Verdict::Rejected(rejected) = self.propose(record).await?.1 {
                    return Err(no::rejected(&self.order.name(), &rejected));
                }
                self.barrier().await?;
                let known = self.ground.ledger().store_named(kept.name());
                let known = known.ok_or_else(|| self.odd("a store that was named has no name"))?;
                self.agreed(&marker, &known)?
            }
        };
        Ok(Bound { kept: Arc::clone(kept), id, cluster })
    }

    fn agreed(&self, marker: &Marker, known: &StoreInfo) -> Result<u64, Failure> {
        agrees(marker, known).map_err(|why| no::other_store(&self.order, &why))?;
        Ok(known.id)
    }

    /// The cluster, once its rules know stores: they are raised by the leader when all members can follow.
    async fn ready_for_stores(&mut self) -> Result<Uuid, Failure> {
        let begun = Instant::now();
        loop {
            self.barrier().await?;
            let (rules, cluster) = {
                let ledger = self.ground.ledger();
                (ledger.rules(), ledger.cluster())
            };
            if let Some(cluster) = cluster.filter(|_| rules >= STORES_RULES) {
                return Ok(Uuid::from_bytes(cluster));
            }
            if let Some(why) = self.ground.too_old() {
                return Err(no::too_old_for_stores(&self.order, &why));
            }
            if begun.elapsed() + PAUSE >= self.order.patience {
                return Err(no::rules_not_in_force(&self.order, rules));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn marker(&mut self, kept: &Arc<Kept>, cluster: Uuid) -> Result<Marker, Failure> {
        match tokio::time::timeout(self.order.patience, kept.claim(cluster)).await {
            Ok(Ok(marker)) => {
                self.moved = Instant::now();
                Ok(marker)
            }
            Ok(Err(error)) => Err(no::store(&self.order, &error)),
            Err(_) => Err(no::store_silent(&self.order, kept.name())),
        }
    }
}

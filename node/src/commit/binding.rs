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
use crate::stores::{Bound, Kept, NotIt, agrees};

/// How often it is looked whether the store is heard of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before the rules are looked at again.
const PAUSE: Duration = Duration::from_millis(100);

impl<G: Ground> Driver<'_, G> {
    /// The store, when the log knows it as this very prefix, or by now does.
    pub(super) async fn bind(&mut self, kept: &Arc<Kept>) -> Result<Bound, Failure> {
        let cluster = self.ready_for_stores().await?;
        // The ledger is not held over what follows, and it is current: only a store that it does not know is claimed.
        let known = self.ground.ledger().store_named(kept.name());
        let id = match known {
            Some(known) => {
                let seen = self.patiently(kept, kept.seen(cluster)).await?;
                let marker = seen.map_err(|error| match error {
                    NotIt::Another(why) => no::other_store(&self.order, &why),
                    NotIt::Store(error) => no::store(&self.order, &error),
                })?;
                self.agreed(&marker, &known)?
            }
            None if !kept.store().creates_once() && !self.ground.leads() => {
                return Err(no::not_the_leader(&self.order, kept.name()));
            }
            None => {
                let claimed = self.patiently(kept, kept.claim(cluster)).await?;
                let marker = claimed.map_err(|error| no::store(&self.order, &error))?;
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

    /// Waits as long as the store is heard of: one that says that it is busy is no silent one.
    async fn patiently<T>(&mut self, kept: &Kept, asked: impl Future<Output = T>) -> Result<T, Failure> {
        let mut asked = std::pin::pin!(asked);
        let (mut heard, mut moved) = (kept.heard(), Instant::now());
        loop {
            let look = LOOK_EVERY.min(self.order.patience);
            if let Ok(answer) = tokio::time::timeout(look, &mut asked).await {
                self.moved = Instant::now();
                return Ok(answer);
            }
            let now = kept.heard();
            if std::mem::replace(&mut heard, now) != now {
                moved = Instant::now();
            } else if moved.elapsed() >= self.order.patience {
                return Err(no::store_silent(&self.order, kept.name()));
            }
        }
    }
}

//! The manifest of a sealed epoch: from a peer, or from the store that the epoch lies in. What lies there is the tree alone,
//! whose digest the root is; all else that a manifest says is the ledger's word.

use checkpoint::manifest::TreeCollector;
use checkpoint::{Digest, Envelope, Manifest, Position};
use futures::{FutureExt, StreamExt};
use nativelog::ledger::EpochInfo;

use super::anywhere::{Found, Wanted};
use super::error::{TransferError, blocking};
use super::from_store::Refused;
use super::gather::Gather;
use super::sealed::Place;
use super::turn::stopped;
use super::way::Way;
use crate::config::MANIFEST_BYTES_MAX;
use crate::depot::{DepotError, DepotTrouble, ObjectRange};

/// A tree and its root; `None` of bytes that are no tree.
type Read = Option<(Manifest, Digest)>;

fn envelope_of(info: &EpochInfo) -> Envelope {
    let sealed = &info.sealed;
    let (term, node, index) = (sealed.position.term, sealed.position.node, sealed.position.index);
    Envelope {
        job: sealed.job.clone(),
        epoch: sealed.epoch,
        attempt: sealed.attempt,
        position: Position { term, node, index },
        root: sealed.root,
        labels: info.labels.clone(),
        depends_on: info.depends_on.clone(),
        base: info.base,
        sealed_log_ms: info.sealed_log_ms,
    }
}

impl Gather {
    /// The manifest of a sealed epoch, which says what the ledger says.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn tree(&self, wanted: &Wanted) -> Result<Found<(Envelope, Manifest)>, TransferError> {
        let sealed = &wanted.info.sealed;
        let (Some(way), Some(place)) = (&self.way, self.sealed.manifest_place(&sealed.job, sealed.epoch))
        else {
            return self.manifest(wanted).await;
        };
        let mut peers = String::new();
        if !way.first {
            match self.manifest(wanted).await {
                Err(error @ (TransferError::Lacking { .. } | TransferError::Nowhere { .. })) => {
                    peers = error.to_string();
                }
                found => return found,
            }
        }
        let refused = match self.stored_tree(way, &place, &wanted.info).await? {
            Ok(tree) => return Ok(Found::Here(tree)),
            Err(refused) => refused,
        };
        if way.first {
            match self.manifest(wanted).await {
                Err(error @ (TransferError::Lacking { .. } | TransferError::Nowhere { .. })) => {
                    peers = error.to_string();
                }
                found => return found,
            }
        }
        Err(refused.transfer_error(&peers))
    }

    async fn stored_tree(
        &self,
        way: &Way,
        place: &Place,
        info: &EpochInfo,
    ) -> Result<Result<(Envelope, Manifest), Refused>, TransferError> {
        let damaged = |why: String| DepotError::new(DepotTrouble::Damaged, why);
        if let Some(error) = way.closed(place.object.store) {
            return Ok(Err(Refused::of(place, error)));
        }
        if place.object_bytes > MANIFEST_BYTES_MAX {
            let why = format!("a manifest of {} bytes", place.object_bytes);
            return Ok(Err(Refused::of(place, damaged(why))));
        }
        // Once more: it may have been hurt on its way.
        for _ in 0..2 {
            match self.read_tree(way, place).await? {
                Ok(Some((manifest, root))) if root == info.sealed.root => {
                    return Ok(Ok((envelope_of(info), manifest)));
                }
                Ok(_) => {
                    tracing::warn!(store = place.store, object = ?place.object, "a store sent a manifest that does not verify; it is thrown away");
                }
                Err(error) => {
                    if !error.is_of_object() {
                        way.close(place.object.store, error.clone());
                    }
                    return Ok(Err(Refused::of(place, error)));
                }
            }
        }
        Ok(Err(Refused::of(place, damaged("twice, it is not the manifest of the epoch's root".into()))))
    }

    async fn read_tree(&self, way: &Way, place: &Place) -> Result<Result<Read, DepotError>, TransferError> {
        let (object, object_bytes) = (place.object, place.object_bytes);
        let step = way.pace.range_bytes;
        let ranges = (0..object_bytes.div_ceil(step)).map(move |part| {
            let offset = part * step;
            ObjectRange { object, object_bytes, offset, len: step.min(object_bytes - offset) }
        });
        let mut parts = futures::stream::iter(ranges)
            .map(|range| async move { way.fetch(range).await }.boxed())
            .buffered(way.pace.ranges);
        // Read as it comes: its bytes are never in memory beside its entries.
        let mut collector = TreeCollector::default();
        loop {
            let next = tokio::select! {
                () = stopped(&self.stop) => return Err(TransferError::Stopped),
                next = parts.next() => next,
            };
            let data = match next {
                None => break,
                Some(Ok(data)) => data,
                Some(Err(error)) => return Ok(Err(error)),
            };
            let pushed = blocking(move || collector.push(&data).map(|()| collector)).await?;
            collector = match pushed {
                Ok(collector) => collector,
                Err(_) => return Ok(Ok(None)),
            };
        }
        Ok(Ok(blocking(move || collector.finish().ok()).await?))
    }
}

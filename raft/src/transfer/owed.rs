//! What a snapshot leaves owed: sealed content that nobody has, that has no room here, or that lies in a store.

use std::collections::BTreeMap;

use checkpoint::JobName;
use checkpoint::store::Content;
use nativelog::ledger::EpochInfo;

use super::error::TransferError;
use super::lost::{InStore, Lost};

/// A sealed epoch that is owed: nobody who lives has all of it, or something is in its place.
#[derive(Debug, Clone)]
pub struct OwedEpoch {
    /// The job.
    pub job: JobName,
    /// The epoch.
    pub epoch: u64,
    /// What is lacking, and what the peers said.
    pub why: String,
}

/// What a disk lacks although everything was brought that could be.
#[derive(Debug, Clone, Default)]
pub struct Owed {
    /// Sealed epochs.
    pub epochs: Vec<OwedEpoch>,
    /// Sealed content that open attempts lean on, of epochs or of nobody else any more.
    pub leaning: Vec<Lost>,
    /// Why there is no room here for some of it, if that is why.
    pub full: Option<String>,
}

/// What lies in a store comes behind the snapshot: from a peer, or from there.
pub fn to_hydrate(info: &EpochInfo, store: &str) -> OwedEpoch {
    let (job, epoch) = (info.sealed.job.clone(), info.sealed.epoch);
    OwedEpoch { job, epoch, why: format!("it lies in the store {store}, and is still to be brought here") }
}

/// What is nowhere to be had, or has no place here, is owed; everything else ends the transfer.
pub fn owing(info: &EpochInfo, error: TransferError) -> Result<OwedEpoch, TransferError> {
    use TransferError::{Full, Nowhere, Unfit};
    let (Nowhere { .. } | Unfit { .. } | Full(_)) = &error else { return Err(error) };
    let (job, epoch, why) = (info.sealed.job.clone(), info.sealed.epoch, error.to_string());
    if let Full(_) = &error {
        // It is said once that this node is full, and not of every epoch.
        tracing::debug!(%job, epoch, why, "an epoch does not fit: it is owed");
        return Ok(OwedEpoch { job, epoch, why });
    }
    tracing::error!(%job, epoch, why, "not all of this epoch can be put in place: it is owed, and tried again");
    Ok(OwedEpoch { job, epoch, why })
}

/// It is asked for again: nobody has looked in vain.
pub fn does_not_fit(content: &Content) -> Lost {
    let Content { digest, size: bytes, .. } = *content;
    let (found, in_store) = (BTreeMap::new(), InStore::Unasked { in_log: false });
    Lost { digest, bytes, brought: 0, found, not_yet: true, in_store }
}

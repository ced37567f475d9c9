//! Content that this node looks for by itself, whatever its epochs are: what is in quarantine, what is out of it and was
//! published here with a bad copy, what open attempts lean on and was nowhere to be had when their ledger came, and what epochs
//! of the log lack that lies in a store.

use std::sync::Arc;

use checkpoint::Digest;
use checkpoint::store::Content;
use nativelog::machine::Machine;
use tokio::sync::watch;

use super::later::Later;
use crate::life::Life;
use crate::quarantine::Quarantine;
use crate::transfer::gather::Gather;
use crate::transfer::lost::{InStore, Lost};
use crate::transfer::{TransferError, Transfers, blocking};

/// Content whose name on the shelves is not known gets this one.
const ANY_MODE: u32 = 0o644;

/// Mends contents of one replica; made of the rooms that it needs.
pub(crate) struct Contents {
    pub node: u64,
    pub machine: Arc<Machine>,
    pub transfers: Arc<Transfers>,
    pub life: Arc<Life>,
    pub quarantine: Quarantine,
}

/// When what could not be mended is tried again.
#[derive(Default)]
pub(super) struct Due {
    /// Out of quarantine.
    healing: Later<Digest>,
    quarantined: Later<Digest>,
    leaning: Later<Digest>,
}

impl Contents {
    /// What was found nowhere may have to be put in quarantine. What lies in a store, which nobody asked, is sought there from
    /// now on: also for an epoch of the log, which that has lost it for.
    pub async fn report(&self, error: &TransferError) {
        if let TransferError::Nowhere { lost, .. } = error {
            let stored = lost.iter().filter(|lost| matches!(lost.in_store, InStore::Unasked { .. }));
            self.transfers.leaning().extend(stored.map(|lost| (lost.digest, lost.bytes)));
            self.quarantine.report(lost).await;
        }
    }

    /// The same, of what was looked for once: what is not in its store (any more) is sought in the background from now on,
    /// and said to be lost when it still is not there a while later.
    pub(super) async fn report_once(&self, error: &TransferError) {
        let TransferError::Nowhere { lost, .. } = error else { return };
        let (stored, others): (Vec<Lost>, Vec<Lost>) =
            lost.iter().cloned().partition(|lost| matches!(lost.in_store, InStore::Lost(_)));
        self.transfers.leaning().extend(stored.iter().map(|lost| (lost.digest, lost.bytes)));
        self.quarantine.report(&others).await;
    }

    /// Looks for good copies of what is due. True when something is good here again.
    pub(super) async fn mend(&self, due: &mut Due) -> bool {
        let healed = self.healing(&mut due.healing).await;
        let back = self.quarantined(&mut due.quarantined).await;
        self.leaning(&mut due.leaning).await;
        healed || back
    }

    /// Links what was published here with a bad copy to the good one, when the content is out of quarantine.
    async fn healing(&self, later: &mut Later<Digest>) -> bool {
        let mut healed = false;
        let healing = self.machine.to_heal();
        later.keep_only(|digest| healing.iter().any(|(there, _)| there == digest));
        for (digest, owed) in healing {
            if !later.is_due(&digest) || self.life.is_closing() {
                continue;
            }
            later.failed(&digest);
            // Nobody holds it any more, or it is good here: nothing is left to do.
            let held = self.machine.ledger().content(&digest).is_some();
            match if held { self.bring_back(digest, owed.bytes, None).await } else { Ok(()) } {
                Ok(()) => {
                    self.machine.healed(&digest, owed);
                    healed = true;
                }
                Err(error) => {
                    tracing::warn!(node = self.node, %digest, %error, "what was published with a bad copy is not healed yet");
                    self.report(&error).await;
                }
            }
        }
        healed
    }

    /// Looks for good copies of what is in quarantine.
    async fn quarantined(&self, later: &mut Later<Digest>) -> bool {
        let mut back = false;
        let now = self.quarantine.now();
        later.keep_only(|digest| now.iter().any(|there| there.digest == *digest));
        for there in now {
            if !later.is_due(&there.digest) || self.life.is_closing() {
                continue;
            }
            later.failed(&there.digest);
            match self.bring_back(there.digest, there.bytes, Some(there.at)).await {
                Ok(()) => back = true,
                // It is in quarantine for that.
                Err(TransferError::Nowhere { .. }) => {}
                Err(error) => {
                    tracing::warn!(node = self.node, digest = %there.digest, %error, "content stays in quarantine");
                }
            }
        }
        back
    }

    /// An attempt that is sealed over it would be an epoch that nobody has. What lies in a store comes from there (`stored`).
    async fn leaning(&self, later: &mut Later<Digest>) {
        let leaning = self.transfers.leaning().clone();
        later.keep_only(|digest| leaning.contains_key(digest));
        for (digest, bytes) in leaning {
            let (held, quarantined) = {
                let ledger = self.machine.ledger();
                (ledger.content(&digest).is_some(), ledger.is_quarantined(&digest))
            };
            if held && !quarantined {
                if !later.is_due(&digest) || self.life.is_closing() {
                    continue;
                }
                later.failed(&digest);
                if let Err(error) = self.bring(digest, bytes).await {
                    tracing::warn!(node = self.node, %digest, %error, "content that others lean on is not to be had");
                    self.report(&error).await;
                    continue;
                }
            }
            self.transfers.leaning().remove(&digest);
        }
    }

    /// Makes good content of what lies in a store. What is to be done then is found here.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(super) async fn hydrate(
        &self,
        gather: &Gather,
        digest: Digest,
        bytes: u64,
    ) -> Result<(), TransferError> {
        if self.quarantine.is_shelved(digest, bytes).await? {
            return Ok(());
        }
        let contents = vec![Content { digest, mode: ANY_MODE, size: bytes }];
        gather.fits_as_stored(&contents).await?;
        gather.bring(contents).await
    }

    /// Content that is sought whatever its epochs are, and lies in a store: the store's id, digest, bytes.
    pub(super) fn stored(&self) -> Vec<(u64, Digest, u64)> {
        let quarantined = self.quarantine.now().into_iter().map(|there| (there.digest, there.bytes));
        let healing = self.machine.to_heal().into_iter().map(|(digest, owed)| (digest, owed.bytes));
        let leaning: Vec<_> =
            self.transfers.leaning().iter().map(|(digest, bytes)| (*digest, *bytes)).collect();
        let mut all: Vec<_> = quarantined.chain(healing).chain(leaning).collect();
        all.sort_unstable();
        all.dedup();
        let ledger = self.machine.ledger();
        let in_store = |(digest, bytes)| {
            let first = ledger.homes(&digest)?.extents.into_iter().next()?;
            Some((first.object.key.store, digest, bytes))
        };
        all.into_iter().filter_map(in_store).collect()
    }

    /// Brings content that is not good here.
    async fn bring(&self, digest: Digest, bytes: u64) -> Result<(), TransferError> {
        if self.quarantine.is_shelved(digest, bytes).await? {
            return Ok(());
        }
        let (stop, stopped) = watch::channel(false);
        let _turn = self.transfers.turn().wait(stop.clone()).await;
        let gather = self.transfers.gather(stopped);
        let contents = vec![Content { digest, mode: ANY_MODE, size: bytes }];
        gather.fits_as_stored(&contents).await?;
        let brought = gather.bring(contents).await;
        drop(stop);
        brought
    }

    /// Makes this node's copy good (again), and what is published here with it. The quarantine of the record at
    /// `since` ends when those of a majority are.
    async fn bring_back(&self, digest: Digest, bytes: u64, since: Option<u64>) -> Result<(), TransferError> {
        let (stop, stopped) = watch::channel(false);
        let _turn = self.transfers.turn().wait(stop.clone()).await;
        let gather = self.transfers.gather(stopped);
        let content = Content { digest, mode: ANY_MODE, size: bytes };
        if !self.quarantine.is_shelved(digest, bytes).await? {
            gather.bring(vec![content]).await?;
        }
        let store = self.machine.store().clone();
        let healed = blocking(move || store.heal_all(&[content])).await?;
        for (job, epoch, why) in healed.map_err(|error| TransferError::Here(error.to_string()))?.unread {
            // It may hold the content, too: it is mended as a whole.
            self.machine.note_missing(&job, epoch, &why);
        }
        if let Some(since) = since {
            self.quarantine.end(&gather, digest, bytes, since).await?;
        }
        drop(stop);
        self.machine.publish_again();
        Ok(())
    }
}

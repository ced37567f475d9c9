//! Content that this node looks for by itself, whatever its epochs are: what is in quarantine, and what open attempts
//! lean on and was nowhere to be had when their ledger came.

use std::collections::BTreeMap;

use checkpoint::Digest;
use checkpoint::store::Content;
use tokio::sync::watch;

use super::later::Later;
use super::{Mender, RepairError};
use crate::transfer::{TransferError, blocking};

/// Content whose name on the shelves is not known gets this one.
const ANY_MODE: u32 = 0o644;

#[derive(Default)]
pub struct Contents {
    quarantined: Later<Digest>,
    /// What was in quarantine, and its bytes: once it is out, old names lead to good content here too.
    seen: BTreeMap<Digest, u64>,
    leaning: Later<Digest>,
}

impl Contents {
    /// Looks for good copies of what is due. True when something is good here again.
    pub async fn mend(&mut self, mender: &Mender) -> bool {
        let back = self.quarantined(mender).await;
        self.leaning(mender).await;
        back
    }

    async fn quarantined(&mut self, mender: &Mender) -> bool {
        let mut back = false;
        let now = mender.quarantine.now();
        self.seen.extend(now.iter().map(|there| (there.digest, there.bytes)));
        let over: Vec<(Digest, u64)> = self.seen.iter().map(|(digest, bytes)| (*digest, *bytes)).collect();
        for (digest, bytes) in
            over.into_iter().filter(|(digest, _)| now.iter().all(|there| there.digest != *digest))
        {
            if !self.quarantined.is_due(&digest) || mender.life.is_closing() {
                continue;
            }
            self.quarantined.failed(&digest);
            // Nobody holds it any more, or it is good here: nothing is left to do.
            let held = mender.machine.ledger().content(&digest).is_some();
            if !held || matches!(bring_back(mender, digest, bytes, None).await, Ok(true)) {
                self.seen.remove(&digest);
                back = true;
            }
        }
        let seen = &self.seen;
        self.quarantined.keep_only(|digest| seen.contains_key(digest));
        for there in now {
            if !self.quarantined.is_due(&there.digest) || mender.life.is_closing() {
                continue;
            }
            self.quarantined.failed(&there.digest);
            match bring_back(mender, there.digest, there.bytes, Some(there.at)).await {
                Ok(true) => back = true,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(node = mender.node, digest = %there.digest, %error, "content stays in quarantine");
                }
            }
        }
        back
    }

    /// An attempt that is sealed over it would be an epoch that nobody has.
    async fn leaning(&mut self, mender: &Mender) {
        let leaning = mender.transfers.leaning().clone();
        self.leaning.keep_only(|digest| leaning.contains_key(digest));
        for (digest, bytes) in leaning {
            let (held, quarantined) = {
                let ledger = mender.machine.ledger();
                (ledger.content(&digest).is_some(), ledger.is_quarantined(&digest))
            };
            if held && !quarantined {
                if !self.leaning.is_due(&digest) || mender.life.is_closing() {
                    continue;
                }
                self.leaning.failed(&digest);
                if let Err(error) = bring(mender, digest, bytes).await {
                    tracing::warn!(node = mender.node, %digest, %error, "an open attempt leans on content that is not to be had");
                    mender.report(&error).await;
                    continue;
                }
            }
            mender.transfers.leaning().remove(&digest);
        }
    }
}

/// Brings content that is not good here.
async fn bring(mender: &Mender, digest: Digest, bytes: u64) -> Result<(), RepairError> {
    if mender.quarantine.is_shelved(digest, bytes).await? {
        return Ok(());
    }
    let (stop, stopped) = watch::channel(false);
    let _turn = mender.transfers.turn().wait(stop.clone()).await;
    let gather = mender.transfers.gather(stopped);
    let brought = gather.bring(vec![Content { digest, mode: ANY_MODE, size: bytes }]).await;
    drop(stop);
    Ok(brought?)
}

/// True when this node's copy is good (again), and what is published here with it. The quarantine of the record at `since`
/// ends when those of a majority are.
async fn bring_back(
    mender: &Mender,
    digest: Digest,
    bytes: u64,
    since: Option<u64>,
) -> Result<bool, RepairError> {
    let (stop, stopped) = watch::channel(false);
    let _turn = mender.transfers.turn().wait(stop.clone()).await;
    let gather = mender.transfers.gather(stopped);
    let content = Content { digest, mode: ANY_MODE, size: bytes };
    if !mender.quarantine.is_shelved(digest, bytes).await? {
        match gather.bring(vec![content]).await {
            Ok(()) => {}
            Err(TransferError::Nowhere { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    let store = mender.machine.store().clone();
    blocking(move || store.heal_all(&[content])).await??;
    if let Some(since) = since {
        mender.quarantine.end(&gather, digest, bytes, since).await?;
    }
    drop(stop);
    mender.machine.publish_again();
    Ok(true)
}

//! Content that nobody can serve: named by a record, and brought back by another.
//!
//! Whoever looks for content and hears from every live peer that it has no good copy says so: with its own look that is
//! what a *quarantine* names, once a majority of the voters has looked in vain. A look is the word of a node that has
//! carried out the seal which brought the content, on all that it has, staging included: not what another made of its
//! bytes, and not its silence. The record names that seal; by then the bytes may have been brought anew, and the ledger
//! says no. (Any node may find out first, so any node proposes it; the ledger takes it once.) From then on every node
//! looks by itself, with pauses that double: a copy that verifies again, here or on a peer, is enough to mend what is
//! published here; and the leader, when a majority of the voters has verified copies, ends the quarantine by a record.
//!
//! Content that lies in a store is not lost because no node has it. Whoever says that it is has asked the store, too, and
//! names what it found there; while the store is away nobody says so. Of what came through the log as well, nodes alone say
//! that the log has it no more.
//!
//! **Never.** A look at a copy that did not verify and has not changed since costs no reading, here or there.

use std::sync::Arc;

use bytes::Bytes;
use checkpoint::Digest;
use nativelog::compose;
use nativelog::ledger::{QuarantineInfo, Verdict};
use nativelog::machine::Machine;

use crate::consensus::Consensus;
use crate::proto::Miss;
use crate::transfer::ask::Missed;
use crate::transfer::copies::Blob;
use crate::transfer::gather::Gather;
use crate::transfer::lost::{InStore, Lost};
use crate::transfer::outlet::{Outlet, Unsent};
use crate::transfer::source::Source;
use crate::transfer::{Hydrating, Records, TransferError, blocking};

/// Puts content in quarantine and ends that.
pub(crate) struct Quarantine {
    node: u64,
    machine: Arc<Machine>,
    consensus: Consensus,
    records: Arc<dyn Records>,
    /// What lies here, with a memory for what was read.
    own: Arc<Source>,
}

/// Reads and sends nothing.
struct Nowhere;

impl Outlet for Nowhere {
    fn part(&mut self, _: Bytes) -> bool {
        true
    }

    fn zeros(&mut self, _: u64) -> bool {
        true
    }

    fn working(&mut self) -> bool {
        true
    }
}

impl Quarantine {
    /// Of this machine, where records go through `records`.
    pub fn new(
        node: u64,
        machine: Arc<Machine>,
        consensus: Consensus,
        records: Arc<dyn Records>,
    ) -> Quarantine {
        let own = Arc::new(Source::new(machine.clone(), Hydrating::default()));
        Quarantine { node, machine, consensus, records, own }
    }

    /// Content that is in quarantine now.
    pub fn now(&self) -> Vec<QuarantineInfo> {
        self.machine.ledger().quarantine().collect()
    }

    /// Whether a good blob is here.
    pub async fn is_shelved(&self, digest: Digest, bytes: u64) -> Result<bool, TransferError> {
        let own = self.own.clone();
        let wanted = Blob { digest, size: bytes, offset: 0, brought: 0, anew: false };
        blocking(move || own.is_shelved(&wanted, &mut Nowhere)).await
    }

    /// What this node has to say of content that was found nowhere else; `None` when it has a good copy, or cannot tell.
    async fn own_word(&self, lost: &Lost) -> Result<Option<String>, TransferError> {
        let own = self.own.clone();
        // Read now, unless it was bad before: this goes into the log.
        let Lost { digest, bytes: size, brought, .. } = *lost;
        let wanted = Blob { digest, size, offset: size.saturating_sub(1), brought, anew: true };
        let look = move || own.blob(&wanted, &mut Nowhere);
        Ok(match blocking(look).await? {
            Err(Unsent::Missed(Missed { miss: Miss::NotYet | Miss::Hydrating, .. }) | Unsent::Gone)
            | Ok(()) => None,
            Err(Unsent::Missed(missed)) => Some(missed.why),
        })
    }

    /// These were found nowhere: those that a majority of the voters looked for in vain are put in quarantine.
    pub async fn report(&self, lost: &[Lost]) {
        for lost in lost {
            let mut lost = lost.clone();
            match self.own_word(&lost).await {
                Ok(Some(why)) => {
                    let what = match &lost.in_store {
                        InStore::Lost(there) => format!("{there}; {why}"),
                        InStore::Never | InStore::Unasked { .. } => why,
                    };
                    lost.found.insert(self.node, what);
                }
                Ok(None) | Err(_) => continue,
            }
            let digest = lost.digest;
            let Some((record, nodes)) = lost.record(&self.consensus.view().voters) else { continue };
            if self.is_known(&digest, &nodes) {
                continue;
            }
            match self.records.propose(record).await {
                Ok(Verdict::Accepted(_)) => {
                    // What lies in a store has lost its place in the log only.
                    let is_quarantined = self.machine.ledger().is_quarantined(&digest);
                    if is_quarantined {
                        tracing::error!(node = self.node, %digest, ?nodes, "content verifies nowhere on a majority: it is in quarantine");
                    } else {
                        tracing::warn!(node = self.node, %digest, ?nodes, "content verifies nowhere on a majority, and the log has taken note");
                    }
                }
                Ok(Verdict::Rejected(rejected)) => {
                    tracing::warn!(node = self.node, %digest, %rejected, "content is not put in quarantine");
                }
                Err(error) => {
                    tracing::warn!(node = self.node, %digest, error, "content is not put in quarantine yet");
                }
            }
        }
    }

    /// Whether the ledger says so already, of these nodes at least.
    fn is_known(&self, digest: &Digest, nodes: &[u64]) -> bool {
        let ledger = self.machine.ledger();
        let there = ledger.quarantine().find(|there| there.digest == *digest);
        there.is_some_and(|there| nodes.iter().all(|node| there.found.iter().any(|(known, _)| known == node)))
    }

    /// This node's copy is good: when those of a majority are, the leader ends the quarantine of the record at `since`.
    pub async fn end(
        &self,
        gather: &Gather,
        digest: Digest,
        bytes: u64,
        since: u64,
    ) -> Result<(), TransferError> {
        let view = self.consensus.view();
        if !view.leads() || !self.machine.ledger().is_quarantined(&digest) {
            return Ok(());
        }
        let mut good = vec![self.node];
        for voter in view.voters.iter().copied().filter(|voter| *voter != self.node) {
            if gather.has(voter, digest, bytes).await? {
                good.push(voter);
            }
        }
        good.retain(|node| view.voters.contains(node));
        if good.len() * 2 <= view.voters.len() {
            return Ok(());
        }
        match self.records.propose(compose::healed(digest, since, good.clone())).await {
            Ok(Verdict::Accepted(_)) => {
                tracing::info!(%digest, ?good, "content verifies on a majority: its quarantine ends")
            }
            Ok(Verdict::Rejected(rejected)) => {
                tracing::warn!(%digest, %rejected, "the quarantine does not end")
            }
            Err(error) => tracing::warn!(%digest, error, "the quarantine does not end yet"),
        }
        Ok(())
    }
}

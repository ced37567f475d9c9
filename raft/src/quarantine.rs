//! Content that nobody can serve: named by a record, and brought back by another.
//!
//! Whoever looks for content and hears from every live peer that it has no good copy says so: with its own look that is
//! what a *quarantine* names, once a majority of the voters has looked in vain. (Any node may find out first, so any
//! node proposes it; the ledger takes it once.) From then on every node looks by itself, with pauses that double: a copy
//! that verifies again, here or on a peer, is enough to mend what is published here; and the leader, when a majority of
//! the voters has verified copies, ends the quarantine by a record.
//!
//! **Never.** A look at a copy that did not verify and has not changed since costs no reading, here or there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use checkpoint::Digest;
use nativelog::compose;
use nativelog::ledger::QuarantineInfo;
use nativelog::machine::Machine;

use crate::consensus::Consensus;
use crate::transfer::gather::Gather;
use crate::transfer::source::{Outlet, Source, Unsent};
use crate::transfer::{Lost, Records, TransferError, blocking};

/// Longest finding, in characters of at most four bytes: a record takes 256.
const FINDING_CHARS: usize = 64;

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
        let own = Arc::new(Source::new(machine.clone()));
        Quarantine { node, machine, consensus, records, own }
    }

    /// Content that is in quarantine now.
    pub fn now(&self) -> Vec<QuarantineInfo> {
        self.machine.ledger().quarantine().collect()
    }

    /// What is wrong with this node's own copy; `None` when it verifies.
    pub async fn own_copy(&self, digest: Digest, bytes: u64) -> Result<Option<String>, TransferError> {
        let own = self.own.clone();
        let look = move || own.blob(digest, bytes, bytes.saturating_sub(1), &mut Nowhere);
        Ok(match blocking(look).await? {
            Ok(()) => None,
            Err(Unsent::Missed(missed)) => Some(missed.why),
            Err(Unsent::Gone) => Some("it was not read".into()),
        })
    }

    /// These were found nowhere: those that a majority of the voters looked for in vain are put in quarantine.
    pub async fn report(&self, lost: &[Lost]) {
        for Lost { digest, bytes, found } in lost {
            let (digest, mut found) = (*digest, found.clone());
            match self.own_copy(digest, *bytes).await {
                Ok(Some(why)) => drop(found.insert(self.node, why)),
                Ok(None) | Err(_) => continue,
            }
            let voters = self.consensus.view().voters;
            found.retain(|node, _| voters.contains(node));
            if found.len() * 2 <= voters.len() || self.is_known(&digest, &found) {
                continue;
            }
            let nodes: Vec<u64> = found.keys().copied().collect();
            let cut = |what: String| what.chars().filter(|c| !c.is_control()).take(FINDING_CHARS).collect();
            let found: Vec<(u64, String)> = found.into_iter().map(|(node, what)| (node, cut(what))).collect();
            match self.records.propose(compose::quarantine(digest, found)).await {
                Ok(()) => {
                    tracing::error!(node = self.node, %digest, ?nodes, "content verifies nowhere on a majority: it is in quarantine");
                }
                Err(error) => {
                    tracing::warn!(node = self.node, %digest, error, "content is not put in quarantine yet");
                }
            }
        }
    }

    /// Whether the ledger says so already, of these nodes at least.
    fn is_known(&self, digest: &Digest, found: &BTreeMap<u64, String>) -> bool {
        let ledger = self.machine.ledger();
        let there = ledger.quarantine().find(|there| there.digest == *digest);
        there.is_some_and(|there| found.keys().all(|node| there.found.iter().any(|(known, _)| known == node)))
    }

    /// This node's copy is good: when those of a majority are, the leader ends the quarantine.
    pub async fn end(&self, gather: &Gather, digest: Digest, bytes: u64) -> Result<(), TransferError> {
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
        match self.records.propose(compose::healed(digest, good.clone())).await {
            Ok(()) => tracing::info!(%digest, ?good, "content verifies on a majority: its quarantine ends"),
            Err(error) => tracing::warn!(%digest, error, "the quarantine does not end yet"),
        }
        Ok(())
    }
}

//! What it takes to bring records to the leader.

use std::sync::Arc;

use nativelog::machine::Machine;

use crate::config::ReplicaConfig;
use crate::consensus::Consensus;
use crate::intake::Intake;
use crate::leader::Leading;
use crate::life::Life;
use crate::network::peers::Peers;
use crate::quorum::Quorum;

/// Brings records to the leader, wherever it is; judges them when it is here.
pub(crate) struct Proposer {
    pub config: Arc<ReplicaConfig>,
    pub leading: Arc<Leading>,
    pub intake: Arc<Intake>,
    pub consensus: Consensus,
    pub machine: Arc<Machine>,
    pub peers: Arc<Peers>,
    pub life: Arc<Life>,
}

impl Proposer {
    /// Knows whether this node is cut off.
    pub fn quorum(&self) -> &Arc<Quorum> {
        &self.leading.quorum
    }
}

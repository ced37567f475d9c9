//! Linearizable reads: the leader confirms that it still leads, and the local ledger catches up
//! with what was committed when the question was asked. No clock is trusted (no lease reads).

use std::sync::Arc;
use std::time::Duration;

use nativelog::machine::Machine;
use nativelog::record::LogId;
use tokio::time::Instant;

use crate::config::ReplicaConfig;
use crate::consensus::Consensus;
use crate::error::ProposeError;
use crate::identity::Check;
use crate::leader::{Leader, Leading};
use crate::life::Life;
use crate::network::peers::{Lane, Peers};
use crate::positions::from_position;
use crate::proto;

const AGAIN: Duration = Duration::from_millis(30);

/// Linearizable reads on one replica.
pub(crate) struct Reads {
    pub config: Arc<ReplicaConfig>,
    pub leading: Arc<Leading>,
    pub consensus: Consensus,
    pub machine: Arc<Machine>,
    pub peers: Arc<Peers>,
    pub life: Arc<Life>,
}

impl Reads {
    /// See [`Replica::read_barrier`](crate::Replica::read_barrier).
    pub async fn barrier(&self) -> Result<LogId, ProposeError> {
        let until = Instant::now() + self.config.leader_patience;
        let at = loop {
            let quorum = &self.leading.quorum;
            let asked = match self.leading.find(until).await? {
                Leader::Here(_) => tokio::select! {
                    asked = self.consensus.read_index() => asked,
                    why = quorum.lost() => return Err(ProposeError::unavailable(why)),
                },
                Leader::There(leader) => tokio::select! {
                    asked = self.ask(leader, until) => asked,
                    why = quorum.lost() => return Err(ProposeError::unavailable(why)),
                    () = quorum.deposed(leader) => continue,
                },
            };
            match asked {
                Err(ProposeError::Unavailable { .. }) if Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await
                }
                asked => break asked?,
            }
        };
        let left = until.saturating_duration_since(Instant::now()).max(self.config.heartbeat * 4);
        self.wait_applied(at.index, left).await?;
        Ok(at)
    }

    /// See [`Replica::wait_applied`](crate::Replica::wait_applied).
    pub async fn wait_applied(&self, index: u64, time: Duration) -> Result<(), ProposeError> {
        let mut applied = self.machine.applied();
        let reached = tokio::time::timeout(time, applied.wait_for(|applied| *applied > index)).await;
        if matches!(reached, Ok(Ok(_))) {
            return Ok(());
        }
        self.life.running()?;
        Err(ProposeError::unavailable(format!("this node has not applied entry {index} yet")))
    }

    async fn ask(&self, leader: u64, until: Instant) -> Result<LogId, ProposeError> {
        let words = |why: &str| ProposeError::unavailable(format!("node {leader}, the leader: {why}"));
        let client = self.peers.member(leader, Lane::Forward, Check::Full);
        let mut client = client.map_err(|status| words(status.message()))?;
        let time = until.saturating_duration_since(Instant::now()).max(AGAIN);
        let asked = tokio::time::timeout(time, client.read_index(proto::ReadIndexRequest {})).await;
        let reply = asked.map_err(|_| words("no answer"))?.map_err(|status| words(status.message()))?;
        let position = reply.into_inner().position.ok_or_else(|| words("an empty answer"))?;
        Ok(from_position(&position))
    }
}

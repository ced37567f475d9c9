//! Linearizable reads: the leader confirms that it still leads, and the local ledger catches up
//! with what was committed when the question was asked. No clock is trusted (no lease reads).

use std::time::Duration;

use nativelog::record::LogId;
use openraft::ReadPolicy;
use openraft::errors::RaftError;
use tokio::time::Instant;

use crate::error::{ProposeError, stopped};
use crate::identity::Check;
use crate::network::convert::from_position;
use crate::network::peers::Lane;
use crate::propose::{Leader, find_leader};
use crate::proto;
use crate::replica::{Inner, Replica};
use crate::types::log_id;

const AGAIN: Duration = Duration::from_millis(30);

/// The position that a linearizable read must see, asked at the leader.
pub(crate) async fn read_index(inner: &Inner) -> Result<LogId, ProposeError> {
    match inner.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((at, _applied)) => Ok(log_id(at.log_id())),
        Err(RaftError::Fatal(fatal)) => Err(stopped(&fatal)),
        Err(RaftError::APIError(error)) => Err(ProposeError::unavailable(error.to_string())),
    }
}

impl Replica {
    /// Returns when the local ledger has applied at least everything that was committed when this
    /// was called, and says up to where that was.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] without a majority or leader for
    /// [`ReplicaConfig::leader_patience`](crate::ReplicaConfig::leader_patience); faults.
    pub async fn read_barrier(&self) -> Result<LogId, ProposeError> {
        let inner = &self.inner;
        let until = Instant::now() + inner.config.leader_patience;
        let at = loop {
            let asked = match find_leader(inner, until).await? {
                Leader::Here(_) => read_index(inner).await,
                Leader::There(leader) => ask(inner, leader, until).await,
            };
            match asked {
                Err(ProposeError::Unavailable { .. }) if Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await
                }
                asked => break asked?,
            }
        };
        self.wait_applied(
            at.index,
            until.saturating_duration_since(Instant::now()).max(inner.config.heartbeat * 4),
        )
        .await?;
        Ok(at)
    }

    /// Waits until the local ledger has applied `index`.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] after `time`, or when the replica stops.
    pub async fn wait_applied(&self, index: u64, time: Duration) -> Result<(), ProposeError> {
        let mut applied = self.inner.machine.applied();
        let reached = tokio::time::timeout(time, applied.wait_for(|applied| *applied > index)).await;
        if matches!(reached, Ok(Ok(_))) {
            return Ok(());
        }
        self.inner.running()?;
        Err(ProposeError::unavailable(format!("this node has not applied entry {index} yet")))
    }
}

async fn ask(inner: &Inner, leader: u64, until: Instant) -> Result<LogId, ProposeError> {
    let words = |why: &str| ProposeError::unavailable(format!("node {leader}, the leader: {why}"));
    let client = inner.peers.member(leader, Lane::Forward, Check::Full);
    let mut client = client.map_err(|status| words(status.message()))?;
    let time = until.saturating_duration_since(Instant::now()).max(AGAIN);
    let asked = tokio::time::timeout(time, client.read_index(proto::ReadIndexRequest {})).await;
    let reply = asked.map_err(|_| words("no answer"))?.map_err(|status| words(status.message()))?;
    let position = reply.into_inner().position.ok_or_else(|| words("an empty answer"))?;
    Ok(from_position(&position))
}

//! What a node does unasked: learns the cluster's uuid, watches its space, and, while it leads, ends
//! attempts that nobody goes on with. All of it is a record or local; no verdict depends on it.

use std::sync::Arc;
use std::time::Duration;

use nativelog::compose;

use crate::identity::Claim;
use crate::node::Node;
use crate::units;

/// Pause between rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Every so many rounds the other voters are asked for their space and old attempts are looked for.
const SLOW_ROUNDS: u64 = 3;

/// Runs until it is aborted. Owns the claim: the folder is ours as long as this lives.
pub async fn run(node: Arc<Node>, mut claim: Claim) {
    let mut round: u64 = 0;
    let mut short_of_space = false;
    loop {
        learn_cluster(&node, &mut claim);
        short_of_space = watch_space(&node, short_of_space).await;
        if round.is_multiple_of(SLOW_ROUNDS) {
            node.spaces.refresh(&node).await;
            if node.replica.is_leader() {
                end_abandoned(&node).await;
            }
        }
        round += 1;
        tokio::time::sleep(ROUND).await;
    }
}

/// Writes the cluster's uuid into the identity once the log has told it.
fn learn_cluster(node: &Node, claim: &mut Claim) {
    let Some(cluster) = node.replica.cluster() else { return };
    match claim.cluster {
        Some(known) if known == cluster => {}
        Some(known) => {
            let (known, found) = (units::hex(&known), units::hex(&cluster));
            tracing::error!(known, found, "fault: the log belongs to another cluster than the identity");
            std::process::exit(1);
        }
        None => {
            if let Err(error) = claim.write(Some(cluster)) {
                tracing::warn!(%error, "the identity cannot be written; it is tried again");
            }
        }
    }
}

/// Half of the reserve gone: no appends from others, and no leading. Voting and deleting go on.
async fn watch_space(node: &Node, was_short: bool) -> bool {
    let Ok(space) = node.space() else { return was_short };
    let limit = if was_short { space.reserve } else { space.reserve / 2 };
    let short = space.free < limit;
    if short != was_short {
        let why = format!("node {} is short of space: {} free", node.config.id, units::size(space.free));
        tracing::warn!(free = space.free, reserve = space.reserve, short, "space");
        node.replica.refuse_appends(short.then_some(why));
    }
    if short && node.replica.is_leader() {
        match node.spaces.roomiest() {
            None => tracing::warn!("leadership stays: no other live voter is known to have room"),
            Some(other) => {
                if let Err(error) = node.replica.transfer_leader(other).await {
                    tracing::warn!(%error, "leadership cannot be handed over");
                }
            }
        }
    }
    short
}

/// Ends attempts whose time to live has passed in log time.
async fn end_abandoned(node: &Node) {
    let ttl = u64::try_from(node.config.attempt_ttl.as_millis()).unwrap_or(u64::MAX);
    let old: Vec<_> =
        node.replica.machine().ledger().attempts().filter(|attempt| attempt.idle_ms > ttl).collect();
    for attempt in old {
        let reason = format!("nobody went on with it for {} s of log time", attempt.idle_ms / 1000);
        tracing::info!(attempt = attempt.id, job = %attempt.job, epoch = attempt.epoch, reason, "an attempt is ended");
        if let Err(error) = node.replica.propose(compose::abort(attempt.id, reason)).await {
            tracing::warn!(%error, "the attempt stays open for now");
            return;
        }
    }
}

//! How a replica ends: by itself, when it can promise nothing any more, and when it is told to, in which case its
//! leadership goes to somebody else first.
//!
//! **Never.** A node that contradicts its leader takes part in nothing more, but goes only after that leader has been
//! told: a node that is down cannot show it in its status.

use std::sync::Arc;
use std::time::Duration;

use nativelog::store::LogStore;

use crate::agreement::Agreement;
use crate::consensus::Consensus;
use crate::life::Life;
use crate::membership::Members;

/// How long a leader that shuts down waits for somebody else to lead.
pub(crate) const HANDOVER: Duration = Duration::from_secs(2);
/// How long the one that shall lead may take to say that it is there.
const PROBE: Duration = Duration::from_millis(500);
/// Pause before it is asked again.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// How long a node that contradicts its leader answers it with the reason: it asks several times in this time.
const TELL: Duration = Duration::from_secs(1);

/// Starts what ends the replica when its log, its consensus or its agreement with the others has ended.
pub(crate) fn watch(log: LogStore, consensus: Consensus, agreement: Arc<Agreement>, life: &Arc<Life>) {
    life.keep(tokio::spawn(watch_log(log, life.clone())));
    life.keep(tokio::spawn(watch_agreement(agreement.clone(), consensus.clone(), life.clone())));
    life.keep(tokio::spawn(watch_consensus(consensus, agreement, life.clone())));
}

/// A log that can no longer promise anything stops the node.
async fn watch_log(log: LogStore, life: Arc<Life>) {
    let mut fatal = log.fatal();
    if let Ok(why) = fatal.wait_for(Option::is_some).await {
        let why = why.clone().unwrap_or_default();
        life.fail(&why);
    }
}

/// So does a consensus that has ended by itself.
async fn watch_consensus(consensus: Consensus, agreement: Arc<Agreement>, life: Arc<Life>) {
    let why = consensus.ended().await;
    match why {
        // The leader is told first.
        _ if agreement.holds().is_err() => {}
        Some(why) => life.fail(&why),
        None if life.is_closing() => {}
        None => life.fail("the consensus ended"),
    }
}

/// And a history that is not that of the cluster: once the leader was told.
async fn watch_agreement(agreement: Arc<Agreement>, consensus: Consensus, life: Arc<Life>) {
    let why = agreement.contradicted().await;
    tracing::error!(why, "this node's log contradicts that of the leader");
    consensus.shutdown().await;
    tokio::time::sleep(TELL).await;
    life.fail(&why);
}

/// Lets somebody else lead, when this node, `me`, does.
pub(crate) async fn hand_over(me: u64, consensus: &Consensus, members: &Members) {
    let view = consensus.view();
    if !view.leads() {
        return;
    }
    let known = |to: &u64| view.matched.get(to).is_some_and(Option::is_some);
    let Some(to) = view.successors(me).first().copied().filter(known) else { return };
    if consensus.hand_over(to).await.is_err() {
        return;
    }
    let mut changes = consensus.changes();
    let another =
        async { while changes.leader().is_none_or(|leader| leader == me) && changes.changed().await {} };
    tokio::select! {
        _ = tokio::time::timeout(HANDOVER, another) => {}
        why = gone(members, to) => {
            tracing::info!(node = me, to, why, "nobody is there to hand leadership over to");
        }
    }
}

/// Returns when `node` does not answer or is stopping as well, and says so.
async fn gone(members: &Members, node: u64) -> String {
    loop {
        let asked = tokio::time::timeout(PROBE, members.hello_of(node)).await;
        match asked {
            Ok(Ok(_)) => tokio::time::sleep(PROBE_PAUSE).await,
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "no answer".to_owned(),
        }
    }
}

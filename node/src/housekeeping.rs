//! What a node does unasked: learns the cluster's uuid, watches its space and memory, and, while it leads, ends
//! attempts that nobody goes on with. All of it is a record or local; no verdict depends on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nativelog::compose;
use nativelog::machine::Garbage;

use crate::exit::Exit;
use crate::identity::Claim;
use crate::memory::Memory;
use crate::node::Node;
use crate::pressure::{self, Steps};
use crate::units;

/// Pause between rounds.
const ROUND: Duration = Duration::from_secs(1);
/// The same while there is little space left.
const ROUND_WHEN_TIGHT: Duration = Duration::from_millis(200);
/// Pause between questions to the other voters for their space, and looks for old attempts.
const SLOW_ROUND: Duration = Duration::from_secs(3);

/// Runs until it is aborted. Owns the claim: the folder is ours as long as this lives.
pub async fn run(node: Arc<Node>, mut claim: Claim) {
    let mut slow_round: Option<Instant> = None;
    let mut stalled = node.replica.log().stalled();
    let mut steps = Steps::default();
    let mut memory = Memory::default();
    loop {
        learn_cluster(&node, &mut claim);
        let tight = watch_space(&node, &mut steps).await;
        if slow_round.is_none_or(|last| last.elapsed() >= SLOW_ROUND) {
            slow_round = Some(Instant::now());
            node.ask_voters().await;
            node.handed.look();
            let idle = node.replica.is_idle();
            if idle {
                node.replica.log().rest();
                node.buffers.trim();
            }
            memory = tokio::task::spawn_blocking(move || {
                memory.look(idle);
                memory
            })
            .await
            .expect("looking at memory does not panic");
            if node.replica.is_leader() {
                end_abandoned(&node).await;
            }
        }
        let pause = tokio::time::sleep(if tight { ROUND_WHEN_TIGHT } else { ROUND });
        tokio::select! {
            () = pause => {}
            // A closed channel stays closed: then only the pause counts.
            Ok(()) = stalled.changed() => {}
        }
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
            std::process::exit(Exit::Other.code());
        }
        None => {
            if let Err(error) = claim.write(Some(cluster)) {
                tracing::warn!(%error, "the identity cannot be written; it is tried again");
            }
        }
    }
}

/// Looks at the space and takes the steps of [`pressure`]; true while there is little left.
async fn watch_space(node: &Node, steps: &mut Steps) -> bool {
    let Ok(space) = node.space() else { return false };
    let before = *steps;
    let log_waits = node.replica.log().stalled().borrow().clone();
    let stalled = log_waits.is_some();
    *steps = pressure::steps(&space, before, stalled);
    if (steps.tight, steps.short) != (before.tight, before.short) {
        // Peers hand it on to their clients.
        let why = node.outward(pressure::words(node.config.id, &space, log_waits.as_deref()));
        tracing::warn!(
            free = space.free,
            reserve = space.reserve,
            tight = steps.tight,
            short = steps.short,
            stalled,
            "space"
        );
        node.replica.refuse_content(steps.tight.then(|| why.clone()));
        node.replica.refuse_appends(steps.short.then(|| why.clone()));
        node.short.send_replace(steps.tight.then_some(why));
    }
    // Only now: content that is still let in must not take what the ballast leaves.
    set_ballast(node, steps).await;
    // Nothing to give back needs no snapshot: what expires brings its own.
    if steps.reclaim && node.replica.machine().garbage() != Garbage::default() {
        node.reclaim();
    }
    if steps.tight {
        hand_over(node).await;
    }
    space.free < space.reserve.saturating_mul(2)
}

async fn set_ballast(node: &Node, steps: &Steps) {
    let Some(bytes) = steps.ballast else { return };
    let have = node.store.ballast();
    // A reserve that is a share of the disk moves a little with it: only what is too small is made anew.
    if (bytes == 0 && have == 0) || (bytes > 0 && have >= bytes) {
        return;
    }
    let store = node.store.clone();
    let set = tokio::task::spawn_blocking(move || store.set_ballast(bytes)).await;
    match set.expect("setting the ballast does not panic") {
        Ok(()) => tracing::info!(bytes, before = have, "ballast"),
        Err(error) => tracing::warn!(%error, bytes, "the ballast stays as it is; it is tried again"),
    }
}

async fn hand_over(node: &Node) {
    if !node.replica.is_leader() {
        return;
    }
    match node.spaces.roomiest() {
        None => tracing::debug!("leadership stays: no other live voter is known to have room"),
        Some(other) => {
            if let Err(error) = node.replica.transfer_leader(other).await {
                tracing::warn!(%error, "leadership cannot be handed over");
            }
        }
    }
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

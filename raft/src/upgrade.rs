//! A rolling upgrade: the version of the rules rises once every node knows the next one.
//!
//! Every node says in its pulse up to which version it knows them. The leader compares what all members, learners too,
//! have said since it leads, and then activates the highest version that all of them know: a record of that stops whoever
//! does not know it. Until then what needs newer rules is refused, and [`too_old`] names the nodes that are in the way.

use std::sync::Arc;
use std::time::Instant;

use nativelog::compose;
use nativelog::ledger::{RULES_VERSION_MAX, Verdict};

use crate::leader::Leadership;
use crate::propose::Proposer;

/// Activates the rules that all members know, while this node leads.
pub(crate) async fn run(proposer: Arc<Proposer>) {
    let mut leaders = proposer.leading.watch();
    let mut led: Option<(Arc<Leadership>, Instant)> = None;
    loop {
        let now = leaders.borrow_and_update().clone();
        led = match (now, led) {
            (Some(now), Some((before, since))) if Arc::ptr_eq(&now, &before) => Some((before, since)),
            (Some(now), _) => Some((now, Instant::now())),
            (None, _) => None,
        };
        if let Some((leadership, since)) = led.as_ref().filter(|(leadership, _)| leadership.is_ready()) {
            activate(&proposer, leadership, *since).await;
        }
        tokio::select! {
            () = tokio::time::sleep(proposer.config.tick) => {}
            changed = leaders.changed() => if changed.is_err() { return },
        }
    }
}

/// Nobody is asked once the newest rules that this node knows are in force.
async fn activate(proposer: &Arc<Proposer>, leadership: &Arc<Leadership>, since: Instant) {
    let in_force = proposer.machine.ledger().rules();
    if in_force >= RULES_VERSION_MAX {
        return;
    }
    let members = proposer.consensus.view().members;
    let known = members.iter().map(|(node, _)| known_by(proposer, *node, Some(since)));
    let Some(version) = agreed(in_force, known) else { return };
    match proposer.propose_tied(leadership, &compose::activate(version)).await {
        Ok((_, Verdict::Accepted(_))) => {
            tracing::info!(version, "every node knows these rules: they are in force from here on");
        }
        Ok((_, Verdict::Rejected(rejected))) => tracing::warn!(version, %rejected, "rules are not activated"),
        Err(why) => tracing::debug!(version, %why, "rules are not activated yet"),
    }
}

/// Up to which version a node knows the rules, as it has said after `since`, or ever; 0 for one of before anybody said so.
fn known_by(proposer: &Proposer, node: u64, since: Option<Instant>) -> Option<u32> {
    if node == proposer.config.node {
        return Some(RULES_VERSION_MAX);
    }
    proposer.peers.reach().pulse_after(node, since).map(|pulse| pulse.rules_known)
}

/// The highest version above the one in force that every member knows; `None` when one has not said, or there is none.
fn agreed(in_force: u32, known: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    let mut all = RULES_VERSION_MAX;
    for known in known {
        all = all.min(known?);
    }
    (all > in_force).then_some(all)
}

/// The members that do not know rules of this version, and up to which each does: `None` for one that has not said so since
/// this node runs, 0 for one of before anybody said so.
pub(crate) fn too_old(proposer: &Proposer, version: u32) -> Vec<(u64, Option<u32>)> {
    let members = proposer.consensus.view().members;
    let known = members.into_iter().map(|(node, _)| (node, known_by(proposer, node, None)));
    known.filter(|(_, known)| known.is_none_or(|known| known < version)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_rise_to_what_everybody_knows_and_not_before_everybody_has_said_so() {
        let of = |in_force, known: &[Option<u32>]| agreed(in_force, known.iter().copied());
        let newest = Some(RULES_VERSION_MAX);
        let before = RULES_VERSION_MAX - 1;
        assert_eq!(of(before, &[newest, newest, newest]), newest);
        assert_eq!(of(before, &[newest]), newest, "alone");
        assert_eq!(of(before, &[newest, None, newest]), None, "one was not heard");
        assert_eq!(of(before, &[newest, Some(0), newest]), None, "one is of before anybody said so");
        assert_eq!(of(before, &[newest, Some(before), newest]), None);
        assert_eq!(of(before - 1, &[newest, Some(before), newest]), Some(before), "as far as all can go");
        assert_eq!(of(RULES_VERSION_MAX, &[newest, newest]), None, "in force already");
        assert_eq!(
            of(before, &[newest, Some(RULES_VERSION_MAX + 1)]),
            newest,
            "no further than this node knows"
        );
    }
}

//! A rolling upgrade: the version of the rules rises once every node knows the next one.
//!
//! Every node says in its pulse up to which version it knows them. The leader compares what all members, learners too,
//! have said since it leads, and a moment ago, and then activates the highest version that all of them know: a record of
//! that stops whoever does not know it. Until then what needs newer rules is refused, and [`too_old`] names the nodes that
//! are in the way.
//!
//! From such a record on there is no way back to the binary of before. So rules that know of object stores come only when
//! a command has needed them: the node that it came to says so in its pulse.

use std::sync::Arc;
use std::time::Instant;

use nativelog::compose;
use nativelog::ledger::{RULES_VERSION_MAX, STORES_RULES, Verdict};

use crate::leader::Leadership;
use crate::propose::Proposer;

/// Rules up to this version come by themselves.
const BY_ITSELF: u32 = STORES_RULES - 1;
/// What a member has said counts for so many heartbeats: it may be of another binary since.
const FRESH: u32 = 8;

/// What a member says of rules.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// Up to which version it knows them; 0 for one of before anybody said so.
    known: u32,
    /// Which version a command needs that came to it.
    wanted: u32,
}

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
    let fresh = Instant::now().checked_sub(proposer.config.heartbeat * FRESH);
    let after = fresh.map_or(since, |fresh| fresh.max(since));
    let told = members.iter().map(|(node, _)| told_by(proposer, *node, Some(after)));
    let Some(version) = agreed(in_force, told) else { return };
    match proposer.propose_tied(leadership, &compose::activate(version)).await {
        Ok((_, Verdict::Accepted(_))) => {
            tracing::info!(version, "every node knows these rules: they are in force from here on");
        }
        Ok((_, Verdict::Rejected(rejected))) => tracing::warn!(version, %rejected, "rules are not activated"),
        Err(why) => tracing::debug!(version, %why, "rules are not activated yet"),
    }
}

/// What a node has said after `since`, or ever.
fn told_by(proposer: &Proposer, node: u64, since: Option<Instant>) -> Option<Told> {
    let reach = proposer.peers.reach();
    if node == proposer.config.node {
        return Some(Told { known: RULES_VERSION_MAX, wanted: reach.wanted_rules() });
    }
    let pulse = reach.pulse_after(node, since)?;
    Some(Told { known: pulse.rules_known, wanted: pulse.rules_wanted })
}

/// The version to activate: above the one in force, known by every member, and needed by one; `None` when one has not said
/// what it knows, or there is none.
fn agreed(in_force: u32, told: impl Iterator<Item = Option<Told>>) -> Option<u32> {
    let (mut known, mut wanted) = (RULES_VERSION_MAX, BY_ITSELF);
    for told in told {
        let told = told?;
        (known, wanted) = (known.min(told.known), wanted.max(told.wanted));
    }
    let version = known.min(wanted);
    (version > in_force).then_some(version)
}

/// The members that do not know rules of this version, and up to which each does: `None` for one that has not said so since
/// this node runs, 0 for one of before anybody said so. Whoever asks needs these rules: the leader hears of that.
pub(crate) fn too_old(proposer: &Proposer, version: u32) -> Vec<(u64, Option<u32>)> {
    proposer.peers.reach().want_rules(version);
    let members = proposer.consensus.view().members;
    let known =
        members.into_iter().map(|(node, _)| (node, told_by(proposer, node, None).map(|told| told.known)));
    known.filter(|(_, known)| known.is_none_or(|known| known < version)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(in_force: u32, wanted: u32, known: &[Option<u32>]) -> Option<u32> {
        agreed(in_force, known.iter().map(|known| known.map(|known| Told { known, wanted })))
    }

    #[test]
    fn rules_rise_to_what_everybody_knows_and_not_before_everybody_has_said_so() {
        let of = |in_force, known: &[Option<u32>]| version(in_force, RULES_VERSION_MAX, known);
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

    #[test]
    fn rules_that_know_stores_come_when_somebody_needs_them() {
        let newest = Some(RULES_VERSION_MAX);
        assert_eq!(version(BY_ITSELF, 0, &[newest, newest]), None);
        assert_eq!(version(BY_ITSELF - 1, 0, &[newest, newest]), Some(BY_ITSELF), "all others by themselves");
        assert_eq!(version(BY_ITSELF, STORES_RULES, &[newest, newest]), Some(STORES_RULES));
        let one = [0, STORES_RULES, 0].map(|wanted| Some(Told { known: STORES_RULES, wanted }));
        assert_eq!(agreed(BY_ITSELF, one.into_iter()), Some(STORES_RULES), "one is enough");
    }
}

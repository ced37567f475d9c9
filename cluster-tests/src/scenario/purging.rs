//! Kills while the log forgets: snapshots, purges, unlinks and catch-ups go on all the time, and any node dies at any
//! moment. Nothing acknowledged is lost, and when everything is removed nothing is left.

use std::time::Duration;

use crate::cluster::{Cluster, Options};
use crate::commits::{Commits, await_moment};
use crate::oracle::Answer;
use crate::scenario::years::{gives_everything_back, wait_purged_past};
use crate::seed::Rng;
use crate::usage::Usage;
use crate::wal::{Mark, last_index};

/// So many epochs stay, the others are removed as soon as they are acknowledged.
const KEEP: usize = 3;
/// At most so many epochs come and go while a node is away.
const AWAY_MAX: u64 = 5;

/// What the kills met, so that a run that met nothing is noticed.
#[derive(Debug, Default)]
struct Met {
    commits: u32,
    purged_past: u32,
    returns: u32,
}

/// Kills any node in a loop of commits and removals, sometimes another one while the first one returns, sometimes all.
///
/// # Panics
/// When an invariant is broken, or something is left in the end.
pub fn killed_while_purging(name: &str, rounds: u32, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options::default());
    cluster.wait_alike();
    let baseline: Vec<Usage> = cluster.nodes.iter().map(Usage::of).collect();
    let mut commits = Commits::new(&cluster, "purging");
    let mut met = Met::default();
    for round in 0.. {
        if round >= rounds && (met.purged_past > 0 && met.commits > 0 || round >= 4 * rounds) {
            break;
        }
        let line = one_round(&mut cluster, &mut commits, round, &mut met, rng);
        cluster.wait_ready();
        commits.check(&cluster);
        if rng.coin() {
            commits.repeat_unknown(&cluster, rng);
        }
        progress(format!("round {} of {rounds}: {line}", round + 1));
    }
    commits.repeat_unknown(&cluster, rng);
    commits.restore_some(&cluster, rng);
    let [yes, no, unknown] = commits.history.tally();
    assert!(met.commits > 0, "I12: no kill met a running commit");
    assert!(met.purged_past > 0, "I12: no log was purged past a node that was away");
    progress(format!("{yes} committed, {no} not committed, {unknown} unknown; {met:?}"));
    // A last epoch ends every attempt before it.
    let pending = commits.begin(rng);
    assert!(matches!(commits.end(pending), Answer::Committed { .. }), "all nodes are there");
    commits.remove_all(&cluster, rng);
    commits.check(&cluster);
    gives_everything_back(&cluster, &baseline);
}

fn one_round(
    cluster: &mut Cluster,
    commits: &mut Commits,
    round: u32,
    met: &mut Met,
    rng: &mut Rng,
) -> String {
    let victim = if round % 3 == 2 { cluster.leader() } else { rng.range(1, cluster.options.nodes + 1) };
    let before = cluster.node(victim).newest_attempt();
    let mut pending = commits.begin_under_fire(rng);
    met.commits += u32::from(await_moment(cluster, victim, before, &mut pending, rng));
    cluster.kill9(victim);
    let mut yes = u32::from(matches!(commits.end(pending), Answer::Committed { .. }));
    commits.remove_below(KEEP, rng);
    if rng.range(0, 5) == 0 {
        // All of them, in the middle of whatever the removals have set off.
        std::thread::sleep(rng.moment(Duration::from_millis(600))); // the moment of the fault
        cluster.kill9_all();
        (1..=cluster.options.nodes).for_each(|id| cluster.restart(id));
        return format!("node {victim} killed, then all");
    }
    let away = rng.range(0, AWAY_MAX + 1);
    for _ in 0..away {
        let pending = commits.begin(rng);
        yes += u32::from(matches!(commits.end(pending), Answer::Committed { .. }));
        commits.remove_below(KEEP, rng);
    }
    if away == AWAY_MAX {
        wait_purged_past(cluster, victim);
    }
    let past = is_purged_past(cluster, victim);
    met.purged_past += u32::from(past);
    cluster.restart(victim);
    let pending = commits.begin_under_fire(rng);
    std::thread::sleep(rng.moment(Duration::from_millis(800))); // the moment of the second fault
    let second = rng.range(1, cluster.options.nodes + 1);
    met.returns += 1;
    cluster.kill9(second);
    cluster.restart(second);
    yes += u32::from(matches!(commits.end(pending), Answer::Committed { .. }));
    commits.remove_below(KEEP, rng);
    commits.read_latest();
    format!(
        "node {victim} killed, away for {away} epochs{}, node {second} killed during its return; {yes} of {} acknowledged",
        if past { ", the log purged past it" } else { "" },
        away + 2
    )
}

/// Whether some node that runs has purged all that a node which is down has.
fn is_purged_past(cluster: &Cluster, away: u64) -> bool {
    let end = last_index(cluster.node(away));
    let others = cluster.nodes.iter().filter(|node| node.id != away);
    others.filter_map(|node| Mark::of(node)?.purged).any(|purged| Some(purged) > end)
}

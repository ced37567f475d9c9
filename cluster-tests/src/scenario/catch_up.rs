//! A node comes home to a log that was purged past it, while others commit and nodes die: it gets a snapshot and
//! fetches what it lacks, goes on where it was when it or the sender is killed, and is identical in the end.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::commits::Commits;
use crate::inputs::random_directory;
use crate::load::Load;
use crate::scenario::years::wait_purged_past;
use crate::seed::Rng;
use crate::usage::Usage;
use crate::wait::try_until;

/// Parameters of [`killed_on_both_sides`].
#[derive(Debug, Clone, Copy)]
pub struct CatchUp {
    /// What the node lacks when it comes home, bytes.
    pub lacked: u64,
    /// Bytes of one epoch of it.
    pub epoch_bytes: u64,
    /// Returns, each with kills on the way.
    pub rounds: u32,
    /// Kills in a round, at most.
    pub kills: u32,
}

/// Who dies in a catch-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

/// In each round a follower is away until it lacks `lacked` bytes and the log is purged past it; while it catches up,
/// others commit, and it and the leader are killed at random moments.
///
/// # Panics
/// When nodes differ in the end, something acknowledged is lost, or no kill met a catch-up.
pub fn killed_on_both_sides(name: &str, catch_up: CatchUp, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options::default());
    let (mut bulk, mut others) = (Commits::new(&cluster, "bulk"), Commits::new(&cluster, "others"));
    let mut hits = [0, 0];
    for round in 0.. {
        // A fast catch-up may be over before the kill: some more rounds until both sides were met.
        if round >= catch_up.rounds && (hits.iter().all(|hits| *hits > 0) || round >= 3 * catch_up.rounds) {
            break;
        }
        let victim = cluster.follower();
        cluster.kill9(victim);
        fall_behind(&cluster, &mut bulk, victim, catch_up, rng);
        let load = Load::start(others, Rng::new(rng.draw(), "load"), small);
        let (met, took) = come_home(&mut cluster, victim, &bulk, catch_up, rng);
        let during = load.committed();
        others = load.stop();
        cluster.wait_ready();
        cluster.wait_alike();
        bulk.check(&cluster);
        others.check(&cluster);
        for side in &met {
            hits[usize::from(*side == Side::Receiver)] += 1;
        }
        progress(format!(
            "round {} of {}: node {victim} home after {took:.1?}, killed on the way: {met:?}; {during} commits meanwhile",
            round + 1,
            catch_up.rounds
        ));
    }
    others.repeat_unknown(&cluster, rng);
    bulk.restore_some(&cluster, rng);
    assert!(
        hits.iter().all(|hits| *hits > 0),
        "I12: {} kills met the sender and {} the receiver of a catch-up",
        hits[0],
        hits[1]
    );
}

/// Commits what the node that is away will lack, and removes the rest, so that the log is purged past it.
fn fall_behind(cluster: &Cluster, bulk: &mut Commits, away: u64, catch_up: CatchUp, rng: &mut Rng) {
    let epochs = catch_up.lacked.div_ceil(catch_up.epoch_bytes);
    // One more than what stays: there is something to remove in the first round, too.
    for _ in 0..=epochs {
        bulk.commit(rng, |source, rng| random_directory(source, 4, catch_up.epoch_bytes / 4, rng));
    }
    let keep = usize::try_from(epochs).expect("a count of epochs");
    bulk.remove_below(keep, rng);
    wait_purged_past(cluster, away);
}

/// Starts the node that was away and kills senders and receivers on the way. Who was met, and how long it took.
fn come_home(
    cluster: &mut Cluster,
    victim: u64,
    bulk: &Commits,
    catch_up: CatchUp,
    rng: &mut Rng,
) -> (Vec<Side>, Duration) {
    let begun = Instant::now();
    let mut met = Vec::new();
    cluster.restart(victim);
    for _ in 0..catch_up.kills {
        let before = Usage::of(cluster.node(victim)).content;
        let share = rng.range(0, (catch_up.lacked / u64::from(catch_up.kills)).max(1));
        let moment: Result<(), u64> = try_until(PATIENCE, || {
            let came = Usage::of(cluster.node(victim)).content.saturating_sub(before);
            if came >= share || is_home(cluster, victim, bulk) { Ok(()) } else { Err(came) }
        });
        moment.unwrap_or_else(|came| {
            panic!("node {victim} got {came} bytes in {PATIENCE:?}\n{}", cluster.node(victim).log_tail())
        });
        if is_home(cluster, victim, bulk) {
            break;
        }
        let side = if rng.coin() { Side::Sender } else { Side::Receiver };
        let dies = if side == Side::Sender { sender(cluster, victim) } else { victim };
        cluster.kill9(dies);
        met.push(side);
        std::thread::sleep(rng.moment(Duration::from_millis(500))); // the moment of the return
        cluster.restart(dies);
    }
    cluster.wait_node_ready(victim);
    let home = try_until(4 * PATIENCE, || {
        if is_home(cluster, victim, bulk) { Ok(()) } else { Err(Usage::of(cluster.node(victim))) }
    });
    home.unwrap_or_else(|usage| {
        panic!("node {victim} is not home: {usage}\n{}", cluster.node(victim).log_tail())
    });
    (met, begun.elapsed())
}

/// The leader, as long as it is not the receiver itself.
fn sender(cluster: &Cluster, receiver: u64) -> u64 {
    let leader = cluster.leader();
    if leader == receiver { cluster.first(receiver)[1] } else { leader }
}

/// Whether a node has published all that it lacked.
fn is_home(cluster: &Cluster, id: u64, bulk: &Commits) -> bool {
    bulk.committed().iter().all(|epoch| cluster.node(id).published("bulk", *epoch).is_dir())
}

/// What others commit meanwhile: more than a record, less than a second.
fn small(at: &Path, rng: &mut Rng) {
    random_directory(at, 3, 600_000, rng);
}

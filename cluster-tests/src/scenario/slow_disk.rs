//! Disks that take less than others, that stand still once, that all stand still: memory stays bounded, what was begun
//! ends *committed*, and leadership does not go round.

use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

use crate::cli::Running;
use crate::cluster::{Cluster, Options, PATIENCE};
use crate::counters::peak_rss;
use crate::inputs::random_directory;
use crate::metrics::Metrics;
use crate::needs::{Need, skip};
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::trace::{Trace, is_there};
use crate::wait::{try_until, wait_until};

/// A cluster whose nodes have disks of their own, which can be held.
fn with_disks(name: &str, disk_bytes: u64) -> Option<Cluster> {
    let options = Options { shipped_timing: true, ..Options::default() };
    let cluster = match Cluster::start_on_disks(name, options, disk_bytes) {
        Ok(cluster) => cluster,
        Err(why) => {
            skip(Need::Mounts, "slow disks", &why);
            return None;
        }
    };
    if let Err(why) = cluster.disk(1).limit_writes(None) {
        skip(Need::Throttle, "slow disks", &why);
        return None;
    }
    Some(cluster)
}

/// Lets the disk of one node take so much.
fn limit(cluster: &Cluster, id: u64, bytes_per_s: Option<u64>) {
    cluster.disk(id).limit_writes(bytes_per_s).unwrap_or_else(|why| panic!("{why}"));
}

/// Parameters of [`of_the_leader`].
#[derive(Debug, Clone, Copy)]
pub struct SlowDisk {
    /// Bytes of the epoch.
    pub bytes: u64,
    /// What the leader's disk takes, in bytes a second.
    pub leader_takes: u64,
    /// Memory of a node, at most.
    pub rss_max: u64,
}

/// The leader's disk takes less than those of the followers, which take all.
///
/// # Panics
/// When the commit does not end *committed*, or a node takes more memory than it may.
pub fn of_the_leader(name: &str, size: SlowDisk, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let Some(cluster) = with_disks(name, 3 * size.bytes + (512 << 20)) else { return };
    let leader = cluster.leader();
    let source = cluster.source("slow");
    random_directory(&source, 8, size.bytes / 8, rng);
    rustix::fs::sync();
    limit(&cluster, leader, Some(size.leader_takes));
    let watch = Watch::start(&cluster);
    let flags = ["--stream", "--timeout", "120s"];
    let output =
        cluster.commit_within(Duration::from_secs(600), &cluster.first(leader), &source, "slow", 1, &flags);
    let leaders = watch.stop();
    let peaks: Vec<u64> = cluster.nodes.iter().map(|node| peak_rss(node) >> 20).collect();
    progress(format!(
        "{} MiB with {} MB/s at the leader, node {leader}: exit {:?} after {:.1?}; peak RSS {peaks:?} MiB; leaders {leaders:?}",
        size.bytes >> 20,
        size.leader_takes / 1_000_000,
        output.code,
        output.took
    ));
    limit(&cluster, leader, None);
    output.ok();
    cluster.wait_published("slow", 1);
    compare_everywhere(&cluster, &source, "slow", 1);
    let peaks: Vec<u64> = cluster.nodes.iter().map(peak_rss).collect();
    assert!(peaks.iter().all(|peak| *peak <= size.rss_max), "peak RSS {peaks:?}, at most {}", size.rss_max);
}

/// One fdatasync of the leader's log takes `hang`: it hands over within `limit`, and the commit that met it ends
/// *committed*.
///
/// # Panics
/// When it does not.
pub fn one_sync_hangs(
    name: &str,
    bytes: u64,
    hang: Duration,
    limit: Duration,
    rng: &mut Rng,
    progress: &mut dyn FnMut(String),
) {
    if !is_there() {
        return skip(Need::Strace, "an fdatasync that hangs", "strace is missing");
    }
    let cluster = Cluster::start(name, Options { shipped_timing: true, ..Options::default() });
    let leader = cluster.leader();
    let source = cluster.source("hang");
    random_directory(&source, 4, bytes / 4, rng);
    let log = cluster.node(leader).data.join("groups/main/log");
    let delay = format!("inject=fdatasync:delay_exit={}:when=1", hang.as_micros());
    let mut args: Vec<OsString> = ["-e", "trace=fdatasync", "-e", &delay].map(OsString::from).into();
    for segment in fs::read_dir(&log).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if segment.extension().is_some_and(|extension| extension == "wal") {
            args.extend(["-P".into(), segment.into()]);
        }
    }
    let pid = cluster.node(leader).pid().expect("it was started");
    let Some(trace) = Trace::attach(pid, cluster.folder().join("hang.trace"), &args) else {
        return skip(Need::Strace, "an fdatasync that hangs", "strace may not attach here");
    };
    let watch = Watch::start(&cluster);
    let begun = Instant::now();
    let mut client = cluster.spawn_commit(&cluster.first(leader), &source, "hang", 1, &["--timeout", "60s"]);
    let others = cluster.first(leader).split_off(1);
    let (mut handed, mut answered) = (None, None);
    let _both: Result<(), ()> = try_until(hang + PATIENCE, || {
        if handed.is_none() && others.iter().any(|id| leads(&cluster, *id)) {
            handed = Some(begun.elapsed());
        }
        if answered.is_none() && !client.is_running() {
            answered = Some(begun.elapsed());
        }
        // Once it is answered nobody has a reason to hand over any more.
        if answered.is_some() { Ok(()) } else { Err(()) }
    });
    let output = client.wait_for(PATIENCE);
    let leaders = watch.stop();
    progress(format!(
        "a sync of {hang:?} at node {leader}: another leader after {handed:.1?}, exit {:?} after {answered:.1?}; leaders {leaders:?}",
        output.code
    ));
    drop(trace);
    output.ok();
    cluster.wait_published("hang", 1);
    compare_everywhere(&cluster, &source, "hang", 1);
    assert!(
        handed.is_some_and(|took| took <= limit),
        "another leader after {handed:?}, the limit is {limit:?}"
    );
}

/// All disks stand still for a while in the middle of a commit.
///
/// # Panics
/// When the leader changes more than once, or the commit does not end *committed*.
pub fn all_stand_still(
    name: &str,
    bytes: u64,
    still: Duration,
    rng: &mut Rng,
    progress: &mut dyn FnMut(String),
) {
    let Some(cluster) = with_disks(name, 4 * bytes + (256 << 20)) else { return };
    let leader = cluster.leader();
    let source = cluster.source("still");
    random_directory(&source, 4, bytes / 4, rng);
    rustix::fs::sync();
    let before = cluster.node(leader).newest_attempt();
    let watch = Watch::start(&cluster);
    let client: Running =
        cluster.spawn_commit(&cluster.first(leader), &source, "still", 1, &["--stream", "--timeout", "120s"]);
    wait_until(PATIENCE, "the commit to be on its way", || {
        let staged = cluster.node(leader).staged_after(before);
        if staged > 0 { Ok(()) } else { Err("nothing is staged") }
    });
    for id in 1..=cluster.options.nodes {
        limit(&cluster, id, Some(1));
    }
    std::thread::sleep(still); // how long they stand still
    for id in 1..=cluster.options.nodes {
        limit(&cluster, id, None);
    }
    let output = client.wait_for(Duration::from_secs(300));
    // Whoever wants to stand for election because of it does so within two election timeouts.
    std::thread::sleep(Duration::from_secs(12)); // the span that is watched
    let leaders = watch.stop();
    progress(format!(
        "all disks still for {still:?}: exit {:?} after {:.1?}; leaders {leaders:?}",
        output.code, output.took
    ));
    output.ok();
    cluster.wait_published("still", 1);
    compare_everywhere(&cluster, &source, "still", 1);
    assert!(leaders.len() <= 2, "the leader changed {} times: {leaders:?}", leaders.len() - 1);
}

fn leads(cluster: &Cluster, id: u64) -> bool {
    Metrics::of(cluster.node(id)).is_ok_and(|metrics| metrics.sum("epochlog_raft_is_leader") == Some(1.0))
}

/// Writes down who leads, a few times a second.
struct Watch {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(u64, u64)>>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Watch {
        use std::sync::atomic::{AtomicBool, Ordering};
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let places: Vec<_> = cluster.nodes.iter().map(|node| (node.id, node.http_place())).collect();
        let thread = std::thread::spawn(move || {
            let mut seen: Vec<(u64, u64)> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for (id, place) in &places {
                    let Ok(metrics) = Metrics::at(*place) else { continue };
                    let term = metrics.sum("epochlog_raft_term").unwrap_or(0.0) as u64;
                    let leads = metrics.sum("epochlog_raft_is_leader") == Some(1.0);
                    // A deposed leader may not know yet: only a higher term is another one.
                    if leads && seen.last().is_none_or(|(last, _)| term > *last) {
                        seen.push((term, *id));
                    }
                }
                std::thread::sleep(Duration::from_millis(100)); // the grain of what is seen
            }
            seen
        });
        Watch { stop, thread }
    }

    /// Term and node of each leader that was seen, in order.
    fn stop(self) -> Vec<(u64, u64)> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

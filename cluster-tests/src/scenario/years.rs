//! A log that lives for years, in small: epoch after epoch, each removed a few epochs later. Nothing grows but the
//! numbers, and a follower that was away for longer than the log reaches back comes home for what it lacks, not more.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Node, Options, PATIENCE};
use crate::commits::{Commits, Pending};
use crate::inputs::{random_directory, random_file};
use crate::metrics::Metrics;
use crate::oracle::Answer;
use crate::seed::Rng;
use crate::usage::{Usage, leftovers};
use crate::wait::{try_until, wait_until};
use crate::wal::{Mark, last_index, snapshots};

/// Latency is the median, and the peak the most, of so many epochs.
const WINDOW: u64 = 10;
/// What a node that comes home may fetch more than what it lacked: 5 %.
const FETCHED_OVER_LACKED: f64 = 1.05;
/// Memory that does not move for so long has settled.
const QUIET: Duration = Duration::from_secs(8);
/// What it may move in that time, bytes.
const RSS_JITTER: u64 = 1 << 20;
/// What stays of a node's disk when all epochs are gone may be this much above what it was: pages of a catalog, the
/// first frames of a segment.
const BASELINE_SLACK_BYTES: u64 = 1 << 20;

/// Parameters of [`years`].
#[derive(Debug, Clone, Copy)]
pub struct Years {
    /// Epochs in all.
    pub epochs: u64,
    /// Bytes of each.
    pub epoch_bytes: u64,
    /// How many newer ones an epoch lives to see.
    pub keep: usize,
    /// The epoch against which the last one is measured.
    pub early: u64,
    /// How often a follower is killed and left away.
    pub absences: u64,
    /// For how many epochs it is away.
    pub away: u64,
    /// By how much the late measures may exceed the early ones.
    pub limit: f64,
}

/// A job that lives through it all.
struct Life {
    cluster: Cluster,
    years: Years,
    commits: Commits,
    took_ms: BTreeMap<u64, f64>,
}

/// What was measured at one of the two times.
struct Measured {
    /// At rest: what was removed is given back.
    usage: Vec<Usage>,
    /// The most while the epochs before came and went.
    peak: Vec<Usage>,
    latency_ms: f64,
}

/// Lives through `years`.
///
/// # Panics
/// When something grows, differs, is lost, or is fetched that was not lacking.
pub fn years(name: &str, years: Years, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let cluster = Cluster::start(name, Options::default());
    cluster.wait_alike();
    let baseline: Vec<Usage> = cluster.nodes.iter().map(Usage::of).collect();
    let commits = Commits::new(&cluster, "years");
    let mut life = Life { cluster, years, commits, took_ms: BTreeMap::new() };
    let early = life.measure(years.early, rng);
    progress(format!("epoch {}: {early}", years.early));
    // The rest of the time in equal parts: some epochs together, some without one of the followers.
    let together = (years.epochs - years.early - WINDOW - years.absences * years.away) / (years.absences + 1);
    for absence in 1..=years.absences {
        (0..together).for_each(|_| life.one(rng));
        progress(format!("absence {absence} of {}: {}", years.absences, life.absence(rng)));
    }
    let late = life.measure(years.epochs, rng);
    progress(format!("epoch {}: {late}", years.epochs));
    early.holds(&late, years);
    life.end(&baseline, rng, progress);
}

impl Life {
    /// One epoch: committed through any node, and the oldest one removed.
    fn one(&mut self, rng: &mut Rng) {
        let pending = self.begin(rng);
        self.finish(pending, rng);
    }

    fn begin(&mut self, rng: &mut Rng) -> Pending {
        let bytes = self.years.epoch_bytes;
        self.commits.begin_made(rng, |source, rng| make(source, bytes, rng))
    }

    fn finish(&mut self, pending: Pending, rng: &mut Rng) {
        let answer = self.commits.end(pending);
        assert!(matches!(answer, Answer::Committed { .. }), "a quorum was always there: {answer:?}");
        self.took_ms.insert(self.commits.epoch, self.commits.took.as_secs_f64() * 1000.0);
        self.commits.remove_below(self.years.keep, rng);
    }

    /// Goes on to `epoch` and says what the last epochs before it took.
    fn measure(&mut self, epoch: u64, rng: &mut Rng) -> Measured {
        while self.commits.epoch + WINDOW < epoch {
            self.one(rng);
        }
        let mut peak = vec![Usage::default(); self.cluster.nodes.len()];
        while self.commits.epoch < epoch {
            self.one(rng);
            for (most, node) in peak.iter_mut().zip(&self.cluster.nodes) {
                *most = most.max(Usage::of(node));
            }
        }
        let mut window: Vec<f64> = self.took_ms.range(epoch + 1 - WINDOW..).map(|(_, ms)| *ms).collect();
        window.sort_by(f64::total_cmp);
        Measured { usage: self.at_rest(), peak, latency_ms: window[window.len() / 2] }
    }

    /// What the nodes take once they have given back what was removed.
    fn at_rest(&self) -> Vec<Usage> {
        self.cluster.wait_alike();
        let live: u64 = self.commits.sources.values().map(|source| content_bytes(source)).sum();
        // Files take whole blocks, manifests some more.
        let limit = live + live / 10 + (1 << 20);
        let rest = |node: &Node| {
            wait_until(PATIENCE, &format!("node {} to give back what was removed", node.id), || {
                let now = Usage::of(node);
                if now.content <= limit { Ok(now) } else { Err(format!("{now}; {} KiB live", live >> 10)) }
            })
        };
        let mut usage: Vec<Usage> = self.cluster.nodes.iter().map(rest).collect();
        for (usage, node) in usage.iter_mut().zip(&self.cluster.nodes) {
            usage.rss = settled_rss(node);
        }
        usage
    }

    /// Kills a follower at a random moment of a commit, lives on until the log is purged past it, and lets it come home.
    fn absence(&mut self, rng: &mut Rng) -> String {
        let victim = self.cluster.follower();
        let pending = self.begin(rng);
        std::thread::sleep(rng.moment(Duration::from_millis(60))); // the moment of the fault
        self.cluster.kill9(victim);
        self.finish(pending, rng);
        let had = self.commits.epoch;
        (0..self.years.away).for_each(|_| self.one(rng));
        wait_purged_past(&self.cluster, victim);
        // What came while it was away and is still there.
        let lacked: u64 =
            self.commits.sources.range(had + 1..).map(|(_, source)| content_bytes(source)).sum();
        assert_eq!(
            self.commits.sources.range(..=had).count(),
            0,
            "it was away for longer than an epoch lives"
        );
        self.cluster.restart(victim);
        let begun = Instant::now();
        self.cluster.wait_ready();
        self.cluster.wait_alike();
        let took = begun.elapsed();
        self.commits.check(&self.cluster);
        let fetched = fetched_bytes(self.cluster.node(victim));
        assert!(
            fetched > 0,
            "I12: node {victim} was away for {} epochs and fetched nothing",
            self.years.away
        );
        assert!(
            fetched as f64 <= lacked as f64 * FETCHED_OVER_LACKED,
            "node {victim} lacked {lacked} bytes and fetched {fetched}"
        );
        format!(
            "node {victim} was away for {} epochs, lacked {} KiB, fetched {} KiB, home in {took:.1?}",
            self.years.away,
            lacked >> 10,
            fetched >> 10
        )
    }

    /// Everything is removed; what was taken is given back.
    fn end(mut self, baseline: &[Usage], rng: &mut Rng, progress: &mut dyn FnMut(String)) {
        self.cluster.wait_alike();
        self.commits.check(&self.cluster);
        self.commits.restore_some(&self.cluster, rng);
        self.commits.remove_all(&self.cluster, rng);
        self.commits.check(&self.cluster);
        gives_everything_back(&self.cluster, baseline);
        for node in &self.cluster.nodes {
            progress(format!("node {} without epochs: {}", node.id, Usage::of(node)));
        }
    }
}

/// Memory of a node that has not moved any more for [`QUIET`]: what it does not use, it gives back now and then.
fn settled_rss(node: &Node) -> u64 {
    let (mut rss, mut since) = (Usage::of(node).rss, Instant::now());
    wait_until(PATIENCE, &format!("the memory of node {} to settle", node.id), || {
        let now = Usage::of(node).rss;
        if now.abs_diff(rss) > RSS_JITTER {
            (rss, since) = (now, Instant::now());
        }
        if since.elapsed() >= QUIET { Ok(rss) } else { Err(format!("{} KiB", now >> 10)) }
    })
}

/// Three files of several chunks each, and a pack's worth of small ones.
fn make(at: &Path, bytes: u64, rng: &mut Rng) {
    random_directory(at, 3, bytes * 31 / 96, rng);
    for number in 0..16 {
        random_file(&at.join(format!("small-{number:02}")), bytes / 512, rng);
    }
}

fn content_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("our own source can be listed").flatten();
    files.map(|file| file.metadata().map_or(0, |meta| meta.len())).sum()
}

/// Bytes of content that a node has fetched in this life.
///
/// # Panics
/// When it does not say so.
pub fn fetched_bytes(node: &Node) -> u64 {
    let metrics = wait_until(PATIENCE, "metrics", || Metrics::of(node));
    metrics
        .sum("epochlog_catch_up_bytes_total")
        .unwrap_or_else(|| panic!("node {} does not count what it fetches: {:?}", node.id, metrics.names()))
        as u64
}

/// Waits until every node that runs has purged its log past all that a node which is down has.
///
/// # Panics
/// When they do not.
pub fn wait_purged_past(cluster: &Cluster, away: u64) {
    let end = last_index(cluster.node(away)).max(Mark::of(cluster.node(away)).and_then(|mark| mark.purged));
    let end = end.unwrap_or_else(|| panic!("the log of node {away} has no entries"));
    for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
        wait_until(PATIENCE, &format!("node {} to purge its log past {end}", node.id), || {
            let purged = Mark::of(node).and_then(|mark| mark.purged);
            if purged > Some(end) {
                Ok(())
            } else {
                Err(format!("purged {purged:?}, snapshots {:?}", snapshots(node)))
            }
        });
    }
}

/// Waits until no node has anything left of content, and its disk is what it was.
///
/// # Panics
/// When something stays.
pub fn gives_everything_back(cluster: &Cluster, baseline: &[Usage]) {
    for (node, baseline) in cluster.nodes.iter().zip(baseline) {
        let gone = try_until(PATIENCE, || {
            let left = leftovers(node);
            let now = Usage::of(node);
            if left.is_empty() && now.disk() <= baseline.disk() + BASELINE_SLACK_BYTES {
                return Ok(());
            }
            Err(format!(
                "{now}, at first {baseline}; {} files are left: {:#?}",
                left.len(),
                &left[..left.len().min(5)]
            ))
        });
        gone.unwrap_or_else(|last| panic!("node {} keeps what nobody refers to: {last}", node.id));
    }
}

impl Measured {
    /// Nothing has grown by more than the limit.
    fn holds(&self, late: &Measured, years: Years) {
        let mut grown = Vec::new();
        let mut check = |what: String, floor: f64, early: f64, late: f64| {
            if late > early.max(floor) * years.limit {
                grown.push(format!(
                    "{what}: {early:.1} at epoch {}, {late:.1} at epoch {}",
                    years.early, years.epochs
                ));
            }
        };
        for (id, (early, late)) in (1..).zip(self.usage.iter().zip(&late.usage)) {
            for (what, floor, value) in MEASURES {
                let kib = |bytes: u64| bytes as f64 / 1024.0;
                check(format!("node {id}, {what}, KiB"), kib(floor), kib(value(early)), kib(value(late)));
            }
        }
        check("commit latency, ms".into(), 0.0, self.latency_ms, late.latency_ms);
        assert!(grown.is_empty(), "grown by more than {}:\n{}", years.limit, grown.join("\n"));
    }
}

type Measure = fn(&Usage) -> u64;

/// Name, floor and value. What takes less than its floor is a file of a few pages, whatever its ratio is; unpurged,
/// the packs alone would be many times as much.
const MEASURES: [(&str, u64, Measure); 4] = [
    ("disk", 0, Usage::disk),
    ("WAL", 1 << 20, |usage| usage.wal),
    ("catalog", 1 << 20, |usage| usage.catalog),
    ("RSS", 64 << 20, |usage| usage.rss),
];

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "commits in {:.1} ms", self.latency_ms)?;
        (1..).zip(self.usage.iter().zip(&self.peak)).try_for_each(|(id, (usage, peak))| {
            write!(f, "; node {id}: {usage} (at most disk {} KiB)", peak.disk() >> 10)
        })
    }
}

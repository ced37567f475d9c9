//! An epoch of very many files is published, and nobody else notices: small commits of other jobs, through the leader
//! and through a follower, take about as long as in a quiet cluster, also when the leader dies in the middle.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::probe::{Probe, Sample, Spread};
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::wait::wait_until;

/// Parameters of [`others_go_on`].
#[derive(Debug, Clone, Copy)]
pub struct ManyFiles {
    /// Files of the epoch.
    pub files: u32,
    /// Bytes of each.
    pub file_bytes: usize,
    /// How long the quiet cluster is measured.
    pub quiet: Duration,
    /// The p99 of small commits may be so many times that of the quiet cluster; `None`: it is only told.
    pub factor: Option<f64>,
    /// No small commit takes longer.
    pub limit: Duration,
}

/// So long an epoch may take to be published everywhere.
const PUBLISHING: Duration = Duration::from_secs(900);
/// The flags of the large commit.
const FLAGS: [&str; 2] = ["--timeout", "600s"];

/// Files of random bytes, 500 a folder: nothing can be deduplicated.
///
/// # Panics
/// When they cannot be written.
pub fn write_many(at: &Path, files: u32, bytes: usize, rng: &mut Rng) {
    let mut content = vec![0; bytes];
    for number in 0..files {
        let folder = at.join(format!("{:04}", number / 500));
        if number % 500 == 0 {
            fs::create_dir_all(&folder).expect("the scratch folder can be written");
        }
        rng.fill(&mut content);
        fs::write(folder.join(format!("{number:07}")), &content).expect("the scratch folder can be written");
    }
}

/// Publishes two such epochs; while the second is published the leader is killed.
///
/// # Panics
/// When small commits take longer than they may, or anything is not as it was committed.
pub fn others_go_on(name: &str, size: ManyFiles, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options { shipped_timing: true, ..Options::default() });
    let leader = cluster.leader();
    let order = cluster.first(leader);
    let [first, second] = ["first", "second"].map(|source| cluster.source(source));
    write_many(&first, size.files, size.file_bytes, rng);
    write_many(&second, size.files, size.file_bytes, rng);
    rustix::fs::sync();
    let through = [("leader", order.clone()), ("follower", cluster.first(order[1]))];
    let probes =
        through.map(|(role, nodes)| (role, Probe::start(&cluster, &nodes, &format!("probe-{role}"))));
    for (_, probe) in &probes {
        wait_until(PATIENCE, "the first small commit", || {
            probe.samples().first().map(drop).ok_or("none yet")
        });
    }
    let begun = Instant::now();
    std::thread::sleep(size.quiet); // the span that is measured
    let mut judge = Judge { size, quiet: Vec::new(), broken: Vec::new() };
    judge.quiet(&probes, begun, Instant::now(), progress);

    let begun = Instant::now();
    let output = cluster.commit_within(PUBLISHING, &order, &first, "many", 1, &FLAGS).ok();
    progress(format!("{} files committed in {:.1?}", size.files, output.took));
    wait_everywhere(&cluster, 1);
    let took = begun.elapsed();
    progress(format!("published everywhere after {took:.1?}"));
    judge.busy("while it was published", &probes, begun, Instant::now(), progress);

    let begun = Instant::now();
    let client = cluster.spawn_commit(&order, &second, "many", 2, &FLAGS);
    std::thread::sleep(took / 2); // the middle, going by the first epoch
    let killed = Instant::now();
    cluster.kill9(leader);
    judge.busy("until the leader was killed", &probes, begun, killed, progress);
    for (_, probe) in &probes {
        wait_until(PATIENCE, "a small commit under a new leader", || {
            probe.first_after(killed).map(drop).ok_or("none yet")
        });
    }
    let back = probes.iter().filter_map(|(_, probe)| probe.first_after(killed)).max().unwrap_or(killed);
    progress(format!("small commits go on {:.1?} after the leader was killed", back - killed));
    client.wait_for(PUBLISHING).ok();
    wait_everywhere(&cluster, 2);
    // A new leader that has published everything already: there is still a span to be judged.
    let rest = Instant::now() - back;
    std::thread::sleep(Duration::from_secs(5).saturating_sub(rest)); // the span that is measured
    judge.busy("under the new leader", &probes, back, Instant::now(), progress);
    for (_, probe) in probes {
        probe.stop();
    }
    cluster.restart(leader);
    cluster.wait_node_ready(leader);
    wait_everywhere(&cluster, 2);
    cluster.wait_alike();
    for (epoch, source) in [(1, &first), (2, &second)] {
        compare_everywhere(&cluster, source, "many", epoch);
    }
    assert!(judge.broken.is_empty(), "{}", judge.broken.join("\n"));
}

fn wait_everywhere(cluster: &Cluster, epoch: u64) {
    for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
        wait_until(PUBLISHING, &format!("many@{epoch} on node {}", node.id), || {
            if node.published("many", epoch).is_dir() { Ok(()) } else { Err(node.log_tail()) }
        });
    }
}

/// Compares spans with the quiet one, and keeps what does not hold until the end: all figures are told.
struct Judge {
    size: ManyFiles,
    quiet: Vec<Spread>,
    broken: Vec<String>,
}

type Probes = [(&'static str, Probe); 2];

impl Judge {
    fn quiet(&mut self, probes: &Probes, from: Instant, to: Instant, progress: &mut dyn FnMut(String)) {
        for (role, probe) in probes {
            let spread = Spread::of(role, &probe.begun_in(from, to));
            progress(format!("quiet, through the {role}: {spread}"));
            self.quiet.push(spread);
        }
    }

    fn busy(
        &mut self,
        what: &str,
        probes: &Probes,
        from: Instant,
        to: Instant,
        progress: &mut dyn FnMut(String),
    ) {
        for ((role, probe), quiet) in probes.iter().zip(&self.quiet) {
            let what = format!("{what}, through the {role}");
            // Whatever was on its way at the end of the span counts as long as it took until then, at least.
            let open = probe.open_at(to);
            let mut samples = probe.begun_in(from, to);
            samples.retain(|sample| sample.begun + sample.took <= to);
            samples.extend(open.map(|begun| Sample { begun, took: to - begun, failure: None }));
            let spread = Spread::of(&what, &samples);
            let times = spread.p99.as_secs_f64() / quiet.p99.as_secs_f64();
            progress(format!("{what}: {spread}; p99 {times:.1} times the quiet one"));
            progress(format!("  its longest: {}", longest(&samples, from)));
            if self.size.factor.is_some_and(|factor| times > factor) {
                self.broken.push(format!("{what}: p99 {times:.1} times the quiet cluster's"));
            }
            if spread.max > self.size.limit || !spread.failures.is_empty() {
                self.broken.push(format!("{what}: {spread} {:?}", spread.failures.first()));
            }
        }
    }
}

/// The longest few, in the order of time: how long, and when in the span.
fn longest(samples: &[Sample], from: Instant) -> String {
    let mut longest: Vec<&Sample> = samples.iter().collect();
    longest.sort_by_key(|sample| std::cmp::Reverse(sample.took));
    longest.truncate(8);
    longest.sort_by_key(|sample| sample.begun);
    let tell = |sample: &&Sample| format!("{:.0?} at {:.1?}", sample.took, sample.begun - from);
    longest.iter().map(tell).collect::<Vec<_>>().join(", ")
}

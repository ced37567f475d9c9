//! Two builds beside each other: the same directories, in the same rounds, in turns. What is told is the ratio of
//! each round, so that a slow hour of the machine is slow for both.

use std::fs;
use std::path::{Path, PathBuf};

use cluster_tests::cluster::Cluster;
use cluster_tests::counters;
use cluster_tests::scratch::remove_tree;
use cluster_tests::seed::Rng;

use crate::clusters::cluster_of;
use crate::floors;
use crate::report::Report;

/// A row is slower when the whole 95 % interval of its ratio lies above this.
const SLOWER: f64 = 1.03;
/// Fewer rounds say too little.
pub const ROUNDS_MIN: u32 = 9;
/// A directory is committed by path and streamed.
const WAYS: [(&str, &[&str]); 2] = [("path", &[]), ("stream", &["--stream"])];

/// The two clusters: of this build, and of the one before.
pub struct Pair<'a> {
    dir: &'a Path,
    clusters: [Cluster; 2],
    /// The seconds of both builds, by row, round by round.
    rows: Vec<(String, Vec<[f64; 2]>)>,
    title: String,
    epoch: u64,
}

impl<'a> Pair<'a> {
    /// Fresh clusters for one section.
    pub fn start(title: String, dir: &'a Path, before: &Path) -> Pair<'a> {
        eprintln!("{title}");
        let clusters = [None, Some(PathBuf::from(before))].map(|binary| cluster_of(dir, binary));
        Pair { dir, clusters, rows: Vec::new(), title, epoch: 0 }
    }

    fn add(&mut self, row: &str, seconds: [f64; 2]) {
        match self.rows.iter_mut().find(|(name, _)| name == row) {
            Some((_, rounds)) => rounds.push(seconds),
            None => self.rows.push((row.to_owned(), vec![seconds])),
        }
    }

    /// Commits the trees that `make` makes; both builds get the same ones, and take turns in being first.
    pub fn trees(&mut self, rounds: u32, make: &dyn Fn(&Path, &mut Rng), rng: &mut Rng) {
        let source = self.dir.join(format!("bench-pair-{}", std::process::id()));
        for round in 0..rounds {
            for (way, more) in WAYS {
                make(&source, rng);
                let gib = floors::bytes_of(&source) as f64 / f64::from(1 << 30);
                self.epoch += 1;
                let mut seen = [[0.0; 3]; 2];
                for turn in 0..2 {
                    let which = (turn + round as usize) % 2;
                    let cluster = &self.clusters[which];
                    // Below the source roots of its own nodes.
                    let own = cluster.source("pair");
                    fs::rename(&source, &own).expect("one file system");
                    floors::quiet();
                    let flags = [&["--wait", "all", "--timeout", "300s"][..], more].concat();
                    let cpu = counters::cpu_seconds(cluster);
                    let leader = cluster.leader();
                    let output =
                        cluster.spawn_commit(&[leader], &own, "pair", self.epoch, &flags).join().ok();
                    counters::settled(cluster);
                    let cpu = (counters::cpu_seconds(cluster) - cpu) / gib;
                    seen[which] =
                        [output.number("quorum_ms") as f64 / 1e3, output.number("all_ms") as f64 / 1e3, cpu];
                    fs::rename(&own, &source).expect("one file system");
                }
                remove_tree(&source).expect("our own source can be removed");
                let [now, before] = seen;
                for (at, what) in ["quorum, s", "all, s", "CPU s per GiB"].into_iter().enumerate() {
                    self.add(&format!("{way}, {what}"), [now[at], before[at]]);
                }
            }
        }
    }

    /// Rounds of `count` epochs of 1 KiB each, every one a command of its own build: what a client and its node say to
    /// each other is not the same in both.
    pub fn tiny(&mut self, rounds: u32, count: u32, rng: &mut Rng) {
        for round in 0..=rounds {
            let mut seen = [[0.0; 3]; 2];
            for turn in 0..2 {
                let which = (turn + round as usize) % 2;
                let cluster = &self.clusters[which];
                let (source, leader) = (cluster.source("tiny"), cluster.leader());
                fs::create_dir_all(&source).expect("the scratch folder can be written");
                let (mut answers, mut commands) = (0.0, Vec::new());
                for number in 0..count {
                    let mut content = [0; 1024];
                    rng.fill(&mut content);
                    fs::write(source.join("state"), content).expect("the scratch folder can be written");
                    let epoch = u64::from(round * count + number) + 1;
                    let output = cluster.spawn_commit(&[leader], &source, "tiny", epoch, &["--stream"]);
                    let output = output.join().ok();
                    answers += output.number("quorum_ms") as f64 / f64::from(count);
                    commands.push(output.took.as_secs_f64() * 1e3);
                }
                commands.sort_by(f64::total_cmp);
                let [p50, p99] =
                    [0.5, 0.99].map(|share| commands[((commands.len() - 1) as f64 * share) as usize]);
                seen[which] = [answers, p50, p99];
            }
            // The first round warms up.
            if round > 0 {
                let [now, before] = seen;
                for (at, what) in
                    ["mean until committed, ms", "command p50, ms", "command p99, ms"].into_iter().enumerate()
                {
                    self.add(what, [now[at], before[at]]);
                }
            }
        }
    }

    /// Tells the ratios; those rows that are slower are noted and given back.
    pub fn tell(self, report: &mut Report) -> Vec<String> {
        let mut slower = Vec::new();
        for (row, rounds) in &self.rows {
            let found = Interval::of(rounds);
            let [now, before] = [0, 1].map(|at| median(rounds.iter().map(|round| round[at]).collect()));
            let Interval { ratio, low, high } = found;
            eprintln!("  {row}: {now:.3}, before {before:.3}; ratio {ratio:.3}, 95 % {low:.3} to {high:.3}");
            let of = |at: usize| rounds.iter().map(|round| round[at]).collect::<Vec<_>>();
            report.compared(&self.title, row, [of(0), of(1)], [ratio, low, high]);
            if low > SLOWER {
                slower.push(format!("{}: {row}: ratio {ratio:.3}, 95 % {low:.3} to {high:.3}", self.title));
            }
        }
        slower
    }
}

/// The ratio of this build to the one before, below 1 where this one is better.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Interval {
    ratio: f64,
    low: f64,
    high: f64,
}

impl Interval {
    /// Student's interval of the mean of the logarithms, which is right for ratios of times: they are skewed to the
    /// right, and twice as fast and half as fast are equally far from 1.
    fn of(rounds: &[[f64; 2]]) -> Interval {
        // A clock of milliseconds may say 0.
        let logs: Vec<f64> =
            rounds.iter().map(|[now, before]| (now.max(1e-4) / before.max(1e-4)).ln()).collect();
        let count = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / count;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let margin = student(logs.len() - 1) * (variance / count).sqrt();
        Interval { ratio: mean.exp(), low: (mean - margin).exp(), high: (mean + margin).exp() }
    }
}

/// The 97.5 % quantile of Student's distribution.
fn student(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    match degrees {
        0 => f64::INFINITY,
        few => TABLE.get(few - 1).copied().unwrap_or(2.042),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_builds_have_an_interval_around_one_and_a_slower_one_has_not() {
        let noise = [0.96, 1.05, 1.01, 0.98, 1.03, 0.97, 1.0, 1.02, 0.99];
        let even = Interval::of(&noise.map(|now| [now, 1.0]));
        assert!(even.low < 1.0 && 1.0 < even.high && even.low < SLOWER, "{even:?}");
        let slow = Interval::of(&noise.map(|now| [now * 1.1, 1.0]));
        assert!(slow.low > SLOWER && (slow.ratio - 1.1 * even.ratio).abs() < 1e-9, "{slow:?}");
    }

    #[test]
    fn the_interval_is_students() {
        // Logs 0 and 2 ln 2: mean ln 2, deviation of the mean ln 2, 12.706 of them.
        let two = Interval::of(&[[1.0, 1.0], [4.0, 1.0]]);
        let margin = 12.706 * 2f64.ln();
        assert!((two.ratio - 2.0).abs() < 1e-9);
        assert!((two.low - (2f64.ln() - margin).exp()).abs() < 1e-9, "{two:?}");
    }
}

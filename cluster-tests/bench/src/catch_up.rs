//! What a catch-up costs those who commit meanwhile: their throughput with all nodes there, with one away, and while
//! that one fetches what it lacks.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{Client, Commit, Options, pb};
use cluster_tests::cluster::Cluster;
use cluster_tests::inputs::{random_directory, random_file};
use cluster_tests::scenario::years::{fetched_bytes, wait_purged_past};
use cluster_tests::scratch::remove_tree;
use cluster_tests::seed::Rng;
use cluster_tests::wait::wait_until;

use crate::clusters::cluster;
use crate::floors;
use crate::report::Report;

/// Sizes of this section.
#[derive(Debug, Clone, Copy)]
pub struct CatchUp {
    /// Returns.
    pub rounds: u32,
    /// What the node lacks, in epochs and bytes of each.
    pub lacked: (u64, u64),
    /// Bytes of an epoch that is committed meanwhile.
    pub steady_bytes: u64,
    /// How long the undisturbed rate is measured.
    pub window: Duration,
}

/// What is promised: this share of the undisturbed rate stays.
const SHARE_MIN: f64 = 2.0 / 3.0;
/// A catch-up may take so long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Lets a node fall behind and come home, in rounds.
pub fn catch_up(sizes: CatchUp, dir: &Path, rng: &mut Rng, report: &mut Report) {
    let (epochs, bytes) = sizes.lacked;
    let title = format!(
        "catch-up of {} MiB during commits of {} MiB",
        (epochs * bytes) >> 20,
        sizes.steady_bytes >> 20
    );
    eprintln!("{title}: {} rounds", sizes.rounds);
    let mut cluster = cluster(dir);
    let (mut rates, mut shares) = ([const { Vec::new() }; 3], [const { Vec::new() }; 2]);
    let (mut took, mut fetched) = (Vec::new(), Vec::new());
    let mut bulk_epoch = 0;
    let mut steady_epoch = 0;
    for _ in 0..sizes.rounds {
        let victim = cluster.follower();
        let steady =
            Steady::start(&cluster, steady_epoch, sizes.steady_bytes, Rng::new(rng.draw(), "steady"));
        let all_there = steady.rate_over(sizes.window);
        cluster.kill9(victim);
        let one_away = steady.rate_over(sizes.window);
        steady_epoch = steady.stop();
        let first = bulk_epoch + 1;
        for _ in 0..epochs {
            bulk_epoch += 1;
            commit_bulk(&cluster, bulk_epoch, bytes, rng);
        }
        // Something that ends, so that the log is purged past the node that is away.
        cluster.cli(&["rm", &format!("steady@{steady_epoch}"), "--yes"]).ok();
        wait_purged_past(&cluster, victim);
        floors::quiet();
        let steady =
            Steady::start(&cluster, steady_epoch, sizes.steady_bytes, Rng::new(rng.draw(), "during"));
        steady.rate_over(sizes.window / 10);
        let begun = Instant::now();
        cluster.restart(victim);
        wait_until(PATIENCE, "the node to come home", || {
            let lacks =
                (first..=bulk_epoch).find(|epoch| !cluster.node(victim).published("bulk", *epoch).is_dir());
            lacks
                .map_or(Ok(()), |epoch| Err(format!("it lacks {epoch}\n{}", cluster.node(victim).log_tail())))
        });
        let home = begun.elapsed();
        let during = steady.rate_since(begun);
        steady_epoch = steady.stop();
        cluster.wait_ready();
        fetched.push(fetched_bytes(cluster.node(victim)) as f64 / f64::from(1 << 20));
        took.push(home.as_secs_f64());
        for (rates, rate) in rates.iter_mut().zip([all_there, one_away, during]) {
            rates.push(rate);
        }
        shares[0].push(during / all_there);
        shares[1].push(during / one_away);
        for epoch in first..=bulk_epoch {
            cluster.cli(&["rm", &format!("bulk@{epoch}"), "--yes"]).ok();
        }
    }
    for (name, rates) in
        ["with all nodes there", "with one node away", "during its catch-up"].iter().zip(&rates)
    {
        report.value(&title, &format!("commits, {name}"), rates, "MiB/s");
    }
    report.value(&title, "during the catch-up over all there", &shares[0], "(must stay above 0.67)");
    report.value(&title, "during the catch-up over one away", &shares[1], "");
    report.value(&title, "catch-up, start of the process to the last directory", &took, "s");
    report.value(&title, "catch-up, bytes fetched", &fetched, "MiB");
    if median(&shares[0]) < SHARE_MIN {
        report.note("a catch-up takes more than a third of the throughput of commits");
    }
}

fn commit_bulk(cluster: &Cluster, epoch: u64, bytes: u64, rng: &mut Rng) {
    let source = cluster.source("bulk");
    random_directory(&source, 4, bytes / 4, rng);
    let leader = cluster.leader();
    cluster.commit(&cluster.first(leader), &source, "bulk", epoch, &["--timeout", "300s"]).ok();
    remove_tree(&source).expect("our own source can be removed");
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// One client that commits epoch after epoch over one open connection.
struct Steady {
    bytes: u64,
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Instant>>>,
    thread: JoinHandle<u64>,
}

impl Steady {
    /// Goes on after epoch `last`.
    fn start(cluster: &Cluster, last: u64, bytes: u64, mut rng: Rng) -> Steady {
        let leader = cluster.leader();
        let addresses: Vec<String> =
            cluster.first(leader).iter().map(|id| cluster.node(*id).address()).collect();
        let source = cluster.source("steady");
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, finished) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be made");
            let client = Client::new(addresses, Options::default());
            let mut epoch = last;
            while !stopped.load(Ordering::Relaxed) {
                epoch += 1;
                std::fs::create_dir_all(&source).expect("the scratch folder can be written");
                random_file(&source.join("state"), bytes, &mut rng);
                let mut commit = Commit::new("steady".parse().expect("a job name"));
                commit.epoch = Some(epoch);
                runtime
                    .block_on(client.commit(&source, commit, &|_| {}))
                    .unwrap_or_else(|failure| panic!("steady@{epoch}: {failure}"));
                finished.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                if epoch > 3 {
                    let old = pb::ExpireRequest {
                        job: "steady".into(),
                        epochs: vec![epoch - 3],
                        reason: String::new(),
                    };
                    runtime.block_on(client.expire(old)).unwrap_or_else(|failure| panic!("{failure}"));
                }
            }
            epoch
        });
        Steady { bytes, stop, done, thread }
    }

    /// Lets a span of time pass and gives the rate over it, in MiB/s.
    fn rate_over(&self, span: Duration) -> f64 {
        let begun = Instant::now();
        std::thread::sleep(span); // the span that is measured
        self.rate_since(begun)
    }

    /// MiB committed per second since a moment.
    fn rate_since(&self, begun: Instant) -> f64 {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let epochs = done.iter().filter(|when| **when >= begun).count();
        epochs as f64 * self.bytes as f64 / f64::from(1 << 20) / begun.elapsed().as_secs_f64()
    }

    /// Ends it after the commit that is running; the last epoch.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(last) => last,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

//! What a node counts, for Prometheus. Everything is measured where it happens; what can be looked up
//! (positions, space, epochs) is looked up by [`scrape`] when somebody asks, and never kept twice.
//!
//! **Labels are bounded.** Stages, results and kinds are fixed words and peers are the members. Jobs are
//! the users' and may be many: at most [`JOBS_MAX`] of them have series of their own. The rest are told
//! together, as job `.others`, which no job can be called.

mod disk;
pub mod scrape;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::JobName;
use client::{Certainty, Failure, pb};
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use crate::limits::JOBS_MAX;
pub use disk::MeteredDisk;

/// Bounds of what lasts from a record to a large directory, seconds.
const LONG: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];
/// Bounds of an fsync, seconds.
const SHORT: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// What is counted as it happens. Cheap to count, shared by all who count.
pub struct Metrics {
    registry: Registry,
    commits: IntCounterVec,
    commit_seconds: HistogramVec,
    commit_bytes: IntCounterVec,
    restore_seconds: Histogram,
    mismatches: IntCounter,
    fsync_seconds: HistogramVec,
    client_refused: IntCounterVec,
    client_connections: IntGaugeVec,
    client_calls: IntGaugeVec,
    jobs: Mutex<BTreeMap<JobName, JobCounts>>,
}

/// What this node did for one job.
#[derive(Debug, Clone, Copy)]
struct JobCounts {
    commit_ms: Option<u64>,
    restores: u64,
    touched: Instant,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let commits = IntCounterVec::new(
            opts(
                "commits_total",
                "Commits that this node has answered: committed, already, not_committed or unknown",
            ),
            &["result"],
        );
        let commit_seconds = HistogramVec::new(
            HistogramOpts::from(opts(
                "commit_duration_seconds",
                "Time of commits that this node has driven, by stage: begin, plan, content, seal (all until a quorum \
                 has it), publish (with --wait all: until every voter has the directory), total",
            ))
            .buckets(LONG.into()),
            &["stage"],
        );
        let commit_bytes = IntCounterVec::new(
            opts(
                "commit_bytes_total",
                "Bytes of commits: logical (files as committed) and log (records) count on the node that answered; \
                 disk is every byte that this node wrote below its data folder",
            ),
            &["kind"],
        );
        let restore_seconds = Histogram::with_opts(
            HistogramOpts::from(opts(
                "restore_duration_seconds",
                "Time of calls that streamed the content of an epoch from this node to their end",
            ))
            .buckets(LONG.into()),
        );
        let mismatches = IntCounter::with_opts(opts(
            "verify_mismatches_total",
            "Names and files of published epochs that were not as sealed, found by verify or before they were sent",
        ));
        let fsync_seconds = HistogramVec::new(
            HistogramOpts::from(opts(
                "fsync_duration_seconds",
                "Time of successful syncs of this node: file (fdatasync, fsync), dir (fsync of a folder), fs (syncfs)",
            ))
            .buckets(SHORT.into()),
            &["kind"],
        );
        let client_refused = IntCounterVec::new(
            opts(
                "client_refusals_total",
                "What was ended or turned away at the ports for clients and HTTP: connection (too many), call (too many of \
                 its kind), silent (a call that made room for another), idle (nothing came, or an answer was not taken)",
            ),
            &["what"],
        );
        let client_connections = IntGaugeVec::new(
            opts(
                "client_connections",
                "Connections that are open at the ports for clients (grpc) and HTTP (http)",
            ),
            &["port"],
        );
        let client_calls = IntGaugeVec::new(
            opts(
                "client_calls",
                "Calls of clients that have a place, by kind: each kind has places of its own",
            ),
            &["kind"],
        );
        let all = "names and labels are constants and valid";
        let metrics = Metrics {
            commits: keep(&registry, commits.expect(all)),
            commit_seconds: keep(&registry, commit_seconds.expect(all)),
            commit_bytes: keep(&registry, commit_bytes.expect(all)),
            restore_seconds: keep(&registry, restore_seconds.expect(all)),
            mismatches: keep(&registry, mismatches.expect(all)),
            fsync_seconds: keep(&registry, fsync_seconds.expect(all)),
            client_refused: keep(&registry, client_refused.expect(all)),
            client_connections: keep(&registry, client_connections.expect(all)),
            client_calls: keep(&registry, client_calls.expect(all)),
            jobs: Mutex::default(),
            registry,
        };
        // Series that alerts rely on are there from the start.
        for result in ["committed", "already", "not_committed", "unknown"] {
            metrics.commits.with_label_values(&[result]);
        }
        for kind in ["logical", "log", "disk"] {
            metrics.commit_bytes.with_label_values(&[kind]);
        }
        for what in ["connection", "call", "silent", "idle"] {
            metrics.client_refused.with_label_values(&[what]);
        }
        metrics
    }

    /// A client was turned away, or had to go.
    pub fn client_refused(&self, what: &'static str) {
        self.client_refused.with_label_values(&[what]).inc();
    }

    /// So many connections more, or less.
    pub fn client_connection(&self, port: &'static str, change: i64) {
        self.client_connections.with_label_values(&[port]).add(change);
    }

    /// So many calls more, or less.
    pub fn client_call(&self, kind: &'static str, change: i64) {
        self.client_calls.with_label_values(&[kind]).add(change);
    }

    /// One stage of a commit has ended.
    pub fn stage(&self, stage: &'static str, took: Duration) {
        self.commit_seconds.with_label_values(&[stage]).observe(took.as_secs_f64());
    }

    /// A commit was answered well.
    pub fn committed(&self, committed: &pb::Committed, took: Duration) {
        let result = if committed.already { "already" } else { "committed" };
        self.commits.with_label_values(&[result]).inc();
        self.stage("total", took);
        if committed.already {
            return;
        }
        self.commit_bytes.with_label_values(&["logical"]).inc_by(committed.bytes);
        self.commit_bytes.with_label_values(&["log"]).inc_by(committed.log_bytes);
        if let Ok(job) = committed.job.parse() {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            self.count(job, |counts| counts.commit_ms = Some(ms));
        }
    }

    /// A commit was answered otherwise.
    pub fn not_committed(&self, failure: &Failure) {
        let result = match failure.committed {
            Certainty::Unknown => "unknown",
            // Its directory has changed since.
            Certainty::Yes => "already",
            Certainty::No | Certainty::None => "not_committed",
        };
        self.commits.with_label_values(&[result]).inc();
    }

    /// Somebody took the manifest of an epoch to restore it.
    pub fn restore_begun(&self, job: &JobName) {
        self.count(job.clone(), |counts| counts.restores += 1);
    }

    /// All wanted content of an epoch was streamed.
    pub fn restored(&self, took: Duration) {
        self.restore_seconds.observe(took.as_secs_f64());
    }

    /// So many names or files are not as sealed.
    pub fn mismatches(&self, found: usize) {
        self.mismatches.inc_by(found as u64);
    }

    fn count(&self, job: JobName, change: impl FnOnce(&mut JobCounts)) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= JOBS_MAX && !jobs.contains_key(&job) {
            let oldest = jobs.iter().min_by_key(|(_, counts)| counts.touched).map(|(job, _)| job.clone());
            oldest.map(|oldest| jobs.remove(&oldest));
        }
        let now = Instant::now();
        let counts = jobs.entry(job).or_insert(JobCounts { commit_ms: None, restores: 0, touched: now });
        counts.touched = now;
        change(counts);
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("epochlog")
}

fn keep<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("every name is registered once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_jobs_are_remembered() {
        let metrics = Metrics::new();
        for job in 0..JOBS_MAX + 20 {
            metrics.restore_begun(&format!("job-{job}").parse().unwrap());
        }
        let jobs = metrics.jobs.lock().unwrap();
        assert_eq!(jobs.len(), JOBS_MAX);
        assert!(jobs.contains_key(&format!("job-{}", JOBS_MAX + 19).parse::<JobName>().unwrap()));
    }

    #[test]
    fn a_repeated_commit_counts_no_bytes() {
        let metrics = Metrics::new();
        let once = pb::Committed { job: "a".into(), bytes: 10, log_bytes: 3, ..Default::default() };
        metrics.committed(&once, Duration::from_millis(5));
        metrics.committed(&pb::Committed { already: true, ..once }, Duration::from_millis(1));
        assert_eq!(metrics.commit_bytes.with_label_values(&["logical"]).get(), 10);
        assert_eq!(metrics.commits.with_label_values(&["already"]).get(), 1);
        assert_eq!(metrics.commits.with_label_values(&["committed"]).get(), 1);
    }
}

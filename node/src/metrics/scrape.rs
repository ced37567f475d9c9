//! `/metrics`: what is counted, and what is looked up now. Jobs are read one at a time and their epochs in slices, so
//! that the ledger is never held for long.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use checkpoint::JobName;
use nativelog::ledger::{Go, Walk};
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, Registry, TextEncoder};
use remote::Verb;

use super::{keep, opts};
use crate::epochs;
use crate::limits::JOBS_MAX;
use crate::node::Node;
use crate::stores::Access;
use crate::vitals::Vitals;

/// What Prometheus is told that the text is.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Jobs beyond [`JOBS_MAX`] are told together under this name; no job can have it.
const OTHERS: &str = ".others";

/// All metrics of the node as text. Reads memory, and asks the file system for its space.
pub fn text(node: &Node) -> Result<String, String> {
    let now = Now(Registry::new());
    now.build();
    now.raft(node);
    let vitals = node.vitals();
    now.upkeep(&vitals);
    now.disk(node);
    now.stores(node);
    now.jobs(node, &vitals);
    let mut families = node.metrics.registry.gather();
    families.extend(now.0.gather());
    TextEncoder::new().encode_to_string(&families).map_err(|error| error.to_string())
}

/// The metrics of one scrape.
struct Now(Registry);

impl Now {
    fn gauge(&self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::with_opts(opts(name, help)).expect("names are constants and valid");
        keep(&self.0, gauge).set(value);
    }

    fn counter(&self, name: &str, help: &str, value: u64) {
        let counter = IntCounter::with_opts(opts(name, help)).expect("names are constants and valid");
        keep(&self.0, counter).inc_by(value);
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        keep(&self.0, GaugeVec::new(opts(name, help), labels).expect("names are constants and valid"))
    }

    fn build(&self) {
        let info = self.gauges("build_info", "What runs here", &["version"]);
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    }

    fn raft(&self, node: &Node) {
        let standing = node.replica.standing();
        let applied = node.replica.machine().marks().applied.saturating_sub(1);
        let cut_off = node.replica.cut_off().is_some();
        self.gauge(
            "raft_is_leader",
            "1 while this node leads and a majority hears it",
            flag(standing.role == "leader" && !cut_off),
        );
        self.gauge(
            "raft_has_leader",
            "1 while this node reaches a leader",
            flag(node.replica.leader().is_some() && !cut_off),
        );
        let voters = node.voters();
        let others = voters.iter().filter(|voter| **voter != node.config.id);
        let reachable = 1 + others.filter(|voter| node.replica.silence(**voter).is_none()).count();
        self.gauge("voters", "Nodes that vote", voters.len() as f64);
        self.gauge("voters_reachable", "Voters that answer this node, itself included", reachable as f64);
        self.gauge(
            "quorum",
            "1 while a majority of the voters answers this node and it reaches a leader: 0 says that nothing can be \
             committed here",
            flag(!cut_off && node.replica.leader().is_some() && reachable > voters.len() / 2),
        );
        self.gauge("raft_term", "The term this node is in", standing.term as f64);
        self.gauge("raft_applied_index", "Last log index in this node's ledger", applied as f64);
        let lags = self.gauges(
            "raft_peer_lag_entries",
            "Entries that a peer lacks; told by the leader alone",
            &["peer"],
        );
        for (peer, entries) in standing.lags {
            lags.with_label_values(&[&peer.to_string()]).set(entries as f64);
        }
    }

    fn upkeep(&self, vitals: &Vitals) {
        let marks = self.gauges(
            "log_mark_entries",
            "Entries that are flushed to this node's log, applied to its ledger, performed on its disk, and in a \
             durable ledger snapshot",
            &["mark"],
        );
        let of = &vitals.marks;
        for (mark, entries) in [
            ("snapshot", of.snapshot),
            ("performed", of.performed),
            ("applied", of.applied),
            ("flushed", of.flushed),
        ] {
            marks.with_label_values(&[mark]).set(entries as f64);
        }
        self.gauge("snapshot_index", "Log index of the newest durable ledger snapshot", last(of.snapshot));
        self.gauge("purged_index", "Log index up to which this node's log is purged", last(vitals.purged));
        self.gauge("wal_bytes", "Bytes of this node's log files", vitals.wal_bytes as f64);
        self.gauge("log_stalled", "1 while the log waits for space", flag(vitals.stalled.is_some()));
        self.gauge(
            "space_short",
            "1 while this node is short of space and takes no content",
            flag(vitals.short.is_some()),
        );
        let unpublished = vitals.unpublished.len() as f64;
        self.gauge("epochs_unpublished", "Sealed epochs that are no directory on this node", unpublished);
        self.gauge(
            "epochs_not_looked",
            "Sealed epochs that this node has not looked for since it started: they may be directories here or not",
            vitals.not_looked as f64,
        );
        let garbage = &vitals.garbage;
        self.gauge(
            "garbage_bytes",
            "Bytes that no epoch refers to and that wait to be given back, those that ended attempts have staged too",
            garbage.all_bytes() as f64,
        );
        self.gauge(
            "garbage_attempts",
            "Folders of ended attempts that wait to be given back",
            garbage.attempts as f64,
        );
        let transfer = &vitals.transfer;
        self.gauge(
            "catch_up_lacking_bytes",
            "Content that a catch-up or repair under way still has to fetch from peers",
            transfer.lacking_bytes as f64,
        );
        self.counter(
            "catch_up_bytes_total",
            "Bytes of content that this node has fetched from peers to catch up or to repair",
            transfer.fetched_bytes_total,
        );
        self.counter(
            "snapshots_installed_total",
            "Ledger snapshots of the leader that this node has installed",
            transfer.installed_total,
        );
    }

    /// A disk that does not tell has no samples: 0 would be a lie.
    fn disk(&self, node: &Node) {
        self.gauge(
            "voters_full",
            "Voters that are short of space and take no content, as they told this node lately, itself included",
            node.full_voters() as f64,
        );
        let (attempts, kept) = {
            let ledger = node.replica.machine().ledger();
            (ledger.attempts_open(), ledger.reserved_bytes())
        };
        self.gauge(
            "attempts_open",
            "Epochs that were begun and are neither sealed nor given up",
            attempts as f64,
        );
        self.gauge(
            "attempts_spoken_for_bytes",
            "Room that is kept for what open attempts may still bring",
            kept as f64,
        );
        let Ok(space) = node.space() else { return };
        self.gauge("disk_free_bytes", "Free bytes of the file system of the data folder", space.free as f64);
        self.gauge("disk_total_bytes", "Size of that file system", space.total as f64);
        self.gauge("disk_reserve_bytes", "Bytes that stay free", space.reserve as f64);
        self.gauge(
            "disk_ballast_bytes",
            "Bytes held to be given up when space is short",
            node.store.ballast() as f64,
        );
    }

    /// A node without stores has no samples. Nor have folders: they are asked without requests.
    fn stores(&self, node: &Node) {
        if node.stores.all().next().is_none() && node.stores.away().next().is_none() {
            return;
        }
        let counters = |name: &str, help: &str, labels: &[&str]| {
            keep(
                &self.0,
                IntCounterVec::new(opts(name, help), labels).expect("names are constants and valid"),
            )
        };
        let requests = counters(
            "object_store_requests_total",
            "Requests to object stores, by what they asked for and whether it was answered with success",
            &["store", "op", "result"],
        );
        let bytes = counters(
            "object_store_bytes_total",
            "Bytes of bodies that were sent to object stores and received from them",
            &["store", "direction"],
        );
        let usable = self.gauges(
            "object_store_usable",
            "1 when the store did all that it will have to when it was asked last",
            &["store"],
        );
        for (name, _) in node.stores.away() {
            usable.with_label_values(&[name]).set(flag(false));
        }
        for kept in node.stores.all() {
            let (name, counts) = (kept.name(), kept.counts());
            for verb in Verb::ALL.into_iter().filter(|verb| counts.requests(*verb) > 0) {
                // What is under way is counted when it has ended.
                let (good, bad) = (counts.successes(verb), counts.failures(verb));
                requests.with_label_values(&[name, verb.name(), "ok"]).inc_by(good);
                requests.with_label_values(&[name, verb.name(), "failed"]).inc_by(bad);
            }
            bytes.with_label_values(&[name, "sent"]).inc_by(counts.sent_bytes());
            bytes.with_label_values(&[name, "received"]).inc_by(counts.received_bytes());
            usable.with_label_values(&[name]).set(flag(kept.access() == Access::Usable));
        }
    }

    fn jobs(&self, node: &Node, vitals: &Vitals) {
        let jobs = epochs::jobs(node.replica.machine());
        self.gauge("jobs", "Jobs that the ledger knows", jobs.len() as f64);
        let help = format!("Jobs told together as {OTHERS}: at most {JOBS_MAX} have series of their own");
        self.gauge("jobs_without_series", &help, jobs.len().saturating_sub(JOBS_MAX) as f64);
        let states = self.gauges(
            "epochs",
            "Epochs by state: sealed, unpublished (of these, no directory on this node), open (being written)",
            &["job", "state"],
        );
        let latest = self.gauges(
            "epoch_latest_timestamp_seconds",
            "When the job's newest epoch was sealed, by the leader's clock; of .others the oldest of them",
            &["job"],
        );
        let size = self.gauges(
            "checkpoint_storage_size",
            "Bytes of the job's epochs; content that several epochs share counts in each",
            &["job"],
        );
        let bytes = self.gauges("last_checkpoint_bytes", "Bytes of the job's newest epoch", &["job"]);
        let mut unpublished = BTreeMap::new();
        for epoch in &vitals.unpublished {
            *unpublished.entry(epoch.job.clone()).or_default() += 1;
        }
        let mut others = Job::default();
        for (at, name) in jobs.iter().enumerate() {
            let job = Job::look_up(node, name, &unpublished);
            if at >= JOBS_MAX {
                others.add(&job);
                continue;
            }
            job.tell(name.as_str(), &states, &latest, &size);
            if let Some(newest) = job.newest_bytes {
                bytes.with_label_values(&[name.as_str()]).set(newest as f64);
            }
        }
        if jobs.len() > JOBS_MAX {
            others.tell(OTHERS, &states, &latest, &size);
        }
        self.counted(node);
    }

    /// What this node itself did for its jobs.
    fn counted(&self, node: &Node) {
        let elapsed = self.gauges(
            "last_checkpoint_elapsed_ms",
            "Time of the job's last commit until a quorum had it; told by the node that took it",
            &["job"],
        );
        let restores = opts(
            "recover_times",
            "Times that somebody took an epoch of the job from this node to restore it",
        );
        let restores = IntCounterVec::new(restores, &["job"]).expect("names are constants and valid");
        let restores = keep(&self.0, restores);
        for (job, counts) in node.metrics.jobs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(ms) = counts.commit_ms {
                elapsed.with_label_values(&[job.as_str()]).set(ms as f64);
            }
            restores.with_label_values(&[job.as_str()]).inc_by(counts.restores);
        }
    }
}

/// What the ledger says about one job, or about several.
#[derive(Debug, Default)]
struct Job {
    sealed: usize,
    open: usize,
    unpublished: usize,
    bytes: u64,
    newest_bytes: Option<u64>,
    made: Option<Duration>,
}

impl Job {
    fn look_up(node: &Node, name: &JobName, unpublished: &BTreeMap<JobName, usize>) -> Job {
        let machine = node.replica.machine();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (open, log_ms) = {
            let ledger = machine.ledger();
            (ledger.open_of(name), ledger.log_ms())
        };
        let unpublished = unpublished.get(name).copied().unwrap_or(0);
        let mut job = Job { open, unpublished, ..Job::default() };
        epochs::walk(machine, Walk::of(name.clone()), |epoch| {
            let bytes = epoch.sealed().bytes;
            job.sealed += 1;
            job.bytes += bytes;
            // The newest good one is the first that is met.
            if job.made.is_none() && epoch.is_good() {
                job.made = Some(match epoch.sealed_wall_ms() {
                    0 => {
                        let since_ms = log_ms.saturating_sub(epoch.sealed_log_ms());
                        now.saturating_sub(Duration::from_millis(since_ms))
                    }
                    // As it stands in the log: the same on every node, whatever the clock of this one says.
                    wall_ms => Duration::from_millis(wall_ms),
                });
                job.newest_bytes = Some(bytes);
            }
            Go::On
        });
        job
    }

    fn add(&mut self, other: &Job) {
        self.sealed += other.sealed;
        self.open += other.open;
        self.unpublished += other.unpublished;
        self.bytes += other.bytes;
        self.made = match (self.made, other.made) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }

    fn tell(&self, job: &str, epochs: &GaugeVec, latest: &GaugeVec, size: &GaugeVec) {
        for (state, count) in
            [("sealed", self.sealed), ("unpublished", self.unpublished), ("open", self.open)]
        {
            epochs.with_label_values(&[job, state]).set(count as f64);
        }
        if let Some(made) = self.made {
            latest.with_label_values(&[job]).set(made.as_secs_f64());
        }
        size.with_label_values(&[job]).set(self.bytes as f64);
    }
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

/// The last index of so many entries; -1 when there are none.
fn last(entries: u64) -> f64 {
    entries as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_tell_the_oldest_of_the_newest() {
        let made = |seconds| Some(Duration::from_secs(seconds));
        let mut others = Job::default();
        others.add(&Job { sealed: 2, bytes: 5, made: made(50), ..Job::default() });
        others.add(&Job { sealed: 1, bytes: 7, made: made(40), ..Job::default() });
        others.add(&Job { open: 1, ..Job::default() });
        assert_eq!((others.sealed, others.open, others.bytes, others.made), (3, 1, 12, made(40)));
    }
}

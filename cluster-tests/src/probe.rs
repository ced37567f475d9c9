//! Small commits in a fixed rhythm over one open connection: what anybody notices of what the cluster is doing.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{Client, Commit, Options};

use crate::cluster::Cluster;
use crate::seed::Rng;

/// From one beginning to the next, if the last one is answered by then.
const RHYTHM: Duration = Duration::from_millis(50);
/// Bytes of an epoch.
const EPOCH_BYTES: usize = 1024;

/// One commit of a probe.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was begun.
    pub begun: Instant,
    /// How long it took.
    pub took: Duration,
    /// What was answered if it is not *committed*.
    pub failure: Option<String>,
}

/// A thread that commits epoch after epoch until it is stopped.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    done: Vec<Sample>,
    /// When the one began that is not answered yet.
    open: Option<Instant>,
}

impl Probe {
    /// Commits epochs of `job` through the first of these nodes, and through the others when that one is lost.
    ///
    /// # Panics
    /// When no thread can be started.
    pub fn start(cluster: &Cluster, nodes: &[u64], job: &str) -> Probe {
        let endpoints: Vec<String> = nodes.iter().map(|id| cluster.node(*id).address()).collect();
        let source = cluster.source(job);
        let (stop, state) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(State::default())));
        let (stopped, known, job) = (stop.clone(), state.clone(), job.to_owned());
        let thread = std::thread::spawn(move || run(endpoints, &job, &source, &stopped, &known));
        Probe { stop, state, thread: Some(thread) }
    }

    /// Everything answered so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).done.clone()
    }

    /// When the commit began that was on its way at a moment, if one was.
    pub fn open_at(&self, moment: Instant) -> Option<Instant> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let done =
            state.done.iter().find(|sample| sample.begun <= moment && moment < sample.begun + sample.took);
        done.map(|sample| sample.begun).or(state.open.filter(|begun| *begun <= moment))
    }

    /// Lets a span of time pass and gives what was begun in it.
    pub fn over(&self, span: Duration) -> Vec<Sample> {
        let begun = Instant::now();
        std::thread::sleep(span); // the span that is measured
        self.begun_in(begun, Instant::now())
    }

    /// What was begun in a span of time.
    pub fn begun_in(&self, from: Instant, to: Instant) -> Vec<Sample> {
        self.samples().into_iter().filter(|sample| from <= sample.begun && sample.begun < to).collect()
    }

    /// When the first commit that was begun after `moment` was acknowledged.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        let samples = self.samples();
        let mut good = samples.iter().filter(|sample| sample.begun >= moment && sample.failure.is_none());
        good.next().map(|sample| sample.begun + sample.took)
    }

    /// Ends it after the commit that is running; everything that was answered.
    ///
    /// # Panics
    /// When it panicked.
    pub fn stop(mut self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        self.samples()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(endpoints: Vec<String>, job: &str, source: &PathBuf, stopped: &AtomicBool, state: &Mutex<State>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let client = Client::new(endpoints, Options::default());
    let mut rng = Rng::new(0, job);
    let mut content = [0; EPOCH_BYTES];
    // A story that ends early takes its folder with it.
    while !stopped.load(Ordering::Relaxed) && fs::create_dir_all(source).is_ok() {
        rng.fill(&mut content);
        if fs::write(source.join("state"), content).is_err() {
            return;
        }
        let mut commit = Commit::new(job.parse().expect("a job name"));
        commit.by_path = false;
        let begun = Instant::now();
        state.lock().unwrap_or_else(PoisonError::into_inner).open = Some(begun);
        let answer = runtime.block_on(client.commit(source, commit, &|_| {}));
        let took = begun.elapsed();
        let failure = answer.err().map(|failure| failure.to_string());
        {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.open = None;
            state.done.push(Sample { begun, took, failure });
        }
        std::thread::sleep(RHYTHM.saturating_sub(took)); // the rhythm
    }
}

/// What a set of samples says.
#[derive(Debug, Clone)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// The middle.
    pub p50: Duration,
    /// All but one in a hundred take no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
    /// Those that were not committed.
    pub failures: Vec<String>,
}

impl Spread {
    /// Of these samples.
    ///
    /// # Panics
    /// When there are none: a span in which nothing was answered cannot be judged.
    pub fn of(what: &str, samples: &[Sample]) -> Spread {
        assert!(!samples.is_empty(), "{what}: not one small commit was answered");
        let mut took: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
        took.sort();
        let at = |share: f64| took[((took.len() - 1) as f64 * share).ceil() as usize];
        let failures = samples.iter().filter_map(|sample| sample.failure.clone()).collect();
        Spread { count: took.len(), p50: at(0.5), p99: at(0.99), max: at(1.0), failures }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spread { count, p50, p99, max, failures } = self;
        write!(
            f,
            "{count} commits, p50 {p50:.1?}, p99 {p99:.1?}, longest {max:.1?}, {} failed",
            failures.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_a_hundred_and_one_is_beyond_its_p99() {
        let begun = Instant::now();
        let sample = |ms| Sample { begun, took: Duration::from_millis(ms), failure: None };
        let spread = Spread::of("a test", &(0..=100).map(sample).collect::<Vec<_>>());
        assert_eq!(spread.p50, Duration::from_millis(50));
        assert_eq!(spread.p99, Duration::from_millis(99));
        assert_eq!(spread.max, Duration::from_millis(100));
    }
}

//! A loop of commits of one job with its history: begun, ended, removed, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{Caller, Output, Running};
use crate::cluster::{Cluster, PATIENCE};
use crate::inputs::{random_directory, random_file};
use crate::observe::{Cache, observe_and_check, restore};
use crate::oracle::{Answer, Event, History, Name};
use crate::scratch::remove_tree;
use crate::seed::Rng;
use crate::wait::wait_until;
use crate::walk::fingerprint;

/// A tiny epoch: one record.
pub const TINY: u64 = 0;
/// Many small files: packs.
pub const SMALL: u64 = 1;
/// A few files, one of several chunks.
pub const MIXED: u64 = 2;
/// Several files of many chunks: takes long enough to be killed in the middle.
pub const LONG: u64 = 3;

/// A loop of commits with its history.
#[derive(Debug)]
pub struct Commits {
    /// Whose epochs.
    pub job: String,
    /// The newest epoch that was begun.
    pub epoch: u64,
    /// What happened and what was seen.
    pub history: History,
    /// Sources of all epochs that may still be asked for.
    pub sources: BTreeMap<u64, PathBuf>,
    /// How long the last commit that ended took.
    pub took: Duration,
    caller: Caller,
    folder: PathBuf,
    asked_to_end: BTreeSet<u64>,
    known: Cache,
}

/// A commit that is running.
#[derive(Debug)]
pub struct Pending {
    epoch: u64,
    source: PathBuf,
    /// Its client.
    pub client: Running,
}

impl Commits {
    /// No commit yet.
    pub fn new(cluster: &Cluster, job: &str) -> Commits {
        Commits {
            job: job.to_owned(),
            epoch: 0,
            history: History::default(),
            sources: BTreeMap::new(),
            took: Duration::ZERO,
            caller: cluster.caller(),
            folder: cluster.source(""),
            asked_to_end: BTreeSet::new(),
            known: Cache::default(),
        }
    }

    /// Starts the commit of the next epoch: tiny, small or of several chunks.
    pub fn begin(&mut self, rng: &mut Rng) -> Pending {
        let kind = rng.range(TINY, LONG);
        self.begin_kind(kind, rng)
    }

    /// Starts the commit of an epoch that takes long enough to be killed in the middle; every third is tiny all the same.
    pub fn begin_under_fire(&mut self, rng: &mut Rng) -> Pending {
        let kind = if rng.range(0, 3) == 0 { TINY } else { LONG };
        self.begin_kind(kind, rng)
    }

    /// Starts the commit of an epoch of this kind.
    pub fn begin_kind(&mut self, kind: u64, rng: &mut Rng) -> Pending {
        self.begin_made(rng, |source, rng| match kind {
            LONG => random_directory(source, 4, rng.range(10 << 20, 16 << 20), rng),
            TINY => random_directory(source, 2, 500, rng),
            SMALL => random_directory(source, 40, 3000, rng),
            _ => {
                random_directory(source, 2, 70_000, rng);
                random_file(&source.join("large"), rng.range(3 << 20, 12 << 20), rng);
            }
        })
    }

    /// Starts the commit of a directory that `make` makes.
    pub fn begin_made(&mut self, rng: &mut Rng, make: impl FnOnce(&Path, &mut Rng)) -> Pending {
        self.epoch += 1;
        let source = self.folder.join(format!("{}-{}", self.job, self.epoch));
        make(&source, rng);
        self.sources.insert(self.epoch, source.clone());
        self.start(self.epoch, source, rng)
    }

    fn start(&self, epoch: u64, source: PathBuf, rng: &mut Rng) -> Pending {
        let order = self.caller.first(rng.range(1, self.caller.addresses.len() as u64 + 1));
        let client = self.caller.spawn_commit(&order, &source, &self.job, epoch, &["--timeout", "20s"]);
        Pending { epoch, source, client }
    }

    /// Waits for the answer and writes it down.
    ///
    /// # Panics
    /// When it hangs or contradicts itself.
    pub fn end(&mut self, pending: Pending) -> Answer {
        self.end_with_output(pending).0
    }

    /// As [`Commits::end`], with all that the client said.
    ///
    /// # Panics
    /// When it hangs or contradicts itself.
    pub fn end_with_output(&mut self, pending: Pending) -> (Answer, Output) {
        let content = fingerprint(&pending.source).unwrap_or_else(|difference| panic!("{difference}"));
        let output = pending.client.wait();
        let answer = output.answer();
        self.took = output.took;
        let name = (self.job.clone(), pending.epoch);
        self.history.push(Event::Commit { name, content, answer: answer.clone() });
        (answer, output)
    }

    /// Commits until the answer is *committed*; for states in which nothing stands in the way.
    ///
    /// # Panics
    /// When a quorum does not take it.
    pub fn commit(&mut self, rng: &mut Rng, make: impl FnOnce(&Path, &mut Rng)) {
        let pending = self.begin_made(rng, make);
        let answer = self.end(pending);
        assert!(matches!(answer, Answer::Committed { .. }), "{}@{}: {answer:?}", self.job, self.epoch);
    }

    /// Reads `latest` through the cluster and writes it down.
    pub fn read_latest(&mut self) {
        let output = self.caller.cli(1, &["show", &format!("{}@latest", self.job), "--timeout", "10s"]);
        let epoch = output.lines.iter().find_map(|line| line["epoch"].as_u64());
        if matches!(output.code, Some(0 | 4)) {
            self.history.push(Event::Latest {
                job: self.job.clone(),
                epoch: epoch.filter(|_| output.code == Some(0)),
            });
        }
    }

    /// Removes everything acknowledged below the newest `keep`; what gets no answer is tried again the next time.
    ///
    /// # Panics
    /// When the cluster does not know an epoch that it acknowledged, or refuses.
    pub fn remove_below(&mut self, keep: usize, rng: &mut Rng) {
        let newest_first: Vec<u64> = self.committed().into_iter().rev().collect();
        for epoch in newest_first.into_iter().skip(keep) {
            self.remove(epoch, rng);
        }
    }

    /// Epochs that were acknowledged and whose end was not, in order.
    pub fn committed(&self) -> BTreeSet<u64> {
        let committed =
            self.history.commits().filter(|(.., answer)| matches!(answer, Answer::Committed { .. }));
        let mut epochs: BTreeSet<u64> = committed.map(|(_, name, ..)| name.1).collect();
        for (_, name, _) in self.history.removals().filter(|(.., acknowledged)| *acknowledged) {
            epochs.remove(&name.1);
        }
        epochs
    }

    /// Asks for the end of one epoch and writes the answer down.
    ///
    /// # Panics
    /// See [`Commits::remove_below`].
    pub fn remove(&mut self, epoch: u64, rng: &mut Rng) {
        let name = format!("{}@{epoch}", self.job);
        let first = rng.range(1, self.caller.addresses.len() as u64 + 1);
        let output = self.caller.cli(first, &["rm", &name, "--yes", "--timeout", "20s"]);
        let acknowledged = match output.code {
            Some(0) => true,
            // Asked before without an answer.
            Some(4) if self.asked_to_end.contains(&epoch) => true,
            Some(7 | 124) => false,
            _ => panic!("rm {name}: {output}"),
        };
        self.asked_to_end.insert(epoch);
        self.history.push(Event::Removed { name: (self.job.clone(), epoch), acknowledged });
        if acknowledged && let Some(source) = self.sources.remove(&epoch) {
            remove_tree(&source).expect("our own source can be removed");
        }
    }

    /// Looks at the cluster and checks every invariant.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check(&mut self, cluster: &Cluster) {
        observe_and_check(cluster, &[&self.job], &mut self.history, &mut self.known);
    }

    /// As [`Commits::check`], when there was a commit at all.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn check_if_any(&mut self, cluster: &Cluster) {
        if self.epoch > 0 {
            self.check(cluster);
        }
    }

    /// Repeats every unknown commit that has not been repeated, and looks again.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn repeat_unknown(&mut self, cluster: &Cluster, rng: &mut Rng) {
        let mut last: BTreeMap<u64, &Answer> = BTreeMap::new();
        for (_, (_, epoch), _, answer) in self.history.commits() {
            last.insert(*epoch, answer);
        }
        last.retain(|epoch, answer| **answer == Answer::Unknown && !self.asked_to_end.contains(epoch));
        let unknown: Vec<u64> = last.into_keys().collect();
        for epoch in unknown {
            let source = self.sources.get(&epoch).cloned().expect("every commit has its source");
            let pending = self.start(epoch, source, rng);
            self.end(pending);
        }
        self.check(cluster);
    }

    /// Restores the newest epoch and the first one.
    ///
    /// # Panics
    /// When they are not what was committed.
    pub fn restore_some(&mut self, cluster: &Cluster, rng: &mut Rng) {
        let listed = cluster.list(&self.job);
        for line in listed.iter().take(1).chain(listed.last()) {
            let name: Name = (self.job.clone(), line["epoch"].as_u64().expect("`list` gives epochs"));
            let root = line["root"].as_str().unwrap_or_default().to_owned();
            restore(cluster, rng.range(1, cluster.options.nodes + 1), &name, &root, &mut self.history);
        }
        crate::invariants::assert_holds(&self.history);
    }

    /// Removes everything that is listed, whatever was answered.
    ///
    /// # Panics
    /// When something stays.
    pub fn remove_all(&mut self, cluster: &Cluster, rng: &mut Rng) {
        let listed: Vec<u64> =
            cluster.list(&self.job).iter().filter_map(|line| line["epoch"].as_u64()).collect();
        for epoch in listed {
            wait_until(PATIENCE, &format!("the end of {}@{epoch}", self.job), || {
                self.remove(epoch, rng);
                match self.history.events.last() {
                    Some(Event::Removed { acknowledged: true, .. }) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
        assert!(
            cluster.list(&self.job).is_empty(),
            "{} has epochs that came while all were removed",
            self.job
        );
    }
}

/// Waits for the moment of the fault: a share of the bytes that `node` has staged for attempts above `before`, or for a
/// tiny epoch, which stages none, of the time it takes. Whether the commit still runs then.
pub fn await_moment(cluster: &Cluster, node: u64, before: u64, pending: &mut Pending, rng: &mut Rng) -> bool {
    let total: u64 = fs::read_dir(&pending.source)
        .into_iter()
        .flatten()
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.len()))
        .sum();
    if total < 1 << 20 {
        std::thread::sleep(rng.moment(Duration::from_millis(30)));
        return pending.client.is_running();
    }
    let moment = rng.range(0, total * 3 / 4);
    wait_until(PATIENCE, "the moment of the fault", || {
        let now = cluster.node(node).staged_after(before);
        if now >= moment || !pending.client.is_running() {
            Ok(())
        } else {
            Err(format!("{now} bytes staged"))
        }
    });
    pending.client.is_running()
}

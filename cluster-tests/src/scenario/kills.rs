//! SIGKILL at random moments: nothing acknowledged is lost, nothing unsealed is
//! seen, an unknown answer has one outcome, and a commit goes on where it was.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::{random_directory, random_file};
use crate::observe::{Cache, observe_and_check, restore};
use crate::oracle::{Answer, Event, History, Name};
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::wait::wait_until;
use crate::walk::fingerprint;

/// What a resumed commit may send more than its bytes.
const RESUME_EXTRA_BYTES: u64 = 64 << 20;

/// Parameters of [`leader_mid_upload`].
#[derive(Debug, Clone, Copy)]
pub struct Uploads {
    /// Kills in all.
    pub moments: u32,
    /// Files of an upload.
    pub files: u32,
    /// Bytes of each.
    pub file_bytes: u64,
    /// A fresh cluster after so many uploads: nothing is purged in this version, so disks fill.
    pub per_cluster: u32,
}

/// Kills the leader at random moments of an upload, until so many kills met one that was running.
///
/// # Panics
/// When a commit does not come through, differs anywhere, or costs too much log.
pub fn leader_mid_upload(name: &str, uploads: Uploads, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let (mut hits, mut tries) = (0, 0);
    while hits < uploads.moments {
        let mut cluster = Cluster::start(name, Options::default());
        for epoch in 1..=u64::from(uploads.per_cluster) {
            let (hit, line) = one_upload(&mut cluster, epoch, uploads, rng);
            hits += u32::from(hit);
            tries += 1;
            progress(format!(
                "kill {hits} of {}: {line}{}",
                uploads.moments,
                if hit { "" } else { ", too late" }
            ));
            assert!(
                tries < 2 * uploads.moments + 5,
                "I12: only {hits} of {tries} kills met a running upload"
            );
            if hits == uploads.moments {
                break;
            }
        }
    }
}

fn one_upload(cluster: &mut Cluster, epoch: u64, uploads: Uploads, rng: &mut Rng) -> (bool, String) {
    let source = cluster.source(&format!("upload-{epoch}"));
    let total = u64::from(uploads.files) * uploads.file_bytes;
    random_directory(&source, uploads.files, uploads.file_bytes, rng);
    cluster.wait_ready();
    let leader = cluster.leader();
    // Through the leader that dies, or through a follower that must find the new one; by path or streamed.
    let through = if rng.coin() { leader } else { cluster.first(leader)[1] };
    let streamed = rng.coin();
    let flags: &[&str] = if streamed { &["--timeout", "60s", "--stream"] } else { &["--timeout", "60s"] };
    // The moment is a share of the bytes: a share of the time would miss when one upload is faster than another.
    let moment = rng.range(0, total);
    let staged = || cluster.node(leader).staged_bytes();
    let before = staged();
    let mut client = cluster.spawn_commit(&cluster.first(through), &source, "upload", epoch, flags);
    wait_until(PATIENCE, "the moment of the fault", || {
        let now = staged().saturating_sub(before);
        if now >= moment || !client.is_running() { Ok(()) } else { Err(format!("{now} bytes staged")) }
    });
    let hit = client.is_running();
    cluster.kill9(leader);
    let output = client.wait().ok();
    assert!(matches!(output.answer(), Answer::Committed { .. }), "{output}");
    let (bytes, log_bytes) = (output.number("bytes"), output.number("log_bytes"));
    assert_eq!(bytes, total, "{output}");
    let extra = log_bytes.saturating_sub(bytes);
    assert!(extra <= RESUME_EXTRA_BYTES, "the resumed commit sent {extra} bytes twice: {output}");
    cluster.restart(leader);
    cluster.wait_ready();
    // Everything acknowledged so far is there and identical, not only the last.
    let listed: Vec<u64> = cluster.list("upload").iter().filter_map(|line| line["epoch"].as_u64()).collect();
    for acknowledged in 1..=epoch {
        assert!(
            listed.contains(&acknowledged),
            "epoch {acknowledged} was acknowledged, listed are {listed:?}"
        );
        cluster.wait_published("upload", acknowledged);
    }
    compare_everywhere(cluster, &source, "upload", epoch);
    if epoch > 1 {
        let earlier = rng.range(1, epoch);
        compare_everywhere(cluster, &cluster.source(&format!("upload-{earlier}")), "upload", earlier);
    }
    let way = if streamed { " streamed" } else { "" };
    let line = format!(
        "leader {leader} at {:.0} %, through {through}{way}, answered in {:.1?}, {extra} extra log bytes",
        moment as f64 * 100.0 / total as f64,
        output.took
    );
    (hit, line)
}

/// A loop of commits with its history.
struct Loop {
    job: &'static str,
    epoch: u64,
    sources: Vec<(Name, PathBuf)>,
    history: History,
    known: Cache,
}

impl Loop {
    fn new(job: &'static str) -> Loop {
        Loop { job, epoch: 0, sources: Vec::new(), history: History::default(), known: Cache::default() }
    }

    /// Starts the commit of the next epoch: tiny, small or of several chunks.
    fn begin(&mut self, cluster: &Cluster, rng: &mut Rng) -> Pending {
        let kind = rng.range(0, 3);
        self.begin_kind(cluster, kind, rng)
    }

    /// Starts the commit of an epoch that takes long enough to be killed in the middle; every third is tiny all the same.
    fn begin_under_fire(&mut self, cluster: &Cluster, rng: &mut Rng) -> Pending {
        let kind = if rng.range(0, 3) == 0 { 0 } else { 3 };
        self.begin_kind(cluster, kind, rng)
    }

    fn begin_kind(&mut self, cluster: &Cluster, kind: u64, rng: &mut Rng) -> Pending {
        self.epoch += 1;
        let source = cluster.source(&format!("{}-{}", self.job, self.epoch));
        match kind {
            3 => random_directory(&source, 4, rng.range(10 << 20, 16 << 20), rng),
            0 => random_directory(&source, 2, 500, rng),
            1 => random_directory(&source, 40, 3000, rng),
            _ => {
                random_directory(&source, 2, 70_000, rng);
                random_file(&source.join("large"), rng.range(3 << 20, 12 << 20), rng);
            }
        }
        let name = (self.job.to_owned(), self.epoch);
        self.sources.push((name.clone(), source.clone()));
        self.start(cluster, name, source, rng)
    }

    fn start(&self, cluster: &Cluster, name: Name, source: PathBuf, rng: &mut Rng) -> Pending {
        let order = cluster.first(rng.range(1, cluster.options.nodes + 1));
        let client = cluster.spawn_commit(&order, &source, &name.0, name.1, &["--timeout", "20s"]);
        Pending { name, source, client }
    }

    fn end(&mut self, pending: Pending) -> Answer {
        let content = fingerprint(&pending.source).unwrap_or_else(|difference| panic!("{difference}"));
        let answer = pending.client.wait().answer();
        self.history.push(Event::Commit { name: pending.name, content, answer: answer.clone() });
        answer
    }

    fn read_latest(&mut self, cluster: &Cluster) {
        let output = cluster.cli(&["show", &format!("{}@latest", self.job), "--timeout", "10s"]);
        let epoch = output.lines.iter().find_map(|line| line["epoch"].as_u64());
        if matches!(output.code, Some(0 | 4)) {
            self.history.push(Event::Latest {
                job: self.job.to_owned(),
                epoch: epoch.filter(|_| output.code == Some(0)),
            });
        }
    }

    fn check(&mut self, cluster: &Cluster) {
        observe_and_check(cluster, &[self.job], &mut self.history, &mut self.known);
    }

    /// Repeats every unknown commit that has not been repeated, and looks again.
    fn repeat_unknown(&mut self, cluster: &Cluster, rng: &mut Rng) {
        let unknown: Vec<Name> = self
            .sources
            .iter()
            .map(|(name, _)| name)
            .filter(|name| {
                let answers: Vec<_> = self
                    .history
                    .commits()
                    .filter(|(_, other, _, _)| other == name)
                    .map(|(_, _, _, answer)| answer)
                    .collect();
                answers.last() == Some(&&Answer::Unknown)
            })
            .cloned()
            .collect();
        for name in unknown {
            let source =
                self.sources.iter().find(|(other, _)| *other == name).map(|(_, source)| source.clone());
            let pending = self.start(cluster, name, source.expect("every commit has its source"), rng);
            self.end(pending);
        }
        self.check(cluster);
    }

    /// Restores the newest epoch and the first one.
    fn restore_some(&mut self, cluster: &Cluster, rng: &mut Rng) {
        let listed = cluster.list(self.job);
        for line in listed.iter().take(1).chain(listed.last()) {
            let name = (self.job.to_owned(), line["epoch"].as_u64().expect("`list` gives epochs"));
            let root = line["root"].as_str().unwrap_or_default().to_owned();
            restore(cluster, rng.range(1, cluster.options.nodes + 1), &name, &root, &mut self.history);
        }
        crate::invariants::assert_holds(&self.history);
    }
}

struct Pending {
    name: Name,
    source: PathBuf,
    client: crate::cli::Running,
}

/// Waits for the moment of the fault: a share of the bytes that `node` has staged since `before`, or for a tiny epoch,
/// which stages none, of the time it takes. Whether the commit still runs then.
fn await_moment(cluster: &Cluster, node: u64, before: u64, pending: &mut Pending, rng: &mut Rng) -> bool {
    let total: u64 = std::fs::read_dir(&pending.source)
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
        let now = cluster.node(node).staged_bytes().saturating_sub(before);
        if now >= moment || !pending.client.is_running() {
            Ok(())
        } else {
            Err(format!("{now} bytes staged"))
        }
    });
    pending.client.is_running()
}

/// Kills each node in turn in a loop of commits: one commit dies into, one runs
/// while the node is down, one while it comes back.
///
/// # Panics
/// When an invariant is broken.
pub fn each_node(name: &str, rounds: u32, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options::default());
    let mut commits = Loop::new("loop");
    let mut hits = 0;
    for round in 0.. {
        // A fast commit may be over before the kill: some more rounds until one was met.
        if round >= rounds && (hits > 0 || round >= 4 * rounds) {
            break;
        }
        // Every third round the leader, so that both roles are met whoever leads.
        let victim =
            if round % 3 == 2 { cluster.leader() } else { u64::from(round) % cluster.options.nodes + 1 };
        let before = cluster.node(victim).staged_bytes();
        let mut pending = commits.begin_under_fire(&cluster, rng);
        hits += u32::from(await_moment(&cluster, victim, before, &mut pending, rng));
        cluster.kill9(victim);
        let mut answers = vec![commits.end(pending)];
        commits.read_latest(&cluster);
        let pending = commits.begin(&cluster, rng);
        answers.push(commits.end(pending));
        let pending = commits.begin(&cluster, rng);
        std::thread::sleep(rng.moment(Duration::from_millis(400))); // the moment of the return
        cluster.restart(victim);
        answers.push(commits.end(pending));
        cluster.wait_ready();
        commits.read_latest(&cluster);
        commits.check(&cluster);
        if rng.coin() {
            commits.repeat_unknown(&cluster, rng);
        }
        let yes = answers.iter().filter(|answer| matches!(answer, Answer::Committed { .. })).count();
        progress(format!(
            "round {} of {rounds}: node {victim} killed, {yes} of {} commits acknowledged",
            round + 1,
            answers.len()
        ));
    }
    commits.repeat_unknown(&cluster, rng);
    commits.restore_some(&cluster, rng);
    let [yes, no, unknown] = commits.history.tally();
    assert!(
        yes >= rounds as usize,
        "a quorum was always alive: {yes} committed, {no} not, {unknown} unknown"
    );
    assert!(hits > 0, "I12: no kill met a running commit");
    progress(format!(
        "{yes} committed, {no} not committed, {unknown} unknown; {hits} kills met a running commit"
    ));
}

/// Kills all nodes in the middle of a commit and starts them again.
///
/// # Panics
/// When an invariant is broken.
pub fn all_and_restart(name: &str, rounds: u32, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options::default());
    let mut commits = Loop::new("all");
    for round in 0..rounds {
        let pending = commits.begin(&cluster, rng);
        commits.end(pending);
        let before = cluster.node(1).staged_bytes();
        let mut pending = commits.begin_under_fire(&cluster, rng);
        let hit = await_moment(&cluster, 1, before, &mut pending, rng);
        cluster.kill9_all();
        for id in 1..=cluster.options.nodes {
            cluster.restart(id);
        }
        let answer = commits.end(pending);
        cluster.wait_ready();
        commits.check(&cluster);
        commits.repeat_unknown(&cluster, rng);
        progress(format!(
            "round {} of {rounds}: all killed {}, it answered {answer:?}",
            round + 1,
            if hit { "in mid-commit" } else { "after the commit" }
        ));
    }
    commits.restore_some(&cluster, rng);
}

/// Kills all nodes right after the quorum's answer, while they publish: after
/// the restart everything is published, whole.
///
/// # Panics
/// When it is not.
pub fn while_publishing(
    name: &str,
    rounds: u64,
    files: u32,
    rng: &mut Rng,
    progress: &mut dyn FnMut(String),
) {
    let mut cluster = Cluster::start(name, Options::default());
    let mut interrupted = 0;
    for epoch in 1..=rounds {
        let source = cluster.source(&format!("publishing-{epoch}"));
        random_directory(&source, files, 2000, rng);
        random_file(&source.join("large"), 5 << 20, rng);
        let leader = cluster.leader();
        cluster.commit(&[leader], &source, "publishing", epoch, &[]).ok();
        std::thread::sleep(rng.moment(Duration::from_millis(30 * (epoch - 1) + 1))); // the moment of the fault
        cluster.kill9_all();
        let there = cluster.nodes.iter().filter(|node| node.published("publishing", epoch).exists()).count();
        interrupted += cluster.nodes.len() - there;
        for id in 1..=cluster.options.nodes {
            cluster.restart(id);
        }
        let begun = Instant::now();
        cluster.wait_ready();
        let ready = begun.elapsed();
        cluster.wait_published("publishing", epoch);
        let published = begun.elapsed();
        compare_everywhere(&cluster, &source, "publishing", epoch);
        progress(format!(
            "round {epoch} of {rounds}: {there} of {} nodes had published when killed; ready again in {ready:.1?}, published in {published:.1?}",
            cluster.nodes.len()
        ));
    }
    if interrupted == 0 {
        progress("no node was met while it published".into());
    }
}

//! SIGKILL at random moments: nothing acknowledged is lost, nothing unsealed is
//! seen, an unknown answer has one outcome, and a commit goes on where it was.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::commits::{Commits, await_moment};
use crate::inputs::{random_directory, random_file};
use crate::oracle::Answer;
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::wait::wait_until;

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
    /// A fresh cluster after so many uploads: all of them are kept, so disks fill.
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
    let before = cluster.node(leader).newest_attempt();
    let mut client = cluster.spawn_commit(&cluster.first(through), &source, "upload", epoch, flags);
    wait_until(PATIENCE, "the moment of the fault", || {
        let now = cluster.node(leader).staged_after(before);
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

/// Kills each node in turn in a loop of commits: one commit dies into, one runs
/// while the node is down, one while it comes back.
///
/// # Panics
/// When an invariant is broken.
pub fn each_node(name: &str, rounds: u32, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options::default());
    let mut commits = Commits::new(&cluster, "loop");
    let mut hits = 0;
    for round in 0.. {
        // A fast commit may be over before the kill: some more rounds until one was met.
        if round >= rounds && (hits > 0 || round >= 4 * rounds) {
            break;
        }
        // Every third round the leader, so that both roles are met whoever leads.
        let victim =
            if round % 3 == 2 { cluster.leader() } else { u64::from(round) % cluster.options.nodes + 1 };
        let before = cluster.node(victim).newest_attempt();
        let mut pending = commits.begin_under_fire(rng);
        hits += u32::from(await_moment(&cluster, victim, before, &mut pending, rng));
        cluster.kill9(victim);
        let mut answers = vec![commits.end(pending)];
        commits.read_latest();
        let pending = commits.begin(rng);
        answers.push(commits.end(pending));
        let pending = commits.begin(rng);
        std::thread::sleep(rng.moment(Duration::from_millis(400))); // the moment of the return
        cluster.restart(victim);
        answers.push(commits.end(pending));
        cluster.wait_ready();
        commits.read_latest();
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
    let mut commits = Commits::new(&cluster, "all");
    let mut hits = 0;
    for round in 0.. {
        // As in `each_node`.
        if round >= rounds && (hits > 0 || round >= 4 * rounds) {
            break;
        }
        let pending = commits.begin(rng);
        commits.end(pending);
        let before = cluster.node(1).newest_attempt();
        let mut pending = commits.begin_under_fire(rng);
        let hit = await_moment(&cluster, 1, before, &mut pending, rng);
        hits += u32::from(hit);
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
    assert!(hits > 0, "I12: no kill met a running commit");
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
    for epoch in 1.. {
        if epoch > rounds && (interrupted > 0 || epoch > 4 * rounds) {
            break;
        }
        let source = cluster.source(&format!("publishing-{epoch}"));
        random_directory(&source, files, 2000, rng);
        random_file(&source.join("large"), 5 << 20, rng);
        let leader = cluster.leader();
        cluster.commit(&[leader], &source, "publishing", epoch, &[]).ok();
        std::thread::sleep(rng.moment(Duration::from_millis(30 * ((epoch - 1) % rounds) + 1))); // the moment of the fault
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
    assert!(interrupted > 0, "I12: no kill met a node that published");
}

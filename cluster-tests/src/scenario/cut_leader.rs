//! Hosts of their own, and wires between them that are cut and made thin: how long a cluster with the settings that
//! are shipped is without a leader, what the node that is cut off says meanwhile, and who has to wait for whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::Running;
use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::random_directory;
use crate::metrics::Metrics;
use crate::needs::{Need, skip};
use crate::netns::Net;
use crate::probe::{Probe, Spread};
use crate::scratch::remove_tree;
use crate::seed::Rng;
use crate::wait::{try_until, wait_until};

/// Parameters of [`leader_cut_off`].
#[derive(Debug, Clone, Copy)]
pub struct CutOff {
    /// Cuts.
    pub rounds: u32,
    /// Rounds in which the first commit may come late, though by [`FIRST_COMMIT_MAX`].
    pub late: u32,
}

/// From the cut until there is another leader.
const NEW_LEADER: Duration = Duration::from_secs(5);
/// From the cut until everybody's first commit is acknowledged, in nearly all rounds, and in all.
const FIRST_COMMIT: Duration = Duration::from_secs(6);
const FIRST_COMMIT_MAX: Duration = Duration::from_secs(10);
/// In which a node without a quorum says so.
const NO_QUORUM: Duration = Duration::from_secs(1);
/// How long the cut-off node is asked.
const ASKED: Duration = Duration::from_secs(3);

fn cluster(name: &str, net: &Arc<Net>) -> Cluster {
    Cluster::start(name, Options { shipped_timing: true, net: Some(net.clone()), ..Options::default() })
}

/// A network of three hosts, or the skip of a story.
fn net(story: &str) -> Option<Arc<Net>> {
    match Net::new(3) {
        Ok(net) => Some(Arc::new(net)),
        Err(why) => {
            skip(Need::Netns, story, &why);
            None
        }
    }
}

/// Cuts the leader off from the others, in rounds; clients reach everybody all the time.
///
/// # Panics
/// When anything takes longer than it may.
pub fn leader_cut_off(name: &str, size: CutOff, rng: &mut Rng, progress: &mut (dyn FnMut(String) + Send)) {
    let Some(net) = net("a leader that is cut off") else { return };
    net.outside(|| {
        let cluster = cluster(name, &net);
        let mut late = 0;
        let mut broken = Vec::new();
        for round in 1..=size.rounds {
            let seen = one_cut(&cluster, &net, round, rng);
            progress(format!("round {round} of {}: {seen}", size.rounds));
            late += u32::from(seen.commits.iter().any(|(_, took)| *took > FIRST_COMMIT));
            broken.extend(seen.broken().into_iter().map(|why| format!("round {round}: {why}")));
        }
        if late > size.late {
            broken.push(format!(
                "in {late} of {} rounds a first commit took over {FIRST_COMMIT:?}",
                size.rounds
            ));
        }
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    });
}

/// What one cut looked like.
struct Seen {
    leader: Duration,
    /// First commits by the endpoint that was named first: its role, and the time from the cut.
    commits: Vec<(&'static str, Duration)>,
    /// What the cut-off node answered from [`NEW_LEADER`] on, if it was not *no quorum* within [`NO_QUORUM`].
    wrong: Vec<String>,
    asked: u32,
}

impl Seen {
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.leader > NEW_LEADER {
            broken.push(format!("a new leader after {:.1?}", self.leader));
        }
        for (role, took) in self.commits.iter().filter(|(_, took)| *took > FIRST_COMMIT_MAX) {
            broken.push(format!("the first commit after {took:.1?} with {role} named first"));
        }
        broken.extend(self.wrong.iter().take(2).cloned());
        broken
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "new leader {:.1?}; first commits", self.leader)?;
        self.commits.iter().try_for_each(|(role, took)| write!(f, " {took:.1?} ({role} first)"))?;
        write!(f, "; {} of {} answers of the cut-off node wrong or late", self.wrong.len(), self.asked)?;
        self.wrong.first().map_or(Ok(()), |first| write!(f, ": {first}"))
    }
}

fn one_cut(cluster: &Cluster, net: &Net, round: u32, rng: &mut Rng) -> Seen {
    let leader = cluster.leader();
    let others = cluster.first(leader).split_off(1);
    let named = [("the cut-off node", leader), ("a follower", others[0]), ("the other", others[1])];
    let sources = named.map(|(_, id)| {
        let source = cluster.source(&format!("first-{round}-{id}"));
        random_directory(&source, 1, 1000, rng);
        source
    });
    net.isolate(leader);
    let cut = Instant::now();
    let mut clients: Vec<(&str, Option<Running>, Duration)> = named
        .iter()
        .zip(&sources)
        .map(|((role, id), source)| {
            let job = format!("first-{id}");
            (
                *role,
                Some(cluster.spawn_commit(&cluster.first(*id), source, &job, u64::from(round), &[])),
                cut.elapsed(),
            )
        })
        .collect();
    let mut seen = Seen { leader: Duration::MAX, commits: Vec::new(), wrong: Vec::new(), asked: 0 };
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask_cut_off(cluster, leader, cut, round));
        // A commit or a leader, whatever comes first: both are looked for until all are there.
        wait_until(PATIENCE, "a new leader and the first commits", || {
            if seen.leader == Duration::MAX && others.iter().any(|id| leads(cluster, *id)) {
                seen.leader = cut.elapsed();
            }
            for (role, client, took) in &mut clients {
                if client.as_mut().is_some_and(|client| !client.is_running()) {
                    *took = cut.elapsed();
                    client.take().expect("it was just asked").wait().ok();
                    seen.commits.push((*role, *took));
                }
            }
            match seen.leader < Duration::MAX && seen.commits.len() == clients.len() {
                true => Ok(()),
                false => Err(format!("{seen}")),
            }
        });
        (seen.asked, seen.wrong) = asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    net.heal();
    for source in &sources {
        remove_tree(source).expect("our own source can be removed");
    }
    for node in &cluster.nodes {
        wait_until(PATIENCE, &format!("node {} to be ready after the heal", node.id), || {
            match node.get("/readyz") {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    cluster.wait_alike();
    seen
}

fn leads(cluster: &Cluster, id: u64) -> bool {
    Metrics::of(cluster.node(id)).is_ok_and(|metrics| metrics.sum("epochlog_raft_is_leader") == Some(1.0))
}

/// Asks the node that was cut off, and nobody else, for a commit and for a list, again and again.
fn ask_cut_off(cluster: &Cluster, id: u64, cut: Instant, round: u32) -> (u32, Vec<String>) {
    std::thread::sleep((NEW_LEADER).saturating_sub(cut.elapsed())); // the promise begins then
    let source = cluster.source(&format!("cut-off-{round}"));
    std::fs::create_dir_all(&source).expect("the scratch folder can be written");
    let (mut asked, mut wrong) = (0, Vec::new());
    while cut.elapsed() < NEW_LEADER + ASKED {
        let commit = cluster.commit(&[id], &source, "cut-off", u64::from(round), &["--timeout", "10s"]);
        let list = cluster.cli_at(&[id], &["ls", "--timeout", "10s"]);
        for (what, output) in [("commit", commit), ("ls", list)] {
            asked += 1;
            if output.code != Some(7) || output.error_code() != "NoQuorum" || output.took > NO_QUORUM {
                let code = output.error_code();
                wrong.push(format!("{what}: exit {:?} {code} after {:.1?}", output.code, output.took));
            }
        }
    }
    (asked, wrong)
}

/// Parameters of [`short_windows`].
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// How often the leader is cut off.
    pub cuts: u32,
    /// For how long.
    pub cut: Duration,
    /// How long the wire is up in between.
    pub up: Duration,
    /// Windows that may go by unused.
    pub missed: u32,
}

/// The leader's wires come and go: each time they are up something is committed.
///
/// # Panics
/// When more windows go by unused than may.
pub fn short_windows(name: &str, size: Windows, progress: &mut (dyn FnMut(String) + Send)) {
    let Some(net) = net("wires that come and go") else { return };
    net.outside(|| {
        let cluster = cluster(name, &net);
        let leader = cluster.leader();
        let probe = Probe::start(&cluster, &cluster.first(leader), "window");
        wait_until(PATIENCE, "a commit", || probe.samples().first().map(drop).ok_or("none yet"));
        let (mut used, mut first) = (0, Vec::new());
        for _ in 0..size.cuts {
            net.isolate(leader);
            std::thread::sleep(size.cut); // how long the wire is cut
            net.heal();
            let up = Instant::now();
            let committed = || {
                let samples = probe.samples();
                let mut good = samples.iter().filter(|sample| sample.failure.is_none());
                good.find(|sample| sample.begun + sample.took > up)
                    .map(|sample| sample.begun + sample.took - up)
            };
            let window: Result<Duration, ()> = try_until(size.up, || committed().ok_or(()));
            used += u32::from(window.is_ok());
            first.extend(window.ok());
            std::thread::sleep(size.up.saturating_sub(up.elapsed())); // how long it is up
        }
        progress(format!(
            "{used} of {} windows of {:?} were used, first commits after {first:.0?}",
            size.cuts, size.up
        ));
        probe.stop();
        assert!(used + size.missed >= size.cuts, "only {used} of {} windows were used", size.cuts);
    });
}

/// Parameters of [`thin_wire`].
#[derive(Debug, Clone, Copy)]
pub struct Thin {
    /// What the leader's wire carries, in bits a second.
    pub bits_per_s: u64,
    /// Bytes of the epoch that is on its way.
    pub bytes: u64,
    /// How long small commits are measured beside it.
    pub span: Duration,
    /// The p99 that they keep.
    pub p99: Duration,
}

/// A large epoch is on its way over a thin wire; small commits through every node do not wait for it.
///
/// # Panics
/// When they do.
pub fn thin_wire(name: &str, size: Thin, rng: &mut Rng, progress: &mut (dyn FnMut(String) + Send)) {
    let Some(net) = net("a thin wire") else { return };
    net.outside(|| {
        let cluster = cluster(name, &net);
        let leader = cluster.leader();
        let source = cluster.source("bulk");
        random_directory(&source, 4, size.bytes / 4, rng);
        net.thin(leader, size.bits_per_s);
        let before = cluster.node(leader).newest_attempt();
        let mut bulk =
            cluster.spawn_commit(&cluster.first(leader), &source, "bulk", 1, &["--timeout", "600s"]);
        wait_until(PATIENCE, "the large epoch to be on its way", || {
            let staged = cluster.node(leader).staged_after(before);
            if staged > 0 { Ok(()) } else { Err("nothing is staged") }
        });
        let order = cluster.first(leader);
        let named =
            [("leader", order.clone()), ("one", cluster.first(order[1])), ("other", cluster.first(order[2]))];
        let probes =
            named.map(|(role, nodes)| (role, Probe::start(&cluster, &nodes, &format!("small-{role}"))));
        let begun = Instant::now();
        std::thread::sleep(size.span); // the span that is measured
        let end = Instant::now();
        assert!(bulk.is_running(), "I12: the large epoch was through before small ones were measured");
        let mut broken = Vec::new();
        for (role, probe) in probes {
            let open = probe.open_at(end).map(|begun| end - begun);
            let samples = probe.begun_in(begun, end);
            if samples.is_empty() {
                broken.push(format!("through {role}: not one small commit in {:?}", size.span));
                continue;
            }
            let spread = Spread::of(role, &samples);
            progress(format!(
                "beside {} MiB, through {role}: {spread}, open for {open:.1?}",
                size.bytes >> 20
            ));
            if spread.p99 > size.p99 || open > Some(size.p99) || !spread.failures.is_empty() {
                broken.push(format!("through {role}: {spread}, open for {open:.1?}"));
            }
        }
        bulk.kill();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    });
}

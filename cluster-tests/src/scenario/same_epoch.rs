//! Many writers commit the same epoch at once, from directories with equal names and sizes and other bytes: one of them
//! wins, everybody is told the truth, and nobody's attempt stays open.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::Output;
use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::{random_directory, random_file};
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::wait::wait_until;

/// Parameters of [`one_root_a_round`].
#[derive(Debug, Clone, Copy)]
pub struct SameEpoch {
    /// Writers at once.
    pub writers: u64,
    /// Epochs that all of them want.
    pub rounds: u64,
    /// The newest of so many epochs stay, so that the disk does.
    pub keep: u64,
}

/// A writer that died may hinder its successor for so long.
const SILENCE: Duration = Duration::from_secs(30);
/// On top of it: one try of the successor, on a busy machine.
const ONE_TRY: Duration = Duration::from_secs(5);

/// The answers of one round.
struct Round {
    epoch: u64,
    sources: Vec<PathBuf>,
    answers: Vec<Output>,
}

/// Rounds of writers by path and streamed, through all nodes.
///
/// # Panics
/// When a round has not exactly one root, anybody is told anything else, or an attempt stays open.
pub fn one_root_a_round(name: &str, size: SameEpoch, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let cluster = Cluster::start(name, Options::default());
    let mut broken = Vec::new();
    let mut nobody = 0;
    for epoch in 1..=size.rounds {
        let round = tell(&cluster, epoch, size.writers, rng);
        if let Err(why) = round.judge(&cluster) {
            nobody += u64::from(why.starts_with("nobody"));
            progress(format!("round {epoch}: {why}"));
            broken.push(format!("round {epoch}: {why}"));
        }
        if epoch > size.keep {
            let _may_be_missing = cluster.cli(&["rm", &format!("same@{}", epoch - size.keep), "--yes"]);
        }
    }
    progress(format!(
        "{} rounds of {} writers: {} not as promised, in {nobody} of them nobody won",
        size.rounds,
        size.writers,
        broken.len()
    ));
    // Far less than the time after which the log gives up a silent attempt.
    for node in &cluster.nodes {
        wait_until(PATIENCE, &format!("no attempt to be open on node {}", node.id), || {
            match node.staged_attempts() {
                open if open.is_empty() => Ok(()),
                open => Err(format!("{open:?}")),
            }
        });
    }
    cluster.wait_alike();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn tell(cluster: &Cluster, epoch: u64, writers: u64, rng: &mut Rng) -> Round {
    // One record, some records, several chunks of one file.
    let (files, bytes) = [(2, 400), (5, 90_000), (2, 3 << 20)][usize::try_from(epoch % 3).expect("small")];
    let sources: Vec<PathBuf> =
        (0..writers).map(|writer| cluster.source(&format!("writer-{writer}"))).collect();
    for source in &sources {
        write(source, files, bytes, rng);
    }
    let nodes = cluster.options.nodes;
    let running: Vec<_> = (0..writers)
        .zip(&sources)
        .map(|(writer, source)| {
            let more: &[&str] = if writer % 2 == 0 { &[] } else { &["--stream"] };
            cluster.spawn_commit(&cluster.first(writer % nodes + 1), source, "same", epoch, more)
        })
        .collect();
    let answers = running.into_iter().map(crate::cli::Running::wait).collect();
    Round { epoch, sources, answers }
}

/// The same names and sizes each time, other bytes.
fn write(source: &Path, files: u32, bytes: u64, rng: &mut Rng) {
    if source.exists() {
        crate::scratch::remove_tree(source).expect("our own source can be removed");
    }
    random_directory(source, files, bytes, rng);
    random_file(&source.join("last"), 10, rng);
}

impl Round {
    fn judge(&self, cluster: &Cluster) -> Result<(), String> {
        let listed = cluster.list("same");
        let listed = listed.iter().find(|line| line["epoch"].as_u64() == Some(self.epoch));
        let winners: Vec<usize> =
            (0..self.answers.len()).filter(|at| self.answers[*at].code == Some(0)).collect();
        for answer in self.answers.iter().filter(|answer| answer.code != Some(0)) {
            if answer.code != Some(5) || !matches!(answer.error_code(), "Conflict" | "Subsumed") {
                return Err(format!("a loser is told {:?} {}", answer.code, answer.error_code()));
            }
        }
        let (winner, listed) = match (&winners[..], listed) {
            ([winner], Some(listed)) => (*winner, listed),
            ([], None) => return Err("nobody won".into()),
            (_, listed) => {
                return Err(format!("exit 0 for the writers {winners:?}, listed is {listed:?}"));
            }
        };
        let told = &self.answers[winner].summary()["root"];
        if *told != listed["root"] {
            return Err(format!("writer {winner} was told {told}, listed is {}", listed["root"]));
        }
        // Its own bytes, by our own comparison: all sources differ.
        cluster.wait_published("same", self.epoch);
        compare_everywhere(cluster, &self.sources[winner], "same", self.epoch);
        Ok(())
    }
}

/// A writer dies in the middle; another one, with other bytes and no word of a take-over, is through when the dead one
/// has been silent for long enough.
///
/// # Panics
/// When it takes longer, or it is told anything but *Conflict* until then.
pub fn a_dead_writer_hinders_briefly(
    name: &str,
    bytes: u64,
    rng: &mut Rng,
    progress: &mut dyn FnMut(String),
) {
    let cluster = Cluster::start(name, Options { by_path: false, ..Options::default() });
    let [dead, next] = ["dead", "next"].map(|source| cluster.source(source));
    for source in [&dead, &next] {
        random_directory(source, 4, bytes / 4, rng);
    }
    let leader = cluster.leader();
    let before = cluster.node(leader).newest_attempt();
    let writer = cluster.spawn_commit(&cluster.first(leader), &dead, "left", 1, &[]);
    wait_until(PATIENCE, "a part of its bytes", || {
        let staged = cluster.node(leader).staged_after(before);
        if staged > bytes / 16 { Ok(()) } else { Err(format!("{staged} bytes staged")) }
    });
    let output = writer.kill();
    assert_eq!(output.code, None, "I12: the writer was too fast to be killed: {output}");
    let died = Instant::now();
    let mut refused = 0;
    loop {
        let output = cluster.commit(&cluster.first(leader), &next, "left", 1, &[]);
        match output.code {
            Some(0) => break,
            Some(5) if output.error_code() == "Conflict" => refused += 1,
            _ => panic!("{output}"),
        }
        assert!(died.elapsed() < SILENCE + ONE_TRY, "{:?} after the writer died: {output}", died.elapsed());
    }
    let took = died.elapsed();
    progress(format!("the successor was through {took:.1?} after the writer died, {refused} times refused"));
    assert!(took < SILENCE + ONE_TRY, "it took {took:?}");
    cluster.wait_published("left", 1);
    compare_everywhere(&cluster, &next, "left", 1);
}

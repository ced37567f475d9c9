//! What a node needs of memory at most: one load after the other, through the leader and through a follower, by path and
//! streamed; and at home in little memory, after having been away for all of it.

mod plans;
mod restores;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::cluster::{Cluster, Options};
use crate::control_group::MemoryGroup;
use crate::counters::{peak_rss, reset_peak_rss};
use crate::inputs::random_directory;
use crate::needs::{Need, skip};
use crate::scenario::many_files::write_many;
use crate::scenario::years::wait_purged_past;
use crate::seed::Rng;
use crate::wait::wait_until;

pub use restores::{ManyRestores, many_restores};

/// Parameters of [`memory`].
#[derive(Debug, Clone)]
pub struct Memory {
    /// Large files, and the bytes of each.
    pub large: (u32, u64),
    /// Epochs of so many files of 98 bytes.
    pub small: Vec<u32>,
    /// Commits at once, and the bytes of each.
    pub commits: (u32, u64),
    /// Restores at once, and the files of the epoch that is restored.
    pub restores: (u32, u32),
    /// Plans that are begun and left, and the entries of each.
    pub plans: (u32, u32),
    /// Peak memory of a node, bytes.
    pub rss_max: u64,
    /// What a follower may have that comes home, page cache included, bytes.
    pub home_bytes: u64,
}

/// Bytes of a small file.
const SMALL_BYTES: usize = 98;
/// So long one load may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// One load, one way.
struct Cell {
    load: String,
    way: String,
    /// Of each node, bytes.
    peaks: Vec<u64>,
}

struct Table<'a> {
    cells: Vec<Cell>,
    progress: &'a mut dyn FnMut(String),
}

impl Table<'_> {
    /// Has `work` done and notes the peak of every node.
    fn measure(&mut self, cluster: &Cluster, load: &str, way: &str, work: impl FnOnce()) {
        cluster.nodes.iter().for_each(reset_peak_rss);
        work();
        let peaks: Vec<u64> = cluster.nodes.iter().map(peak_rss).collect();
        let mib: Vec<u64> = peaks.iter().map(|peak| peak >> 20).collect();
        (self.progress)(format!("{load}, {way}: peak RSS {mib:?} MiB"));
        self.cells.push(Cell { load: load.to_owned(), way: way.to_owned(), peaks });
    }

    /// The table as markdown, its worst cell last.
    fn text(&self) -> String {
        let mut text = "| load | way | peak RSS of the nodes, MiB |\n|---|---|---|\n".to_owned();
        for Cell { load, way, peaks } in &self.cells {
            let peaks: Vec<String> = peaks.iter().map(|peak| (peak >> 20).to_string()).collect();
            writeln!(text, "| {load} | {way} | {} |", peaks.join(", ")).expect("a text takes it");
        }
        if let Some((worst, peak)) = self.worst() {
            write!(text, "worst: {}, {}: {} MiB", worst.load, worst.way, peak >> 20)
                .expect("a text takes it");
        }
        text
    }

    fn worst(&self) -> Option<(&Cell, u64)> {
        let peak = |cell: &Cell| cell.peaks.iter().copied().max().unwrap_or_default();
        self.cells.iter().map(|cell| (cell, peak(cell))).max_by_key(|(_, peak)| *peak)
    }
}

/// See above.
///
/// # Panics
/// When a node takes more than it may, or does not come home.
pub fn memory(name: &str, size: &Memory, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options { shipped_timing: true, ..Options::default() });
    let mut table = Table { cells: Vec::new(), progress };
    let leader = cluster.leader();
    let ways = [("leader", cluster.first(leader)), ("follower", cluster.first(cluster.follower()))];
    let mut epoch = 0;
    let (count, bytes) = size.large;
    let large = format!("{count} files of {} MiB", bytes >> 20);
    let mut loads: Vec<(String, Fill)> = vec![(large, Fill::Large(count, bytes))];
    loads.extend(size.small.iter().map(|files| (format!("{files} small files"), Fill::Small(*files))));
    for (load, fill) in &loads {
        for (through, nodes) in &ways {
            for how in ["by path", "streamed"] {
                let source = filled(&cluster, "source", *fill, rng);
                epoch += 1;
                table.measure(&cluster, load, &format!("{through}, {how}"), || {
                    commit_everywhere(&cluster, nodes, &source, "memory", epoch, how);
                });
                removed(&cluster, "memory", epoch);
            }
        }
    }
    let (commits, bytes) = size.commits;
    for (through, nodes) in &ways {
        for how in ["by path", "streamed"] {
            let sources: Vec<_> = (0..commits)
                .map(|n| filled(&cluster, &format!("source-{n}"), Fill::Large(4, bytes / 4), rng))
                .collect();
            epoch += 1;
            let load = format!("{commits} commits at once");
            table.measure(&cluster, &load, &format!("{through}, {how}"), || {
                let begin = |(n, source): (usize, &std::path::PathBuf)| {
                    cluster.spawn_commit(nodes, source, &format!("at-once-{n}"), epoch, &flags(how))
                };
                let running: Vec<_> = sources.iter().enumerate().map(begin).collect();
                running.into_iter().for_each(|commit| drop(commit.wait_for(PATIENCE).ok()));
            });
            (0..commits).for_each(|n| removed(&cluster, &format!("at-once-{n}"), epoch));
        }
    }
    let (restores, files) = size.restores;
    let source = filled(&cluster, "source", Fill::Small(files), rng);
    table.measure(&cluster, &format!("{files} small files"), "leader, by path, kept", || {
        commit_everywhere(&cluster, &ways[0].1, &source, "restored", 1, "by path");
    });
    for (through, nodes) in &ways {
        let endpoint = cluster.node(nodes[0]).address();
        let load = format!("{restores} restores at once of {files} files");
        table.measure(&cluster, &load, &format!("{through}, streamed"), || {
            restores::at_once(&endpoint, "restored", 1, restores);
        });
    }
    let (plans, entries) = size.plans;
    for (through, nodes) in &ways {
        let endpoint = cluster.node(nodes[0]).address();
        let load = format!("{plans} plans of {entries} entries, left");
        table.measure(&cluster, &load, &format!("{through}, streamed"), || {
            plans::begun_and_left(&endpoint, &format!("left-{through}"), plans, entries);
        });
    }
    comes_home(&mut cluster, size, &loads, &mut table, rng);
    let text = table.text();
    let worst = table.worst().map_or(0, |(_, peak)| peak);
    (table.progress)(text.clone());
    assert!(worst <= size.rss_max, "more than {} MiB:\n{text}", size.rss_max >> 20);
}

/// What a source is filled with.
#[derive(Debug, Clone, Copy)]
enum Fill {
    Large(u32, u64),
    Small(u32),
}

fn filled(cluster: &Cluster, name: &str, fill: Fill, rng: &mut Rng) -> std::path::PathBuf {
    let source = cluster.source(name);
    if source.exists() {
        crate::scratch::remove_tree(&source).expect("our own source can be removed");
    }
    match fill {
        Fill::Large(files, bytes) => random_directory(&source, files, bytes, rng),
        Fill::Small(files) => write_many(&source, files, SMALL_BYTES, rng),
    }
    // Of what is still to be written, the commit would pay a part.
    rustix::fs::sync();
    source
}

fn flags(how: &str) -> Vec<&'static str> {
    let mut flags = vec!["--timeout", "600s"];
    flags.extend((how == "streamed").then_some("--stream"));
    flags
}

fn commit_everywhere(cluster: &Cluster, nodes: &[u64], source: &Path, job: &str, epoch: u64, how: &str) {
    cluster.commit_within(PATIENCE, nodes, source, job, epoch, &flags(how)).ok();
    published_everywhere(cluster, job, epoch);
}

fn published_everywhere(cluster: &Cluster, job: &str, epoch: u64) {
    for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
        wait_until(PATIENCE, &format!("{job}@{epoch} on node {}", node.id), || {
            if node.published(job, epoch).is_dir() { Ok(()) } else { Err(node.log_tail()) }
        });
    }
}

fn removed(cluster: &Cluster, job: &str, epoch: u64) {
    cluster.cli(&["rm", &format!("{job}@{epoch}"), "--yes"]).ok();
    for node in &cluster.nodes {
        wait_until(PATIENCE, &format!("{job}@{epoch} to be gone from node {}", node.id), || {
            if node.published(job, epoch).exists() { Err(node.log_tail()) } else { Ok(()) }
        });
    }
}

/// A follower is away for all of it, and comes home into a group that has little memory.
fn comes_home(
    cluster: &mut Cluster,
    size: &Memory,
    loads: &[(String, Fill)],
    table: &mut Table<'_>,
    rng: &mut Rng,
) {
    let group = match MemoryGroup::new("home", size.home_bytes) {
        Ok(group) => group,
        Err(why) => return skip(Need::Memory, "a follower that comes home in little memory", &why),
    };
    let away = cluster.follower();
    let nodes: Vec<u64> = cluster.first(cluster.leader()).into_iter().filter(|id| *id != away).collect();
    cluster.kill9(away);
    let mut epochs = Vec::new();
    let fills = loads.iter().map(|(_, fill)| *fill).chain([Fill::Small(size.restores.1)]);
    for (epoch, fill) in (1..).zip(fills) {
        let source = filled(cluster, "source", fill, rng);
        cluster.commit_within(PATIENCE, &nodes, &source, "away", epoch, &flags("by path")).ok();
        published_everywhere(cluster, "away", epoch);
        epochs.push(epoch);
    }
    // Something to remove, so that the log is purged past the one that is away.
    let source = filled(cluster, "source", Fill::Large(4, 32 << 20), rng);
    for epoch in 1..=2 {
        cluster.commit_within(PATIENCE, &nodes, &source, "purged", epoch, &flags("by path")).ok();
        fs::write(source.join("more"), [epoch as u8; 1 << 20]).expect("our own source");
    }
    cluster.cli_at(&nodes, &["rm", "purged@1", "--yes"]).ok();
    cluster.cli_at(&nodes, &["rm", "purged@2", "--yes"]).ok();
    wait_purged_past(cluster, away);
    cluster.restart(away);
    group.take(cluster.node(away).pid().expect("it was started just now"));
    let node = cluster.node(away);
    for epoch in epochs {
        wait_until(PATIENCE, &format!("away@{epoch} on node {away}, which was away"), || {
            assert_eq!(group.kills(), 0, "node {away} was killed for want of memory\n{}", node.log_tail());
            if node.published("away", epoch).is_dir() { Ok(()) } else { Err(node.log_tail()) }
        });
    }
    let peak = peak_rss(node);
    (table.progress)(format!("home within {} MiB: peak RSS {} MiB", size.home_bytes >> 20, peak >> 20));
    table.cells.push(Cell { load: "coming home".into(), way: "all of it".into(), peaks: vec![peak] });
    // Its process is in the group still.
    cluster.kill9(away);
}

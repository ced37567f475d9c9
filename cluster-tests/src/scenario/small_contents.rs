//! Very many tiny files: what they cost each node in memory, time and bytes, and how soon a node that holds them is
//! back.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::counters::{cpu_seconds, peak_rss, settled, written_by_calls};
use crate::metrics::Metrics;
use crate::needs::{Need, skip};
use crate::scenario::many_files::write_many;
use crate::scenario::restart::{commit_many, write_source};
use crate::seed::Rng;
use crate::wait::{try_until, wait_until};
use crate::wal::snapshots;

/// Parameters of [`small_contents`].
#[derive(Debug, Clone)]
pub struct SmallContents {
    /// Files of the epoch.
    pub files: u32,
    /// Bytes of each.
    pub file_bytes: usize,
    /// Other epochs.
    pub epochs: u64,
    /// Peak memory of a node, bytes.
    pub rss_max: u64,
    /// From the start of a killed node until it serves and follows.
    pub restart_max: Duration,
    /// Each node has a new disk of so many bytes; `None`: all are on the one of the scratch folder, as it is.
    pub disk_bytes: Option<u64>,
    /// A binary to compare with: CPU and bytes for each file are at most half of its.
    pub before: Option<PathBuf>,
}

/// What the epoch cost.
#[derive(Debug)]
struct Cost {
    /// Of each node, bytes.
    peak_rss: Vec<u64>,
    /// Of all nodes and the client, for a file.
    cpu_us: f64,
    /// In write calls of all nodes, for a file.
    bytes: f64,
    /// Caused to be written to the disk by all nodes, for a file. A file system with blocks of 4 KiB writes one for the
    /// content of each file on each node, whatever anybody does.
    disk_bytes: f64,
    took: Duration,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peaks: Vec<u64> = self.peak_rss.iter().map(|bytes| bytes >> 20).collect();
        let Cost { cpu_us, bytes, disk_bytes, took, .. } = self;
        write!(
            f,
            "peak RSS {peaks:?} MiB; for a file, over all nodes: {cpu_us:.0} us of CPU, {bytes:.0} bytes in write calls, \
             {disk_bytes:.0} bytes of blocks; {took:.1?}"
        )
    }
}

const PUBLISHING: Duration = Duration::from_secs(900);
/// Empty files with long names, which grow the log and nothing else: files and bytes of a name.
const FILLER: (u32, usize) = (4000, 220);
/// What a filler adds to the log, at most.
const FILLER_LOG_BYTES: f64 = 1.5 * 1024.0 * 1024.0;
/// A snapshot is due when the log has grown by so much.
const SNAPSHOT_LOG_BYTES: f64 = 16.0 * 1024.0 * 1024.0;

/// See above.
///
/// # Panics
/// When anything costs more than it may.
pub fn small_contents(name: &str, size: &SmallContents, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let before = size.before.clone().and_then(|binary| {
        let (_cluster, cost) = measure(name, size, Some(binary), rng)?;
        progress(format!("before: {cost}"));
        Some(cost)
    });
    let Some((cluster, now)) = measure(name, size, None, rng) else { return };
    progress(format!("now: {now}"));
    let mut broken = Vec::new();
    if now.peak_rss.iter().any(|peak| *peak > size.rss_max) {
        broken.push(format!("peak RSS over {} MiB: {now}", size.rss_max >> 20));
    }
    if let Some(before) = before {
        let [cpu, bytes] = [now.cpu_us / before.cpu_us, now.bytes / before.bytes];
        let blocks = now.disk_bytes / before.disk_bytes;
        progress(format!(
            "CPU {cpu:.2}, bytes in write calls {bytes:.2}, bytes of blocks {blocks:.2} of before"
        ));
        if cpu > 0.5 || bytes > 0.5 {
            broken.push(format!("CPU {cpu:.2} and bytes {bytes:.2} of before, at most half is wanted"));
        }
    }
    if let Err(why) = restarts(cluster, size, rng, progress) {
        broken.push(why);
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn measure(
    name: &str,
    size: &SmallContents,
    binary: Option<PathBuf>,
    rng: &mut Rng,
) -> Option<(Cluster, Cost)> {
    let options = Options { shipped_timing: true, binary, ..Options::default() };
    let cluster = match size.disk_bytes {
        None => Cluster::start(name, options),
        Some(bytes) => match Cluster::start_on_disks(name, options, bytes) {
            Ok(cluster) => cluster,
            Err(why) => {
                skip(Need::Mounts, "what small files cost, on new disks", &why);
                return None;
            }
        },
    };
    let source = cluster.source("small");
    write_many(&source, size.files, size.file_bytes, rng);
    rustix::fs::sync();
    let order = cluster.first(cluster.leader());
    let (written, cpu) = (settled(&cluster), cpu_seconds(&cluster));
    let by_calls = written_by_calls(&cluster);
    let begun = Instant::now();
    cluster.commit_within(PUBLISHING, &order, &source, "small", 1, &["--timeout", "600s"]).ok();
    for node in &cluster.nodes {
        wait_until(PUBLISHING, &format!("small@1 on node {}", node.id), || {
            if node.published("small", 1).is_dir() { Ok(()) } else { Err(node.log_tail()) }
        });
    }
    let took = begun.elapsed();
    let written_now = settled(&cluster);
    let disk_bytes: u64 = written_now.iter().zip(&written).map(|(now, before)| now - before).sum();
    let files = f64::from(size.files);
    let cost = Cost {
        peak_rss: cluster.nodes.iter().map(peak_rss).collect(),
        cpu_us: (cpu_seconds(&cluster) - cpu) / files * 1e6,
        bytes: (written_by_calls(&cluster) - by_calls) as f64 / files,
        disk_bytes: disk_bytes as f64 / files,
        took,
    };
    Some((cluster, cost))
}

/// Kills a node just before it would take a snapshot, and starts it again.
fn restarts(
    mut cluster: Cluster,
    size: &SmallContents,
    rng: &mut Rng,
    progress: &mut dyn FnMut(String),
) -> Result<(), String> {
    commit_many(&cluster, size.epochs, rng);
    cluster.wait_published("many", size.epochs);
    let leader = cluster.leader();
    let victim = cluster.first(leader)[1];
    let grown = grow_log(&cluster, victim);
    cluster.kill9(victim);
    let others: Vec<u64> = cluster.first(leader);
    let source = cluster.source("later");
    write_source(&source, rng);
    cluster.commit(&others, &source, "later", 1, &["--timeout", "60s"]).ok();
    let begun = Instant::now();
    cluster.restart(victim);
    let back = try_until(PATIENCE, || match cluster.node(victim).get("/readyz") {
        Ok((200, _)) if cluster.node(victim).published("later", 1).is_dir() => Ok(begun.elapsed()),
        other => Err(format!("{other:?}\n{}", cluster.node(victim).log_tail())),
    })?;
    progress(format!(
        "killed with {:.1} MiB of log above the snapshot: serves and follows after {back:.2?}",
        grown / f64::from(1 << 20)
    ));
    match back <= size.restart_max {
        true => Ok(()),
        false => Err(format!("serves and follows after {back:.2?}, the limit is {:?}", size.restart_max)),
    }
}

/// Commits until one more of the same would make a snapshot due; how much log there is since the last one.
fn grow_log(cluster: &Cluster, victim: u64) -> f64 {
    let node = cluster.node(victim);
    let look = || {
        let metrics = wait_until(PATIENCE, "metrics", || Metrics::of(node));
        (snapshots(node).last().map(|(index, _)| *index), metrics.sum("epochlog_wal_bytes").unwrap_or(0.0))
    };
    let (mut newest, mut base) = look();
    let (files, name_bytes) = FILLER;
    for epoch in 1.. {
        let source = cluster.source("filler");
        fs::create_dir_all(&source).expect("the scratch folder can be written");
        for number in 0..files {
            File::create(source.join(format!("{epoch:03}-{number:0name_bytes$}")))
                .expect("our own folder takes it");
        }
        cluster
            .commit(&cluster.first(cluster.leader()), &source, "filler", epoch, &["--timeout", "60s"])
            .ok();
        crate::scratch::remove_tree(&source).expect("our own source can be removed");
        cluster.wait_published("filler", epoch);
        let (now, bytes) = look();
        if now != newest {
            // Purging may come later: the log is at most so long above the snapshot.
            (newest, base) = (now, bytes);
        } else if bytes - base > SNAPSHOT_LOG_BYTES - 2.0 * FILLER_LOG_BYTES {
            return bytes - base;
        }
        assert!(epoch < 60, "the log of node {victim} does not grow: {base} to {bytes} bytes");
    }
    unreachable!("the loop returns or panics")
}

//! What the kernel counted for each process: bytes written, CPU time, peak memory.

use std::fs;
use std::time::Duration;

use crate::cluster::{Cluster, Node};
use crate::wait::wait_until;

/// Bytes that each node has caused to be written to the disk, once nothing moves any more.
///
/// # Panics
/// When the nodes do not calm down within a minute.
pub fn settled(cluster: &Cluster) -> Vec<u64> {
    let look = || -> Vec<(u64, u64)> {
        cluster.nodes.iter().map(|node| (written(node), ticks(&stat(node), 13, 14))).collect()
    };
    let mut before = look();
    let mut calm = 0;
    wait_until(Duration::from_secs(60), "the nodes to calm down", || {
        std::thread::sleep(Duration::from_millis(200)); // the span over which calm is judged
        let now = look();
        // Heartbeats and marks go on: a few pages and ticks are calm.
        let moved = now
            .iter()
            .zip(&before)
            .any(|(now, before)| now.0 > before.0 + (256 << 10) || now.1 > before.1 + 3);
        calm = if moved { 0 } else { calm + 1 };
        before = now;
        if calm >= 3 { Ok(()) } else { Err("they still work") }
    });
    before.into_iter().map(|(bytes, _)| bytes).collect()
}

/// Bytes that all nodes together have handed to write calls, sockets included.
pub fn written_by_calls(cluster: &Cluster) -> u64 {
    cluster.nodes.iter().map(|node| field(node, "io", "wchar:")).sum()
}

/// CPU time of all nodes and of all clients that have ended, in seconds.
pub fn cpu_seconds(cluster: &Cluster) -> f64 {
    let nodes: u64 = cluster.nodes.iter().map(|node| ticks(&stat(node), 13, 14)).sum();
    let clients = ticks(&fs::read_to_string("/proc/self/stat").unwrap_or_default(), 15, 16);
    (nodes + clients) as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Peak resident memory of a node, in bytes.
pub fn peak_rss(node: &Node) -> u64 {
    field(node, "status", "VmHWM:") * 1024
}

/// From now on the peak is that of what comes.
///
/// # Panics
/// When the kernel does not let it be set.
pub fn reset_peak_rss(node: &Node) {
    let pid = node.pid().expect("every node runs while it is measured");
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our own child's peak can be set");
}

/// Resident memory of a node now, in bytes.
pub fn rss(node: &Node) -> u64 {
    field(node, "status", "VmRSS:") * 1024
}

fn written(node: &Node) -> u64 {
    field(node, "io", "write_bytes:")
}

fn field(node: &Node, file: &str, name: &str) -> u64 {
    let text = read(node, file);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn stat(node: &Node) -> String {
    read(node, "stat")
}

fn read(node: &Node, file: &str) -> String {
    let pid = node.pid().expect("every node runs while it is measured");
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// Sum of two fields of a `stat` line, counted from 0; the second may hold spaces, in parentheses.
fn ticks(stat: &str, one: usize, two: usize) -> u64 {
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split(' ').collect();
    [one, two].iter().filter_map(|at| fields.get(at - 2)?.parse::<u64>().ok()).sum()
}

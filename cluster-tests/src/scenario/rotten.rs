//! The same bytes rot on every node that has them, while the third is away: it comes home all the same, with every
//! other epoch; the rotten one is named on all nodes, and one good copy brings it back everywhere.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::random_directory;
use crate::scenario::damage::site::flip;
use crate::scenario::identical::compare_everywhere;
use crate::scenario::years::wait_purged_past;
use crate::scratch::remove_tree;
use crate::seed::Rng;
use crate::wait::wait_until;

/// Parameters of [`everywhere`].
#[derive(Debug, Clone, Copy)]
pub struct Rotten {
    /// Other epochs that the third lacks.
    pub others: u64,
    /// Bytes of each epoch.
    pub bytes: u64,
    /// The log is purged past the third before it comes home.
    pub purged: bool,
    /// In which it must be home.
    pub home: Duration,
}

/// The file that rots.
const FILE: &str = "part-00000";
/// The rotten epoch; the one below it is good.
const EPOCH: u64 = 2;

/// See above.
///
/// # Panics
/// When the third does not come home, the rotten epoch is not named, or does not come back.
pub fn everywhere(name: &str, size: Rotten, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    let mut cluster = Cluster::start(name, Options::default());
    let third = cluster.follower();
    let commit = |cluster: &Cluster, job: &str, epoch: u64, rng: &mut Rng| {
        let source = cluster.source(&format!("{job}-{epoch}"));
        random_directory(&source, 2, size.bytes / 2, rng);
        cluster.commit(&cluster.first(cluster.leader()), &source, job, epoch, &["--timeout", "60s"]).ok();
        cluster.wait_published(job, epoch);
        source
    };
    commit(&cluster, "gone", 1, rng);
    cluster.kill9(third);
    commit(&cluster, "rot", 1, rng);
    let rotten = commit(&cluster, "rot", EPOCH, rng);
    let others: Vec<_> = (1..=size.others).map(|epoch| commit(&cluster, "other", epoch, rng)).collect();
    if size.purged {
        cluster.cli(&["rm", "gone@1", "--yes"]).ok();
        wait_purged_past(&cluster, third);
    }
    for node in cluster.nodes.iter().filter(|node| node.id != third) {
        flip(&node.published("rot", EPOCH).join(FILE), 0..size.bytes / 2, 3, rng);
    }
    let begun = Instant::now();
    cluster.restart(third);
    wait_until(size.home, &format!("node {third} to be home"), || {
        let node = cluster.node(third);
        let lacks = (1..=size.others).find(|epoch| !node.published("other", *epoch).is_dir());
        match (node.get("/readyz"), lacks) {
            (Ok((200, _)), None) => Ok(()),
            (ready, lacks) => Err(format!("it lacks other@{lacks:?}, {ready:?}\n{}", node.log_tail())),
        }
    });
    progress(format!("purged past it: {}; node {third} is home after {:.1?}", size.purged, begun.elapsed()));
    for (epoch, source) in (1..).zip(&others) {
        compare_everywhere(&cluster, source, "other", epoch);
    }
    named_everywhere(&cluster);
    progress(format!("quarantined and named on all nodes after {:.1?}", begun.elapsed()));
    // The newest that is not quarantined.
    let to = cluster.folder().join("restored/latest");
    let output = cluster.cli(&["restore".as_ref(), "rot".as_ref(), "--to".as_ref(), to.as_os_str()]).ok();
    assert_eq!(output.number("epoch"), 1, "{output}");
    remove_tree(&to).expect("a restored directory can be removed");
    comes_back(&cluster, &rotten, progress);
}

/// `ls` and `status`, asked at each node, say which epoch is quarantined.
fn named_everywhere(cluster: &Cluster) {
    for id in 1..=cluster.options.nodes {
        wait_until(PATIENCE, &format!("node {id} to name the rotten epoch"), || {
            let list = cluster.cli_at(&[id], &["ls", "rot", "--limit", "0"]);
            let line = list.lines.iter().find(|line| line["epoch"].as_u64() == Some(EPOCH));
            let listed = line.is_some_and(says_quarantined);
            let status = cluster.cli_at(&[id], &["status", "--timeout", "5s"]);
            let told = status.lines.iter().any(says_quarantined);
            if listed && told { Ok(()) } else { Err(format!("ls {listed}, status {told}: {list}\n{status}")) }
        });
    }
}

/// Whether anything in it says so, and is not empty.
fn says_quarantined(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let empty = match value {
                Value::Array(all) => all.is_empty(),
                Value::Object(all) => all.is_empty(),
                Value::Number(number) => number.as_u64() == Some(0),
                Value::Bool(yes) => !yes,
                other => other.is_null(),
            };
            (name.contains("quarantine") && !empty) || says_quarantined(value)
        }),
        Value::Array(values) => values.iter().any(says_quarantined),
        Value::String(text) => text.contains("quarantine"),
        _ => false,
    }
}

/// The good bytes are put back on one node, and a repair brings them everywhere.
fn comes_back(cluster: &Cluster, source: &Path, progress: &mut dyn FnMut(String)) {
    let good = fs::read(source.join(FILE)).expect("our own source can be read");
    let holder = cluster.nodes.iter().find(|node| node.published("rot", EPOCH).join(FILE).is_file());
    let holder = holder.expect("somebody still has the epoch, rotten or not");
    fs::write(holder.published("rot", EPOCH).join(FILE), &good).expect("root may write a published file");
    let begun = Instant::now();
    wait_until(PATIENCE, "the epoch to be whole everywhere", || {
        let output =
            cluster.cli(&["verify", &format!("rot@{EPOCH}"), "--all-nodes", "--repair", "--timeout", "60s"]);
        let published = cluster.nodes.iter().all(|node| node.published("rot", EPOCH).is_dir());
        if output.code == Some(0) && published { Ok(()) } else { Err(output) }
    });
    compare_everywhere(cluster, source, "rot", EPOCH);
    wait_until(PATIENCE, "the quarantine to end", || {
        let list = cluster.cli(&["ls", "rot", "--limit", "0"]);
        let line = list.lines.iter().find(|line| line["epoch"].as_u64() == Some(EPOCH));
        if line.is_some_and(|line| !says_quarantined(line)) { Ok(()) } else { Err(list) }
    });
    progress(format!("from one good copy: whole everywhere after {:.1?}", begun.elapsed()));
}

//! Looks at a healed cluster and writes down what it shows, for the oracle.
//! Contents are judged by our own walk, never by the product's digest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::cluster::{Cluster, Node, PATIENCE};
use crate::oracle::{Event, History, Name, Observation};
use crate::wait::{try_until, wait_until};
use crate::walk::{Fingerprint, fingerprint};

/// Waits until every running node has published everything that is sealed of
/// `jobs`, then observes it. All nodes are expected to run.
///
/// # Panics
/// When the cluster does not get there in time.
pub fn observe(cluster: &Cluster, jobs: &[&str], known: &mut Cache) -> Observation {
    let mut seen = Observation::default();
    for job in jobs {
        for line in cluster.list(job) {
            let epoch = line["epoch"].as_u64().expect("`list` gives lines with an epoch");
            let root = line["root"].as_str().unwrap_or_default().to_owned();
            let position = (
                line["position"]["term"].as_u64().unwrap_or(0),
                line["position"]["index"].as_u64().unwrap_or(0),
            );
            seen.sealed.insert(((*job).to_owned(), epoch), (root, position));
        }
    }
    for (job, epoch) in seen.sealed.keys() {
        cluster.wait_published(job, *epoch);
    }
    for node in &cluster.nodes {
        for job in jobs {
            let newest = seen.sealed.keys().filter(|(other, _)| other == job).map(|(_, epoch)| *epoch).max();
            let latest = wait_until(PATIENCE, &format!("`latest` of {job} on node {}", node.id), || {
                let there = latest(node, job);
                if there == newest { Ok(there) } else { Err(format!("{there:?} instead of {newest:?}")) }
            });
            seen.latest.entry(node.id).or_default().extend(latest.map(|epoch| ((*job).to_owned(), epoch)));
            // What was expired goes from the disk a little later; the invariants judge what stays.
            let _stays: Result<(), ()> = try_until(PATIENCE, || {
                let extra = epoch_folders(node, job)
                    .into_iter()
                    .any(|epoch| !seen.sealed.contains_key(&((*job).to_owned(), epoch)));
                if extra { Err(()) } else { Ok(()) }
            });
            let published = seen.published.entry(node.id).or_default();
            published.extend(published_epochs(node, job, known));
        }
    }
    seen
}

/// Observes, writes it down and checks every invariant.
///
/// # Panics
/// When one is broken.
pub fn observe_and_check(cluster: &Cluster, jobs: &[&str], history: &mut History, known: &mut Cache) {
    let seen = observe(cluster, jobs, known);
    history.push(Event::Observed(seen));
    crate::invariants::assert_holds(history);
}

/// Restores an epoch through a node and writes down what came out.
///
/// # Panics
/// When the restore or `digest` fails.
pub fn restore(cluster: &Cluster, node: u64, name: &Name, root: &str, history: &mut History) {
    let to = cluster.restore(node, &format!("{}@{}", name.0, name.1));
    let content = fingerprint(&to).unwrap_or_else(|difference| panic!("{difference}"));
    let digest = cluster.cli(&["digest".as_ref(), to.as_os_str()]).ok();
    let digest = digest.lines.iter().find_map(|line| line["root"].as_str()).unwrap_or_default().to_owned();
    history.push(Event::Restored { name: name.clone(), content, digest, root: root.to_owned() });
    crate::scratch::remove_tree(&to).expect("a restored directory can be removed");
}

/// Fingerprints of trees that were read in an earlier look and whose metadata
/// did not move since: a long run would read the same bytes over and over.
#[derive(Debug, Default)]
pub struct Cache {
    seen: BTreeMap<(u64, Name), (u64, Fingerprint)>,
}

/// All published trees of a job on one node's disk, whatever the ledger says.
fn published_epochs(node: &Node, job: &str, known: &mut Cache) -> BTreeMap<Name, Fingerprint> {
    let mut found = BTreeMap::new();
    for epoch in epoch_folders(node, job) {
        let name = (job.to_owned(), epoch);
        let files = node.published(job, epoch);
        let stamp = stamp(&files);
        let content = match known.seen.get(&(node.id, name.clone())) {
            Some((before, content)) if *before == stamp => *content,
            _ => fingerprint(&files)
                .unwrap_or_else(|difference| panic!("node {}: {job}@{epoch}: {difference}", node.id)),
        };
        known.seen.insert((node.id, name.clone()), (stamp, content));
        found.insert(name, content);
    }
    found
}

/// Epochs of a job that have a folder on this node's disk.
fn epoch_folders(node: &Node, job: &str) -> Vec<u64> {
    let entries = fs::read_dir(node.data.join("epochs").join(job)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Changes when a name, a length, an mtime or an inode below `path` does.
fn stamp(path: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::unix::fs::MetadataExt;
    let mut hasher = DefaultHasher::new();
    if let Ok(meta) = fs::symlink_metadata(path) {
        (path, meta.mode(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
        if meta.is_dir() {
            let mut entries: Vec<_> =
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            entries.sort();
            entries.iter().for_each(|entry| stamp(entry).hash(&mut hasher));
        }
    }
    hasher.finish()
}

fn latest(node: &Node, job: &str) -> Option<u64> {
    let target = fs::read_link(node.data.join("epochs").join(job).join("latest")).ok()?;
    target.file_name()?.to_str()?.parse().ok()
}

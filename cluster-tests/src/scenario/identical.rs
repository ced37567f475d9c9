//! What goes in comes out, on every node and after `restore`, judged by our own walk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cli::Output;
use crate::cluster::Cluster;
use crate::inputs::Series;
use crate::scratch::remove_tree;
use crate::seed::Rng;
use crate::trees::{Special, give_to};
use crate::walk::compare;

/// Commits each directory of a series as successive epochs through a follower;
/// gives the answers.
///
/// # Panics
/// When anything is not identical anywhere.
pub fn series(cluster: &Cluster, series: &Series) -> Vec<Output> {
    let mut answers = Vec::new();
    for (number, source) in (1..).zip(&series.epochs) {
        answers.push(commit_and_compare(cluster, source, &series.job, number));
    }
    // The older epochs are still what they were.
    for (number, source) in (1..).zip(&series.epochs) {
        compare_everywhere(cluster, source, &series.job, number);
    }
    answers
}

/// Commits one directory through a follower with `--wait all` and compares it
/// on all nodes and after a restore from the follower and from the leader.
///
/// # Panics
/// When anything is not identical.
pub fn commit_and_compare(cluster: &Cluster, source: &Path, job: &str, epoch: u64) -> Output {
    let leader = cluster.leader();
    let follower = cluster.first(leader)[1];
    let output =
        cluster.commit(&[follower], source, job, epoch, &["--wait", "all", "--timeout", "120s"]).ok();
    let summary = output.summary();
    assert_eq!((summary["job"].as_str(), summary["epoch"].as_u64()), (Some(job), Some(epoch)), "{output}");
    assert_eq!(summary["committed"], "yes", "{output}");
    assert!(output.number("all_ms") >= output.number("quorum_ms"), "{output}");
    compare_everywhere(cluster, source, job, epoch);
    for node in [follower, leader] {
        let restored = cluster.restore(node, &format!("{job}@{epoch}"));
        compare(source, &restored)
            .unwrap_or_else(|difference| panic!("{job}@{epoch} restored from node {node}: {difference}"));
        remove_tree(&restored).expect("a restored directory can be removed");
    }
    output
}

/// Compares the published tree of every node with the source.
///
/// # Panics
/// When one differs.
pub fn compare_everywhere(cluster: &Cluster, source: &Path, job: &str, epoch: u64) {
    for node in &cluster.nodes {
        let published = node.published(job, epoch);
        compare(source, &published)
            .unwrap_or_else(|difference| panic!("{job}@{epoch} on node {}: {difference}", node.id));
    }
}

/// The special tree, and before it its sparse file alone, which must cost less
/// than 1 MiB of log.
///
/// # Panics
/// When anything is not identical, or the sparse file costs more.
pub fn special(cluster: &Cluster, special: Special, rng: &mut Rng) {
    let sparse = cluster.source("sparse-alone");
    fs::create_dir(&sparse).expect("the scratch folder can be written");
    let file = File::create(sparse.join("sparse")).expect("the scratch folder can be written");
    file.set_len(special.sparse_bytes).expect("a sparse file can be made");
    file.write_all_at(b"an island", special.sparse_bytes / 3).expect("a sparse file can be written");
    let tree = cluster.source("special");
    special.make(&tree, rng);
    for path in [&sparse, &tree] {
        if let Some((user, group)) = cluster.options.user {
            give_to(path, user, group).expect("root may give files away");
        }
    }
    let answer = commit_and_compare(cluster, &sparse, "sparse", 1);
    commit_and_compare(cluster, &tree, "special", 1);
    // The same once more: nothing but references may travel.
    let again = commit_and_compare(cluster, &tree, "special", 2);
    // For each file a line of the plan and a reference by digest, no content.
    let references = (1 << 20) + 150 * again.number("files");
    assert!(again.number("log_bytes") < references, "an unchanged tree costs references only: {again}");
    assert_eq!(again.number("new_bytes"), 0, "{again}");
    assert!(
        answer.number("log_bytes") < 1 << 20,
        "a sparse file with one island went through the log as {answer}"
    );
}

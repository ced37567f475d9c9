//! Tiny epochs over one open connection, beside a 4 KiB fdatasync.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use client::{Client, Commit, Options};
use cluster_tests::cluster::Cluster;
use cluster_tests::seed::Rng;

use crate::clusters::cluster;
use crate::report::Report;

/// Turns alternate after so many, so that both see the same disk.
const TURN: u32 = 25;

/// Commits `count` epochs of 1 KiB each through the leader, streamed.
pub fn tiny_epochs(count: u32, dir: &Path, rng: &mut Rng, report: &mut Report) {
    let title = "epochs of 1 KiB";
    eprintln!("{title}: {count}");
    let cluster = cluster(dir);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let (mut commits, mut syncs) = (Vec::new(), Vec::new());
    let file = File::create(cluster.folder().join("sync-floor")).expect("the scratch folder can be written");
    let client = Client::new([cluster.node(cluster.leader()).address()], Options::default());
    let source = cluster.source("tiny");
    fs::create_dir(&source).expect("the scratch folder can be written");
    let warm_up = TURN;
    for number in 0..count + warm_up {
        if number % TURN == 0 {
            syncs.extend((0..u64::from(TURN)).map(|at| sync(&file, u64::from(number) + at, rng)));
        }
        write_source(&cluster, rng);
        let mut commit = Commit::new("tiny".parse().expect("a job name"));
        commit.epoch = Some(u64::from(number) + 1);
        commit.by_path = false;
        let begun = Instant::now();
        let done = runtime.block_on(client.commit(&source, commit, &|_| {}));
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        done.unwrap_or_else(|failure| panic!("{failure}"));
        if number >= warm_up {
            commits.push(took);
        }
    }
    for (name, values) in [("commit, quorum", &mut commits), ("fdatasync of 4 KiB", &mut syncs)] {
        values.sort_by(f64::total_cmp);
        report.value(title, &format!("{name}: p50"), &[percentile(values, 0.5)], "ms");
        report.value(title, &format!("{name}: p99"), &[percentile(values, 0.99)], "ms");
    }
    report.value(
        title,
        "p50 over p50 of fdatasync",
        &[percentile(&commits, 0.5) / percentile(&syncs, 0.5)],
        "",
    );
}

fn write_source(cluster: &Cluster, rng: &mut Rng) {
    let mut content = [0; 1024];
    rng.fill(&mut content);
    fs::write(cluster.source("tiny").join("state"), content).expect("the scratch folder can be written");
}

/// Milliseconds of one write of 4 KiB and its fdatasync, over fresh ground.
fn sync(file: &File, number: u64, rng: &mut Rng) -> f64 {
    let mut content = [0; 4096];
    rng.fill(&mut content);
    let begun = Instant::now();
    file.write_all_at(&content, number * 4096).and_then(|()| file.sync_data()).expect("the disk takes it");
    begun.elapsed().as_secs_f64() * 1000.0
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

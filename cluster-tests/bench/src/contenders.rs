//! epochlog by path and streamed, rsync and plain writes, in turns over the same trees.

use std::collections::BTreeMap;
use std::path::Path;

use cluster_tests::counters;
use cluster_tests::scratch::{Scratch, remove_tree};
use cluster_tests::seed::Rng;

use crate::clusters::cluster;
use crate::floors;
use crate::report::Report;

/// All contenders on one kind of tree, in rounds, each time in another order.
#[expect(clippy::too_many_arguments, reason = "a section of the table, called three times")]
pub fn trees(
    title: &str,
    job: &str,
    rounds: u32,
    with_floors: bool,
    dir: &Path,
    make: &dyn Fn(&Path, &mut Rng),
    rng: &mut Rng,
    report: &mut Report,
) {
    eprintln!("{title}: {rounds} rounds");
    let cluster = cluster(dir);
    let scratch = Scratch::below(dir, "bench-floors");
    let mut source_bytes = 0;
    let before = counters::settled(&cluster);
    let mut cpu_seconds = 0.0;
    let mut epoch = 0;
    for round in 0..rounds {
        // One source for each way of committing: content that is sealed already would not travel.
        let [plain, streamed] = ["plain", "streamed"].map(|name| cluster.source(name));
        for source in [&plain, &streamed] {
            make(source, rng);
        }
        let bytes = floors::bytes_of(&plain);
        let mut contenders = vec!["path", "stream"];
        if floors::rsync_is_there() {
            contenders.push("rsync");
        }
        if with_floors {
            contenders.extend(["direct x3", "direct x2", "buffered x3"]);
        }
        let turn = round as usize % contenders.len();
        contenders.rotate_left(turn);
        let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
        for contender in contenders {
            floors::quiet();
            match contender {
                "path" | "stream" => {
                    epoch += 1;
                    let (source, more) =
                        if contender == "path" { (&plain, vec![]) } else { (&streamed, vec!["--stream"]) };
                    let flags = [&["--wait", "all", "--timeout", "300s"][..], &more].concat();
                    let cpu = counters::cpu_seconds(&cluster);
                    let output =
                        cluster.spawn_commit(&[cluster.leader()], source, job, epoch, &flags).join().ok();
                    counters::settled(&cluster);
                    cpu_seconds += counters::cpu_seconds(&cluster) - cpu;
                    source_bytes += output.number("bytes");
                    seconds
                        .insert(format!("{contender}, quorum"), output.number("quorum_ms") as f64 / 1000.0);
                    seconds.insert(format!("{contender}, all"), output.number("all_ms") as f64 / 1000.0);
                    seconds.insert(format!("{contender}, command"), output.took.as_secs_f64());
                }
                "rsync" => drop(seconds.insert("rsync".into(), floors::rsync(&plain, &scratch))),
                floor => {
                    let copies = if floor.ends_with("x2") { 2 } else { 3 };
                    seconds.insert(
                        floor.into(),
                        floors::write(&plain, &scratch, copies, floor.starts_with("direct")),
                    );
                }
            }
        }
        report.round(title, bytes, seconds);
        for source in [&plain, &streamed] {
            remove_tree(source).expect("our own source can be removed");
        }
    }
    let after = counters::settled(&cluster);
    let per_replica: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - before) as f64 / source_bytes as f64)
        .collect();
    report.value(title, "disk bytes written per source byte, each replica", &per_replica, "");
    report.value(
        title,
        "CPU seconds per GiB, nodes and client",
        &[cpu_seconds / (source_bytes as f64 / f64::from(1 << 30))],
        "s",
    );
}

//! Many writers of one job: a paused one never wins against the newer one, and of those that write one epoch each is
//! told the truth.

use std::time::Duration;

use checkpoint::Limits;
use checkpoint::split::digest_dir;

use crate::cli::Output;
use crate::cluster::{Cluster, Options, PATIENCE};
use crate::inputs::random_directory;
use crate::metrics::Metrics;
use crate::oracle::Answer;
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::wait::wait_until;

/// The older writer is stopped in mid-upload, the newer takes over and commits,
/// the older goes on: it must be told that it is fenced, and never seal.
///
/// # Panics
/// When the older writer wins, or is told anything else.
pub fn one_stopped(name: &str, bytes: u64, rng: &mut Rng) {
    // Streamed: by path the node would go on reading while its client stands still.
    let cluster = Cluster::start(name, Options { by_path: false, ..Options::default() });
    let (older, newer) = (cluster.source("older"), cluster.source("newer"));
    random_directory(&older, 8, bytes / 8, rng);
    random_directory(&newer, 3, 100_000, rng);
    for (round, more) in [(0, &["--take-over"][..]), (1, &[][..])] {
        let (old_epoch, new_epoch) = (round * 10 + 1, round * 10 + 2);
        let leader = cluster.leader();
        let before = cluster.node(leader).newest_attempt();
        let mut client = cluster.spawn_commit(&cluster.first(leader), &older, "contested", old_epoch, more);
        wait_until(PATIENCE, "a part of the older writer's bytes", || {
            let staged = cluster.node(leader).staged_after(before);
            if staged > bytes / 16 { Ok(()) } else { Err(format!("{staged} bytes staged")) }
        });
        client.stop();
        assert!(client.is_running(), "I12: the older writer was too fast to be stopped");
        cluster
            .commit(&cluster.first(2), &newer, "contested", new_epoch, &["--take-over", "--wait", "all"])
            .ok();
        client.cont();
        client.wait().refused(5, "Fenced");
        let listed: Vec<_> =
            cluster.list("contested").iter().filter_map(|line| line["epoch"].as_u64()).collect();
        assert!(listed.contains(&new_epoch) && !listed.contains(&old_epoch), "listed are {listed:?}");
        compare_everywhere(&cluster, &newer, "contested", new_epoch);
        for node in &cluster.nodes {
            assert!(
                !node.published("contested", old_epoch).exists(),
                "node {} shows an unsealed epoch",
                node.id
            );
        }
    }
}

/// The older writer, without a token, is stopped until the node has cut its connection. It comes
/// back through a new one, finds another writer, and must not join it.
///
/// # Panics
/// When the older writer wins, or is told anything else.
pub fn one_cut_off(name: &str, bytes: u64, rng: &mut Rng) {
    let cluster = Cluster::start(name, Options { by_path: false, ..Options::default() });
    let (older, newer) = (cluster.source("older"), cluster.source("newer"));
    random_directory(&older, 8, bytes / 8, rng);
    random_directory(&newer, 3, 100_000, rng);
    let leader = cluster.leader();
    let before = cluster.node(leader).newest_attempt();
    let more = ["--timeout", "120s"];
    let mut client = cluster.spawn_commit(&cluster.first(leader), &older, "cut", 7, &more);
    wait_until(PATIENCE, "a part of the older writer's bytes", || {
        let staged = cluster.node(leader).staged_after(before);
        if staged > bytes / 16 { Ok(()) } else { Err(format!("{staged} bytes staged")) }
    });
    client.stop();
    assert!(client.is_running(), "I12: the older writer was too fast to be stopped");
    cluster.commit(&cluster.first(2), &newer, "cut", 5, &["--take-over", "--wait", "all"]).ok();
    wait_until(PATIENCE, "the keepalive to cut the older writer off", || match established(client.pid()) {
        0 => Ok(()),
        more => Err(format!("{more} connections")),
    });
    client.cont();
    // 7 is above 5: only the token stands between the older writer and its seal.
    client.wait().refused(5, "Fenced");
    let listed: Vec<_> = cluster.list("cut").iter().filter_map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(listed, [5]);
    compare_everywhere(&cluster, &newer, "cut", 5);
    for node in &cluster.nodes {
        assert!(!node.published("cut", 7).exists(), "node {} shows an unsealed epoch", node.id);
    }
}

/// Writers of one epoch at once.
const CONTENDERS: u64 = 8;

/// In each round as many commit one epoch at once, through all nodes: directories of equal names and sizes and other
/// bytes. One of them is committed, and each is told of its own.
///
/// # Panics
/// When an answer is not true, or an attempt is left open.
pub fn many_of_one_epoch(name: &str, rounds: u64, rng: &mut Rng) {
    let cluster = Cluster::start(name, Options::default());
    let dirs: Vec<_> = (0..CONTENDERS).map(|rank| cluster.source(&format!("rank-{rank}"))).collect();
    for dir in &dirs {
        random_directory(dir, 2, 200_000, rng);
    }
    let roots: Vec<String> = dirs
        .iter()
        .map(|dir| digest_dir(dir, &Limits::default()).expect("our own directory").root().to_string())
        .collect();
    for round in 1..=rounds {
        let more: &[&str] = if round % 2 == 0 { &["--stream"] } else { &[] };
        let writers: Vec<_> = (0..CONTENDERS)
            .zip(&dirs)
            .map(|(rank, dir)| cluster.spawn_commit(&cluster.first(rank % 3 + 1), dir, "run", round, more))
            .collect();
        let answers: Vec<Output> = writers.into_iter().map(crate::cli::Running::wait).collect();
        for (root, answer) in roots.iter().zip(&answers) {
            match answer.code {
                Some(0) => assert_eq!(answer.summary()["root"], root.as_str(), "round {round}: {answer}"),
                _ => {
                    let refused = answer.code == Some(5) && answer.answer() == Answer::NotCommitted;
                    assert!(refused, "round {round}: {answer}");
                    assert!(
                        matches!(answer.error_code(), "Conflict" | "Subsumed"),
                        "round {round}: {answer}"
                    );
                }
            }
        }
        let won = answers.iter().filter(|answer| answer.code == Some(0)).count();
        let told: Vec<_> = answers.iter().map(Output::to_string).collect();
        assert_eq!(won, 1, "round {round}: {}", told.join("\n"));
        // Whoever won: the others repeat, and learn it once more.
        let loser = answers.iter().position(|answer| answer.code != Some(0)).expect("seven lost");
        cluster.commit(&[1], &dirs[loser], "run", round, more).refused(5, "Conflict");
    }
    let leader = cluster.node(cluster.leader());
    let open = Metrics::of(leader).expect("a node tells").sum("epochlog_epochs{job=\"run\",state=\"open\"}");
    assert_eq!(open, Some(0.0), "attempts are left open");
}

/// A writer that is killed hinders another of its epoch no longer than it may; before that the other is told at once.
/// The killed one comes back with its commit id and is told of the other.
///
/// # Panics
/// When an answer is another, or comes too late.
pub fn one_killed(name: &str, bytes: u64, rng: &mut Rng) {
    const MAY_HINDER: Duration = Duration::from_secs(40);
    let cluster = Cluster::start(name, Options { by_path: false, ..Options::default() });
    for (epoch, comes_back) in [(1, true), (2, false)] {
        // Content that is sealed already would not be sent.
        let dirs = ["killed", "other"].map(|who| cluster.source(&format!("{who}-{epoch}")));
        for dir in &dirs {
            random_directory(dir, 4, bytes / 4, rng);
        }
        let [killed, other] = dirs;
        let commit = format!("{epoch:032x}");
        let id = ["--commit-id", &commit];
        let leader = cluster.leader();
        let before = cluster.node(leader).newest_attempt();
        let mut writer = cluster.spawn_commit(&cluster.first(leader), &killed, "run", epoch, &id);
        wait_until(PATIENCE, "a part of the writer's bytes", || {
            let staged = cluster.node(leader).staged_after(before);
            if staged > bytes / 16 { Ok(()) } else { Err(format!("{staged} bytes staged")) }
        });
        writer.stop();
        assert!(writer.is_running(), "I12: the writer was too fast to be killed");
        let busy = cluster.commit(&cluster.first(2), &other, "run", epoch, &[]).refused(5, "Conflict");
        assert!(
            !busy.to_string().contains("committed root"),
            "I12: the writer was too fast to be killed: {busy}"
        );
        assert!(busy.to_string().contains("--take-over"), "{busy}");
        writer.kill();
        if comes_back {
            let more = [&id[..], &["--wait", "all"]].concat();
            cluster.commit(&cluster.first(3), &killed, "run", epoch, &more).ok();
            cluster.commit(&[1], &other, "run", epoch, &[]).refused(5, "Conflict");
            compare_everywhere(&cluster, &killed, "run", epoch);
            continue;
        }
        wait_until(MAY_HINDER, "the other's commit", || {
            let answer = cluster.commit(&[1], &other, "run", epoch, &["--wait", "all"]);
            match answer.code {
                Some(0) => Ok(()),
                Some(5) => Err(answer.to_string()),
                _ => panic!("{answer}"),
            }
        });
        compare_everywhere(&cluster, &other, "run", epoch);
        cluster.commit(&[2], &killed, "run", epoch, &id).refused(5, "Conflict");
    }
}

/// TCP connections of a process that are established.
fn established(pid: u32) -> usize {
    let folder = format!("/proc/{pid}/fd");
    let fds = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let sockets: Vec<String> = fds
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux lists its connections");
    let ours = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    ours.filter(|words| {
        words.get(3) == Some(&"01") && words.get(9).is_some_and(|inode| sockets.iter().any(|s| s == inode))
    })
    .count()
}

/// Repeating a commit, changing it, coming too late: as the protocol says.
///
/// # Panics
/// When an answer differs.
pub fn repeats_and_conflicts(name: &str, rng: &mut Rng) {
    let cluster = Cluster::start(name, Options::default());
    let (one, two) = (cluster.source("one"), cluster.source("two"));
    random_directory(&one, 3, 100_000, rng);
    random_directory(&two, 3, 100_000, rng);
    let first = cluster.commit(&[1], &one, "repeated", 5, &[]).ok();
    let again = cluster.commit(&[2], &one, "repeated", 5, &[]).ok();
    assert_eq!(again.summary()["position"], first.summary()["position"], "one outcome, one position");
    assert_eq!(again.summary()["root"], first.summary()["root"]);
    cluster.commit(&[3], &two, "repeated", 5, &[]).refused(5, "Conflict");
    let late = cluster.commit(&[1], &two, "repeated", 4, &[]);
    assert_eq!(late.code, Some(5), "an epoch below the newest: {late}");
    assert!(matches!(late.error_code(), "TooLate" | "Subsumed" | "Conflict"), "{late}");
    let listed: Vec<_> = cluster.list("repeated").iter().filter_map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(listed, [5]);
    // A number once sealed is never used again, also after expiry.
    cluster.commit(&[1], &two, "repeated", 6, &["--wait", "all"]).ok();
    cluster.cli(&["rm", "repeated@5", "--yes"]).ok();
    let reused = cluster.commit(&[1], &two, "repeated", 5, &[]);
    assert_eq!(reused.code, Some(5), "an expired number: {reused}");
    let listed: Vec<_> = cluster.list("repeated").iter().filter_map(|line| line["epoch"].as_u64()).collect();
    assert_eq!(listed, [6]);
    cluster.cli(&["show", "repeated@5"]).refused(4, "NotFound");
    cluster.cli(&["restore", "nobody", "--to", "/nonexistent/never"]).refused(4, "NotFound");
}

//! A node that was killed is back before anybody misses it, however many epochs lie on its disk.

use std::fs;
use std::time::{Duration, Instant};

use client::{Client, Commit};

use crate::cluster::{Cluster, Options, PATIENCE};
use crate::scenario::identical::compare_everywhere;
use crate::seed::Rng;
use crate::wait::wait_until;

/// Parameters of [`after_kill`].
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// Epochs on the disk.
    pub epochs: u64,
    /// Kills and returns.
    pub rounds: u32,
    /// From the start of the process until it serves and follows again.
    pub limit: Duration,
}

/// Kills nodes with many epochs on their disks; each serves and follows again within the limit. While it is away
/// an epoch is committed, and it has published that one, too.
///
/// # Panics
/// When it takes longer, or anything differs.
pub fn after_kill(name: &str, restart: Restart, rng: &mut Rng, progress: &mut dyn FnMut(String)) {
    // As in production: the default timeouts.
    let options = Options { heartbeat_ms: 500, election_ms: (3900, 4400), ..Options::default() };
    let mut cluster = Cluster::start(name, options);
    commit_many(&cluster, restart.epochs, rng);
    cluster.wait_published("many", restart.epochs);
    cluster.wait_alike();
    for (round, epoch) in (0..restart.rounds).zip(restart.epochs + 1..) {
        // A follower, then the leader: the others have elected another one when it returns.
        let victim = if round % 2 == 0 { cluster.follower() } else { cluster.leader() };
        cluster.kill9(victim);
        let others: Vec<u64> = cluster.first(victim).split_off(1);
        let source = cluster.source(&format!("later-{epoch}"));
        write_source(&source, rng);
        cluster.commit(&others, &source, "many", epoch, &["--timeout", "60s"]).ok();
        let begun = Instant::now();
        cluster.restart(victim);
        wait_until(PATIENCE, &format!("node {victim} to serve and follow"), || {
            match cluster.node(victim).get("/readyz") {
                Ok((200, _)) if cluster.node(victim).published("many", epoch).is_dir() => Ok(()),
                other => Err(format!("{other:?}\n{}", cluster.node(victim).log_tail())),
            }
        });
        let took = begun.elapsed();
        progress(format!(
            "round {} of {}: node {victim} with {} epochs serves and follows after {took:.2?}",
            round + 1,
            restart.rounds,
            epoch - 1
        ));
        assert!(took <= restart.limit, "node {victim} took {took:?}, the limit is {:?}", restart.limit);
        cluster.wait_alike();
        compare_everywhere(&cluster, &source, "many", epoch);
        // It takes commits of its own.
        assert_eq!(cluster.cli_at(&[victim], &["show", &format!("many@{epoch}")]).code, Some(0));
    }
}

/// Epochs of two small files over one open connection.
pub(super) fn commit_many(cluster: &Cluster, epochs: u64, rng: &mut Rng) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let client = Client::new([cluster.node(cluster.leader()).address()], client::Options::default());
    let source = cluster.source("many");
    for epoch in 1..=epochs {
        write_source(&source, rng);
        let mut commit = Commit::new("many".parse().expect("a job name"));
        commit.epoch = Some(epoch);
        commit.by_path = false;
        let done = runtime.block_on(client.commit(&source, commit, &|_| {}));
        done.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

pub(super) fn write_source(at: &std::path::Path, rng: &mut Rng) {
    fs::create_dir_all(at).expect("the scratch folder can be written");
    for name in ["state", "offsets"] {
        let mut content = [0; 1500];
        rng.fill(&mut content);
        fs::write(at.join(name), content).expect("the scratch folder can be written");
    }
}

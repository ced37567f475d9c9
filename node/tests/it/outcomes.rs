//! A commit that comes again later than the log remembers, at a node.

use std::path::Path;

use client::{Certainty, Client, Code, Commit, Event, pb};
use nativelog::compose;
use nativelog::ledger::{OUTCOME_KEPT_MS, TICK_MS_MAX};
use node::config::{Config, Overrides};
use node::metrics::Metrics;
use node::opening;
use raft::{Replica, ReplicaConfig};

use crate::support::{Node, port, source, wait_for};

/// A day of log time passes on the node, which does not run.
async fn a_day_passes(config: &Path) {
    let config = Config::load(Some(config), &Overrides::default()).unwrap();
    let opening::Opened { claim, log, machine, .. } =
        tokio::task::block_in_place(|| opening::open(&config, &Metrics::new())).unwrap();
    let (incarnation, members) = (claim.identity.incarnation, config.members.clone());
    let settings = ReplicaConfig {
        cluster: claim.cluster,
        heartbeat: config.heartbeat,
        election_timeout: config.election_timeout,
        ..ReplicaConfig::new(config.id, incarnation, &config.cluster, members)
    };
    let replica = Replica::start(settings, log, machine.clone()).await.unwrap();
    wait_for("a leader", async || replica.is_leader().then_some(())).await;
    let ticks = (0..OUTCOME_KEPT_MS / TICK_MS_MAX).map(|_| replica.propose(compose::tick(TICK_MS_MAX)));
    for tick in futures::future::join_all(ticks).await {
        assert!(tick.unwrap().1.is_accepted());
    }
    replica.shutdown().await;
    tokio::task::block_in_place(|| machine.shutdown());
}

async fn expire(client: &Client, epoch: u64) {
    let request = pb::ExpireRequest { job: "job".into(), epochs: vec![epoch], ..Default::default() };
    client.expire(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_older_than_the_log_remembers_is_too_old_to_know_and_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let endpoint = port();
    let mut running = Node::start(dir.path(), &endpoint, dir.path());
    let client = running.client().await;
    let born = client.reached().await.unwrap();
    let mut orders = Vec::new();
    for epoch in 1..=3 {
        let order = Commit { epoch: Some(epoch), born: Some(born), ..Commit::new("job".parse().unwrap()) };
        let done = client.commit(&source, order.clone(), &|_| {}).await.unwrap();
        assert!(!done.committed.already);
        orders.push(order);
    }
    expire(&client, 1).await;
    expire(&client, 2).await;
    // While it is remembered, also of an epoch that has expired.
    let again = client.commit(&source, orders[0].clone(), &|_| {}).await.unwrap().committed;
    assert!(again.already && again.expired && !again.root.is_empty());
    running.terminate();
    running.child.wait().unwrap();
    a_day_passes(&running.config).await;

    let running = Node::start(dir.path(), &endpoint, dir.path());
    let client = running.client().await;
    let begun = std::sync::Mutex::new(0);
    let count = |event| {
        if matches!(event, Event::Opened(_)) {
            *begun.lock().unwrap() += 1;
        }
    };
    // With its number, and without one, which would begin another epoch of the same directory.
    let numberless = Commit { epoch: None, ..orders[1].clone() };
    for order in [orders[0].clone(), numberless] {
        let failure = client.commit(&source, order, &count).await.unwrap_err();
        assert_eq!((failure.code, failure.committed), (Code::TooOld, Certainty::Unknown), "{failure:?}");
        assert!(failure.sentence.contains("UNKNOWN") && failure.fix.contains("ls"), "{failure:?}");
    }
    assert_eq!(*begun.lock().unwrap(), 0, "nothing was begun");
    let too_old = client.open_writer("job", *orders[0].commit_id.as_bytes(), born).await.unwrap_err();
    assert_eq!(too_old.code, Code::TooOld, "{too_old:?}");
    // The epoch that is there knows its commit; and a new commit is a new one, whatever the client remembers.
    let known = client.commit(&source, orders[2].clone(), &|_| {}).await.unwrap().committed;
    assert!(known.already && !known.expired && known.epoch == 3);
    let fresh = client.commit(&source, Commit::new("job".parse().unwrap()), &|_| {}).await.unwrap().committed;
    assert_eq!((fresh.epoch, fresh.already), (4, false));

    let text = format!("{}.{}", orders[0].commit_id, born);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .args(["-e", &endpoint, "commit", "--job", "job", "--epoch", "1", "--commit-id", &text])
        .arg(&source)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("too old to know"), "{said}");
}

fn epochlog(endpoint: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_epochlog"))
        .args(["-e", endpoint])
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_nothing_left_is_removed_and_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let endpoint = port();
    let node = Node::start(dir.path(), &endpoint, dir.path());
    let client = node.client().await;
    let order = || Commit { wait_all: true, ..Commit::new("job".parse().unwrap()) };
    let first = order();
    assert_eq!(client.commit(&source, first.clone(), &|_| {}).await.unwrap().committed.epoch, 1);
    let (code, said) = epochlog(&endpoint, &["job", "rm", "job"]);
    assert_eq!(code, Some(2), "nobody was asked: {said}");
    let (code, said) = epochlog(&endpoint, &["job", "rm", "job", "--yes"]);
    assert!(code == Some(1) && said.contains("not empty") && said.contains("1 epochs"), "{said}");
    expire(&client, 1).await;
    // What is committed and removed is told as that, also to who waits for all.
    let again = client.commit(&source, first.clone(), &|_| {}).await.unwrap();
    assert!(again.committed.already && again.committed.expired);
    let (code, said) = epochlog(&endpoint, &["job", "rm", "job", "--yes", "--reason", "done"]);
    assert!(code == Some(0) && said.contains("removed job job"), "{said}");
    let (code, said) = epochlog(&endpoint, &["job", "rm", "job", "--yes"]);
    assert_eq!(code, Some(4), "{said}");
    wait_for("the empty folder's end", async || (!node.data.join("epochs/job").exists()).then_some(())).await;

    let anew = client.commit(&source, order(), &|_| {}).await.unwrap().committed;
    assert_eq!((anew.epoch, anew.already), (1, false));
    let old = client.commit(&source, first, &|_| {}).await.unwrap().committed;
    assert!(
        old.already && old.expired && old.position != anew.position,
        "the old commit is not the new epoch"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_is_repeated_asks_for_its_own_outcome_first() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let endpoint = port();
    let node = Node::start(dir.path(), &endpoint, dir.path());
    let client = node.client().await;
    let born = Some(client.reached().await.unwrap());
    let order = Commit { take_over: true, born, ..Commit::new("job".parse().unwrap()) };
    assert!(!client.commit(&source, order.clone(), &|_| {}).await.unwrap().committed.already);
    expire(&client, 1).await;
    let (code, said) = epochlog(&endpoint, &["job", "rm", "job", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let again = client.commit(&source, order, &|_| {}).await.unwrap().committed;
    assert!(again.already && again.expired);
}

/// A first run that nobody has heard of for a while goes on behind the back of its repeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_an_earlier_run_goes_on_its_repeat_is_not_told_a_final_no() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("big");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("state"), vec![7; 3 << 20]).unwrap();
    let changed = dir.path().join("changed");
    std::fs::create_dir(&changed).unwrap();
    std::fs::write(changed.join("state"), vec![7; 2 << 20]).unwrap();
    let endpoint = port();
    let node = Node::start(dir.path(), &endpoint, dir.path());
    let client = node.client().await;
    let born = Some(client.reached().await.unwrap());
    let order = Commit { epoch: Some(1), born, by_path: false, ..Commit::new("job".parse().unwrap()) };

    // Its attempt is open, and nothing of its content is sent.
    let (opened, is_open) = std::sync::mpsc::channel();
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let (running, mine, from) = (node.client().await, order.clone(), source.clone());
    let first = tokio::spawn(async move {
        let hold = |event| {
            if matches!(event, Event::Opened(_)) {
                opened.send(()).unwrap();
                held.lock().unwrap().recv().unwrap();
            }
        };
        running.commit(&from, mine, &hold).await
    });
    tokio::task::block_in_place(|| is_open.recv().unwrap());
    let other = client.commit(&changed, order.clone(), &|_| {}).await.unwrap_err();
    assert_eq!(other.committed, Certainty::Unknown, "{other:?}");
    assert!(other.why.contains("an earlier run may have committed it"), "{other:?}");

    // The same directory again: it goes on with that attempt, and seals it. The first run's own records find its job
    // gone, and are told what became of it all the same.
    let sealed = client.commit(&source, order, &|_| {}).await.unwrap().committed;
    expire(&client, 1).await;
    let (code, said) = epochlog(&endpoint, &["job", "rm", "job", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    go_on.send(()).unwrap();
    let late = first.await.unwrap().unwrap().committed;
    assert!(late.already && late.expired, "{late:?}");
    assert_eq!((late.root, late.position), (sealed.root, sealed.position));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_a_removed_job_had_too_says_nothing_of_a_commit_too_old_to_know() {
    let dir = tempfile::tempdir().unwrap();
    let (large, tiny, other) = (source(dir.path()), dir.path().join("tiny"), dir.path().join("other"));
    for dir in [&tiny, &other] {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("file"), dir.as_os_str().as_encoded_bytes()).unwrap();
    }
    let endpoint = port();
    let mut running = Node::start(dir.path(), &endpoint, dir.path());
    let client = running.client().await;
    let order =
        |epoch, born| Commit { epoch: Some(epoch), born: Some(born), ..Commit::new("job".parse().unwrap()) };
    let born = client.reached().await.unwrap();
    let olds = [(order(5, born), &large), (order(6, born), &tiny)];
    for (old, source) in &olds {
        client.commit(source, old.clone(), &|_| {}).await.unwrap();
    }
    expire(&client, 5).await;
    expire(&client, 6).await;
    let (code, said) = epochlog(&endpoint, &["job", "rm", "job", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    for epoch in [5, 6] {
        client.commit(&other, order(epoch, client.reached().await.unwrap()), &|_| {}).await.unwrap();
    }
    let of_this_life = client.reached().await.unwrap();
    running.terminate();
    running.child.wait().unwrap();
    a_day_passes(&running.config).await;

    let running = Node::start(dir.path(), &endpoint, dir.path());
    let client = running.client().await;
    for (old, source) in olds {
        let failure = client.commit(source, old.clone(), &|_| {}).await.unwrap_err();
        assert_eq!((failure.code, failure.committed), (Code::TooOld, Certainty::Unknown), "{failure:?}");
        // The same bytes are there, whoever brought them.
        let there = client.commit(&other, old, &|_| {}).await.unwrap().committed;
        assert!(there.already && !there.expired);
        // Who came after the job was made has had no number before.
        let taken = order(there.epoch, of_this_life);
        let failure = client.commit(source, taken, &|_| {}).await.unwrap_err();
        assert_eq!((failure.code, failure.committed), (Code::Conflict, Certainty::No), "{failure:?}");
    }
}
